"""Models that `llmc prune --structured` made smaller, run by transformers and llama.cpp.

usage: cut_models.py [--full] [--only NAME] [--axis AXIS] [--folder NAME=FOLDER]

Each kind of part is removed once, with repair where there is one: as a folder
for transformers, where torch and transformers are there, and as GGUF for
llama.cpp, as it is and written out in F32. Their logits have to be llmc's within
1e-3, and their perplexity on held-out text within 0.3%.

Random mixtures of experts are cut, too, where transformers can make them.

With --full also SmolLM2-135M-Instruct and Gemma 3 270M from pip packages, whose
weights are written out in BF16 first; --folder NAME=FOLDER takes another model's
folder, NAME with Gemma in it for one of that family.
"""

import argparse
import importlib.util
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import common
from models import demo_text, real_models

HAS_TORCH = all(map(importlib.util.find_spec, ("torch", "transformers")))
LOGITS = 1e-3
# Of the largest logit: llama.cpp looks GELU, Gemma's activation, up in a table of
# half floats. Whole, Gemma 3 270M is as far from transformers and llmc there, 1.0e-3
# on 256 tokens, while those two are within 5e-6. The first block alone is off by an
# rms of 0.0071; with such a table in transformers by 0.0011, where inputs that
# differ in their last bits are looked up in neighbouring places.
TABLE = 2e-3
PERPLEXITY = 3e-3
CHUNKS = 4


@dataclass
class Case:
    name: str
    source: Path
    calibration: Path
    text: Path
    context: int
    samples: int
    cuts: dict  # flags, by axis
    gelu: bool = False
    large: bool = False  # cut once, and converted
    square: bool = False  # llama.cpp takes the heads to be as wide as the model


def cases(args, work):
    heldout, sample = work / "heldout.txt", work / "sample.txt"
    heldout.write_text(demo_text())
    sample.write_text(demo_text()[:40000])
    yield Case("demo", common.ROOT / "demo" / "model", sample, heldout, 256, 16, {
        "ffn": ("--sparsity", 0.5), "heads": ("--sparsity", 0.5), "layers": ("--remove", 1), "hidden": ("--sparsity", 0.25)})
    if folder := common.shared("models/prose-6m"):
        yield Case("prose-6m", folder, common.shared("texts/prose-calibration.txt"), common.shared("texts/prose-heldout-a.txt"), 256, 16, {
            "ffn": ("--sparsity", 0.25), "heads": ("--remove", 2), "layers": ("--remove", 1), "hidden": ("--sparsity", 0.25)})
    if HAS_TORCH:
        for name, folder in mixtures(work):
            yield Case(name, folder, sample, heldout, 128, 8, {
                "ffn": ("--sparsity", 0.5), "heads": ("--remove", 1), "layers": ("--remove", 1), "hidden": ("--sparsity", 0.5)},
                square=name == "qwen2_moe")
    wiki, calibration = common.shared("texts/wiki.test.raw"), common.shared("texts/calibration/wiki.utf8")
    if not wiki:
        return
    folders = [folder.split("=", 1) for folder in args.folder]
    for name, path in real_models(work) if args.full else []:
        folders.append((name, work / f"{name}-bf16"))
        common.llmc("convert", path, "--to", "safetensors", "--type", "BF16", "-o", folders[-1][1])
    for name, folder in folders:
        gemma = "Gemma" in name  # 4 query heads over one key and value head; the others of SmolLM2's 9 go by threes
        yield Case(name, Path(folder), calibration, wiki, 512, 8, {
            "ffn": ("--sparsity", 0.25), "heads": ("--remove", 2 if gemma else 1), "layers": ("--remove", 4),
            "hidden": ("--sparsity", 0.25)}, large=True, gelu=gemma)


def mixtures(work):
    """Random mixtures of experts, larger than transformers makes them, so that they do not say the same of all."""
    import torch
    from gguf_families import tokenizer
    from transformers import MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM
    small = dict(vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=128)
    for make, config in (
            (MixtralForCausalLM, MixtralConfig(**small, num_local_experts=6)),
            (Qwen2MoeForCausalLM, Qwen2MoeConfig(**small, num_experts=6, moe_intermediate_size=64, shared_expert_intermediate_size=96))):
        torch.manual_seed(2)
        folder, model = work / config.model_type, make(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(5 if weight.dim() > 1 else 1)
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_text(tokenizer())
        yield config.model_type, folder


class Engine:
    """One that runs a model: logits of token ids, float32 [len(ids), vocabulary]."""

    def __init__(self, name, logits):
        self.name, self.logits = name, logits

    def perplexity(self, ids, context, bos):
        """The second halves of chunks, as llama-perplexity scores them."""
        losses, first = [], context // 2
        for at in range(0, CHUNKS * context, context):
            chunk = ids[at:at + context].copy()
            if bos is not None:
                chunk[0] = bos
            rows = self.logits(chunk)[first:-1].astype(np.float64)
            norm = np.logaddexp.reduce(rows, axis=1)
            losses.append(norm - rows[np.arange(len(rows)), chunk[first + 1:]])
        return math.exp(np.concatenate(losses).mean())


def transformers(folder):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if any(info.values()):
        raise RuntimeError(f"transformers finds {folder} not as it should be: {info}")
    model.eval()

    def logits(ids):
        with torch.no_grad():
            return model(torch.tensor([list(map(int, ids))])).logits[0].numpy()
    return Engine("transformers", logits)


def own_logits(program, path, ids):
    done = subprocess.run([program, str(path), *map(str, ids)], capture_output=True, check=True)
    return np.frombuffer(done.stdout, dtype="<f4").reshape(len(ids), -1)


def compare(checks, name, engine, want, ids, context, bos, perplexity, tolerance=LOGITS):
    off = np.abs(engine.logits(ids[:len(want)]) - want).max()
    checks.check(f"{name}: logits in {engine.name}", bool(off <= tolerance),
                 f"largest difference {off:.1e} (allowed {tolerance:.1e}), largest logit {np.abs(want).max():.3g}")
    checks.near(f"{name}: perplexity in {engine.name}", engine.perplexity(ids, context, bos), perplexity, PERPLEXITY)


def run(checks, library, program, case, axis, work):
    name = f"{case.name} {axis} {' '.join(map(str, case.cuts[axis]))}"
    folder, gguf, f32 = (work / f"{case.name}-{axis}{end}" for end in ("", ".gguf", "-f32.gguf"))
    flags = ["--structured", axis, *case.cuts[axis], "--calibration", case.calibration, "--samples", case.samples,
             "--calibration-context", case.context, "--quiet"]
    common.llmc("prune", case.source, *flags, "-o", folder)
    own = common.evaluate([case.source, folder], case.text, case.context, CHUNKS)
    perplexity = own[1]["perplexity"]
    checks.check(f"{name}: smaller", own[1]["parameters"] < own[0]["parameters"],
                 f"{own[1]['parameters']} parameters of {own[0]['parameters']}; perplexity {perplexity:.6g}, {own[0]['perplexity']:.6g} before")
    ids = np.array(common.llmc("tokenize", folder, "--text", case.text).split(), dtype=np.int32)
    want = own_logits(program, folder, ids[:case.context])
    if case.square and axis in ("heads", "hidden"):
        checks.skip(f"{name} in llama.cpp", "its heads have to be as wide as the model")
    else:
        if case.large:
            common.llmc("convert", folder, "--to", "gguf", "-o", gguf)
        else:
            common.llmc("prune", case.source, *flags, "-o", gguf)
        common.llmc("convert", gguf, "--to", "gguf", "--type", "F32", "-o", f32)
        same = common.evaluate([gguf], case.text, case.context, CHUNKS)[0]["perplexity"]
        checks.near(f"{name}: perplexity of the GGUF file", same, perplexity, 1e-6)
    bos = None
    if f32.exists():
        with library.model(f32, context=case.context) as model:
            bos = model.bos if model.adds_bos else None
            tolerance = TABLE * np.abs(want).max() if case.gelu else LOGITS
            compare(checks, name, Engine("llama.cpp", model.logits), want, ids, case.context, bos, perplexity, tolerance)
        with library.model(gguf, context=case.context) as model:
            value = Engine("llama.cpp", model.logits).perplexity(ids, case.context, bos)
            checks.near(f"{name}: perplexity in llama.cpp, as it is written", value, perplexity, PERPLEXITY)
    if not HAS_TORCH:
        checks.skip(f"{name} in transformers", "torch and transformers are not there")
        return
    compare(checks, name, transformers(folder), want, ids, case.context, bos, perplexity)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="real models too")
    parser.add_argument("--only", default="", help="only the models whose names contain this")
    parser.add_argument("--axis", default="", help="only cuts of heads, ffn, hidden or layers")
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=FOLDER", help="another model's folder")
    args = parser.parse_args()
    checks = common.Checks()
    library = common.llamacpp()
    with common.workdir() as folder:
        work = Path(folder)
        program = work / "logits"
        subprocess.run(["go", "build", "-o", program, "./scripts/interop/logits"], cwd=common.ROOT, check=True)
        for case in cases(args, work):
            if args.only not in case.name:
                continue
            for axis in case.cuts:
                if args.axis not in ("", axis):
                    continue
                try:
                    run(checks, library, program, case, axis, work)
                except (RuntimeError, OSError, ValueError, subprocess.CalledProcessError) as e:
                    checks.check(f"{case.name} {axis}", False, str(e))
    checks.done()


if __name__ == "__main__":
    sys.exit(main())
