"""AWQ's scales and errors beside AutoAWQ's, on the same inputs of linears.

usage: autoawq.py QUANTIZER.PY [MODEL_FOLDER]

QUANTIZER.PY is awq/quantize/quantizer.py of the autoawq package, which need not
be installed. Without a folder, prose-6m of the shared test data is taken. For
the first block, whose inputs no rounding has touched, the inputs of each group
of linears are captured with transformers, and AutoAWQ searches its scales for
the outputs of the linears, at 4 bits in groups of 128. llmc's scales, read from
the norms that it writes, have to be those within a percent; its output errors,
with ranges by its own search, at most 1% above those of AutoAWQ's.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from common import Checks, llmc, shared, workdir

GROUP, BITS, CONTEXT = 128, 4, 256
BYTES = 40_000  # of calibration text


def load_quantizer(path):
    """AutoAWQ's class without the rest of its package, for what is called here."""
    for name in ("awq", "awq.utils", "awq.utils.calib_data", "awq.quantize", "awq.quantize.scale",
                 "awq.utils.utils", "awq.modules", "awq.modules.linear", "awq.utils.module"):
        sys.modules[name] = types.ModuleType(name)

    def stub(module, *names):
        for name in names:
            setattr(sys.modules[module], name, lambda *_, **__: "")

    stub("awq.utils.calib_data", "get_calib_dataset")
    stub("awq.quantize.scale", "apply_scale", "apply_clip")
    stub("awq.utils.utils", "clear_memory", "get_best_device")
    stub("awq.modules.linear", "WQLinear_GEMM", "WQLinear_GEMV", "WQLinear_Marlin", "WQLinear_GEMVFast")
    stub("awq.utils.module", "append_str_prefix", "get_op_name", "get_named_linears", "set_op_by_name",
         "exclude_layers_to_not_quantize")
    spec = importlib.util.spec_from_file_location("autoawq_quantizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    quantizer = module.AwqQuantizer.__new__(module.AwqQuantizer)
    quantizer.w_bit, quantizer.group_size, quantizer.zero_point, quantizer.duo_scaling = BITS, GROUP, True, True
    quantizer.n_parallel_calib_samples, quantizer.max_chunk_memory = None, 1 << 30
    return quantizer


class Together(torch.nn.Module):
    """The outputs of linears that share an input."""

    def __init__(self, linears):
        super().__init__()
        self.linears = torch.nn.ModuleList(linears)

    def state_dict(self, *args, **kwargs):
        # AutoAWQ keeps the weights with .cpu(), which copies nothing on a CPU, and scales them in place.
        return {name: value.clone() for name, value in super().state_dict(*args, **kwargs).items()}

    def forward(self, x):
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


@torch.no_grad()
def captured(model, windows, names):
    """The inputs [tokens, in] of linears of the first block."""
    block, inputs = model.model.layers[0], {name: [] for name in names}
    hooks = [block.get_submodule(name).register_forward_pre_hook(
        lambda _, args, name=name: inputs[name].append(args[0].reshape(-1, args[0].shape[-1]))) for name in names]
    for ids in windows:
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in inputs.items()}


@torch.no_grad()
def reference(quantizer, linears, x):
    """AutoAWQ's scales of linears that share x, and their output errors."""
    together = Together(linears)
    _, _, scales = quantizer._search_best_scale(together, linears[0], linears, x, together)
    errors = []
    for linear in linears:
        w = linear.weight.data * scales
        limit = quantizer._compute_best_clip(w, x / scales)
        limit = limit.reshape(w.shape[0], -1, 1)
        clipped = torch.clamp(w.reshape(w.shape[0], -1, GROUP), -limit, limit).reshape(w.shape)
        off = quantizer.pseudo_quantize_tensor(clipped)[0] / scales - linear.weight
        errors.append(((x @ off.T).norm() / (x @ linear.weight.T).norm()).item())
    return scales, errors


def main():
    checks, quantizer = Checks(), load_quantizer(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else shared("models/prose-6m")
    with workdir() as tmp:
        tmp = Path(tmp)
        text = tmp / "text.txt"
        text.write_bytes(shared("texts/prose-calibration.txt").read_bytes()[:BYTES])
        ids = [int(i) for i in llmc("tokenize", folder, "--text", text, "--no-bos").split()]
        windows = [ids[i:i + CONTEXT] for i in range(0, len(ids) - CONTEXT + 1, CONTEXT)]
        llmc("quantize", folder, "--bits", BITS, "--group-size", GROUP, "--to", "awq", "--method", "awq",
             "--calibration", text, "--calibration-context", CONTEXT, "--samples", 1 << 20, "-o", tmp / "out")
        report = {t["name"]: t for t in json.loads((tmp / "out" / "llmc_report.json").read_text())["tensors"]}
        written = load_file(tmp / "out" / "model.safetensors")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        block, prefix = model.model.layers[0], "model.layers.0."
        groups = {
            "self_attn.q_proj": ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            "mlp.gate_proj": ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
            "mlp.down_proj": (None, ["mlp.down_proj"]),
        }
        inputs = captured(model, windows, groups)
        for first, (norm, names) in groups.items():
            scales, errors = reference(quantizer, [block.get_submodule(n) for n in names], inputs[first])
            if norm:
                was = block.get_submodule(norm).weight.data.numpy()
                mine = was / written[f"{prefix}{norm}.weight"].float().numpy()
                off = np.abs(mine / scales.numpy() - 1).max()
                checks.check(f"scales of {', '.join(names)}", off < 0.01, f"off by {off:.1e} at most (allowed 1e-02)")
            for name, error in zip(names, errors):
                own = report[f"{prefix}{name}.weight"]["output_error"]
                checks.check(f"output error of {name}", own <= 1.01 * error, f"{own:.5f}, AutoAWQ's {error:.5f}")
    checks.done()


if __name__ == "__main__":
    main()
