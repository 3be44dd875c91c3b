#!/usr/bin/env python3
"""What `llmc prune --structured` costs and gains, as a table.

    scripts/bench/structured.py MODEL CALIBRATION TEXT [--work DIR] [--only NAME]

Removes a quarter and half of the feed-forward neurons, a quarter of the heads (in
whole key and value groups: the nearest there can be) and four layers, each with
and without repair, and measures perplexity on TEXT, size and speed. Speed is
measured in rounds, the whole model and the cut one after the other, by processor
time as well as by the clock; figures are medians, ratios medians of those within
a round. A decoded token reads all weights once, so the speed-up has to be 80% of
what the size is reduced by.

What is done is kept in --work and not done again.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LLMC = os.environ.get("LLMC", str(ROOT / "llmc"))
CASES = {
    "ffn-25": ["--structured", "ffn", "--sparsity", "0.25"],
    "ffn-50": ["--structured", "ffn", "--sparsity", "0.5"],
    "heads-25": ["--structured", "heads", "--sparsity", "0.25"],
    "layers-4": ["--structured", "layers", "--remove", "4"],
}


def llmc(*arguments):
    done = subprocess.run([LLMC, *map(str, arguments), "--quiet", "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"llmc {' '.join(map(str, arguments))} exits with {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


class Results:
    """Figures by name, in a file of --work."""

    def __init__(self, path):
        self.path, self.values = path, json.loads(path.read_text()) if path.exists() else {}

    def get(self, name, measure):
        if name not in self.values:
            self.values[name] = measure()
            self.path.write_text(json.dumps(self.values, indent=1))
        return self.values[name]


def prune(args, name, repair):
    out = args.work / (name if repair else name + "-plain")
    if not (out / "config.json").exists():
        llmc("prune", args.model, *CASES[name], "--calibration", args.calibration, "--samples", args.samples,
             "--calibration-context", args.context, "-o", out, "--force", *([] if repair else ["--no-repair"]))
    return out


def perplexity(args, model):
    report = llmc("eval", model, "--text", args.text, "--context", args.context, "--chunks", args.chunks)["models"][0]
    return {key: report[key] for key in ("parameters", "size_bytes", "perplexity", "tokens")}


def speed(args, model):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    latency = llmc("eval", model, "--text", args.text, "--context", 64, "--chunks", 1, "--latency")["models"][0]["latency"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [latency["prefill_tokens_per_second"], latency["decode_tokens_per_second"], used]


def speeds(args, model):
    """Medians of the cut model's prefill and decode speed, and of the ratios to the whole one's."""
    rounds = []
    for _ in range(args.rounds):
        whole, cut = speed(args, args.model), speed(args, model)
        rounds.append({"whole": whole, "cut": cut})
    median = lambda key, i: statistics.median(r[key][i] for r in rounds)
    ratio = lambda i: statistics.median(r["cut"][i] / r["whole"][i] for r in rounds)
    return {"prefill": median("cut", 0), "decode": median("cut", 1), "whole_prefill": median("whole", 0),
            "whole_decode": median("whole", 1), "prefill_ratio": ratio(0), "decode_ratio": ratio(1), "cpu_ratio": ratio(2)}


def row(name, report, plain="", prefill="", decode="", gained=""):
    return f"| {name} | {report['parameters'] / 1e6:.1f}M | {report['size_bytes'] / 1e6:.0f} MB | {plain} | {report['perplexity']:.2f} | {prefill} | {decode} | {gained} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--work", type=Path, default=Path("structured"))
    parser.add_argument("--only", default="", help="only cases whose names contain this")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-speed", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = Results(args.work / "results.json")
    base = results.get("whole", lambda: perplexity(args, args.model))
    failed = False
    rows = [row("whole", base)]
    for name in CASES:
        if args.only not in name:
            continue
        repaired = results.get(name, lambda: perplexity(args, prune(args, name, True)))
        plain = results.get(name + "-plain", lambda: perplexity(args, prune(args, name, False)))
        if args.no_speed:
            rows.append(row(name, repaired, f"{plain['perplexity']:.2f}"))
            continue
        s = results.get(name + "-speed", lambda: speeds(args, prune(args, name, True)))
        gain = (s["decode_ratio"] - 1) / (base["size_bytes"] / repaired["size_bytes"] - 1)
        failed |= gain < 0.8
        rows.append(row(name, repaired, f"{plain['perplexity']:.2f}", f"{s['prefill']:.0f}, {s['prefill_ratio']:.2f} times",
                        f"{s['decode']:.1f}, {s['decode_ratio']:.2f} times", f"{gain:.0%}"))
    print(f"perplexity over {base['tokens']} tokens of {args.text.name}, context {args.context}; "
          f"{args.samples} samples of {args.context} tokens of {args.calibration.name}\n")
    print("| removed | parameters | size | perplexity cut | repaired | prefill tokens/s | decode tokens/s | of the reduction |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    print("\n".join(rows))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
