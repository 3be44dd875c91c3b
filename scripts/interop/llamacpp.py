"""llama.cpp through ctypes, from the ready-built libraries of an npm package.

    lib = Library(folder_with_libllama)
    with lib.model("model.gguf", context=512) as m:
        m.tokenize("Once upon a time")      # ids, as llama_tokenize gives them
        m.logits(ids)                       # float32 [len(ids), vocabulary]
        m.greedy(ids, 64)                   # the ids that follow, and their margins
        m.perplexity(text)                  # llama-perplexity's protocol

Keys and values are cached in float32 and flash attention is off unless model is
asked for another cache, so that what is compared is the arithmetic of the weights. Weights in F32 are multiplied in
float32; for quantized weights llama.cpp rounds the activations to 8 bits.

llama.cpp's parameter structures change from release to release. They are
passed here as buffers that are larger than any of them, filled by the
library's own default functions, and the few fields that are set are found by
their default values, so a release with another layout is noticed.
"""

import ctypes
import glob
import math
import os
import struct
from pathlib import Path

import numpy as np


# llama_ftype of the mixes that are compared.
FTYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
    "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "BF16": 32,
}


# ggml_type of what keys and values are cached as.
CACHES = {"F32": 0, "Q4_0": 2, "Q8_0": 8}


class LayoutError(Exception):
    """The library's parameter structures are not as this module knows them."""


class _Params(ctypes.Structure):
    # The System V calling convention copies a large structure to the stack
    # behind no other argument, so bytes too many do no harm.
    _fields_ = [("bytes", ctypes.c_uint64 * 64)]

    def get(self, kind, offset):
        return struct.unpack_from("<" + kind, bytes(self.bytes), offset)[0]

    def put(self, kind, offset, value):
        struct.pack_into("<" + kind, self.bytes, offset, value)


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class Library:
    """llama.cpp's libraries, loaded from one folder."""

    def __init__(self, folder, verbose=False):
        folder = Path(folder)

        def load(pattern):
            found = sorted(glob.glob(str(folder / pattern)))
            if not found:
                raise FileNotFoundError(f"no {pattern} in {folder}")
            return ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)

        self.base = load("libggml-base*.so*")
        self.ggml = load("libggml[.]*so*")
        self.llama = load("libllama[.]*so*")
        self.log = _LOG((lambda level, text, _: print(text.decode(errors="replace"), end="")) if verbose
                        else (lambda level, text, _: None))
        self.llama.llama_log_set(self.log, None)
        self.ggml.ggml_backend_load_all_from_path(str(folder).encode())
        self.llama.llama_backend_init()
        self._declare()

    def _declare(self):
        p, i32, i8 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
        for name, result, arguments in [
            ("llama_model_default_params", _Params, []),
            ("llama_context_default_params", _Params, []),
            ("llama_model_load_from_file", p, [ctypes.c_char_p, _Params]),
            ("llama_init_from_model", p, [p, _Params]),
            ("llama_model_free", None, [p]),
            ("llama_free", None, [p]),
            ("llama_model_get_vocab", p, [p]),
            ("llama_vocab_n_tokens", i32, [p]),
            ("llama_vocab_bos", i32, [p]),
            ("llama_vocab_get_add_bos", i8, [p]),
            ("llama_vocab_is_eog", i8, [p, i32]),
            ("llama_model_n_ctx_train", i32, [p]),
            ("llama_tokenize", i32, [p, ctypes.c_char_p, i32, ctypes.POINTER(i32), i32, i8, i8]),
            ("llama_detokenize", i32, [p, ctypes.POINTER(i32), i32, ctypes.c_char_p, i32, i8, i8]),
            ("llama_decode", i32, [p, _Batch]),
            ("llama_get_memory", p, [p]),
            ("llama_memory_clear", None, [p, i8]),
            ("llama_model_quantize_default_params", _Params, []),
            ("llama_model_quantize", ctypes.c_uint32, [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Params)]),
            ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [p]),
        ]:
            function = getattr(self.llama, name)
            function.restype, function.argtypes = result, arguments

    def model(self, path, context=512, threads=None, vocab_only=False, cache="F32"):
        """Opens a GGUF file. With vocab_only it only tokenizes; cache is as in CACHES.

        One thread by default (INTEROP_THREADS): on a busy machine several
        wait for each other most of the time.
        """
        threads = threads or int(os.environ.get("INTEROP_THREADS", "1"))
        return Model(self, path, context, threads, vocab_only, cache)

    def quantize(self, source, target, mix, threads=None):
        """Writes a GGUF file with llama.cpp's own quantizer; mix is as in FTYPES."""
        params = self.llama.llama_model_quantize_default_params()
        params.put("i", 0, threads or os.cpu_count())
        params.put("i", 4, FTYPES[mix])
        status = self.llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
        if status != 0:
            raise OSError(f"llama_model_quantize gives {status} for {source} as {mix}")

    def model_params(self, vocab_only):
        params = self.llama.llama_model_default_params()
        # vocab_only, check_tensors and use_extra_bufts follow the last pointer.
        if params.get("Q", 64) != 0 or [params.get("B", 72 + i) for i in range(3)] != [0, 0, 1]:
            raise LayoutError("llama_model_params has another layout; see llama.h of this release")
        params.put("B", 72, vocab_only)
        # No repacked weights: they are rounded differently from CPU to CPU.
        params.put("B", 74, 0)
        return params

    def context_params(self, context, threads, kind):
        params = self.llama.llama_context_default_params()
        ints = [params.get("i", 4 * i) for i in range(48)]
        try:
            attention = next(i for i in range(len(ints)) if ints[i:i + 4] == [-1] * 4)  # rope, pooling, attention, flash
            thread = next(i for i in range(4, attention) if ints[i] == ints[i + 1] and ints[i] > 1)
            cache = next(i for i in range(attention, len(ints)) if ints[i:i + 2] == [1, 1])  # GGML_TYPE_F16 twice
        except StopIteration:
            raise LayoutError("llama_context_params has another layout; see llama.h of this release") from None
        if ints[:4] != [512, 2048, 512, 1]:
            raise LayoutError("llama_context_params begins otherwise; see llama.h of this release")
        for at in range(3):
            params.put("I", 4 * at, context)
        for at in range(5, thread):  # the largest number of outputs: as many as the batch
            params.put("I", 4 * at, 0)
        params.put("i", 4 * thread, threads)
        params.put("i", 4 * thread + 4, threads)
        params.put("i", 4 * attention + 12, int(kind != "F32"))  # flash attention, which alone reads rounded values
        params.put("i", 4 * cache, CACHES[kind])
        params.put("i", 4 * cache + 4, CACHES[kind])
        return params


class Model:
    """A GGUF file that llama.cpp has loaded, with a context of its own."""

    def __init__(self, library, path, context, threads, vocab_only, cache):
        self.lib = library.llama
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), library.model_params(vocab_only))
        if not self.model:
            raise OSError(f"llama.cpp does not load {path}")
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.size = self.lib.llama_vocab_n_tokens(self.vocab)
        self.bos = self.lib.llama_vocab_bos(self.vocab)
        self.adds_bos = self.lib.llama_vocab_get_add_bos(self.vocab)
        self.context, self.state, self.filled = context, None, 0
        if not vocab_only:
            self.state = self.lib.llama_init_from_model(self.model, library.context_params(context, threads, cache))
            if not self.state:
                raise OSError(f"llama.cpp makes no context of {context} tokens for {path}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.state:
            self.lib.llama_free(self.state)
        self.lib.llama_model_free(self.model)

    def tokenize(self, text, special=True, parse_special=False):
        """Token ids; with special the begin token, if the model asks for it."""
        data = text.encode() if isinstance(text, str) else text
        room = len(data) + 8
        out = (ctypes.c_int32 * room)()
        n = self.lib.llama_tokenize(self.vocab, data, len(data), out, room, special, parse_special)
        if n < 0:
            raise OSError(f"llama_tokenize wants room for {-n} tokens of {len(data)} bytes")
        return np.ctypeslib.as_array(out)[:n].copy()

    def detokenize(self, ids):
        ids = np.ascontiguousarray(ids, np.int32)
        out = ctypes.create_string_buffer(64 * len(ids) + 64)
        n = self.lib.llama_detokenize(self.vocab, ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
                                      len(ids), out, len(out), False, False)
        return out.raw[:max(n, 0)].decode(errors="replace")

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.state), True)
        self.filled = 0

    def logits(self, ids, first=0, keep=False):
        """Logits after ids[first:], float32 [n, vocabulary].

        The ids are the whole sequence, or with keep what follows the ids of
        the calls before.
        """
        if not keep:
            self.clear()
        n = len(ids)
        if self.filled + n > self.context:
            raise ValueError(f"{self.filled + n} tokens for a context of {self.context}")
        sequence = (ctypes.c_int32 * 1)(0)
        sequences = (ctypes.POINTER(ctypes.c_int32) * n)(*[sequence] * n)
        batch = _Batch(
            n_tokens=n, token=(ctypes.c_int32 * n)(*map(int, ids)), embd=None,
            pos=(ctypes.c_int32 * n)(*range(self.filled, self.filled + n)),
            n_seq_id=(ctypes.c_int32 * n)(*[1] * n), seq_id=sequences,
            logits=(ctypes.c_int8 * n)(*[i >= first for i in range(n)]))
        status = self.lib.llama_decode(self.state, batch)
        if status != 0:
            raise OSError(f"llama_decode gives {status}")
        self.filled += n
        rows = self.lib.llama_get_logits(self.state)
        return np.ctypeslib.as_array(rows, shape=(n - first, self.size)).copy()

    def ends(self, token):
        """Whether a token ends a text."""
        return self.lib.llama_vocab_is_eog(self.vocab, token)

    def greedy(self, ids, count):
        """The likeliest continuation, and how far each token's logit was ahead."""
        out, margins = [], []
        row = self.logits(ids, first=len(ids) - 1)[-1]
        while True:
            best = int(row.argmax())
            second = np.partition(row, -2)[-2]
            if self.ends(best):
                return out, margins
            out.append(best)
            margins.append(float(row[best] - second))
            if len(out) == count:
                return out, margins
            row = self.logits([best], keep=True)[-1]

    def perplexity(self, text, chunks=0):
        """Perplexity of a text, its standard error and the number of chunks."""
        return self.perplexity_of_ids(self.tokenize(text), chunks)

    def perplexity_of_ids(self, ids, chunks=0):
        """Perplexity of token ids (a NumPy array), its standard error and the number of chunks.

        The text is cut into chunks of the context; each starts over, its first
        token replaced by the begin token where the model adds one, and the
        second half of it is scored.
        """
        n, first = self.context, self.context // 2
        total = len(ids) // n
        if chunks:
            total = min(total, chunks)
        if total == 0:
            raise ValueError(f"{len(ids)} tokens make no chunk of {n}")
        losses = []
        for c in range(total):
            chunk = ids[c * n:(c + 1) * n].copy()
            if self.adds_bos:
                chunk[0] = self.bos
            rows = self.logits(chunk, first=first)[:-1]
            for at in range(0, len(rows), 64):  # a large vocabulary in float64 would be gigabytes
                part = rows[at:at + 64].astype(np.float64)
                top = part.max(axis=1)
                norm = top + np.log(np.exp(part - top[:, None]).sum(axis=1))
                losses.append(norm - part[np.arange(len(part)), chunk[first + 1 + at:][:len(part)]])
        losses = np.concatenate(losses)
        value = math.exp(losses.mean())
        return value, value * losses.std() / math.sqrt(len(losses) - 1), total
