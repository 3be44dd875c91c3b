"""Random models of every family, run by transformers and by llmc.

Each is made and saved by transformers, in float32, and differs from its
neighbour by a switch or two of its configuration: biases, head sizes, kinds of
rotation, windows, tied embeddings. Then the trained models of the shared test
data. Every logit has to be transformers' within 1e-4 of the largest one.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (AutoModelForCausalLM, Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration,
                          Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3Config, Qwen3ForCausalLM,
                          Qwen3MoeConfig, Qwen3MoeForCausalLM)
from transformers.utils.logging import disable_progress_bar

from common import ROOT, Checks, shared, workdir

TOLERANCE = 1e-4
POSITIONS = 70  # more than every window, and than YaRN's original context

SMALL = dict(vocab_size=96, hidden_size=64, intermediate_size=112, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, attn_implementation="eager",
             bos_token_id=1, eos_token_id=2, pad_token_id=0)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)
LAYERS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def local(full, sliding):
    return {"full_attention": dict(rope_type="default", rope_theta=1e6) | full,
            "sliding_attention": dict(rope_type="default", rope_theta=1e4) | sliding}


# Lists of name and switches, by the classes of configuration and model.
FAMILIES = [
    (LlamaConfig, LlamaForCausalLM, {
        "plain": {},
        "tied": dict(tie_word_embeddings=True),
        "biases": dict(attention_bias=True, mlp_bias=True),
        "wide heads": dict(head_dim=24),
        "one key head": dict(num_key_value_heads=1),
        "as many key heads": dict(num_key_value_heads=4),
        "gelu, eps 1e-2": dict(hidden_act="gelu", rms_norm_eps=1e-2),
        "rope base 500000": dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)),
        "rope linear": dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
        "rope llama3": dict(rope_parameters=LLAMA3),
        "rope yarn": dict(rope_parameters=YARN),
        "rope yarn, beta 16 and 2": dict(rope_parameters=YARN | dict(beta_fast=16.0, beta_slow=2.0)),
        "rope yarn, not truncated": dict(rope_parameters=YARN | dict(truncate=False)),
        "rope yarn, attention factor": dict(rope_parameters=YARN | dict(attention_factor=1.3)),
        "rope yarn, mscale": dict(rope_parameters=YARN | dict(mscale=0.7, mscale_all_dim=0.4)),
    }),
    (MistralConfig, MistralForCausalLM, {
        "no window": dict(sliding_window=None),
        "window 16": dict(sliding_window=16, head_dim=16),
        "window 1": dict(sliding_window=1, head_dim=32, tie_word_embeddings=True),
    }),
    (Qwen2Config, Qwen2ForCausalLM, {
        "plain": {},
        "tied": dict(tie_word_embeddings=True),
        "window 8 from layer 2": dict(use_sliding_window=True, sliding_window=8, max_window_layers=2),
        "window by layer types": dict(use_sliding_window=True, sliding_window=8, layer_types=LAYERS),
        "window not used": dict(use_sliding_window=False, sliding_window=8, max_window_layers=0),
        "rope yarn": dict(rope_parameters=YARN),
    }),
    (Qwen3Config, Qwen3ForCausalLM, {
        "plain": dict(head_dim=32),
        "tied, biases": dict(head_dim=16, attention_bias=True, tie_word_embeddings=True),
        "window 8 from layer 1": dict(head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        "rope yarn": dict(head_dim=16, rope_parameters=YARN),
    }),
    (MixtralConfig, MixtralForCausalLM, {
        "plain": {},
        "one of 3, tied": dict(num_local_experts=3, num_experts_per_tok=1, tie_word_embeddings=True),
        "all of 4, window 16": dict(num_local_experts=4, num_experts_per_tok=4, sliding_window=16),
    }),
    (Qwen3MoeConfig, Qwen3MoeForCausalLM, {
        "plain": dict(head_dim=32, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=24),
        "scaled to sum to 1": dict(head_dim=16, num_experts=9, num_experts_per_tok=3, moe_intermediate_size=48,
                                   norm_topk_prob=True, tie_word_embeddings=True),
        "window 8, biases": dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=40,
                                 use_sliding_window=True, sliding_window=8, attention_bias=True),
    }),
    (Qwen2MoeConfig, Qwen2MoeForCausalLM, {
        "plain": dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24,
                      shared_expert_intermediate_size=72),
        "scaled to sum to 1": dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24,
                                   shared_expert_intermediate_size=40, norm_topk_prob=True),
    }),
    (OlmoeConfig, OlmoeForCausalLM, {
        "plain": dict(num_experts=12, num_key_value_heads=4),
        "fewer key heads, biases": dict(num_experts=5, num_experts_per_tok=2, attention_bias=True,
                                        norm_topk_prob=True),
    }),
    (Gemma3TextConfig, Gemma3ForCausalLM, {
        "layer types": dict(head_dim=32, sliding_window=8, layer_types=LAYERS, query_pre_attn_scalar=32),
        "pattern of 6": dict(head_dim=16, sliding_window=8, num_hidden_layers=7, query_pre_attn_scalar=100),
        "local rope": dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=8, layer_types=LAYERS,
                           rope_parameters=local({}, dict(rope_theta=500.0))),
        "rope linear": dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=8, layer_types=LAYERS,
                            rope_parameters=local(dict(rope_type="linear", factor=8.0), {})),
        "capped logits, untied": dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=8, layer_types=LAYERS,
                                      final_logit_softcapping=1.5, tie_word_embeddings=False),
        "biases, silu": dict(head_dim=16, sliding_window=8, layer_types=LAYERS, attention_bias=True,
                             hidden_activation="silu"),
    }),
]


def randomize(model):
    """Weights of every tensor large enough to be seen in the logits."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            spread = 0.3 if p.dim() == 1 else 2.5 / p.shape[-1] ** 0.5
            if "Gemma" in type(model).__name__ and "embed" in name:
                spread = 0.03  # the embedding is scaled up, and must not drown the blocks
            p.normal_(0, spread)
            if "norm" in name and "Gemma" not in type(model).__name__:
                p.add_(1)


def random_models(folder):
    for config, model, switches in FAMILIES:
        family = config.model_type
        for i, (name, switch) in enumerate(switches.items()):
            torch.manual_seed(i)
            made = model(config(**SMALL | switch)).eval()
            randomize(made)
            path = folder / f"{family}-{i}"
            made.save_pretrained(path)
            yield f"{family}: {name}", path, made
    yield stored_as("llama: stored as bfloat16", folder / "bf16", torch.bfloat16)
    yield stored_as("llama: stored as float16", folder / "f16", torch.float16)
    yield "gemma3: inside a multimodal model", *multimodal(folder / "multimodal")


def stored_as(name, path, dtype):
    made = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    randomize(made)
    made.to(dtype).save_pretrained(path)
    return name, path, AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def multimodal(path):
    text = Gemma3TextConfig(**SMALL | dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=8,
                                           layer_types=LAYERS))
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28,
                  patch_size=14)
    made = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text.to_dict(), vision_config=vision,
                                                       mm_tokens_per_image=4, boi_token_index=90, eoi_token_index=91,
                                                       image_token_index=92)).eval()
    randomize(made)
    made.save_pretrained(path)
    return path, made


def older(path):
    """Rewrites a config.json the way transformers 4 writes it; None where that cannot say the same."""
    text = json.loads((path / "config.json").read_text())
    rope = text.pop("rope_parameters", None)
    if rope is None:
        return None
    if "full_attention" in rope:
        text["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    text["torch_dtype"] = text.pop("dtype", "float32")
    return json.dumps(text)


def llmc_logits(program, folder, ids):
    done = subprocess.run([program, str(folder), *map(str, ids)], capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace").strip())
    return np.frombuffer(done.stdout, dtype="<f4").reshape(len(ids), -1)


@torch.no_grad()
def compare(checks, program, name, folder, model, ids):
    want = model(torch.tensor([ids])).logits[0].float().numpy()
    try:
        got = llmc_logits(program, folder, ids)
    except RuntimeError as error:
        checks.check(name, False, str(error))
        return
    if got.shape != want.shape:
        checks.check(name, False, f"{got.shape} logits, reference {want.shape}")
        return
    off = np.abs(got - want).max() / np.abs(want).max()
    checks.check(name, bool(off <= TOLERANCE), f"largest difference {off:.1e} of the largest logit, {np.abs(want).max():.3g}")


def main():
    disable_progress_bar()
    checks = Checks()
    with workdir() as tmp:
        tmp = Path(tmp)
        program = tmp / "logits"
        subprocess.run(["go", "build", "-o", program, "./scripts/interop/logits"], cwd=ROOT, check=True)
        ids = torch.randint(0, SMALL["vocab_size"], (POSITIONS,), generator=torch.Generator().manual_seed(3)).tolist()
        ids = [i if i < 90 else i - 90 for i in ids]  # the multimodal model's images are above
        for name, path, made in random_models(tmp):
            compare(checks, program, name, path, made, ids)
            if text := older(path):
                (path / "config.json").write_text(text)
                compare(checks, program, name + ", keys of transformers 4", path, made, ids)
        for name in ("tinystories-656k", "prose-6m"):
            folder = shared(f"models/{name}")
            if folder is None:
                checks.skip(name, "there is no shared test data")
                continue
            made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            wide = torch.randint(0, made.config.vocab_size, (POSITIONS,), generator=torch.Generator().manual_seed(3))
            compare(checks, program, name, folder, made, wide.tolist())
    checks.done()


if __name__ == "__main__":
    sys.exit(main())
