#!/usr/bin/env python3
"""Time of GPTQ and SparseGPT by llmc and by llm-compressor, in turns, as a table.

    scripts/bench/calibrated.py [--rounds N] [--samples N] [--only METHOD] [--compute fast] MODEL_FOLDER CALIBRATION_TEXT

Run by a Python that has llmcompressor and transformers. Both programs take the
same windows of 512 tokens: GPTQ to 4 bits in groups of 32, asymmetric, SparseGPT
to 2:4. llmc's time is the whole command, reading and writing included;
llm-compressor's is that of its `oneshot` on a loaded model, in float32. Figures
are medians of the rounds, ratios medians of the ratios within a round. llmc's
share of the machine's multiply-adds, measured just before, counts the
operations of linears, attention, Hessians and the solver, and no other; with
--compute fast, which is GPTQ's alone, those in integers as if they were floats.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

import common
import quantize_llmcompressor
import side_by_side
import sparsity_llmcompressor
from sparsity_llmcompressor import CONTEXT, cpu_seconds, read_windows, shorten


def operations(model, windows):
    """Floating-point operations that no GPTQ run with one pass can do without."""
    c = json.loads((Path(model) / "config.json").read_text())
    hidden, ffn, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    head = c.get("head_dim") or hidden // heads
    wide, narrow = heads * head, c["num_key_value_heads"] * head
    tokens = windows * CONTEXT
    shapes = [(wide, hidden), (narrow, hidden), (narrow, hidden), (hidden, wide), (ffn, hidden), (ffn, hidden), (hidden, ffn)]
    block = tokens * (sum(2 * r * n for r, n in shapes) + 2 * CONTEXT * wide)  # attention sees half of all pairs
    block += tokens * (hidden**2 + wide**2 + hidden**2 + ffn**2)               # half of each Hessian
    block += sum(n**3 + r * n * n for r, n in shapes)                          # factors, spread errors
    return c["num_hidden_layers"] * block


def timed(run):
    start = time.perf_counter()
    cpu = run()
    return time.perf_counter() - start, cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--only", default="", help="only the method of this name, GPTQ or SparseGPT")
    parser.add_argument("--compute", default="exact", help="GPTQ: how llmc runs what is rounded, exact or fast")
    options = parser.parse_args()
    # llm-compressor's threads may wait as they like: only the clock decides.
    quantize_llmcompressor.PASSIVE.clear()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        side_by_side.build(work)
        common.LLMC = str(work / "llmc")
        text = options.calibration.read_bytes()[:4_000_000].decode(errors="ignore")
        tokenizer, windows, body = read_windows(options.model, text, options.samples)
        sample = work / "calibration.txt"
        sample.write_text(shorten(tokenizer, text, body, options.samples))
        shared = ["--calibration", sample, "--samples", options.samples, "--calibration-context", CONTEXT, "--force", "-o", work / "out"]
        job = {"model": str(options.model), "windows": windows, "out": str(work / "theirs"),
               "bits": 4, "group": 32, "pattern": "2:4"}
        programs = {
            "GPTQ": (lambda: cpu_seconds("quantize", options.model, "--bits", 4, "--group-size", 32, "--asymmetric",
                                         "--method", "gptq", "--compute", options.compute, "--to", "compressed-tensors", *shared),
                     lambda: quantize_llmcompressor.run("--compress", {**job, "method": "gptq"}, work)),
            "SparseGPT": (lambda: cpu_seconds("prune", options.model, "--pattern", "2:4", "--method", "sparsegpt", *shared),
                          lambda: sparsity_llmcompressor.run_other({**job, "method": "sparsegpt"})),
        }
        print("| | llm-compressor, clock | llmc, clock | ratio | llm-compressor, processor | llmc, processor | ratio | llmc, of peak |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|")
        for method, (ours, theirs) in programs.items():
            if options.only not in ("", method):
                continue
            rounds = []
            for i in range(options.rounds):
                peak, _, _ = side_by_side.ceilings(work, os.cpu_count())
                clock, cpu = timed(ours)
                other = theirs()
                rounds.append((other["clock"], clock, other["clock"] / clock, other["seconds"], cpu, other["seconds"] / cpu,
                               operations(options.model, options.samples) / clock / peak))
                print(f"{method}, round {i + 1}: " + ", ".join(f"{v:.2f}" for v in rounds[-1]), file=sys.stderr)
            a, b, r, c, d, s, share = map(statistics.median, zip(*rounds))
            print(f"| {method} | {a:.1f} s | {b:.1f} s | {r:.2f} | {c:.1f} s | {d:.1f} s | {s:.2f} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
