"""Compares GGUF files that llmc calibrates with llama.cpp's of the same types.

usage: calibrated.py [--keep FOLDER] [--mixed] [--quick] TOOLS MODEL CALIBRATION TEXT CONTEXT [TYPE...] [-- FLAG...]

TOOLS is a folder with llama-imatrix, llama-quantize and llama-perplexity. Both
programs see all of CALIBRATION in windows of CONTEXT tokens (the same windows if
MODEL adds no BOS), and llmc measures all files on TEXT. Allowed is no larger file
and a mean KL divergence that is 20% smaller, 30% below 4 bits; with --mixed, also
llmc's own choice of types for the size of llama-quantize's file, and there 30%.
llama.cpp then measures llmc's files with their weights in F32, and as they are,
where activations are rounded to 8 bits, unless --quick is given. Flags go to
`llmc quantize`. llama.cpp's files stay in FOLDER with --keep, and are not made
again.
"""

import re
import subprocess
import sys
from pathlib import Path

from common import Checks, evaluate, llmc, workdir
from importance import tool

TYPES = "Q2_K Q3_K_M Q4_0 Q4_K_M Q5_K_M Q6_K".split()
EXACT = 1e-3  # rounding
LOADED = 3e-3  # activations of 8 bits


def perplexity(tools, model, text, context):
    """What llama-perplexity says."""
    command = [f"{tools}/llama-perplexity", "-m", model, "-f", text, "-c", context, "-b", context, "-t", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return float(re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)[1])


def quantized_by_llamacpp(tools, source, calibration, context, folder, types):
    """llama-quantize's files by type, with an importance matrix by llama-imatrix."""
    imatrix, f32 = folder / "imatrix.gguf", folder / "f32.gguf"
    if not imatrix.exists():
        # It rounds activations to what the weights are in.
        llmc("convert", source, "--to", "gguf", "--type", "F32", "-o", f32, "--quiet")
        tool(tools, "llama-imatrix", "-m", f32, "-f", calibration, "-c", context, "--no-ppl", "-o", imatrix)
        f32.unlink()
    for t in types:
        if not (folder / f"{t}.gguf").exists():
            tool(tools, "llama-quantize", "--imatrix", imatrix, source, folder / f"{t}.gguf", t, 2)
    return {t: folder / f"{t}.gguf" for t in types}


def main(arguments):
    given = arguments.index("--") if "--" in arguments else len(arguments)
    arguments, flags = arguments[:given], arguments[given + 1:]
    keep = None
    if "--keep" in arguments:
        at = arguments.index("--keep")
        keep = Path(arguments[at + 1])
        keep.mkdir(parents=True, exist_ok=True)
        del arguments[at:at + 2]
    options = [a for a in arguments if a.startswith("--")]
    tools, model, calibration, text, context, *types = (a for a in arguments if a not in options)
    types = types or TYPES
    c = Checks()
    with workdir() as name:
        folder = Path(name)
        source, f32 = folder / "model.gguf", folder / "f32.gguf"
        llmc("convert", model, "--to", "gguf", "-o", source, "--quiet")
        theirs = quantized_by_llamacpp(tools, source, calibration, context, keep or folder, types)
        made = []  # type, what made it, goal, path
        for t in types:
            runs = [("gptq", 0.7 if t[1] in "23" else 0.8, ["--type", t])]
            if "--mixed" in options:
                runs.append(("mixed", 0.7, ["--target-size", theirs[t].stat().st_size, "--to", "gguf"]))
            for kind, goal, how in runs:
                ours = folder / f"{kind}-{t}.gguf"
                llmc("quantize", source, *how, "--method", "gptq", "--calibration", calibration, "--calibration-context", context,
                     "--samples", 1 << 30, "-o", ours, "--quiet", *flags)
                made.append((t, kind, goal, ours))
        models = list(dict.fromkeys([*theirs.values(), *(m[3] for m in made)]))
        reports = evaluate([source, *models], text, context)
        print(f"     perplexity {reports[0]['perplexity']:.4f} before", flush=True)
        measured = dict(zip(models, reports[1:]))
        for t, kind, goal, ours in made:
            our, their = measured[ours], measured[theirs[t]]
            c.check(f"{t}, {kind}: size", our["size_bytes"] <= their["size_bytes"], f"{our['size_bytes']} bytes, reference {their['size_bytes']}")
            kl, reference = (m["vs_baseline"]["kl_mean"] for m in (our, their))
            c.check(f"{t}, {kind}: mean KL", kl <= goal * reference, f"{kl:.6f}, reference {reference:.6f}, {kl / reference - 1:+.1%}; "
                    f"perplexity {our['perplexity']:.4f}, reference {their['perplexity']:.4f}; "
                    f"top-1 {our['vs_baseline']['top1_agreement']:.2%}, reference {their['vs_baseline']['top1_agreement']:.2%}")
            if "--quick" in options:
                continue
            llmc("convert", ours, "--to", "gguf", "--type", "F32", "-o", f32, "--force", "--quiet")
            c.near(f"{t}, {kind}: perplexity in llama.cpp, F32", perplexity(tools, f32, text, context), our["perplexity"], EXACT)
            c.near(f"{t}, {kind}: perplexity in llama.cpp", perplexity(tools, ours, text, context), our["perplexity"], LOADED)
    c.done()


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(sys.argv[1:])
