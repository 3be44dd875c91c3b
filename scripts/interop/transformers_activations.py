"""Compares models whose activations are rounded with transformers.

usage: transformers_activations.py

A number in the middle between two codes is rounded up or down by its last bit,
which differs between engines; what comes after it differs by steps, not by bits.
So every input of every linear is compared before it is rounded: it has to be
transformers' within 1e-5 of the largest at its position, unless a tie was broken
differently before, at this position or at an earlier one. So do the logits where
no tie was. That equal numbers are rounded alike, bit by bit, is
tested in kernels/rounding_test.go. Needs prose-6m of the shared test data.
"""

import subprocess
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import ROOT, Checks, llmc, shared, workdir
from transformers_quantized import TEXT

SCHEMES = {
    "W8A8": "--scheme W8A8",
    "W8A8, static": "--scheme W8A8 --activations static",
    "W8A8, static, smoothed": "--scheme W8A8 --activations static --smooth 0.5",
    "FP8_DYNAMIC": "--scheme FP8_DYNAMIC",
    "FP8": "--scheme FP8",
}
TOLERANCE = 1e-5


def llmc_inputs(program, folder, ids, widths, vocab):
    done = subprocess.run([program, "-inputs", str(folder), *map(str, ids)], check=True, capture_output=True)
    values, at, inputs = np.frombuffer(done.stdout, dtype="<f4"), 0, []
    for width in [*widths, vocab]:
        inputs.append(torch.tensor(values[at:at + len(ids) * width].reshape(len(ids), width)))
        at += len(ids) * width
    assert at == len(values)
    return inputs[:-1], inputs[-1]


def steps(x, scale, args):
    """How far apart the numbers are that x can be rounded to."""
    if args.type == "int":
        return scale.expand_as(x)
    exponent = torch.log2((x / scale).abs().clamp(min=2.0**-6, max=448)).floor()
    return scale * 2 ** (exponent - 3)


@torch.no_grad()
def compare(checks, program, name, folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model(torch.tensor([ids[:2]]))  # unpacks the weights
    linears = [linear for layer in model.model.layers
               for linear in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.down_proj)]
    wanted = []
    for linear in linears:
        linear.register_forward_pre_hook(lambda _, args: wanted.append(args[0][0].clone()))
    logits = model(torch.tensor([ids])).logits[0]
    inputs, got = llmc_inputs(program, folder, ids, [linear.in_features for linear in linears], logits.shape[-1])
    differs = torch.zeros(len(ids), dtype=torch.bool)  # positions that a tie has reached
    ties, worst = 0, 0.0
    for at, (linear, want, have) in enumerate(zip(linears, wanted, inputs)):
        args = linear.quantization_scheme.input_activations
        scale = compute_dynamic_scales_and_zp(want[None], args, linear)[0][0] if args.dynamic else linear.input_scale
        if at % 4 == 1:  # attention spreads what differs to all later positions
            differs = differs.cumsum(0) > 0
        step = steps(want, scale, args)
        off = (have - want).abs().amax(1) / want.abs().amax(1)
        worst = max([worst, *off[~differs].tolist()])
        rounded = [forward_quantize(linear, x[None], "input", args)[0] for x in (want, have)]
        # Below a power of two, steps are half as large.
        tied = ((rounded[0] - rounded[1]).abs() > 0.4 * step).any(1) & ~differs
        ties += int(tied.sum())
        differs |= tied
    off = ((got - logits).abs().amax(1) / logits.abs().max())[~differs]
    checks.check(name, worst <= TOLERANCE and len(off) > 0 and off.max() <= TOLERANCE,
                 f"inputs within {worst:.1e} of the largest until {ties} ties, then logits "
                 f"at {len(off)} of {len(ids)} positions within {off.max():.1e} (allowed {TOLERANCE:.0e})")


def main():
    checks = Checks()
    source, text = shared("models/prose-6m"), shared("texts/prose-calibration.txt")
    if source is None or text is None:
        checks.skip("rounded activations", "there is no shared test data")
        checks.done()
    ids = AutoTokenizer.from_pretrained(source)(TEXT * 4).input_ids[:200]
    with workdir() as tmp:
        tmp = Path(tmp)
        program = tmp / "logits"
        subprocess.run(["go", "build", "-o", program, "./scripts/interop/logits"], cwd=ROOT, check=True)
        for i, (name, flags) in enumerate(SCHEMES.items()):
            folder = tmp / f"model-{i}"
            if "static" in flags or flags == "--scheme FP8":
                flags += f" --calibration {text} --samples 16"
            llmc("quantize", source, *flags.split(), "-o", folder)
            compare(checks, program, name, folder, ids)
    checks.done()


if __name__ == "__main__":
    main()
