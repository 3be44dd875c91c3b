"""Compares llmc's perplexity with transformers' on the same token ids.

usage: transformers_perplexity.py LLMC MODEL_FOLDER TEXT [CONTEXT]

Protocols "full" (the text in chunks, every token after a chunk's first scored),
"stride" (a sliding window, new tokens scored with the context left of them)
and "llama.cpp" (the second half of every chunk scored). Exits 1 when one
differs by more than 1e-4 relative.
"""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM


def llmc_json(*args):
    return json.loads(subprocess.run(args, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def window_nll(model, window, first):
    """Negative log-likelihoods of window[first:], each given all before it."""
    ids = torch.tensor([window])
    logits = model(ids).logits[0, first - 1 : -1].double()
    chosen = ids[0, first:]
    return -torch.log_softmax(logits, -1).gather(1, chosen[:, None])[:, 0]


def windows(protocol, ids, context, stride, bos):
    """Yields (window, index of its first scored token)."""
    if protocol == "stride":
        scored = 0
        for begin in range(0, len(ids), stride):
            end = min(begin + context, len(ids))
            if end - max(scored, begin + 1) > 0:
                yield ids[begin:end], max(scored - begin, 1)
            scored = end
            if end == len(ids):
                return
        return
    for begin in range(0, len(ids) - context + 1, context):
        window = list(ids[begin : begin + context])
        if protocol == "full":
            yield window, 1
        else:
            if bos is not None:
                window[0] = bos
            yield window, context // 2 + 1


def main():
    llmc, folder, text = sys.argv[1:4]
    context = int(sys.argv[4]) if len(sys.argv) > 4 else 512
    # One text, many threads' worth of ids: what llmc evaluates is what transformers gets.
    ids = [int(i) for i in subprocess.run(
        [llmc, "tokenize", folder, "--text", text], check=True, capture_output=True, text=True).stdout.split()]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    bos = model.config.bos_token_id if ids[0] == model.config.bos_token_id else None
    failed = False
    for protocol in ("full", "stride", "llama.cpp"):
        args = [llmc, "eval", folder, "--text", text, "--context", str(context), "--protocol", protocol, "--json"]
        if protocol == "stride":
            args += ["--stride", str(context // 2)]
        mine = llmc_json(*args)["models"][0]
        parts = [window_nll(model, w, first) for w, first in windows(protocol, ids, context, context // 2, bos)]
        nll = torch.cat(parts)
        theirs = nll.mean().exp().item()
        difference = abs(mine["perplexity"] / theirs - 1)
        ok = difference < 1e-4 and mine["tokens"] == len(nll)
        failed |= not ok
        print(f"{'ok  ' if ok else 'FAIL'} {protocol}: llmc {mine['perplexity']:.6f} over {mine['tokens']} tokens, "
              f"transformers {theirs:.6f} over {len(nll)}, relative difference {difference:.2e}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
