"""Files that llmc writes, read by the gguf, safetensors and tokenizers packages.

A Hugging Face checkpoint is converted to GGUF and back. Every tensor must hold
the same bits, the rows of q and k in the order that each format has, and the
tokenizer that comes back must give the same ids.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import safetensors
from tokenizers import Tokenizer

import common

BLOCK = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
# What no kind of tokenizer in llama.cpp can express.
LOSES_TOKENIZER = {"tinystories-656k": "merges across spaces without bytes to fall back to have no exact twin in GGUF"}
TEXT = ("Once upon a time, there were 12 small dogs' houses - e.g. \"N° 3\" - on a hill.\n\n\n  Two spaces, a\ttab, "
        "caf\u00e9, \u4f60\u597d, \U0001f600 and 3.14159 are here; they'll stay!   \r\n")


def read_folder(folder):
    """The tensors of a folder: name to (dtype, shape, bytes)."""
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        for name, t in safetensors.deserialize(file.read_bytes()):
            if name in tensors:
                raise ValueError(f"{name} is in two files of {folder}")
            tensors[name] = (t["dtype"], list(t["shape"]), bytes(t["data"]))
    return tensors


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in TOP:
        return TOP[stem] + ".weight"
    _, _, block, rest = stem.split(".", 3)
    return f"blk.{block}.{BLOCK[rest]}.weight"


def as_gguf(name, dtype, shape, data, config):
    """The values as GGUF orders them: float32, or bits of bfloat16 as uint16."""
    values = np.frombuffer(data, {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32}[dtype]).reshape(shape)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for part, n in heads.items():
        if part in name:  # the two halves of a head's rows are interleaved
            values = values.reshape(n, 2, shape[0] // n // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
    return values


def compare(checks, name, folder, work):
    config = json.loads((folder / "config.json").read_text())
    original = read_folder(folder)
    if config["tie_word_embeddings"] and "model.embed_tokens.weight" not in original:
        # Some savers keep the shared matrix under the head's name.
        original["model.embed_tokens.weight"] = original.pop("lm_head.weight")
    out = work / f"{name}.gguf"
    common.llmc("convert", folder, "--to", "gguf", "-o", out)
    reader = gguf.GGUFReader(out)
    written = {t.name: t for t in reader.tensors}
    expected = {gguf_name(n): n for n in original}
    checks.check(f"{name}: tensors in GGUF", set(written) == set(expected), f"{len(written)} of {len(expected)}")
    different = []
    for theirs, ours in expected.items():
        dtype, shape, data = original[ours]
        want = as_gguf(ours, dtype, shape, data, config)
        got = np.asarray(written[theirs].data)
        if got.dtype == np.uint8:
            got = got.view(np.uint16)
        if got.dtype == np.float32 and want.dtype == np.uint16:  # norms become float32
            want = (want.astype(np.uint32) << 16).view(np.float32)
        if got.dtype != want.dtype or not np.array_equal(got.reshape(-1).view(np.uint8), want.reshape(-1).view(np.uint8)):
            different.append(theirs)
    checks.check(f"{name}: weights in GGUF", not different, ", ".join(different[:4]) or "the same bits")
    scores = {
        "llama.block_count": config["num_hidden_layers"], "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.context_length": config["max_position_embeddings"],
    }
    wrong = [k for k, v in scores.items() if k not in reader.fields or reader.fields[k].contents() != v]
    checks.check(f"{name}: metadata in GGUF", not wrong, ", ".join(wrong) or f"{len(reader.fields)} fields")

    back = work / f"{name}-back"
    common.llmc("convert", out, "--to", "safetensors", "-o", back)
    returned = read_folder(back)
    # GGUF has norms in float32 only, so that is what comes back for them.
    different = [n for n, (dtype, shape, data) in original.items()
                 if n not in returned or not same_values((dtype, shape, data), returned[n])]
    checks.check(f"{name}: weights after GGUF and back", not different and len(returned) == len(original),
                 ", ".join(different[:4]) or "the same values")
    if name in LOSES_TOKENIZER:
        checks.skip(f"{name}: tokenizer.json after GGUF and back", LOSES_TOKENIZER[name])
        return
    before = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    after = Tokenizer.from_file(str(back / "tokenizer.json")).encode(TEXT).ids
    checks.same_ids(f"{name}: tokenizer.json after GGUF and back", after, before)


def same_values(a, b):
    """Whether two tensors have the same shape and the same exact values."""
    def values(dtype, data):
        if dtype == "F32":
            return np.frombuffer(data, np.uint32)
        if dtype == "BF16":
            return np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return np.frombuffer(data, np.uint16).view(np.float16).astype(np.float32).view(np.uint32)

    return a[1] == b[1] and np.array_equal(values(a[0], a[2]), values(b[0], b[2]))


def main():
    checks = common.Checks()
    with common.workdir() as work:
        folders = {"demo": common.ROOT / "demo" / "model"}
        for name in ("tinystories-656k", "prose-6m"):
            if folder := common.shared("models/" + name):
                folders[name] = folder
            else:
                checks.skip(name, "the shared models are not here")
        for name, folder in folders.items():
            try:
                compare(checks, name, folder, Path(work))
            except RuntimeError as e:
                checks.check(name, False, str(e))
    checks.done()


if __name__ == "__main__":
    sys.exit(main())
