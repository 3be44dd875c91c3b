"""Loads the folders that llmc writes with transformers and compares logits.

usage: transformers_quantized.py [MODEL_FOLDER]

Without a folder, prose-6m of the shared test data is taken, or a random llama
where there is none. compressed-tensors needs the package of that name, GPTQ and
AWQ the package gptqmodel; what is not installed is skipped. Every logit has to
be llmc's within 1e-3 of the largest one.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig,
                          MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

from common import ROOT, Checks, llmc, shared, workdir

TOLERANCE = 1e-3
TEXT = ("When the carriage stopped at last, she looked out upon the lake; the hills beyond were grey with rain, "
        "and nobody had come down to the gate to meet them. ")

# name: llmc quantize's flags
PACKED = {
    "4 bits, groups of 128": "--bits 4",
    "4 bits asymmetric, groups of 32": "--bits 4 --group-size 32 --asymmetric --clip mse",
    "2 bits asymmetric, groups of 32": "--bits 2 --group-size 32 --asymmetric",
    "3 bits, groups of 64": "--bits 3 --group-size 64",
    "5 bits asymmetric per channel": "--bits 5 --group-size channel --asymmetric",
    "6 bits per channel": "--bits 6 --group-size channel",
    "7 bits asymmetric, groups of 128": "--bits 7 --asymmetric",
    "8 bits per channel": "--bits 8 --group-size channel",
    "8 bits per tensor": "--bits 8 --group-size tensor",
    "mixed bits, some layers kept": "--bits 4 --group-size 64 --bits-for down=8,v=6 --ignore model.layers.0.*,o",
}
GPTQ = {
    "4 bits, groups of 128": "--bits 4",
    "4 bits asymmetric, groups of 32": "--bits 4 --group-size 32 --asymmetric",
    "8 bits per channel": "--bits 8 --group-size channel",
    "3 bits, groups of 64": "--bits 3 --group-size 64",
    "2 bits asymmetric, groups of 32": "--bits 2 --group-size 32 --asymmetric",
}
AWQ = {
    "groups of 128": "--bits 4",
    "groups of 32, some layers kept": "--bits 4 --group-size 32 --ignore o",
}
# Methods that change norms and other linears, too.
CALIBRATED = {
    "AWQ": "--bits 4 --method awq",
    "AWQ, groups of 32, some layers kept": "--bits 4 --group-size 32 --method awq --ignore model.layers.2.*,down",
    "AWQ and GPTQ": "--bits 4 --group-size 64 --method awq+gptq",
}


def calibrated(source):
    """The settings that need text, if there is some for the model."""
    text = shared("texts/prose-calibration.txt")
    if text is None or not (source / "tokenizer.json").exists():
        return {}
    return {name: f"{flags} --calibration {text} --samples 16" for name, flags in CALIBRATED.items()}


def random_llama(folder):
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
                         num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=256)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder, torch.randint(0, 512, (200,)).tolist()


SMALL = dict(vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128)
# In float32: transformers unpacks experts in the type of their scales.
MIXTURES = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SMALL, intermediate_size=96, num_local_experts=6)),
    "qwen2moe": lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(
        **SMALL, intermediate_size=96, num_experts=6, moe_intermediate_size=32, shared_expert_intermediate_size=96)),
    "qwen3moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(
        **SMALL, intermediate_size=96, num_experts=6, moe_intermediate_size=32, head_dim=16, num_experts_per_tok=3)),
}


def compare_mixtures(checks, program, tmp):
    """Experts in fewer bits, which transformers stacks as it loads them."""
    ids = torch.randint(0, 128, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    for family, make in MIXTURES.items():
        torch.manual_seed(2)
        source = tmp / family
        model = make()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(5 if weight.dim() > 1 else 1)
        model.save_pretrained(source)
        for i, flags in enumerate(("--bits 4 --group-size 32", "--bits 8 --group-size channel")):
            folder = tmp / f"{family}-{i}"
            llmc("quantize", source, "--to", "compressed-tensors", *flags.split(), "-o", folder)
            compare(checks, program, f"compressed-tensors: {family}, {flags}", folder, ids)


def llmc_logits(program, folder, ids):
    done = subprocess.run([program, str(folder), *map(str, ids)], check=True, capture_output=True)
    return np.frombuffer(done.stdout, dtype="<f4").reshape(len(ids), -1)


def unpacked(folder):
    """A folder beside, with the weights that compressed-tensors unpacks.

    transformers cannot load packed zero points with compressed-tensors 0.20,
    not even those that compressed-tensors wrote: while the model has no memory
    yet, its compressor leaves them in their unpacked shape."""
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    scheme = QuantizationConfig.model_validate(config.pop("quantization_config")).config_groups["group_0"]
    state = load_file(folder / "model.safetensors")
    for name in [n.removesuffix(".weight_packed") for n in state if n.endswith(".weight_packed")]:
        parts = {n: state.pop(f"{name}.{n}") for n in ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")}
        parts["weight_scale"] = parts["weight_scale"].float()
        parts["weight_shape"] = torch.Size(parts["weight_shape"].tolist())
        state[f"{name}.weight"] = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
    plain = folder.with_name(folder.name + "-plain")
    plain.mkdir()
    (plain / "config.json").write_text(json.dumps(config))
    save_file({n: t.contiguous() for n, t in state.items()}, plain / "model.safetensors", metadata={"format": "pt"})
    return plain


@torch.no_grad()
def transformers_logits(folder, ids):
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        model = AutoModelForCausalLM.from_pretrained(unpacked(folder), dtype=torch.float32)
    return model.eval()(torch.tensor([ids])).logits[0].float().numpy()


def compare(checks, program, name, folder, ids):
    try:
        want = transformers_logits(folder, ids)
    except Exception as error:  # whatever a loader throws is what has to be seen
        checks.check(name, False, f"transformers: {type(error).__name__}: {str(error)[:300]}")
        return
    got = llmc_logits(program, folder, ids)
    off = np.abs(got - want).max() / np.abs(want).max()
    checks.check(name, off <= TOLERANCE, f"largest difference {off:.1e} of the largest logit (allowed {TOLERANCE:.0e})")


def main():
    checks = Checks()
    with workdir() as tmp:
        tmp = Path(tmp)
        program = tmp / "logits"
        subprocess.run(["go", "build", "-o", program, "./scripts/interop/logits"], cwd=ROOT, check=True)
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else shared("models/prose-6m")
        if source:
            ids = AutoTokenizer.from_pretrained(source)(TEXT * 4).input_ids[:200]
        else:
            source, ids = random_llama(tmp / "random")
        compare(checks, program, "not quantized", source, ids)
        if (source / "tokenizer.json").exists():
            llmc("convert", source, "--to", "gguf", "-o", tmp / "model.gguf")
            llmc("convert", tmp / "model.gguf", "--to", "safetensors", "-o", tmp / "back")
            compare(checks, program, "to GGUF and back", tmp / "back", ids)
            back = AutoTokenizer.from_pretrained(tmp / "back")(TEXT * 4).input_ids[:200]
            checks.same_ids("tokens after GGUF and back", back, ids)
        if importlib.util.find_spec("compressed_tensors"):
            compare_mixtures(checks, program, tmp)
        for target, package, settings in (
            ("compressed-tensors", "compressed_tensors", PACKED), ("gptq", "gptqmodel", GPTQ), ("awq", "gptqmodel", AWQ),
        ):
            if importlib.util.find_spec(package) is None:
                checks.skip(target, f"{package} is not installed")
                continue
            if target != "gptq":
                settings = settings | calibrated(source)
            for i, (name, flags) in enumerate(settings.items()):
                folder = tmp / f"{target}-{i}"
                llmc("quantize", source, "--to", target, *flags.split(), "-o", folder)
                compare(checks, program, f"{target}: {name}", folder, ids)
    checks.done()


if __name__ == "__main__":
    main()
