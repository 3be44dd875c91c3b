#!/usr/bin/env python3
"""Time and memory of quantizing a GGUF file, llmc and llama-quantize in turns.

    LLAMA_QUANTIZE=path/to/llama-quantize scripts/bench/quantize.py MODEL.gguf [--types Q8_0,Q4_0,...]

Whole commands: reading, rounding, writing, and for llmc the check of the source,
the comparison with it, the sync to the disk and reading back. Processor time is
user and system time of all threads; it says more than the clock on a machine
with other work. Figures are medians of the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def measure(*command):
    """(seconds by the clock, processor seconds, MiB resident) of a command."""
    start = time.monotonic()
    child = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"{command[0]} fails with status {status}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-quantize", default=os.environ.get("LLAMA_QUANTIZE"), help="llama.cpp's program (default: $LLAMA_QUANTIZE)")
    parser.add_argument("--types", default="Q8_0,Q4_0,Q4_K_M,Q3_K_M,Q2_K")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not options.llama_quantize:
        sys.exit("llama-quantize is not named: set LLAMA_QUANTIZE or add --llama-quantize")
    with tempfile.TemporaryDirectory(dir=options.model.parent) as work:
        llmc, out = Path(work) / "llmc", Path(work) / "out.gguf"
        subprocess.run(["go", "build", "-o", llmc, "./cmd/llmc"], cwd=ROOT, check=True)
        print("| type | llama.cpp s | processor s | MiB | llmc s | processor s | MiB | times, by the clock | processor |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
        for name in options.types.split(","):
            theirs, ours = [], []
            for _ in range(options.rounds):
                theirs.append(measure(options.llama_quantize, options.model, out, name, options.threads))
                out.unlink()
                ours.append(measure(llmc, "quantize", options.model, "--type", name, "-o", out, "--threads", options.threads, "--quiet"))
                out.unlink()
            t, o = ([statistics.median(column) for column in zip(*runs)] for runs in (theirs, ours))
            print(f"| {name} | {t[0]:.1f} | {t[1]:.1f} | {t[2]:.0f} | {o[0]:.1f} | {o[1]:.1f} | {o[2]:.0f} "
                  f"| {t[0] / o[0]:.1f} | {t[1] / o[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
