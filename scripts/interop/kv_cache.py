"""Compares what rounded keys and values do to a model in llmc and in llama.cpp.

Both say how far predictions with a cache in Q8_0 and Q4_0 are from those with one
in float32, on the same windows of text. llama.cpp rounds queries to Q8_0, too,
which is as much again as its keys at 8 bits and nothing beside 4: so llmc's
divergence is to be near llama.cpp's at 4 bits, and no larger at 8.
"""

import subprocess
from pathlib import Path

import numpy as np

from common import Checks, ROOT, llamacpp, llmc, llmc_json, shared, workdir

WINDOWS = 24


def scored(model, chunk):
    """log-probabilities of the second half of a window."""
    rows = model.logits(chunk, first=len(chunk) // 2)[:-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def divergence(lib, path, ids, context, cache):
    """Mean KL divergence of a cache from that in float32, and its perplexity."""
    sums = np.zeros(3)
    with lib.model(path, context=context) as exact, lib.model(path, context=context, cache=cache) as rounded:
        for at in range(0, WINDOWS * context, context):
            chunk = ids[at:at + context].copy()
            if exact.adds_bos:
                chunk[0] = exact.bos
            p, q = scored(exact, chunk), scored(rounded, chunk)
            targets = chunk[context // 2 + 1:]
            sums += [(np.exp(p) * (p - q)).sum(), -q[np.arange(len(targets)), targets].sum(), len(targets)]
    return sums[0] / sums[2], np.exp(sums[1] / sums[2])


def main():
    c, lib = Checks(), llamacpp()
    model, text, context = shared("models/prose-6m"), shared("texts/prose-heldout-a.txt"), 256
    with workdir() as folder:
        at = Path(folder)
        if model is None:
            model, text, context = ROOT / "demo/model", at / "heldout.txt", 512
            text.write_bytes(subprocess.run(["go", "run", "./scripts/demo/corpus", "-part", "heldout"], cwd=ROOT, check=True, capture_output=True).stdout)
        source = at / "model.gguf"
        llmc("convert", model, "--to", "gguf", "-o", source, "--quiet")
        with lib.model(source, vocab_only=True) as m:
            ids = m.tokenize(Path(text).read_text())
        for bits, cache in (8, "Q8_0"), (4, "Q4_0"):
            kl, perplexity = divergence(lib, source, ids, context, cache)
            ours = llmc_json("eval", source, "--text", text, "--context", context, "--chunks", WINDOWS, "--kv-bits", bits, "--quiet")["models"][1]
            own = ours["vs_baseline"]["kl_mean"]
            c.near(f"{bits} bits: perplexity", ours["perplexity"], perplexity, 1e-3)
            if bits == 4:
                c.near("4 bits: mean KL", own, kl, 0.05)
            else:
                c.check("8 bits: mean KL", kl / 3 < own < 1.02 * kl, f"{own:.6f}, reference with rounded queries {kl:.6f}")
    c.done()


if __name__ == "__main__":
    main()
