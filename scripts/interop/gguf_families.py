"""Random models of every family, converted to GGUF and back by llmc.

The models are those of transformers_logits.py. The GGUF file is run by
llama.cpp and by llmc, the folder that is made of it again by transformers: all
have to give the logits that transformers gives for the original.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

import transformers_logits as families
from common import ROOT, Checks, llamacpp, llmc, workdir

TOLERANCE = 1e-4
GELU_TOLERANCE = 5e-3  # llama.cpp looks GELU, Gemma's activation, up in a table of float16
# What llama.cpp does not do, so that nothing in a GGUF file could ask for it.
NOT_IN_GGUF = ("mistral: window", "mixtral: all of 4, window", "qwen3_moe: window", "qwen2: window 8", "qwen2: window by", "qwen3: window", "llama: rope yarn, not truncated")
# What it does otherwise: it reads beta_fast for few architectures only, and
# rounds activations to the type of 16-bit weights.
NOT_IN_LLAMACPP = ("llama: rope yarn, beta", "llama: stored as")


def tokenizer():
    """A tokenizer.json that knows the 256 bytes and nothing else."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(printable)))}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {names[b]: b for b in range(256)}, "merges": []},
    })


@torch.no_grad()
def run(model, ids):
    return model(torch.tensor([ids])).logits[0].float().numpy()


def near(checks, name, got, want, tolerance):
    if got.shape != want.shape:
        checks.check(name, False, f"{got.shape} logits, reference {want.shape}")
        return
    off = np.abs(got - want).max() / np.abs(want).max()
    checks.check(name, bool(off <= tolerance), f"largest difference {off:.1e} of the largest logit")


def compare(checks, program, library, name, path, made, ids):
    want = run(made, ids)
    (path / "tokenizer.json").write_text(tokenizer())
    file, back = path.with_suffix(".gguf"), path.with_name(path.name + "-back")
    try:
        llmc("convert", path, "--to", "gguf", "-o", file)
    except RuntimeError as error:
        if "cannot hold" in str(error):
            checks.skip(name, str(error).rsplit(": ", 1)[-1])
        else:
            checks.check(name, False, str(error)[-200:])
        return
    if name.startswith(NOT_IN_GGUF):
        checks.skip(name, "GGUF cannot say it")
        return
    try:
        near(checks, f"{name}, llmc on GGUF", families.llmc_logits(program, file, ids), want, TOLERANCE)
        if not name.startswith(NOT_IN_LLAMACPP):
            with library.model(file, context=128) as theirs:
                near(checks, f"{name}, llama.cpp on GGUF", theirs.logits(ids), want,
                     GELU_TOLERANCE if name.startswith("gemma3") else TOLERANCE)
        llmc("convert", file, "--to", "safetensors", "-o", back)
        again = AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32).eval()
        near(checks, f"{name}, transformers on the way back", run(again, ids), want, TOLERANCE)
    except (RuntimeError, OSError, ValueError) as error:
        checks.check(name, False, f"{type(error).__name__}: {str(error)[-300:]}")


def main():
    disable_progress_bar()
    families.SMALL["vocab_size"] = 320  # room for the tokenizer, and rows without a token
    families.LLAMA3["original_max_position_embeddings"] = 8192  # as of all models that have it
    for config, _, switches in families.FAMILIES:
        if "Gemma" in config.__name__:
            for switch in switches.values():
                switch["query_pre_attn_scalar"] = switch["head_dim"]  # all that GGUF can hold
    checks, library = Checks(), llamacpp()
    with workdir() as tmp:
        tmp = Path(tmp)
        program = tmp / "logits"
        subprocess.run(["go", "build", "-o", program, "./scripts/interop/logits"], cwd=ROOT, check=True)
        ids = torch.randint(0, 90, (families.POSITIONS,), generator=torch.Generator().manual_seed(3)).tolist()
        for name, path, made in families.random_models(tmp):
            compare(checks, program, library, name, path, made, ids)
    checks.done()


if __name__ == "__main__":
    main()
