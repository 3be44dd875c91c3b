"""Wanda and SparseGPT beside llm-compressor's, on the same windows of text.

usage: sparsity_llmcompressor.py [--quick] MODEL_FOLDER CALIBRATION_TEXT TEST_TEXT [PATTERN/METHOD...]

Needs llmcompressor. Both programs prune the model on the first 32 windows of 512
tokens of the calibration text; patterns are unstructured (50%), 2:4 and 4:8,
methods magnitude (llmc's only), wanda and sparsegpt; without any, all of them.
With --quick as the first argument nothing is evaluated.
llm-compressor computes in float32. Compared are the masks of the first block,
whose inputs no pruning has touched (Wanda: equal but for ties); the error of
every linear's output on the inputs that llm-compressor has seen (SparseGPT:
within 1% in the first block, where both have seen the same); CPU time, llmc's
with reading and writing the model, llm-compressor's without; and what is left of
both, measured by `llmc eval` on the first 40 kB of the test text, in windows of
512 tokens.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import Checks, evaluate, llmc, workdir

SAMPLES, CONTEXT, TEST_BYTES = 32, 512, 40_000
PATTERNS = {"unstructured": ["--sparsity", "0.5"], "2:4": ["--pattern", "2:4"], "4:8": ["--pattern", "4:8"]}
METHODS = ["magnitude", "wanda", "sparsegpt"]
# Threads that wait must not look like threads that compute.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def read_windows(folder, text, samples=SAMPLES):
    """Token ids of the first windows, and how many of each are of the text."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < samples * CONTEXT:
        raise SystemExit(f"the calibration text has {len(ids)} tokens, {samples * CONTEXT} are needed")
    bos = tokenizer("")["input_ids"][:1]
    body = CONTEXT - len(bos)
    return tokenizer, [bos + ids[i * body:][:body] for i in range(samples)], body


def shorten(tokenizer, text, body, samples=SAMPLES):
    """The beginning of the text that has that many windows and no more."""
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        count = len(tokenizer(text[:middle], add_special_tokens=False)["input_ids"])
        low, high = (middle, high) if count < samples * body + body // 2 else (low, middle)
    return text[:low]


def relative(difference, whole, hessian):
    """‖dX‖ / ‖wX‖ from X Xᵀ."""
    square = lambda m: ((m @ hessian) * m).sum().item()
    return (square(difference) / max(square(whole), 1e-30)) ** 0.5


def compress(job):
    """Prunes by llm-compressor; runs in a process of its own."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from llmcompressor.modifiers.pruning.sparsegpt import base as sparsegpt
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    names = {module: name for name, module in model.named_modules()}
    other = load_file(Path(job["llmc"]) / "model.safetensors")
    errors, excluded = {}, 0.0
    original = sparsegpt.sparsify_weight

    def measured(module, hessians_dict, **options):
        nonlocal excluded
        hessian = hessians_dict[module].clone()
        loss, result = original(module=module, hessians_dict=hessians_dict, **options)
        start = time.process_time()
        weight = module.weight
        theirs = relative(weight - result, weight, hessian)
        ours = relative(weight - other[names[module] + ".weight"].float(), weight, hessian)
        errors[names[module]] = (ours, theirs)
        excluded += time.process_time() - start
        return loss, result

    sparsegpt.sparsify_weight = measured
    kind = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[job["method"]]
    structure = "0:0" if job["pattern"] == "unstructured" else job["pattern"]
    recipe = kind(sparsity=0.5, mask_structure=structure, ignore=["re:.*lm_head"])
    data = Dataset.from_dict({"input_ids": job["windows"], "attention_mask": [[1] * CONTEXT] * SAMPLES})
    start, wall = time.process_time(), time.time()
    oneshot(model=model, dataset=data, recipe=recipe, num_calibration_samples=SAMPLES, max_seq_length=CONTEXT,
            shuffle_calibration_samples=False)
    seconds = time.process_time() - start - excluded
    model.to(torch.bfloat16).save_pretrained(job["out"], save_compressed=False)
    return {"seconds": seconds, "wall": time.time() - wall, "errors": errors}


def run(job, folder):
    """Runs compress in a process of its own."""
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    done = subprocess.run([sys.executable, __file__, "--job", path], capture_output=True, text=True,
                          env={**os.environ, **PASSIVE})
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-4000:])
    return json.loads((folder / "result.json").read_text())


def cpu_seconds(*arguments):
    """Runs llmc and returns its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    llmc(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def tensors(folder):
    from safetensors.torch import load_file
    merged = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        merged.update(load_file(path))
    return merged


def compare_masks(checks, label, ours, theirs, exact):
    """Checks the masks of the first block, and says how many agree elsewhere."""
    first = other = first_off = other_off = 0
    for name, a in ours.items():
        if "proj.weight" not in name:
            continue
        off = ((a == 0) != (theirs[name] == 0)).sum().item()
        if ".layers.0." in name:
            first, first_off = first + a.numel(), first_off + off
        else:
            other, other_off = other + a.numel(), other_off + off
    detail = f"{first_off} of {first} differ in the first block, {other_off / other:.2%} of the others"
    if exact:
        checks.check(f"{label}: masks", first_off <= first * 1e-4, detail)
    else:
        print(f"     {label}: masks: {detail}")


def main(model, calibration, test, jobs, quick):
    checks = Checks()
    text = Path(calibration).read_bytes()[:2_000_000].decode(errors="ignore")
    tokenizer, windows, body = read_windows(model, text)
    with workdir() as name:
        folder = Path(name)
        (folder / "calibration.txt").write_text(shorten(tokenizer, text, body))
        (folder / "test.txt").write_bytes(Path(test).read_bytes()[:TEST_BYTES].decode(errors="ignore").encode())
        sample = ["--calibration", folder / "calibration.txt", "--samples", SAMPLES, "--calibration-context", CONTEXT]
        rows = []
        for pattern in PATTERNS:
            results = []
            for method in METHODS:
                if f"{pattern}/{method}" not in jobs:
                    continue
                label, out = f"{pattern} {method}", folder / "llmc"
                command = ["prune", model, *PATTERNS[pattern], "--method", method, "-o", out, "--force"]
                if method == "magnitude":
                    llmc(*command)
                    results.append((method, "llmc", out.rename(folder / "magnitude"), None))
                    continue
                seconds = cpu_seconds(*command, *sample)
                job = {"model": str(model), "method": method, "pattern": pattern, "windows": windows,
                       "llmc": str(out), "out": str(folder / "other")}
                result = run(job, folder)
                compare_masks(checks, label, tensors(out), tensors(folder / "other"), method == "wanda")
                if result["errors"]:
                    ratios = {name: ours / theirs for name, (ours, theirs) in result["errors"].items()}
                    first = [r for name, r in ratios.items() if ".layers.0." in name]
                    checks.check(f"{label}: output errors of the first block", max(first) <= 1.01,
                                 f"{min(first):.4f} to {max(first):.4f} of llm-compressor's; all blocks on its inputs "
                                 f"{sum(ratios.values()) / len(ratios):.4f}")
                print(f"     {label}: {seconds:.1f} s of CPU time, llm-compressor {result['seconds']:.1f} s: "
                      f"{result['seconds'] / seconds:.2f} times as long", flush=True)
                shutil.copy(Path(model) / "tokenizer.json", folder / "other" / "tokenizer.json")
                results.append((method, "llmc", out.rename(folder / f"llmc-{method}"), seconds))
                results.append((method, "llm-compressor", (folder / "other").rename(folder / f"other-{method}"), result["seconds"]))
            if not results or quick:
                for _, _, path, _ in results:
                    shutil.rmtree(path)
                continue
            reports = evaluate([model, *(path for _, _, path, _ in results)], folder / "test.txt", CONTEXT)
            if not rows:
                rows.append(f"| | the model | | {reports[0]['perplexity']:.3f} | | |")
            kl = {}
            for (method, program, path, seconds), report in zip(results, reports[1:]):
                divergence = report["vs_baseline"]["kl_mean"]
                kl[method, program] = divergence
                rows.append(f"| {pattern} | {method} | {program} | {report['perplexity']:.3f} | {divergence:.4f} | "
                            f"{'' if seconds is None else f'{seconds:.0f} s'} |")
                print(f"     {rows[-1]}", flush=True)
                shutil.rmtree(path)
            for method in METHODS:
                if (method, "llm-compressor") not in kl:
                    continue
                ours, theirs = kl[method, "llmc"], kl[method, "llm-compressor"]
                checks.check(f"{pattern} {method}: divergence", ours <= theirs * 1.02, f"{ours:.4f}, llm-compressor {theirs:.4f}")
        if quick:
            checks.done()
        print("\n| pattern | method | program | perplexity | KL mean | CPU time |\n|---|---|---|--:|--:|--:|")
        print("\n".join(rows))
    checks.done()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        given = Path(sys.argv[2])
        given.with_name("result.json").write_text(json.dumps(compress(json.loads(given.read_text()))))
    else:
        arguments = [a for a in sys.argv[1:] if a != "--quick"]
        if len(arguments) < 3:
            sys.exit(__doc__)
        main(*arguments[:3], arguments[3:] or [f"{p}/{m}" for p in PATTERNS for m in METHODS], "--quick" in sys.argv)
