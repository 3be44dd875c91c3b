#!/usr/bin/env python3
"""Speed of training steps of llmc and PyTorch on the same model, in turns, as a table.

    scripts/bench/training.py [--rows 8] [--context 256] [--threads 1] MODEL_FOLDER...

A step is the forward pass over rows x context random tokens, the mean
cross-entropy of the next token, and the gradients of all weights, in float32.
PyTorch (with transformers, attention by scaled_dot_product_attention) and llmc
take turns step by step, since machines with other work drift. Figures are medians,
ratios medians of the ratios within a round; with one thread, of processor time.
The share is of what the machine could multiply and add just before llmc's step,
counting 6 operations for each weight that multiplies and token (the embedding
only where it is the head, too), and 6 x context x heads x head size for each
token and block, half of what attention would take without the causal mask.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]


class Mine:
    """llmc in a process that runs a step for each line that it is sent."""

    def __init__(self, program, folder, rows, threads):
        self.process = subprocess.Popen([program, "-timed", "-threads", str(threads), folder],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for row in rows:
            print(*row.tolist(), file=self.process.stdin)
        print(file=self.process.stdin, flush=True)

    def step(self):
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Theirs:
    def __init__(self, folder, rows):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").train()
        self.rows = rows

    def step(self):
        wall, cpu = time.perf_counter(), time.process_time()
        self.model.zero_grad(set_to_none=False)
        logits = self.model(self.rows, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), self.rows[:, 1:].flatten())
        loss.backward()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "loss": loss.item()}

    def operations(self):
        """Of one step."""
        config = self.model.config
        weights = sum(p.numel() for p in self.model.parameters())
        if not config.tie_word_embeddings:
            weights -= config.vocab_size * config.hidden_size
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention = config.num_hidden_layers * config.num_attention_heads * size * self.rows.shape[1]
        return 6 * (weights + attention) * self.rows.numel()


def measure(program, folder, rounds, threads, rows):
    theirs = Theirs(folder, rows)
    mine = Mine(program, folder, rows, threads)
    clock = "cpu" if threads == 1 else "wall"
    seconds, ratios, shares = ([], []), [], []
    for i in range(rounds + 1):
        a, b = mine.step(), theirs.step()
        if abs(a["loss"] / b["loss"] - 1) > 1e-4:
            sys.exit(f"{folder}: llmc's loss is {a['loss']}, PyTorch's {b['loss']}")
        if i == 0:
            continue  # memory is taken
        seconds[0].append(a[clock])
        seconds[1].append(b[clock])
        ratios.append(b[clock] / a[clock])
        shares.append(theirs.operations() / a[clock] / a["peak_" + clock])
    mine.close()
    median = statistics.median
    tokens = rows.numel()
    print(f"| {Path(folder).name} | {rows.shape[0]} x {rows.shape[1]} | {threads} | {tokens / median(seconds[0]):,.0f} | "
          f"{tokens / median(seconds[1]):,.0f} | {median(ratios):.2f} | {median(shares):.0%} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("folders", nargs="+")
    args = parser.parse_args()
    print("| model | rows x context | threads | llmc, tokens a second | PyTorch | ratio | share of multiply-adds |")
    print("|---|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as tmp:
        program = Path(tmp) / "gradients"
        subprocess.run(["go", "build", "-o", program, "./scripts/interop/gradients"], cwd=ROOT, check=True)
        for folder in args.folders:
            vocabulary = AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
            rows = torch.randint(1, vocabulary, (args.rows, args.context), generator=torch.Generator().manual_seed(1))
            for threads in args.threads:
                torch.set_num_threads(threads)
                measure(program, folder, args.rounds, threads, rows)


if __name__ == "__main__":
    main()
