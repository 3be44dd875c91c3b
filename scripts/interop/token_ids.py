"""Token ids of random text, by llmc, the tokenizers package and llama.cpp.

The text mixes scripts, digits, spaces, marks and what people write. Models with
a tokenizer.json are compared with the tokenizers package and, converted to
GGUF, with llama.cpp; the vocabularies of the shared test vectors with llama.cpp.
"""

import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

import common

WORDS = """the of and to in is was for it with as his on be at by i had not are but from or have an they which one you
were all her she there would their we him been has when who will no more if out so said what up its about into than
them can only other time new some could these two may first then do any like my now over such our man me even most made
after also did many off before must well back through years where much your way down should because long each just
state people those too mr how good don't I'm we've they'll he's can't WOULD'VE Naïve café façade Übergröße""".split()
RANGES = [(0x20, 0x7E), (0xA1, 0x17F), (0x370, 0x3FF), (0x400, 0x45F), (0x5D0, 0x5EA), (0x620, 0x64A), (0x905, 0x939),
          (0xE01, 0xE2E), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0x1F600, 0x1F64F)]


def random_text(seed, pieces):
    rng = random.Random(seed)
    parts = []
    for _ in range(pieces):
        kind = rng.randrange(20)
        if kind < 11:
            word = rng.choice(WORDS)
            parts.append(rng.choice([" ", " ", " ", ""]) + rng.choice([word, word, word.capitalize(), word.upper()]))
        elif kind < 13:
            parts.append(rng.choice([" ", ""]) + str(rng.randrange(10 ** rng.randrange(1, 9))))
        elif kind < 16:
            parts.append(rng.choice([".", ",", "!", "...", " - ", "\"", "'", "(", ")", ": ", ";", "?!", " #", "@", "_", "'s", "/"]))
        elif kind < 18:
            parts.append(rng.choice([" ", "  ", "    ", "\n", "\n\n", " \n", "\t", "\n \n", "\r\n", "\u00a0", "\u3000"]))
        else:
            low, high = rng.choice(RANGES)
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5))))
    return "x" + "".join(parts) + "."


def llmc_ids(model, file):
    return [int(i) for i in common.llmc("tokenize", model, "--text", file).split()]


def main():
    checks = common.Checks()
    library = common.llamacpp()
    with common.workdir() as folder:
        work = Path(folder)
        file = work / "text.txt"
        text = random_text(1, 20000)
        file.write_bytes(text.encode())

        def against_llamacpp(name, path):
            with library.model(path, vocab_only=True) as theirs:
                checks.same_ids(f"{name}: llama.cpp", llmc_ids(path, file), theirs.tokenize(text))

        models = {"demo": common.ROOT / "demo" / "model", "prose-6m": common.shared("models/prose-6m"),
                  "tinystories-656k": common.shared("models/tinystories-656k")}
        for name, path in models.items():
            if path is None:
                checks.skip(name, "the shared models are not here")
                continue
            want = Tokenizer.from_file(str(path / "tokenizer.json")).encode(text).ids
            checks.same_ids(f"{name}: tokenizers", llmc_ids(path, file), want)
            converted = work / f"{name}.gguf"
            common.llmc("convert", path, "--to", "gguf", "-o", converted)
            against_llamacpp(name + " as GGUF", converted)
        vectors = common.shared("vectors")
        if vectors is None:
            checks.skip("vocabularies", "the shared test vectors are not here")
        for path in sorted(vectors.glob("*.gguf")) if vectors else []:
            against_llamacpp(path.stem, path)
    checks.done()


if __name__ == "__main__":
    sys.exit(main())
