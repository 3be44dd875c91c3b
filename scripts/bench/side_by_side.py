#!/usr/bin/env python3
"""Speed of llmc and llama.cpp on the same files, in turns, as a table.

    LLAMA_BENCH=path/to/llama-bench scripts/bench/side_by_side.py [MODEL.gguf...]

Without models, a llama of 1.1 billion random weights is made in --work (some
gigabytes, a few minutes) and quantized to --types. llama-bench is llama.cpp's;
build it for the machine:

    cmake -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build --target llama-bench

Each round measures, one after the other, what the machine can do (multiply-adds,
8-bit integer products, reading memory), llama.cpp and llmc, since machines with
other work drift. Figures are medians of the rounds, ratios medians of the ratios
within a round. Shares are of the machine's ceilings in the same round: of
multiply-adds for floats and exact prefill, of integer products for fast prefill,
of reading memory for decoding.

With --record FILE, rounds are kept there and the table is of all that it has, so
that a long comparison can be made in pieces: --rounds 1 as often as there is time.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT, DECODE = 512, 32
FLOATS = {"F32", "F16", "BF16"}


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{command[0]} exits with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def build(work):
    """Builds llmc and the probe."""
    run("go", "build", "-o", work / "llmc", "./cmd/llmc", cwd=ROOT)
    run("go", "test", "-c", "-o", work / "probe", "./kernels", cwd=ROOT)


def make_models(work, types):
    """The 1.1B shape in several types; files that are there are kept."""
    paths = [work / f"llama-1b-{t}.gguf" for t in types]
    for path, t in zip(paths, types):
        if path.exists():
            continue
        folder = work / "hf"
        if not (folder / "tokenizer.json").exists():
            run("go", "run", "./scripts/bench/model", "-out", folder, cwd=ROOT)
        print(f"quantizing to {t}", file=sys.stderr)
        run(work / "llmc", "quantize", folder, "--type", t, "-o", path, "--quiet")
    return paths


def text(work):
    """A text of more than one window in any tokenizer."""
    path = work / "text.txt"
    path.write_text("".join(f"{i * 7919 % 10007} is a number, and so is {i}.\n" for i in range(4000)))
    return path


def ceilings(work, threads):
    """(multiply-adds, integer products, bytes read) a second."""
    out = run(work / "probe", "-test.run", "^$", "-test.bench", f"^BenchmarkCeilings$/^threads={threads}$", "-test.benchtime", "5x")
    found = {unit: float(value) * 1e9 for value, unit in re.findall(r"([\d.]+) (GFLOP/s|GOP/s|GB/s)", out)}
    return found["GFLOP/s"], found["GOP/s"], found["GB/s"]


def llamacpp(bench, model, threads):
    """(prefill, decode) tokens a second; decoding comes after a prompt, as in llmc."""
    def rate(*arguments):
        out = run(bench, "-m", model, "-t", threads, "-r", 1, "-o", "json", *arguments)
        return json.loads(out)[0]["avg_ts"]
    return rate("-p", PROMPT, "-n", 0), rate("-p", 0, "-n", DECODE, "-d", PROMPT)


def llmc(work, model, threads, compute):
    report = json.loads(run(work / "llmc", "eval", model, "--text", text(work), "--context", PROMPT, "--chunks", 1,
                            "--latency", "--repeats", 1, "--compute", compute, "--threads", threads, "--json", "--quiet"))
    latency = report["models"][0]["latency"]
    assert latency["compute"].startswith(compute)
    return latency["prefill_tokens_per_second"], latency["decode_tokens_per_second"]


def work_of(work, model):
    """Operations of a prompt's token and bytes read for a decoded one, and the file's type."""
    info = json.loads(run(work / "llmc", "inspect", model, "--json"))
    linears = {"q", "k", "v", "o", "gate", "up", "down"}
    operations = sum(2 * r["parameters"] for r in info["roles"] if r["role"] in linears)
    lookup = not info["tied_embeddings"]
    size = sum(r["size_bytes"] for r in info["roles"] if r["role"] != "embed" or not lookup)
    return operations, size, info["scheme"]


def measure(options, model, threads, compute):
    """One round: the rates of both, and what the ceilings allow."""
    work = options.work
    operations, size, scheme = work_of(work, model)
    fma, integer, read = ceilings(work, threads)
    theirs = llamacpp(options.llama_bench, model, threads)
    ours = llmc(work, model, threads, compute)
    top = fma if compute == "exact" or scheme in FLOATS else integer
    print(f"{model.name}, {threads} threads, {compute}: {theirs} {ours}", file=sys.stderr)
    return {"model": model.stem, "threads": threads, "compute": compute,
            "theirs": theirs, "ours": ours, "most": (top / operations, read / size)}


def table(rounds):
    """The lines of a table: medians of the rounds of each case."""
    cases = {}
    for r in rounds:
        cases.setdefault((r["model"], r["threads"], r["compute"]), []).append(r)
    yield "| model, what, arithmetic, threads | rounds | llama.cpp tok/s | of ceiling | llmc tok/s | of ceiling | ratio |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for (model, threads, compute), case in cases.items():
        for j, what in enumerate(["prefill", "decode"]):
            def median(f):
                return statistics.median(f(r["theirs"][j], r["ours"][j], r["most"][j]) for r in case)
            yield (f"| {model}, {what}, {compute}, {threads} | {len(case)} "
                   f"| {median(lambda t, o, m: t):.1f} | {median(lambda t, o, m: t / m):.0%} "
                   f"| {median(lambda t, o, m: o):.1f} | {median(lambda t, o, m: o / m):.0%} | {median(lambda t, o, m: o / t):.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--llama-bench", default=os.environ.get("LLAMA_BENCH"), help="llama.cpp's program (default: $LLAMA_BENCH)")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "llmc-bench", help="folder for models and programs")
    parser.add_argument("--types", default="F32,F16,Q8_0,Q4_0,Q4_K_M", help="types of the model that is made")
    parser.add_argument("--threads", default="2,1")
    parser.add_argument("--compute", default="fast", help="fast, exact, or fast,exact")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path, help="file of rounds, which those of this run join")
    options = parser.parse_args()
    if not options.llama_bench:
        sys.exit("llama-bench is not named: set LLAMA_BENCH or add --llama-bench")
    options.work.mkdir(parents=True, exist_ok=True)
    build(options.work)
    models = options.models or make_models(options.work, options.types.split(","))
    rounds = []
    if options.record and options.record.exists():
        rounds = [json.loads(line) for line in options.record.read_text().splitlines()]
    for _ in range(options.rounds):
        for model in models:
            for threads in map(int, options.threads.split(",")):
                for compute in options.compute.split(","):
                    rounds.append(measure(options, model, threads, compute))
                    if options.record:
                        with options.record.open("a") as f:
                            f.write(json.dumps(rounds[-1]) + "\n")
    print("\n".join(table(rounds)))


if __name__ == "__main__":
    main()
