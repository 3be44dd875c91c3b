"""Compares llmc's ggml blocks with the gguf package and with ggml itself.

usage: blocks.py [GGML_LIBRARY]

GGML_LIBRARY is the path of a libggml-base.so; without it, the one in the folder
that INTEROP_LLAMACPP names is taken. Values of random blocks are compared bit
by bit with the gguf package's NumPy code and with ggml's own. Rows that llmc
quantized, with and without an importance matrix, are compared byte by byte with
ggml_quantize_chunk. Exits 1 on any difference, and when nothing was compared.
"""

import ctypes
import os
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


def dump():
    """Runs the Go test that writes blocks and values, yields its records."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "dump")
        subprocess.run(["go", "test", "-count=1", "-run", "^TestDump$", "./kernels/blocks"], cwd=ROOT, check=True,
                       env={**os.environ, "LLMC_DUMP": path}, stdout=subprocess.DEVNULL)
        with open(path, "rb") as f:
            while line := f.readline():
                verb, name, *sizes = line.decode().split()
                data, weights, values = (int(s) for s in sizes)
                yield (verb, name, np.fromfile(f, np.uint8, data),
                       np.fromfile(f, np.float32, weights), np.fromfile(f, np.float32, values))


def load(path):
    lib = ctypes.CDLL(path)
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                                        ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    return lib


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p) if len(array) else None


def gguf_values(name, data):
    """The values of blocks by NumPy, or None for types it has not."""
    if name == "Q8_1":  # d and the sum of values in half precision, 32 signed bytes
        blocks = data.reshape(-1, 36)
        return (blocks[:, :2].copy().view(np.float16).astype(np.float32) * blocks[:, 4:].view(np.int8)).ravel()
    try:
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name]).astype(np.float32)
    except NotImplementedError:
        return None


def ggml_values(lib, name, data, count):
    """The values of blocks by ggml, or None for types it has not."""
    symbol = getattr(lib, f"dequantize_row_{name.lower().replace('_k', '_K')}", None)
    if symbol is None:
        return None
    out = np.empty(count, np.float32)
    symbol(pointer(data), pointer(out), ctypes.c_int64(count))
    return out


def ggml_blocks(lib, name, values, weights, size):
    """The bytes of one row by ggml."""
    out = np.zeros(size, np.uint8)
    lib.ggml_quantize_chunk(gguf.GGMLQuantizationType[name].value, pointer(values), pointer(out), 0, 1, len(values),
                            pointer(weights))
    return out


class Tally:
    """Counts differences for each type and reference."""

    def __init__(self):
        self.counts = {}

    def add(self, what, different):
        entry = self.counts.setdefault(what, [0, 0])
        entry[0] += int(np.count_nonzero(different))
        entry[1] += np.size(different)

    def finish(self):
        for (verb, name, unit, reference), (bad, count) in self.counts.items():
            print(f"{'FAIL' if bad else 'ok  '} {verb} {name}: {bad} of {count} {unit} differ from {reference}")
        if not self.counts:
            print("FAIL nothing was compared")
        sys.exit(not self.counts or any(bad for bad, _ in self.counts.values()))


def library():
    if len(sys.argv) > 1:
        return load(sys.argv[1])
    if folder := os.environ.get("INTEROP_LLAMACPP"):
        return load(os.path.join(folder, "libggml-base.so"))
    print("skip what ggml computes: no library is named")
    return None


def main():
    lib, tally = library(), Tally()
    np.seterr(all="ignore")  # random scales are infinite at times
    for verb, name, data, weights, values in dump():
        if verb == "quantize":
            if lib is not None:
                want = ggml_blocks(lib, name, values, weights, len(data))
                tally.add((verb, name, "rows", "ggml"), (want != data).any())
            continue
        references = {"gguf": gguf_values(name, data)}
        if lib is not None:
            references["ggml"] = ggml_values(lib, name, data, len(values))
        for reference, want in references.items():
            if want is not None:
                same = (want.view(np.uint32) == values.view(np.uint32)) | (np.isnan(want) & np.isnan(values))
                tally.add((verb, name, "values", reference), ~same)
    tally.finish()


if __name__ == "__main__":
    main()
