"""Magnitude, Wanda and SparseGPT beside llm-compressor's, on the same windows of text.

usage: sparsity_llmcompressor.py [--work DIR] [--make PROGRAM] [--measure] [--parts N] MODEL CALIBRATION_TEXT TEST_TEXT [JOB...]

Needs llmcompressor. MODEL is a folder. Both programs prune it on the first 16
windows of 512 tokens of the calibration text. A JOB is PATTERN/METHOD[+FLAG...],
as unstructured/wanda+owl, 2:4/sparsegpt+permute; patterns are unstructured (50%),
2:4 and 4:8, methods magnitude (llmc's only), wanda and sparsegpt, flags (llmc's
only) owl, sensitivity, global, permute and steps. Without any JOB, every
pattern with every method, without flags.

llm-compressor computes in float32. Compared are the masks of the first block,
whose inputs no pruning has touched (Wanda: equal but for ties); the error of
the outputs of q, k and v there (SparseGPT: within 1%); CPU time, llmc's with reading
and writing the model, llm-compressor's without; and what is left of both, measured
by `llmc eval` on the first 100 kB of the test text, in five parts and windows of
512 tokens (divergence and perplexity: at most 2% above).

Models and figures are kept in --work and not made again. With --make one
program's models are made and not measured, with --measure those that are there
are measured and no others made.
"""

import argparse
import functools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import Checks, evaluate, llmc, workdir

SAMPLES, CONTEXT, TEST_BYTES, PARTS = 16, 512, 100_000, 5
PATTERNS = {"unstructured": ["--sparsity", "0.5"], "2:4": ["--pattern", "2:4"], "4:8": ["--pattern", "4:8"]}
METHODS = ["magnitude", "wanda", "sparsegpt"]
FLAGS = {"owl": ["--allocate", "owl"], "sensitivity": ["--allocate", "sensitivity"], "global": ["--allocate", "global"],
         "permute": ["--permute"], "steps": ["--steps", "1"]}
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
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    names = {module: name for name, module in model.named_modules()}
    hessians, original = {}, sparsegpt.sparsify_weight

    def kept(module, hessians_dict, **options):
        if ".layers.0." in names[module]:
            hessians[names[module] + ".weight"] = hessians_dict[module].clone()
        return original(module=module, hessians_dict=hessians_dict, **options)

    sparsegpt.sparsify_weight = kept
    kind = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[job["method"]]
    structure = "0:0" if job["pattern"] == "unstructured" else job["pattern"]
    recipe = kind(sparsity=0.5, mask_structure=structure, ignore=["re:.*lm_head"])
    data = Dataset.from_dict({"input_ids": job["windows"], "attention_mask": [[1] * CONTEXT] * len(job["windows"])})
    start, clock = time.process_time(), time.perf_counter()
    oneshot(model=model, dataset=data, recipe=recipe, num_calibration_samples=len(job["windows"]), max_seq_length=CONTEXT,
            shuffle_calibration_samples=False)
    spent = {"seconds": time.process_time() - start, "clock": time.perf_counter() - clock}
    model.to(torch.bfloat16).save_pretrained(job["out"], save_compressed=False)
    if hessians:
        save_file(hessians, Path(job["out"]) / "first-block.hessians")
    return spent


def run_other(job):
    """Runs compress in a process of its own."""
    with workdir() as name:
        path = Path(name) / "job.json"
        path.write_text(json.dumps(job))
        done = subprocess.run([sys.executable, __file__, "--job", path], capture_output=True, text=True,
                              env={**os.environ, **PASSIVE})
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-4000:])
        return json.loads(path.with_name("result.json").read_text())


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
    return {name: t for name, t in merged.items() if "proj.weight" in name}


def compare_masks(checks, label, ours, theirs, exact):
    """Checks the masks of the first block, and says how many agree elsewhere."""
    first = other = first_off = other_off = 0
    for name, a in ours.items():
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


def compare_errors(checks, label, ours, theirs, original, hessians):
    """Checks the errors of the outputs of q, k and v in the first block, on the inputs that llm-compressor has
    seen. The linears behind have other inputs in llmc: those that the pruned ones before them give."""
    from safetensors.torch import load_file
    ratios = []
    for name, h in load_file(hessians).items():
        if not any(f".{role}_proj." in name for role in "qkv"):
            continue
        w = original[name].float()
        ratios.append(relative(w - ours[name].float(), w, h) / relative(w - theirs[name].float(), w, h))
    checks.check(f"{label}: output errors of q, k and v of the first block", max(ratios) <= 1.01,
                 f"{min(ratios):.4f} to {max(ratios):.4f} of llm-compressor's")


class Work:
    """Pruned models and figures of one model, in a folder."""

    def __init__(self, folder, args):
        self.folder, self.args = folder, args
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.json"
        self.results = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.calibration, self.parts = folder / "calibration.txt", []
        test = Path(args.test).read_bytes()[:TEST_BYTES]
        for i in range(PARTS):
            self.parts.append(folder / f"test-{i}.txt")
            part = test[i * len(test) // PARTS:(i + 1) * len(test) // PARTS]
            self.parts[i].write_bytes(part.decode(errors="ignore").encode())
        del self.parts[args.parts:]
        if not self.calibration.exists():
            self.windows()

    @functools.cache
    def windows(self):
        text = Path(self.args.calibration).read_bytes()[:2_000_000].decode(errors="ignore")
        tokenizer, windows, body = read_windows(self.args.model, text)
        self.calibration.write_text(shorten(tokenizer, text, body))
        return windows

    def put(self, name, **values):
        if self.path.exists():  # another run may have put something there
            self.results.update(json.loads(self.path.read_text()))
        self.results.setdefault(name, {}).update(values)
        self.path.write_text(json.dumps(self.results, indent=1))

    def place(self, program, job):
        name = f"{program}-{job.replace(':', 'of').replace('/', '-')}"
        return name, self.folder / name

    def ours(self, job):
        """llmc's model of a job, and its name."""
        pattern, method = job.split("/")
        method, *flags = method.split("+")
        name, out = self.place("llmc", job)
        if not out.exists():
            command = ["prune", self.args.model, *PATTERNS[pattern], "--method", method, "-o", out]
            for flag in flags:
                command += FLAGS[flag]
            if method != "magnitude" or set(flags) - {"global"}:
                command += ["--calibration", self.calibration, "--samples", SAMPLES, "--calibration-context", CONTEXT]
            self.put(name, seconds=cpu_seconds(*command))
        return name, out

    def theirs(self, job):
        """llm-compressor's model of a job, and its name; it has no magnitude and no flags."""
        pattern, method = job.split("/")
        if method not in ("wanda", "sparsegpt"):
            return None, None
        name, out = self.place("llm-compressor", job)
        if not out.exists():
            part = out.with_suffix(".part")
            self.put(name, **run_other({"model": str(self.args.model), "method": method, "pattern": pattern,
                                        "windows": self.windows(), "out": str(part)}))
            shutil.copy(Path(self.args.model) / "tokenizer.json", part / "tokenizer.json")
            part.rename(out)
        return name, out

    def evaluate(self, models):
        """Measures those models, by name, that are not measured yet, four at a time."""
        for i, part in enumerate(self.parts):
            left = [name for name in models if len(self.results.get(name, {}).get("parts", [])) == i]
            for at in range(0, len(left), 4):
                names = left[at:at + 4]
                whole, *reports = evaluate([self.args.model, *(models[name] for name in names)], part, CONTEXT)
                measured = [("whole", whole), *zip(names, reports)]
                for name, report in measured:
                    parts = self.results.get(name, {}).get("parts", [])
                    if len(parts) == i:
                        kl = report.get("vs_baseline", {}).get("kl_mean", 0)
                        self.put(name, parts=[*parts, [report["tokens"], report["nll"], kl]])

    def measured(self, name):
        """Perplexity and mean divergence over all parts."""
        parts = self.results[name]["parts"]
        tokens = sum(n for n, _, _ in parts)
        mean = lambda column: sum(p[0] * p[column] for p in parts) / tokens
        return {"perplexity": math.exp(mean(1)), "kl": mean(2), "tokens": tokens}


def run(checks, work, job):
    """Compares what both programs make of one job, and returns rows of the table."""
    models = {}
    for program, make in (("llmc", work.ours), ("llm-compressor", work.theirs)):
        name, out = work.place(program, job) if work.args.measure else make(job)
        if out and out.exists():
            models[name] = out
    names = list(models)
    if len(names) == 2:
        ours, theirs = models.values()
        a, b = tensors(ours), tensors(theirs)
        compare_masks(checks, job, a, b, "wanda" in job)
        if (theirs / "first-block.hessians").exists():
            compare_errors(checks, job, a, b, tensors(work.args.model), theirs / "first-block.hessians")
    work.evaluate(models)
    rows = []
    for name in names:
        r = work.measured(name)
        rows.append(f"| {job} | {'llmc' if name.startswith('llmc-') else 'llm-compressor'} | {r['perplexity']:.2f} | {r['kl']:.4f} | "
                    f"{work.results[name].get('seconds', 0):.0f} s |")
        print(f"     {rows[-1]}", flush=True)
    if len(names) == 2:
        ours, theirs = map(work.measured, names)
        for key in ("kl", "perplexity"):
            checks.check(f"{job}: {key}", ours[key] <= theirs[key] * 1.02, f"{ours[key]:.4f}, llm-compressor {theirs[key]:.4f}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("jobs", nargs="*", default=[])
    parser.add_argument("--work", type=Path, default=Path("sparsity"))
    parser.add_argument("--make", choices=["llmc", "llm-compressor"], help="only make this program's models")
    parser.add_argument("--measure", action="store_true", help="only measure what is there")
    parser.add_argument("--parts", type=int, default=PARTS, help="measure on so many of the five parts of the test text")
    args = parser.parse_args()
    work = Work(args.work / args.model.name, args)
    jobs = args.jobs or [f"{p}/{m}" for p in PATTERNS for m in METHODS]
    if args.make:
        for job in jobs:
            work.ours(job) if args.make == "llmc" else work.theirs(job)
        return
    checks, rows = Checks(), []
    if args.measure:
        places = [work.place(program, job) for job in jobs for program in ("llmc", "llm-compressor")]
        work.evaluate({name: path for name, path in places if path.exists()})
    for job in jobs:
        rows += run(checks, work, job)
    whole = work.measured("whole")
    print(f"\nperplexity over {whole['tokens']} tokens, {whole['perplexity']:.3f} before\n")
    print("| zeros | program | perplexity | KL mean | CPU time |\n|---|---|--:|--:|--:|")
    print("\n".join(rows))
    checks.done()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        given = Path(sys.argv[2])
        given.with_name("result.json").write_text(json.dumps(compress(json.loads(given.read_text()))))
    else:
        main()
