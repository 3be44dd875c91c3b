"""Gradients of random models of every family, of llmc and of PyTorch's autograd.

The models are those of transformers_logits.py, and the trained ones of the shared
test data. The loss is the mean cross-entropy of the next token over sequences of
different lengths, which llmc takes through the model together and PyTorch one by
one, in float64. Of every tensor, the difference has to be within 1e-4 of the
gradient, by their norms, and by the largest number of each. Where the attention of
a random model is so sharp that float32 is too coarse for that, the difference may
be twice that of PyTorch's own float32 gradients.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from common import ROOT, Checks, shared, workdir
from transformers_logits import SMALL, random_models

TOLERANCE = 1e-4
LENGTHS = 70, 1, 23, 41  # the first is more than every window


def llmc_gradients(program, folder, sequences, *flags):
    """The loss, and gradients by name."""
    lines = "".join(" ".join(map(str, ids)) + "\n" for ids in sequences)
    done = subprocess.run([program, *flags, str(folder)], input=lines.encode(), capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace").strip())
    out, at, found, loss = done.stdout, 0, {}, None
    while at < len(out):
        end = out.index(b"\n", at)
        header = json.loads(out[at:end])
        at = end + 1
        if "loss" in header:
            loss = header["loss"]
            continue
        found[common_name(header["name"])] = np.frombuffer(out, dtype="<f4", count=header["numbers"], offset=at)
        at += 4 * header["numbers"]
    return loss, found


def torch_gradients(model, sequences, dtype):
    """The same. The model's weights are float32 numbers in any type."""
    model = model.to(dtype)
    model.set_experts_implementation("eager")  # the others know no float64
    for p in model.parameters():
        p.requires_grad_(True)
        p.grad = None
    tokens = sum(len(ids) - 1 for ids in sequences)
    loss = 0.0
    for ids in sequences:
        if len(ids) < 2:
            continue
        t = torch.tensor([ids])
        part = torch.nn.functional.cross_entropy(model(t).logits[0, :-1], t[0, 1:], reduction="sum") / tokens
        part.backward()
        loss += part.item()
    found = {}
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        for part, grad in unstacked(name.replace("model.language_model.", "model."), p.grad):
            found[common_name(part)] = grad.flatten().numpy().copy()
    return loss, found


def unstacked(name, grad):
    """The experts of a mixture, which transformers has in one parameter, apart."""
    path, _, role = name.rpartition(".")
    if not path.endswith(".experts"):
        return [(name, grad)]
    parts = []
    for e, own in enumerate(grad):
        halves = zip(("gate_proj", "up_proj"), own.chunk(2)) if role == "gate_up_proj" else [(role, own)]
        parts += [(f"{path}.{e}.{which}.weight", half) for which, half in halves]
    return parts


def common_name(name):
    """A tensor's name, Mixtral's as the other families have it."""
    if ".block_sparse_moe." not in name:
        return name
    name = name.replace(".block_sparse_moe.", ".mlp.")
    for old, new in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
        name = name.replace(f".{old}.", f".{new}.")
    return name


def compare(checks, program, name, folder, model, sequences, *flags):
    try:
        loss, got = llmc_gradients(program, folder, sequences, *flags)
    except RuntimeError as error:
        checks.check(name, False, str(error))
        return
    want_loss, want = torch_gradients(model, sequences, torch.float64)
    if got.keys() != want.keys():
        checks.check(name, False, f"gradients of {sorted(got.keys() ^ want.keys())} are in one of the two")
        return
    worst, at = difference(got, want)
    allowed = TOLERANCE
    if worst > TOLERANCE:
        allowed = max(allowed, 2 * difference(torch_gradients(model, sequences, torch.float32)[1], want)[0])
    checks.near(f"{name}: the loss", loss, want_loss, 1e-5)
    checks.check(name, bool(worst <= allowed), f"{len(got)} tensors, largest difference {worst:.1e}, of {at} (allowed {allowed:.1e})")


def difference(got, want):
    """The largest difference of a tensor, and which one it is."""
    worst = {}
    for name, w in want.items():
        off = np.abs(got[name] - w)
        # A gradient may be zero, as that of q where a window is of one position.
        worst[name] = max(np.linalg.norm(off) / (np.linalg.norm(w) or 1), off.max() / (np.abs(w).max() or 1))
    at = max(worst, key=worst.get)
    return worst[at], at


def random_sequences(vocabulary):
    generator = torch.Generator().manual_seed(3)
    # PyTorch gives the embedding of padding, id 0, no gradient.
    return [torch.randint(1, vocabulary, (n,), generator=generator).tolist() for n in LENGTHS]


def main():
    disable_progress_bar()
    checks = Checks()
    with workdir() as tmp:
        tmp = Path(tmp)
        program = tmp / "gradients"
        subprocess.run(["go", "build", "-o", program, "./scripts/interop/gradients"], cwd=ROOT, check=True)
        for name, path, made in random_models(tmp):
            # The multimodal model's images are the ids from 90 on.
            compare(checks, program, name, path, made, random_sequences(min(SMALL["vocab_size"], 90)))
        for name in ("tinystories-656k", "prose-6m"):
            folder = shared(f"models/{name}")
            if folder is None:
                checks.skip(name, "there is no shared test data")
                continue
            made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            sequences = random_sequences(made.config.vocab_size)
            compare(checks, program, name, folder, made, sequences)
            compare(checks, program, f"{name}, activations computed again", folder, made, sequences, "-checkpointing")
    checks.done()


if __name__ == "__main__":
    sys.exit(main())
