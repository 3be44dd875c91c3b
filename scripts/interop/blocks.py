"""Compares llmc's ggml blocks with the gguf package and with ggml itself.

usage: blocks.py [GGML_LIBRARY]

Dequantized values are compared bit by bit with the NumPy code of the gguf
package where it has the type, else with ggml's own (the path of a
libggml-base.so). Quantized rows, with and without an importance matrix, are
compared byte by byte with ggml_quantize_chunk. Exits 1 on any difference.
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


def ggml_dequantize(lib, name, data, count):
    symbol = getattr(lib, f"dequantize_row_{name.lower().replace('_k', '_K')}", None)
    if symbol is None:
        return None
    out = np.empty(count, np.float32)
    symbol(data.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(count))
    return out


def reference_values(lib, name, data, count):
    """Values of blocks, and who says so."""
    try:
        with np.errstate(all="ignore"):
            values = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
        return values.astype(np.float32), "gguf"
    except (NotImplementedError, KeyError):
        pass
    if lib is not None and (values := ggml_dequantize(lib, name, data, count)) is not None:
        return values, "ggml"
    return None, "none"


def main():
    lib = load(sys.argv[1]) if len(sys.argv) > 1 else None
    results, failed, compared = {}, False, 0
    for verb, name, data, weights, values in dump():
        if verb == "dequantize":
            want, source = reference_values(lib, name, data, len(values))
            if want is None:
                results[verb, name] = [0, 0, "nothing to compare with"]
                continue
            same = (want.view(np.uint32) == values.view(np.uint32)) | (np.isnan(want) & np.isnan(values))
            results[verb, name] = [int((~same).sum()), len(values), source]
        elif lib is not None:
            out = np.empty_like(data)
            pointer = weights.ctypes.data_as(ctypes.c_void_p) if len(weights) else None
            lib.ggml_quantize_chunk(gguf.GGMLQuantizationType[name].value, values.ctypes.data_as(ctypes.c_void_p),
                                    out.ctypes.data_as(ctypes.c_void_p), 0, 1, len(values), pointer)
            entry = results.setdefault((verb, name), [0, 0, "ggml"])
            entry[0] += int((out != data).any())
            entry[1] += 1
    for (verb, name), (bad, count, source) in results.items():
        unit = "values" if verb == "dequantize" else "rows"
        print(f"{'FAIL' if bad else 'ok  '} {verb} {name}: {bad} of {count} {unit} differ from {source}")
        failed |= bad > 0
        compared += count
    if compared == 0:
        print("FAIL nothing was compared")
    sys.exit(failed or compared == 0)


if __name__ == "__main__":
    main()
