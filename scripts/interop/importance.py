"""Compares importance matrices, and what they make of a model, with llama.cpp's tools.

usage: importance.py TOOLS MODEL TEXT CONTEXT [TYPE...]

TOOLS is a folder with llama-imatrix and llama-quantize. MODEL must not add a
BOS, so that both programs see the same windows of TEXT. llama-imatrix is given
the model in F32, since it rounds activations to what the weights are in, and an
exact cache: rounded keys send tokens to other experts of a mixture. It
sums squares in float32, one token after the other, so a long text leaves it off
by up to 1e-3 where llmc sums in float64.
"""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
from common import Checks, llmc, workdir

TYPES = "Q2_K Q3_K_M Q4_0 Q4_K_M Q5_K_M Q6_K IQ4_NL".split()


def tool(folder, name, *arguments):
    done = subprocess.run([os.path.join(folder, name), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{name} exits with {done.returncode}: {done.stderr[-500:]}")


def tensors(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def same_tensors(c, name, got, want):
    """Every tensor of two GGUF files has the same type and bytes."""
    got, want = tensors(got), tensors(want)
    off = [n for n in want if n not in got or got[n].tensor_type != want[n].tensor_type
           or got[n].data.tobytes() != want[n].data.tobytes()]
    c.check(name, not off and len(got) == len(want), f"{len(want)} tensors" if not off else f"{off[:4]} differ")


def main():
    tools, model, text, context, *types = sys.argv[1:]
    c = Checks()
    with workdir() as folder:
        at = Path(folder)
        source = at / "model.gguf"
        llmc("convert", model, "--to", "gguf", "-o", source, "--quiet")
        llmc("convert", model, "--to", "gguf", "--type", "F32", "-o", at / "f32.gguf", "--quiet")
        for form in ("gguf", "dat"):
            tool(tools, "llama-imatrix", "-m", at / "f32.gguf", "-f", text, "-c", context, "--no-ppl",
                 "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-o", at / f"theirs.{form}", "--output-format", form)
        llmc("quantize", model, "--save-imatrix", at / "ours.gguf", "--calibration", text, "--samples", 1 << 30,
             "--calibration-context", context, "--quiet")
        ours, theirs = tensors(at / "ours.gguf"), tensors(at / "theirs.gguf")
        same_windows = all(np.array_equal(ours[n].data.ravel(), theirs[n].data.ravel()) for n in theirs if n.endswith(".counts"))
        worst = max(float(np.max(np.abs(ours[n].data - theirs[n].data) / (np.max(theirs[n].data) + 1e-30)))
                    for n in theirs if n.endswith(".in_sum2")) if set(theirs) <= set(ours) else float("inf")
        c.check("importance gathered by both", same_windows and worst < 1e-3, f"off by {worst:.1e} of the largest")
        for t in types or TYPES:
            tool(tools, "llama-quantize", "--imatrix", at / "theirs.gguf", source, at / "theirs.out", t, 2)
            llmc("quantize", source, "--type", t, "--imatrix", at / "theirs.gguf", "-o", at / "ours-q.gguf", "--quiet")
            same_tensors(c, f"{t}, llama-imatrix's GGUF file", at / "ours-q.gguf", at / "theirs.out")
            tool(tools, "llama-quantize", "--imatrix", at / "theirs.dat", source, at / "theirs.out", t, 2)
            llmc("quantize", source, "--type", t, "--imatrix", at / "theirs.dat", "-o", at / "ours-q.gguf", "--force", "--quiet")
            same_tensors(c, f"{t}, llama-imatrix's .dat file", at / "ours-q.gguf", at / "theirs.out")
            tool(tools, "llama-quantize", "--imatrix", at / "ours.gguf", source, at / "theirs.out", t, 2)
            llmc("quantize", source, "--type", t, "--imatrix", at / "ours.gguf", "-o", at / "ours-q.gguf", "--force", "--quiet")
            same_tensors(c, f"{t}, llmc's file", at / "ours-q.gguf", at / "theirs.out")
            (at / "ours-q.gguf").unlink()
    c.done()


if __name__ == "__main__":
    main()
