"""Compares the training losses of llmc distill with PyTorch's.

usage: torch_training.py LLMC MODEL_FOLDER TEXT

Trains the model on a piece of the text, then a student of its first layer on the
model's predictions, 50 steps each with AdamW, a warm-up, a cosine and clipping,
from the same weights on the same windows, all of them in every step so that
their order does not matter. The model's weights must be exact in bfloat16. Exits
1 when a loss differs by more than 1e-3.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

STEPS, WINDOWS, CONTEXT = 50, 16, 128
RATE, WARMUP, FINAL, DECAY, CLIP = 1e-3, 5, 0.1, 0.1, 1.0
TEMPERATURE, ALPHA = 2.0, 0.7


def run(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout


def windows(llmc, folder, text):
    """The ids of the windows that llmc cuts a text into, and where the text has to end for that."""
    tokens = json.loads(run(llmc, "tokenize", folder, "--text", str(text), "--no-bos", "--json"))
    ids = tokens["tokens"] if isinstance(tokens, dict) else tokens
    ids = [t["id"] if isinstance(t, dict) else t for t in ids]
    with_bos = [int(i) for i in run(llmc, "tokenize", folder, "-p", "a").split()]
    without = [int(i) for i in run(llmc, "tokenize", folder, "-p", "a", "--no-bos").split()]
    bos = with_bos[: len(with_bos) - len(without)]
    body = CONTEXT + 1 - len(bos)
    return torch.tensor([bos + ids[i : i + body] for i in range(0, len(ids) - body + 1, body)])


def rate(step):
    if step <= WARMUP:
        return RATE * step / WARMUP
    through = (step - WARMUP) / (STEPS - WARMUP)
    return RATE * (FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * through)))


def train(model, batch, teacher=None):
    """The loss of every step."""
    optimizer = torch.optim.AdamW(
        [dict(params=[p for p in model.parameters() if p.dim() > 1], weight_decay=DECAY),
         dict(params=[p for p in model.parameters() if p.dim() == 1], weight_decay=0.0)],
        lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        logits = model(batch[:, :-1]).logits.flatten(0, 1)
        loss = F.cross_entropy(logits, batch[:, 1:].flatten())
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(batch[:, :-1]).logits.flatten(0, 1)
            kl = F.kl_div(F.log_softmax(logits / TEMPERATURE, -1), F.log_softmax(wanted / TEMPERATURE, -1),
                          log_target=True, reduction="batchmean")
            loss = ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()


def compare(name, ours, theirs):
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    verdict = "ok" if worst <= 1e-3 else "DIFFERENT"
    print(f"{verdict}: {name}: {STEPS} losses from {ours[0]:.5f} to {ours[-1]:.5f}, PyTorch's {theirs[0]:.5f} to {theirs[-1]:.5f}, "
          f"largest difference {worst:.2g}")
    return worst <= 1e-3


def main():
    llmc, folder, text = sys.argv[1:4]
    good = True
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        piece = work / "piece.txt"
        whole = Path(text).read_text()
        size = WINDOWS * CONTEXT * 2
        while True:  # until the piece gives the windows
            piece.write_text(whole[:size])
            batch = windows(llmc, folder, piece)
            if len(batch) >= WINDOWS:
                break
            size = size * 11 // 10
        flags = ["--train", str(piece), "--steps", str(STEPS), "--batch", str(len(batch)), "--context", str(CONTEXT),
                 "--lr", str(RATE), "--warmup", str(WARMUP), "--final-lr", str(FINAL), "--weight-decay", str(DECAY),
                 "--clip", str(CLIP), "--json", "--quiet"]

        def losses(*args):
            report = json.loads(run(llmc, "distill", *flags, *args))
            return [p["loss"] for p in report["curve"]]

        ours = losses("--student", folder, "-o", str(work / "trained"))
        good &= compare("text alone", ours, train(load(folder), batch))

        small = work / "small"  # one step of next to nothing, so its weights are the teacher's
        run(llmc, "distill", "--teacher", folder, "--student-layers", "1", "--train", str(piece), "--steps", "1",
            "--context", str(CONTEXT), "--lr", "1e-20", "-o", str(small), "--quiet")
        ours = losses("--teacher", folder, "--student", str(small), "--temperature", str(TEMPERATURE), "--alpha", str(ALPHA),
                      "-o", str(work / "distilled"))
        good &= compare("a layer less, from the teacher", ours, train(load(small), batch, load(folder).eval()))
    sys.exit(not good)


if __name__ == "__main__":
    main()
