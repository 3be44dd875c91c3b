"""Packed linears as other packages lay them out, for model/hfquant's golden test.

usage: packing.py [--write]

Compares model/hfquant/testdata/packed.json with what is packed here, or writes
it. compressed-tensors' words come from that package itself; its layout before
release 0.18, GPTQ's and AWQ's are spelled out below with Python's integers of
any size. Codes, zero points and scales follow formulas that the Go test knows
too, so that the file only holds what is packed.
"""

import base64
import json
import sys

import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

from common import ROOT, Checks

GOLDEN = ROOT / "model" / "hfquant" / "testdata" / "packed.json"
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def code(r, c, bits):
    return (131 * r + 31 * c + 7 * r * c + r * c // 5) % (1 << bits)


def zero(r, g, bits):
    return 1 + (5 * r + 3 * g) % ((1 << bits) - 1)


def scale(r, g):
    return (16 + (3 * r + 7 * g) % 16) / 1024


def group(c, cols, groups, shuffled):
    """The group of a column; shuffled, 5c mod cols stands in the order of importance."""
    return (5 * c % cols if shuffled else c) * groups // cols


def table(rows, cols, f):
    return [[f(r, c) for c in range(cols)] for r in range(rows)]


def stream(codes, bits):
    """Codes one after the other, lowest bits first, in 32-bit words."""
    number = sum(v << (i * bits) for i, v in enumerate(codes))
    return [number >> (32 * i) & 0xFFFFFFFF for i in range(-(-len(codes) * bits // 32))]


def uncrossed(codes, bits):
    """The same with only whole codes in a word: compressed-tensors before 0.18."""
    per = 32 // bits
    return [stream(codes[i:i + per], bits)[0] for i in range(0, len(codes), per)]


def transposed(rows):
    return [list(column) for column in zip(*rows)]


def int32(rows):
    return np.array(rows, dtype=np.uint32).view(np.int32)


def half(rows, kind):
    if kind == "F16":
        return kind, np.array(rows, dtype=np.float16)
    return kind, (np.array(rows, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)


def compressed(rows, cols, bits, groups, symmetric, old=False):
    codes = np.array(table(rows, cols, lambda r, c: code(r, c, bits)))
    zeros = np.array(table(rows, groups, lambda r, g: zero(r, g, bits)))
    if old:
        packed = int32([uncrossed(row, bits) for row in codes.tolist()])
        points = int32(transposed([uncrossed(column, bits) for column in zeros.T.tolist()]))
    else:
        def signed(v):
            return torch.tensor(v - (1 << (bits - 1)), dtype=torch.int8)
        packed = pack_to_int32(signed(codes), bits).numpy()
        points = pack_to_int32(signed(zeros), bits, packed_dim=0).numpy()
    yield "weight_packed", "I32", packed
    yield "weight_scale", *half(table(rows, groups, scale), "BF16")
    yield "weight_shape", "I64", np.array([rows, cols], dtype=np.int64)
    if not symmetric:
        yield "weight_zero_point", "I32", points


def integers(rows, cols, groups, symmetric):
    codes = np.array(table(rows, cols, lambda r, c: code(r, c, 8)))
    yield "weight", "I8", (codes - 128).astype(np.int8)
    yield "weight_scale", *half(table(rows, groups, scale), "BF16")
    if not symmetric:
        zeros = np.array(table(rows, groups, lambda r, g: zero(r, g, 8)))
        yield "weight_zero_point", "I8", (zeros - 128).astype(np.int8)


def gptq(rows, cols, bits, groups, symmetric, version, shuffled=False):
    columns = [stream([code(r, c, bits) for c in range(cols)], bits) for r in range(rows)]
    yield "qweight", "I32", int32(transposed(columns))
    less = 1 if version == 1 else 0
    point = (lambda r, g: 1 << (bits - 1)) if symmetric else (lambda r, g: zero(r, g, bits))
    yield "qzeros", "I32", int32([stream([point(r, g) - less for r in range(rows)], bits) for g in range(groups)])
    yield "scales", *half(transposed(table(rows, groups, scale)), "F16")
    yield "g_idx", "I32", np.array([group(c, cols, groups, shuffled) for c in range(cols)], dtype=np.int32)


def awq(rows, cols, groups):
    def packed(count, at):
        return int32([[sum(at(8 * w + AWQ_ORDER[i], n) << (4 * i) for i in range(8)) for w in range(rows // 8)]
                      for n in range(count)])
    yield "qweight", "I32", packed(cols, lambda r, c: code(r, c, 4))
    yield "qzeros", "I32", packed(groups, lambda r, g: zero(r, g, 4))
    yield "scales", *half(transposed(table(rows, groups, scale)), "F16")


def cases():
    """Each linear: its quantization_config, its shape and its tensors."""
    def one(name, config, rows, cols, bits, groups, symmetric, tensors, shuffled=False):
        return dict(name=name, config=config, rows=rows, cols=cols, bits=bits, groups=groups, symmetric=symmetric,
                    shuffled=shuffled, tensors=[
                        dict(name=n, type=t, shape=list(v.shape), data=base64.b64encode(np.ascontiguousarray(v).tobytes()).decode())
                        for n, t, v in tensors])

    def scheme(bits, size, symmetric, format="pack-quantized", version="0.20.0"):
        weights = dict(num_bits=bits, type="int", symmetric=symmetric, strategy="group" if size else "channel", dynamic=False)
        if size:
            weights["group_size"] = size
        return dict(quant_method="compressed-tensors", format=format, quantization_status="compressed", ignore=[],
                    version=version, config_groups=dict(group_0=dict(targets=["Linear"], weights=weights)))

    for bits in range(2, 9):
        yield one(f"compressed-tensors {bits} bits", scheme(bits, 16, True), 5, 48, bits, 3, True,
                  compressed(5, 48, bits, 3, True))
        # Neither rows nor columns fill whole words.
        yield one(f"compressed-tensors {bits} bits asymmetric", scheme(bits, 0, False), 7, 37, bits, 1, False,
                  compressed(7, 37, bits, 1, False))
    for bits in (3, 5, 6, 7):
        yield one(f"compressed-tensors 0.12 {bits} bits", scheme(bits, 16, False, version="0.12.2"), 11, 48, bits, 3,
                  False, compressed(11, 48, bits, 3, False, old=True))
    # Rows of two words in either layout, so that only the version tells them apart.
    for version in ("0.12.2", "0.20.0"):
        yield one(f"compressed-tensors {version} 5 bits, 7 columns", scheme(5, 0, False, version=version), 7, 7, 5, 1,
                  False, compressed(7, 7, 5, 1, False, old=version == "0.12.2"))
    for symmetric in (True, False):
        yield one(f"int-quantized, symmetric {symmetric}", scheme(8, 0, symmetric, "int-quantized"), 5, 24, 8, 1,
                  symmetric, integers(5, 24, 1, symmetric))
    for bits in (2, 3, 4, 8):
        for version in (1, 2):
            for symmetric in (True, False):
                config = dict(quant_method="gptq", bits=bits, group_size=32, desc_act=False, sym=symmetric,
                              checkpoint_format="gptq" if version == 1 else "gptq_v2")
                yield one(f"gptq v{version} {bits} bits, symmetric {symmetric}", config, 32, 64, bits, 2, symmetric,
                          gptq(32, 64, bits, 2, symmetric, version))
        config = dict(quant_method="gptq", bits=bits, group_size=32, desc_act=True, sym=True, checkpoint_format="gptq")
        yield one(f"gptq v1 {bits} bits in another order", config, 32, 64, bits, 2, True,
                  gptq(32, 64, bits, 2, True, 1, shuffled=True), shuffled=True)
    for groups in (1, 3):
        config = dict(quant_method="awq", bits=4, group_size=48 // groups if groups > 1 else -1, zero_point=True,
                      version="gemm", modules_to_not_convert=None)
        yield one(f"awq of {groups} groups", config, 16, 48, 4, groups, False, awq(16, 48, groups))


def main():
    made = list(cases())
    if sys.argv[1:] == ["--write"]:
        GOLDEN.write_text("[\n" + ",\n".join(json.dumps(c) for c in made) + "\n]\n")
        return
    checks = Checks()
    kept = {c["name"]: c for c in json.loads(GOLDEN.read_text())}
    for case in made:
        checks.check(case["name"], kept.pop(case["name"], None) == case)
    checks.check("nothing else in the file", not kept, ", ".join(kept))
    checks.done()


if __name__ == "__main__":
    main()
