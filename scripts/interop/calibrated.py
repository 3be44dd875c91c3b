"""Compares GGUF files that llmc calibrates with llama.cpp's of the same types.

usage: calibrated.py TOOLS MODEL CALIBRATION TEXT CONTEXT [TYPE...]

TOOLS is a folder with llama-imatrix, llama-quantize and llama-perplexity. Both
programs see all of CALIBRATION in windows of CONTEXT tokens (so MODEL must not
add a BOS), and llmc measures both files on TEXT. Allowed is no larger file and a
mean KL divergence that is 20% smaller, 30% below 4 bits. llama.cpp then measures
llmc's file with its weights in F32, and as it is, where activations are rounded
to 8 bits.
"""

import re
import subprocess
import sys
from pathlib import Path

from common import Checks, evaluate, llmc, workdir
from importance import tool

TYPES = "Q2_K Q3_K_M Q4_0 Q4_K_M Q5_K_M Q6_K".split()
EXACT = 1e-3  # rounding
LOADED = 3e-3  # activations of 8 bits


def perplexity(tools, model, text, context):
    """What llama-perplexity says."""
    command = [f"{tools}/llama-perplexity", "-m", model, "-f", text, "-c", context, "-b", context, "-t", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return float(re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)[1])


def main():
    tools, model, calibration, text, context, *types = sys.argv[1:]
    c = Checks()
    with workdir() as folder:
        at = Path(folder)
        source, imatrix, f32 = at / "model.gguf", at / "imatrix.gguf", at / "f32.gguf"
        llmc("convert", model, "--to", "gguf", "-o", source, "--quiet")
        tool(tools, "llama-imatrix", "-m", source, "-f", calibration, "-c", context, "--no-ppl", "-o", imatrix)
        for t in types or TYPES:
            theirs, ours = at / f"theirs-{t}.gguf", at / f"ours-{t}.gguf"
            tool(tools, "llama-quantize", "--imatrix", imatrix, source, theirs, t, 2)
            llmc("quantize", source, "--type", t, "--method", "gptq", "--first-token", 0, "--calibration", calibration,
                 "--calibration-context", context, "--samples", 1 << 30, "-o", ours, "--quiet")
            _, their, our = evaluate([source, theirs, ours], text, context)
            c.check(f"{t}: size", our["size_bytes"] <= their["size_bytes"], f"{our['size_bytes']} bytes, reference {their['size_bytes']}")
            kl, reference = (m["vs_baseline"]["kl_mean"] for m in (our, their))
            goal = 0.7 if t[1] in "23" else 0.8
            c.check(f"{t}: mean KL", kl <= goal * reference, f"{kl:.6f}, reference {reference:.6f}, {kl / reference - 1:+.1%}; "
                    f"top-1 {our['vs_baseline']['top1_agreement']:.2%}, reference {their['vs_baseline']['top1_agreement']:.2%}")
            llmc("convert", ours, "--to", "gguf", "--type", "F32", "-o", f32, "--force", "--quiet")
            c.near(f"{t}: perplexity in llama.cpp, F32", perplexity(tools, f32, text, context), our["perplexity"], EXACT)
            c.near(f"{t}: perplexity in llama.cpp", perplexity(tools, ours, text, context), our["perplexity"], LOADED)
    c.done()


if __name__ == "__main__":
    main()
