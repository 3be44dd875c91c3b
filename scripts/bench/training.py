#!/usr/bin/env python3
"""Speed of training steps of llmc and PyTorch on the same model, in turns, as a table.

    scripts/bench/training.py [--taught] [--rows 8] [--context 256] [--threads 1] MODEL_FOLDER...

A step is the forward pass over rows x context random tokens, the mean
cross-entropy of the next token, and the gradients of all weights, in float32.
With --taught it is one of distillation: the same model as a teacher predicts, too,
the loss is the forward KL divergence of all its logits from the student's at
temperature 2, and gradients are clipped and applied by AdamW (PyTorch's fused one).
PyTorch (with transformers, attention by scaled_dot_product_attention) and llmc
take turns step by step, since machines with other work drift. Figures are medians,
ratios medians of the ratios within a round; with one thread, of processor time.
The share is of what the machine could multiply and add just before llmc's step,
counting 6 operations for each weight that multiplies and token (the embedding
only where it is the head, too), and 6 x context x heads x head size for each
token and block, half of what attention would take without the causal mask; a
third more with a teacher.
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

    def __init__(self, program, folder, rows, threads, taught):
        self.process = subprocess.Popen([program, "-timed", f"-taught={taught}", "-threads", str(threads), folder],
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


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


class Theirs:
    work = 1  # relative to a step without a teacher

    def __init__(self, folder, rows):
        self.model = load(folder).train()
        self.rows = rows

    def step(self):
        wall, cpu = time.perf_counter(), time.process_time()
        loss = self.learn()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "loss": loss.item()}

    def learn(self):
        self.model.zero_grad(set_to_none=False)
        logits = self.model(self.rows, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), self.rows[:, 1:].flatten())
        loss.backward()
        return loss

    def operations(self):
        """Of one step."""
        config = self.model.config
        weights = sum(p.numel() for p in self.model.parameters())
        if not config.tie_word_embeddings:
            weights -= config.vocab_size * config.hidden_size
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention = config.num_hidden_layers * config.num_attention_heads * size * self.rows.shape[1]
        return 6 * self.work * (weights + attention) * self.rows.numel()


class Taught(Theirs):
    """Steps of distillation. The student is the teacher but for its final norm."""

    work = 4 / 3
    temperature = 2

    def __init__(self, folder, rows):
        super().__init__(folder, rows)
        self.teacher = load(folder).eval()
        with torch.no_grad():
            self.model.model.norm.weight *= 0.9
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0}],
            lr=1e-5, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def learn(self):
        log_softmax = torch.nn.functional.log_softmax
        inputs = self.rows[:, :-1]
        with torch.no_grad():
            said = log_softmax(self.teacher(inputs, use_cache=False).logits.flatten(0, 1) / self.temperature, dim=-1)
        self.optimizer.zero_grad(set_to_none=False)
        logits = self.model(inputs, use_cache=False).logits.flatten(0, 1)
        loss = self.temperature**2 * torch.nn.functional.kl_div(
            log_softmax(logits / self.temperature, dim=-1), said, reduction="batchmean", log_target=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1)
        self.optimizer.step()
        return loss


def measure(program, folder, rounds, threads, rows, taught):
    theirs = (Taught if taught else Theirs)(folder, rows)
    mine = Mine(program, folder, rows, threads, taught)
    clock = "cpu" if threads == 1 else "wall"
    seconds, ratios, shares = ([], []), [], []
    for i in range(rounds + 1):
        a, b = mine.step(), theirs.step()
        if abs(a["loss"] / b["loss"] - 1) > (1e-3 if taught else 1e-4):  # an optimizer blows differences up
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
    parser.add_argument("--taught", action="store_true", help="steps of distillation")
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
                measure(program, folder, args.rounds, threads, rows, args.taught)


if __name__ == "__main__":
    main()
