"""RTN, GPTQ and AWQ beside llm-compressor's, on the same windows of text.

usage: quantize_llmcompressor.py [--keep FOLDER] [--errors | --divergences | --peer] MODEL_FOLDER CALIBRATION_TEXT TEST_TEXT [METHOD/BITS/GROUP...]

Needs llmcompressor. Both programs quantize all linears of the blocks, asymmetric,
in groups, on the first 16 windows of 512 tokens of the calibration text; methods
are rtn, gptq (1% damping, columns with large inputs first, groups of neighbours)
and awq, at 4 and 3 bits, in groups of 128 where that divides all rows, 64 where
it does not, and 32. Without jobs, all of them. llm-compressor computes in
float32, and keeps its scales so.

Compared are GPTQ's output errors, linear by linear, on the inputs that llmc's
quantized model gives, with those of llm-compressor's solver on the same inputs and
with columns in llmc's order (within 1%; --errors does no more than that); and
mean KL divergence from the model and perplexity of both, by one `llmc eval` on the
first 100,000 bytes of the test text in windows of 512 tokens (llmc's divergence
within 2% or lower; --divergences does no more than that). What llm-compressor
makes stays in FOLDER with --keep and is not made again; --peer does no more than
make it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import Checks, evaluate, llmc, workdir
from sparsity_llmcompressor import CONTEXT, PASSIVE, cpu_seconds, read_windows, relative, shorten

SAMPLES, TEST_BYTES = 16, 100_000
METHODS, BITS = ["rtn", "gptq", "awq"], [4, 3]
LINEARS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
DAMP = 0.01


def group_sizes(folder):
    """The two group sizes that divide all rows of a model."""
    config = json.loads((Path(folder) / "config.json").read_text())
    rows = [config["hidden_size"], config["intermediate_size"]]
    return [next(g for g in (128, 64) if all(r % g == 0 for r in rows)), 32]


def weights_of(bits, group):
    from compressed_tensors.quantization import QuantizationArgs
    return QuantizationArgs(num_bits=bits, type="int", symmetric=False, strategy="group", group_size=group)


def compress(job):
    """Quantizes by llm-compressor; runs in a process of its own."""
    import torch
    from compressed_tensors.quantization import QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM

    if not torch.cuda.is_available():
        IntermediatesCache.pin_memory = lambda cache, batch: None
    torch.set_num_threads(os.cpu_count())
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights_of(job["bits"], job["group"]))
    what = {"config_groups": {"group_0": scheme}, "ignore": ["lm_head"]}
    recipe = {
        "rtn": lambda: [QuantizationModifier(**what)],
        "gptq": lambda: [GPTQModifier(**what, dampening_frac=DAMP, actorder="static")],
        "awq": lambda: [AWQModifier(), QuantizationModifier(**what)],
    }[job["method"]]()
    data = Dataset.from_dict({"input_ids": job["windows"], "attention_mask": [[1] * CONTEXT] * len(job["windows"])})
    start, clock = time.process_time(), time.perf_counter()
    oneshot(model=model, dataset=data, recipe=recipe, num_calibration_samples=len(job["windows"]), max_seq_length=CONTEXT,
            shuffle_calibration_samples=False)
    spent = {"seconds": time.process_time() - start, "clock": time.perf_counter() - clock}
    # What is not quantized is exact in BF16; the scales stay in float32.
    model.model.embed_tokens.to(torch.bfloat16)
    model.save_pretrained(job["out"], save_compressed=True)
    shutil.copy(Path(job["model"]) / "tokenizer.json", job["out"])
    return spent


def compare_errors(job):
    """Output errors of llmc's linears and of what llm-compressor's solver makes
    of the same weights and inputs; runs in a process of its own."""
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams
    from llmcompressor.modifiers.gptq import gptq_quantize
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count())
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model, quantized = load(job["model"]), load(job["llmc"])
    blocks = [dict(m.named_modules()) for m in model.model.layers]
    hessians, sizes = {}, {}

    def gather(name):
        def hook(module, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            hessians[name] = hessians.get(name, 0) + x.T @ x
            sizes[name] = sizes.get(name, 0) + x.abs().sum(0)
        return hook

    def by(size):
        """llmc's order, by mean magnitudes, in the place of that by mean squares."""
        order = torch.argsort(size, descending=True, stable=True)
        return lambda w, h, _: (w[..., order].contiguous(), h[:, order][..., order].contiguous(), order[None])

    for b, layer in enumerate(quantized.model.layers):
        for path, module in layer.named_modules():
            if path.split(".")[-1] in LINEARS:
                module.register_forward_pre_hook(gather((b, path)))
    args = weights_of(job["bits"], job["group"]).model_copy(update={"actorder": "static"})
    with torch.no_grad():
        for window in job["windows"]:
            quantized.model(torch.tensor([window]), use_cache=False)
        errors = {}
        for (b, path), hessian in hessians.items():
            weight = blocks[b][path].weight
            groups = weight.unflatten(-1, (-1, args.group_size))
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
            gptq_quantize.apply_activation_ordering = by(sizes[b, path])
            theirs = gptq_quantize.quantize_weight(weight[None].clone(), hessian[None].clone(), scale[None], zero[None], None,
                                                   args, percdamp=DAMP)[0][0]
            ours = dict(quantized.model.layers[b].named_modules())[path].weight
            errors[f"{b}.{path}"] = (relative(weight - ours, weight, hessian), relative(weight - theirs, weight, hessian))
    return {"errors": errors}


def run(kind, job, folder):
    """Runs compress or compare_errors in a process of its own."""
    path = Path(folder) / "job.json"
    path.write_text(json.dumps(job))
    done = subprocess.run([sys.executable, __file__, kind, path], capture_output=True, text=True,
                          env={**os.environ, **PASSIVE})
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-4000:])
    return json.loads((Path(folder) / "result.json").read_text())


def peer(job, out, folder):
    """What llm-compressor makes of a job, made once; returns its CPU time."""
    times = out / "seconds.json"
    if not times.exists():
        shutil.rmtree(out, ignore_errors=True)
        result = run("--compress", {**job, "out": str(out)}, folder)
        times.write_text(json.dumps(result["seconds"]))
    return json.loads(times.read_text())


class Comparison:
    """One model and one text, both programs."""

    def __init__(self, model, calibration, test, folder, keep):
        text = Path(calibration).read_bytes()[:2_000_000].decode(errors="ignore")
        tokenizer, self.windows, body = read_windows(model, text, SAMPLES)
        self.checks, self.model, self.folder, self.keep = Checks(), model, folder, keep
        self.sample = ["--calibration", folder / "calibration.txt", "--samples", SAMPLES, "--calibration-context", CONTEXT]
        self.test = folder / "test.txt"
        self.test.write_bytes(Path(test).read_bytes()[:TEST_BYTES].decode(errors="ignore").encode())
        (folder / "calibration.txt").write_text(shorten(tokenizer, text, body, SAMPLES))

    def job(self, name):
        method, bits, group = name.split("/")
        return {"model": str(self.model), "method": method, "bits": int(bits), "group": int(group), "windows": self.windows}

    def peer(self, name):
        out = self.keep / name.replace("/", "-")
        return out, peer(self.job(name), out, self.folder)

    def quantize(self, name, *more):
        """What llmc makes of a job, and its CPU time."""
        job, out = self.job(name), self.folder / "llmc"
        command = ["quantize", self.model, "--bits", job["bits"], "--group-size", job["group"], "--asymmetric",
                   "--method", job["method"], "--to", "compressed-tensors", "-o", out, "--force", *more]
        return out, cpu_seconds(*command, *(self.sample if job["method"] != "rtn" else []))

    def errors(self, name):
        """GPTQ's output errors on the same inputs."""
        out, _ = self.quantize(name, "--first-token", 0, "--damp", DAMP)
        plain = self.folder / "plain"
        llmc("convert", out, "--to", "safetensors", "--type", "F32", "-o", plain, "--force")
        errors = run("--errors-of", {**self.job(name), "llmc": str(plain)}, self.folder)["errors"]
        shutil.rmtree(plain)
        for role in LINEARS:
            ratios = [ours / theirs for path, (ours, theirs) in errors.items() if path.endswith(role)]
            mean = sum(ratios) / len(ratios)
            self.checks.check(f"{name}: output errors of {role}", mean <= 1.01,
                              f"{mean:.4f} of llm-compressor's, {min(ratios):.4f} to {max(ratios):.4f} in {len(ratios)} blocks")

    def divergences(self, names):
        """Quantizes by both and evaluates all at once, group size by group size."""
        made, rows = [], []
        for name in names:
            out, seconds = self.quantize(name)
            made.append((name, "llmc", out.rename(self.folder / name.replace("/", "-")), seconds))
            made.append((name, "llm-compressor", *self.peer(name)))
        reports = evaluate([self.model, *(path for _, _, path, _ in made)], self.test, CONTEXT)
        rows.append(f"| | | | | the model | {reports[0]['perplexity']:.3f} | | |")
        kl = {}
        for (name, program, path, seconds), report in zip(made, reports[1:]):
            kl[name, program] = report["vs_baseline"]["kl_mean"]
            method, bits, group = name.split("/")
            rows.append(f"| {bits} | {group} | {method} | {program} | {report['perplexity']:.3f} | "
                        f"{kl[name, program]:.4f} | {seconds:.0f} s |")
            if program == "llmc":
                shutil.rmtree(path)
        for name in names:
            ours, theirs = kl[name, "llmc"], kl[name, "llm-compressor"]
            self.checks.check(f"{name}: divergence", ours <= theirs * 1.02, f"{ours:.4f}, llm-compressor {theirs:.4f}")
        print("\n| bits | group | method | program | perplexity | KL mean | CPU time |\n|--:|--:|---|---|--:|--:|--:|")
        print("\n".join(rows), flush=True)


def main(arguments):
    flags = [a for a in arguments if a.startswith("--") and a != "--keep"]
    rest = [a for a in arguments if a not in flags]
    keep = None
    if "--keep" in rest:
        at = rest.index("--keep")
        keep = Path(rest[at + 1])
        keep.mkdir(parents=True, exist_ok=True)
        del rest[at:at + 2]
    if len(rest) < 3:
        sys.exit(__doc__)
    model, calibration, test, *names = rest
    names = names or [f"{m}/{b}/{g}" for b in BITS for g in group_sizes(model) for m in METHODS]
    with workdir() as folder:
        c = Comparison(model, calibration, test, Path(folder), keep or Path(folder) / "peer")
        if "--peer" in flags:
            for name in names:
                print(f"     {name}: llm-compressor {c.peer(name)[1]:.0f} s", flush=True)
            return
        for name in names:
            if name.startswith("gptq/") and "--divergences" not in flags:
                c.errors(name)
        if "--errors" not in flags:
            c.divergences(names)
        c.checks.done()


if __name__ == "__main__":
    kinds = {"--compress": compress, "--errors-of": compare_errors}
    if sys.argv[1:] and sys.argv[1] in kinds:
        given = Path(sys.argv[2])
        given.with_name("result.json").write_text(json.dumps(kinds[sys.argv[1]](json.loads(given.read_text()))))
    else:
        main(sys.argv[1:])
