"""Trains the built-in demo model on text of scripts/demo/corpus.

    train.py --text train.txt --heldout heldout.txt --out demo/model

Needs torch (2.0 or newer), numpy and tokenizers; one core of a CPU is enough. It
writes config.json, generation_config.json, model.safetensors (bfloat16),
tokenizer.json and tokenizer_config.json, and says what the rounded model's
perplexity on the held-out text is.
"""

import argparse
import json
import math
import struct
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS = "<s>", "</s>"
CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama",
    hidden_size=256, intermediate_size=512, num_hidden_layers=2,
    num_attention_heads=8, num_key_value_heads=4, head_dim=32,
    max_position_embeddings=512, vocab_size=1024,
    rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
    attention_bias=False, mlp_bias=False, tie_word_embeddings=True,
    bos_token_id=0, eos_token_id=1, initializer_range=0.02, torch_dtype="bfloat16",
)


def train_tokenizer(text, vocab_size):
    """Byte-level BPE that splits off single digits, as SmolLM's does."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tok.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in (BOS, EOS)]
    tok.train_from_iterator(text.split("\n\n"), trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tok.token_to_id(BOS))])
    return tok


class Llama(torch.nn.Module):
    """The llama architecture with the parameter names of its checkpoints."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        hidden, ffn, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
        q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
        self.weights = torch.nn.ParameterDict()

        def add(name, *shape, std=c["initializer_range"]):
            data = torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * std
            self.weights[name.replace(".", "/")] = torch.nn.Parameter(data)

        add("model.embed_tokens.weight", c["vocab_size"], hidden)
        out = c["initializer_range"] / math.sqrt(2 * c["num_hidden_layers"])
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            add(p + "input_layernorm.weight", hidden)
            add(p + "self_attn.q_proj.weight", q, hidden, std=0.04)
            add(p + "self_attn.k_proj.weight", kv, hidden, std=0.04)
            add(p + "self_attn.v_proj.weight", kv, hidden, std=0.04)
            add(p + "self_attn.o_proj.weight", hidden, q, std=2 * out)
            add(p + "post_attention_layernorm.weight", hidden)
            add(p + "mlp.gate_proj.weight", ffn, hidden, std=0.04)
            add(p + "mlp.up_proj.weight", ffn, hidden, std=0.04)
            add(p + "mlp.down_proj.weight", hidden, ffn, std=2 * out)
        add("model.norm.weight", hidden)
        angle = c["rope_theta"] ** (-torch.arange(0, d, 2).float() / d)
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(), angle)
        angle = torch.cat((angle, angle), dim=-1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def named(self):
        return {k.replace("/", "."): v for k, v in self.weights.items()}

    def norm(self, x, name):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"])
        return (x * scale) * self.weights[name]

    def rotate(self, x):  # x: [batch, heads, n, d]
        n, d = x.shape[-2:]
        half = torch.cat((-x[..., d // 2:], x[..., :d // 2]), dim=-1)
        return x * self.cos[:n] + half * self.sin[:n]

    def forward(self, ids):  # ids: [batch, n]; returns logits [batch, n, vocab]
        c, w = self.c, self.weights
        batch, n = ids.shape
        d, kv = c["head_dim"], c["num_key_value_heads"]
        groups = c["num_attention_heads"] // kv
        x = F.embedding(ids, w["model/embed_tokens/weight"])
        for i in range(c["num_hidden_layers"]):
            p = f"model/layers/{i}/"

            def linear(v, name):
                return F.linear(v, w[p + name + "/weight"])

            h = self.norm(x, p + "input_layernorm/weight")
            q, k, v = (linear(h, f"self_attn/{m}_proj").view(batch, n, -1, d).transpose(1, 2) for m in "qkv")
            q, k = self.rotate(q), self.rotate(k)
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + linear(a.transpose(1, 2).reshape(batch, n, -1), "self_attn/o_proj")
            h = self.norm(x, p + "post_attention_layernorm/weight")
            x = x + linear(F.silu(linear(h, "mlp/gate_proj")) * linear(h, "mlp/up_proj"), "mlp/down_proj")
        return F.linear(self.norm(x, "model/norm/weight"), w["model/embed_tokens/weight"])


class Windows:
    """Random windows of token ids.

    Three quarters begin anywhere in the running text, with the begin token
    first, as perplexity is measured. The others are whole documents, each
    between begin and end tokens, so that the model learns to stop.
    """

    def __init__(self, tok, text, seed):
        self.rng = np.random.default_rng(seed)
        documents = text.split("\n\n")
        ids = [e.ids for e in tok.encode_batch(documents, add_special_tokens=False)]
        gap = tok.encode("\n\n", add_special_tokens=False).ids
        self.bos, self.eos = tok.token_to_id(BOS), tok.token_to_id(EOS)
        self.running = np.concatenate([np.array(d + gap, np.int64) for d in ids])
        self.marked = np.concatenate([np.array([self.bos] + d + [self.eos], np.int64) for d in ids])
        self.starts = np.flatnonzero(self.marked == self.bos)

    def batch(self, rows, n):
        out = np.empty((rows, n + 1), np.int64)
        for r in range(rows):
            if r % 4:
                at = self.rng.integers(len(self.running) - n)
                out[r, 0], out[r, 1:] = self.bos, self.running[at:at + n]
            else:
                fit = np.searchsorted(self.starts, len(self.marked) - n)
                at = self.starts[self.rng.integers(fit)]
                out[r] = self.marked[at:at + n + 1]
        return torch.from_numpy(out)


@torch.no_grad()
def perplexity(model, tok, text, n):
    """llama.cpp's protocol: the second half of every chunk counts."""
    ids = torch.tensor(tok.encode(text).ids)
    chunks = ids[:len(ids) // n * n].view(-1, n).clone()
    chunks[:, 0] = tok.token_to_id(BOS)
    total, count = 0.0, 0
    for chunk in chunks.split(8):
        logits = model(chunk)[:, n // 2:-1]
        loss = F.cross_entropy(logits.flatten(0, 1).double(), chunk[:, n // 2 + 1:].flatten(), reduction="sum")
        total, count = total + loss.item(), count + logits.shape[0] * logits.shape[1]
    return math.exp(total / count)


def save(model, tok, out):
    """Writes the checkpoint, its weights rounded to bfloat16."""
    out.mkdir(parents=True, exist_ok=True)
    named = {k: v.detach().to(torch.bfloat16) for k, v in model.named().items()}
    header, offset, blobs = {"__metadata__": {"format": "pt"}}, 0, []
    for name in sorted(named):
        blob = named[name].view(torch.int16).numpy().tobytes()
        header[name] = dict(dtype="BF16", shape=list(named[name].shape), data_offsets=[offset, offset + len(blob)])
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (out / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))

    def write(name, value):
        (out / name).write_text(json.dumps(value, indent=2) + "\n")

    c = dict(model.c, vocab_size=tok.get_vocab_size())
    write("config.json", c)
    write("generation_config.json", dict(bos_token_id=c["bos_token_id"], eos_token_id=c["eos_token_id"]))
    write("tokenizer_config.json", dict(
        add_bos_token=True, add_eos_token=False, bos_token=BOS, eos_token=EOS,
        model_max_length=c["max_position_embeddings"], tokenizer_class="PreTrainedTokenizerFast"))
    (out / "tokenizer.json").write_text(tok.to_str(pretty=False) + "\n")


def rounded(model):
    copy = Llama(model.c)
    for k, v in copy.weights.items():
        v.data.copy_(model.weights[k].detach().to(torch.bfloat16).float())
    return copy


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    parser.add_argument("--ffn", type=int, default=CONFIG["intermediate_size"])
    parser.add_argument("--threads", type=int, default=1, help="one is hardly slower than two: the matrices are small")
    parser.add_argument("--every", type=int, default=500, help="steps between two reports and saves")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    text, heldout = args.text.read_text(), args.heldout.read_text()
    tok = train_tokenizer(text[:4_000_000], CONFIG["vocab_size"])
    windows = Windows(tok, text, args.seed)
    model = Llama(dict(CONFIG, num_hidden_layers=args.layers, intermediate_size=args.ffn))
    size = sum(p.numel() for p in model.parameters())
    print(f"{size} parameters, {len(windows.running)} tokens, {len(text) / len(windows.running):.2f} bytes a token", flush=True)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=decay, weight_decay=0.1), dict(params=plain, weight_decay=0.0)], lr=args.lr, betas=(0.9, 0.98), eps=1e-9)
    started, mean = time.time(), 0.0
    for step in range(1, args.steps + 1):
        warm = min(1.0, step / 100)
        rate = args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Short windows first: they are cheaper, and the last third learns the rest.
        n = CONFIG["max_position_embeddings"] // (2 if step < args.steps * 2 // 3 else 1)
        batch = windows.batch(args.tokens // n, n)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {mean:.4f} rate {rate:.2e} {step * args.tokens / (time.time() - started):.0f} tokens/s", flush=True)
        if step % args.every == 0 or step == args.steps:
            small = rounded(model)
            print(f"step {step} held-out perplexity {perplexity(small, tok, heldout, 512):.4f} (bfloat16, context 512)", flush=True)
            save(model, tok, args.out)


if __name__ == "__main__":
    main()
