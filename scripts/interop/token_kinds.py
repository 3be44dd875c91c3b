"""Tokenizers of every kind, trained here and compared with the tokenizers package.

Small vocabularies are trained on the demo model's corpus and on random text of
mixed scripts, one for each pre-tokenizer, normalizer and model that tokenizer.json
files carry. llmc must give the package's ids for other random text, with
special and added tokens in it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import common
from token_ids import random_text

FOLD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORD = r"[^\r\n\p{L}\p{N}]?"
EXPRESSIONS = {
    "llama3": [FOLD + "|" + WORD + r"\p{L}+|\p{N}{1,3}|" + END],
    "qwen2": [FOLD + "|" + WORD + r"\p{L}+|\p{N}|" + END],
    "gpt-4o": [WORD + UPPER + "*" + LOWER + "+" + FOLD + "?|" + WORD + UPPER + "+" + LOWER + "*" + FOLD + r"?|\p{N}{1,3}"
               r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "possessive": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "look-ahead": [r"\d{1,3}(?=(?:\d{3})*\b)", r"\p{L}+|\s+|[^\p{L}\s]"],
    "loop": [FOLD + "|" + WORD + r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
    "nested class": [" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001])]+"],
}
BEHAVIORS = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]
MARK = "\u2581"


def byte_level(pre, normalizer=None):
    """A byte-level vocabulary behind a list of pre-tokenizers."""
    def train(texts):
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.Sequence(pre)
        t.decoder = decoders.ByteLevel()
        if normalizer:
            t.normalizer = normalizer
        t.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|begin|>", "<|end|>"], show_progress=False))
        t.add_tokens([AddedToken("the_", lstrip=True, normalized=False), AddedToken("IS", single_word=True)])
        t.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A <|end|>", special_tokens=[("<|begin|>", 0), ("<|end|>", 1)])
        return t
    return train


def marked(pre=None, normalizer=None, byte_fallback=True, fuse_unk=True, **options):
    """A vocabulary that marks spaces, as SentencePiece's do."""
    def train(texts):
        t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=byte_fallback, fuse_unk=fuse_unk, **options))
        if normalizer:
            t.normalizer = normalizer
        if pre:
            t.pre_tokenizer = pre
        special = ["<unk>", "<s>"] + [f"<0x{b:02X}>" for b in range(256) if byte_fallback]
        words = (w for text in texts for w in text[:50000].split(" "))
        t.train_from_iterator(words if pre is None else texts,
                              trainers.BpeTrainer(vocab_size=1200, special_tokens=special, show_progress=False, **options))
        file = json.loads(t.to_str())
        file["added_tokens"] = file["added_tokens"][:2]  # byte tokens are not looked for in text
        return Tokenizer.from_str(json.dumps(file))
    return train


def unigram(texts):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(texts[0].split("\n"),
                          trainers.UnigramTrainer(vocab_size=1200, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return t


def kinds():
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = pre_tokenizers.Split
    for name, steps in EXPRESSIONS.items():
        yield name, byte_level([split(Regex(s), "isolated") for s in steps] + [bytes_only])
    yield "gpt-2", byte_level([gpt2])
    yield "gpt-2, prefix", byte_level([pre_tokenizers.ByteLevel(add_prefix_space=True)])
    yield "digits", byte_level([pre_tokenizers.Digits(True), gpt2])
    yield "falcon", byte_level([pre_tokenizers.Punctuation("contiguous"), gpt2, pre_tokenizers.Digits(False), split(Regex("[0-9][0-9][0-9]"), "isolated")])
    for behavior in BEHAVIORS:
        for invert in (False, True):
            yield f"{behavior}{', inverted' if invert else ''}", byte_level(
                [split(Regex(r"[\s\d]"), behavior, invert), split("e", behavior, invert), bytes_only])
    yield "nfkc, lower case, words", byte_level([pre_tokenizers.Whitespace(), bytes_only], normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]))
    yield "nfd, no accents", byte_level([pre_tokenizers.WhitespaceSplit(), bytes_only], normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents()]))
    yield "bert", byte_level([pre_tokenizers.BertPreTokenizer(), bytes_only], normalizers.BertNormalizer())
    whole = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    yield "llama", marked(None, whole)
    yield "llama, no bytes", marked(None, whole, byte_fallback=False)
    yield "llama, unknown apart", marked(None, whole, byte_fallback=False, fuse_unk=False)
    for scheme in ("always", "first", "never"):
        yield f"metaspace {scheme}", marked(pre_tokenizers.Metaspace(MARK, scheme))
    yield "word ends", marked(pre_tokenizers.WhitespaceSplit(), byte_fallback=False, end_of_word_suffix="</w>")
    yield "word parts", marked(pre_tokenizers.WhitespaceSplit(), byte_fallback=False, continuing_subword_prefix="##")
    yield "unigram", unigram


def main():
    checks = common.Checks()
    demo = common.ROOT / "demo" / "model"
    corpus = subprocess.run(["go", "run", "./scripts/demo/corpus", "-part", "heldout"], cwd=common.ROOT,
                            capture_output=True, check=True, text=True).stdout
    training = [corpus[:300000]] + [random_text(seed, 400) for seed in range(100, 150)]
    text = random_text(7, 6000) + " <|begin|>the  the_IS this IS\n" + corpus[-30000:]
    with common.workdir() as folder:
        work = Path(folder)
        for name in ("config.json", "model.safetensors"):
            shutil.copy(demo / name, work / name)
        file = work / "text.txt"
        file.write_bytes(text.encode())
        for name, train in kinds():
            tokenizer = train(training)
            tokenizer.save(str(work / "tokenizer.json"))
            for flags, special in ((["--no-bos"], False), ([], True)):
                # llmc takes special tokens in a text for text.
                tokenizer.encode_special_tokens = True
                want = tokenizer.encode(text, add_special_tokens=special).ids
                got = [t["id"] for t in common.llmc_json("tokenize", work, "--text", file, *flags)["tokens"]]
                checks.same_ids(f"{name}{', special tokens' if special else ''}", got, want)
    checks.done()


if __name__ == "__main__":
    sys.exit(main())
