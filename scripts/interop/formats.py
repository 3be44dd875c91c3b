"""Compares llmc's readers and writers of files with the gguf and safetensors packages.

usage: formats.py [FILE.gguf...]

Files that the packages write, and the GGUF files given, are read and written
again by llmc, whole and in parts; the packages must then read the same
metadata and the same tensors, bit for bit. Exits 1 on any difference.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import safetensors
import safetensors.numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
# llmc says that it does not support the first two; the package has the size
# of Q8_1 blocks wrong (40 bytes, ggml's are 36), which no file is made of.
EXCEPT = {"Q1_0", "Q2_0", "Q8_1"}
rng = np.random.default_rng(1)


def write_gguf(path, alignment=None):
    """A file with every type of metadata and every type of tensor."""
    w = gguf.GGUFWriter(path, "llama")
    if alignment:
        w.add_custom_alignment(alignment)
    w.add_uint8("a.u8", 255)
    w.add_int8("a.i8", -128)
    w.add_uint16("a.u16", 65535)
    w.add_int16("a.i16", -32768)
    w.add_uint32("a.u32", 2**32 - 1)
    w.add_int32("a.i32", -(2**31))
    w.add_uint64("a.u64", 2**64 - 1)
    w.add_int64("a.i64", -(2**63))
    w.add_float32("a.f32", 0.1)
    w.add_float64("a.f64", 0.1)
    w.add_bool("a.bool", True)
    w.add_string("a.text", "caf\u00e9 \U0001f600\n")
    w.add_array("b.i32", list(range(-3, 300)))
    w.add_array("b.f32", [0.5, -1.25, 3e38])
    w.add_array("b.bool", [True, False])
    w.add_array("b.bytes", b"\x00\xff\x7f")
    w.add_token_list([f"token{i}".encode() for i in range(1000)] + [b"", "\u2581".encode(), b"\xff"])
    for t in gguf.GGMLQuantizationType:
        if t.name in EXCEPT:
            continue
        block, size = gguf.GGML_QUANT_SIZES[t]
        data = rng.integers(0, 256, (3, 2 * size), np.uint8)
        w.add_tensor(f"t.{t.name}", data, raw_dtype=t)
    w.add_tensor("one", np.float32([1.5]))
    w.add_tensor("four", rng.standard_normal((2, 3, 5, 7)).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read_gguf(paths):
    """What a file, or all parts of one, says: fields and tensors by name."""
    fields, tensors = {}, {}
    for path in paths:
        reader = gguf.GGUFReader(path)
        for name, field in reader.fields.items():
            if not name.startswith(("GGUF.", "split.")) and (path == paths[0]):
                fields[name] = ([t.name for t in field.types], [field.parts[i].tobytes() for i in field.data])
        for t in reader.tensors:
            if t.name in tensors:
                raise ValueError(f"{t.name} is twice in {path}")
            tensors[t.name] = (t.tensor_type.name, t.shape.tolist(), t.data.tobytes())
    return fields, tensors


def write_folder(path):
    """A folder with every type that NumPy and safetensors share, and odd sizes."""
    path.mkdir()
    tensors = {f"t.{np.dtype(t).name}": rng.integers(0, 2, (3, 5)).astype(t)
               for t in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")}
    tensors["scalar"] = np.array(2.5, np.float32)
    tensors["empty"] = np.zeros((0, 3), np.float64)
    tensors["na\u00efve \"<&>\""] = rng.standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    safetensors.numpy.save_file(tensors, path / "model.safetensors", metadata={"format": "np", "\u00e9": "<\">\n"})
    (path / "config.json").write_text('{"a": 1}')
    (path / "vocab.txt").write_bytes(b"\x00\xff")


def read_folder(path):
    """Metadata of the first file, tensors by name, the other files' bytes."""
    metadata, tensors = None, {}
    for file in sorted(path.glob("*.safetensors")):
        with safetensors.safe_open(file, "np") as f:
            metadata = metadata or f.metadata()
            loaded = {name: f.get_tensor(name) for name in f.keys()}
        for name, t in loaded.items():
            if name in tensors:
                raise ValueError(f"{name} is twice in {path}")
            tensors[name] = (t.dtype.name, t.shape, t.tobytes())
    check_index(path, tensors)
    others = {f.name: f.read_bytes() for f in path.iterdir() if "safetensors" not in f.name}
    return metadata, tensors, others


def check_index(path, tensors):
    file = path / "model.safetensors.index.json"
    if not file.exists():
        return
    index = json.loads(file.read_text())
    for name, shard in index["weight_map"].items():
        with safetensors.safe_open(path / shard, "np") as f:
            if name not in f.keys():
                raise ValueError(f"{name} is not in {shard}")
    total = sum(len(t[2]) for t in tensors.values())
    if index["metadata"]["total_size"] != total or index["weight_map"].keys() != tensors.keys():
        raise ValueError(f"the index of {path} is wrong")


def parts(path):
    """The file, or all parts of it."""
    return [path] if path.exists() else sorted(path.parent.glob(f"{path.stem}-?????-of-?????.gguf"))


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        source, target = pathlib.Path(work, "from"), pathlib.Path(work, "to")
        source.mkdir()
        target.mkdir()
        for name in ("whole.gguf", "cut.gguf"):
            write_gguf(source / name)
        write_gguf(source / "aligned.gguf", alignment=128)
        for name in ("folder", "cut-folder"):
            write_folder(source / name)
        for file in sys.argv[1:]:
            os.symlink(os.path.abspath(file), source / os.path.basename(file))
        subprocess.run(["go", "test", "-count=1", "-run", "^TestCopy$", "./formats"], cwd=ROOT, check=True,
                       env={**os.environ, "LLMC_COPY_FROM": str(source), "LLMC_COPY_TO": str(target)},
                       stdout=subprocess.DEVNULL)
        for path in sorted(source.iterdir()):
            copy = target / path.name
            if path.suffix == ".gguf":
                files = parts(copy)
                same = read_gguf([path]) == read_gguf(files)
                count = len(read_gguf([path])[1])
            else:
                files = list(copy.glob("*.safetensors"))
                same = read_folder(path) == read_folder(copy)
                count = len(read_folder(path)[1])
            failed += not same
            print(f"{path.name}: {count} tensors, copied to {len(files)} file(s): {'same' if same else 'DIFFERENT'}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
