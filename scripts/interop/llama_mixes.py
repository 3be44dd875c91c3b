"""Writes which type llama.cpp's quantizer gives each tensor, mix by mix.

usage: llama_mixes.py LLAMA_QUANTIZE > quantize/testdata/mixes.txt

Made-up models of a few shapes are written as GGUF and quantized with
--dry-run, which decides and does nothing. A line of the table is

    MODEL MIX ROLE[,ROLE...] TYPE*COUNT [TYPE*COUNT...]

with the types of the blocks in order; see TestMixes in quantize/.
"""

import os
import re
import struct
import subprocess
import sys
import tempfile

import gguf
import numpy as np

# name: architecture, blocks, heads, key/value heads, hidden, ffn, own head, experts
MODELS = {
    "llama-32": ("llama", 32, 8, 2, 256, 512, True),
    "llama-80": ("llama", 80, 8, 1, 256, 512, True),
    "llama-80-full": ("llama", 80, 8, 8, 256, 512, True),
    "qwen2-80": ("qwen2", 80, 8, 4, 256, 512, True),
    "qwen3-28": ("qwen3", 28, 16, 8, 256, 768, False),
    "gemma3-18": ("gemma3", 18, 4, 1, 640, 2048, False),
    "smollm-30": ("llama", 30, 9, 3, 576, 1536, False),
    "odd-6": ("llama", 6, 4, 4, 288, 800, True),
    "tiny-2": ("llama", 2, 5, 5, 40, 72, True),
    "llama-17+imatrix": ("llama", 17, 8, 1, 256, 512, False),
    "mixtral-17": ("llama", 17, 8, 2, 256, 256, True, 8),
    "mixtral-9+imatrix": ("llama", 9, 8, 8, 256, 256, True, 8),
    "mixtral-16": ("llama", 16, 8, 2, 256, 256, False, 4),
    "qwen3moe-20": ("qwen3moe", 20, 16, 2, 256, 256, True, 6),
    "qwen2moe-8": ("qwen2moe", 8, 4, 4, 256, 256, True, 8),
}
MIXES = ("Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 "
         "IQ4_NL MXFP4_MOE F16 BF16 F32").split()
ROLES = {
    "token_embd": "embed", "output": "head", "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o",
    "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down",
    "ffn_gate_exps": "experts.gate", "ffn_up_exps": "experts.up", "ffn_down_exps": "experts.down",
    "ffn_gate_shexp": "gate", "ffn_up_shexp": "up", "ffn_down_shexp": "down",
    "ffn_gate_inp": "router",
}
VOCAB = 64


def shapes(arch, blocks, heads, kv, hidden, ffn, head, experts=0):
    """Yields the matrices' names and [out, in], or [experts, out, in]."""
    dim = hidden // heads
    forward = {"ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn)}
    if experts:
        shared = {f"{role}_shexp": shape for role, shape in forward.items()} if arch == "qwen2moe" else {}
        forward = {f"{role}_exps": (experts, *shape) for role, shape in forward.items()}
        forward = {"ffn_gate_inp": (experts, hidden)} | forward | shared
    yield "token_embd.weight", (VOCAB, hidden)
    if head:
        yield "output.weight", (VOCAB, hidden)
    for b in range(blocks):
        for role, shape in {
            "attn_q": (hidden, hidden), "attn_k": (kv * dim, hidden), "attn_v": (kv * dim, hidden),
            "attn_output": (hidden, hidden), **forward,
        }.items():
            yield f"blk.{b}.{role}.weight", shape


def write_model(path, arch, blocks, heads, kv, hidden, ffn, head, experts=0):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(blocks)
    w.add_context_length(64)
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_sliding_window(32)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(ffn)
    w.add_vocab_size(VOCAB)
    w.add_tensor("output_norm.weight", np.zeros(hidden, np.float32))
    for name, shape in shapes(arch, blocks, heads, kv, hidden, ffn, head, experts):
        w.add_tensor(name, np.zeros(shape, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_imatrix(path, model):
    """The legacy importance matrix: a list of named vectors."""
    entries = [(name, shape) for name, shape in shapes(*model)]
    with open(path, "wb") as f:
        f.write(struct.pack("<i", len(entries)))
        for name, shape in entries:
            numbers = shape[-1] * (shape[0] if len(shape) == 3 else 1)
            f.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, numbers))
            f.write(np.ones(numbers, np.float32).tobytes())


def runs(types):
    out = []
    for t in types:
        if out and out[-1][0] == t:
            out[-1][1] += 1
        else:
            out.append([t, 1])
    return " ".join(f"{t}*{n}" for t, n in out)


def chosen(quantize, model, mix, imatrix):
    """Returns {role: types in block order} as llama-quantize decides."""
    args = [quantize, "--dry-run"] + (["--imatrix", imatrix] if imatrix else []) + [model, mix]
    log = subprocess.run(args, capture_output=True, text=True)
    found = {}
    for name, was, now in re.findall(r"\] +([\w.]+\.weight) .*type = +(\w+), .*?(?:\((\w+)\))?$", log.stdout + log.stderr, re.M):
        part = name.removesuffix(".weight").split(".")
        if part[-1] in ROLES:
            found.setdefault(ROLES[part[-1]], []).append((int(part[1]) if len(part) == 3 else -1, (now or was)))
    if not found:
        sys.exit(f"{' '.join(args)} said nothing usable:\n{log.stdout}{log.stderr}")
    return {role: [t for _, t in sorted(types)] for role, types in found.items()}


def main():
    quantize = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        for name, (arch, *model) in MODELS.items():
            path = os.path.join(folder, "model.gguf")
            write_model(path, arch, *model)
            imatrix = None
            if name.endswith("+imatrix"):
                imatrix = os.path.join(folder, "imatrix.dat")
                write_imatrix(imatrix, (arch, *model))
            print("model", name, arch, *model[:5], "head" if model[5] else "tied", *model[6:])
            for mix in MIXES:
                by_types = {}
                for role, types in chosen(quantize, path, mix, imatrix).items():
                    by_types.setdefault(runs(types), []).append(role)
                for types, roles in by_types.items():
                    print(name, mix, ",".join(sorted(roles)), types)


if __name__ == "__main__":
    main()
