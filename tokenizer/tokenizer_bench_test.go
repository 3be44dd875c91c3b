package tokenizer_test

import (
	"os"
	"testing"

	"llmc/internal/testdata"
	"llmc/tokenizer"
)

func BenchmarkEncode(b *testing.B) {
	text, err := os.ReadFile(testdata.Shared(b, "texts/wiki.test.raw"))
	if err != nil {
		b.Fatal(err)
	}
	for name, load := range map[string]func(testing.TB) *tokenizer.Tokenizer{
		"gpt-2": func(t testing.TB) *tokenizer.Tokenizer {
			return vocabFile(t, testdata.Shared(t, "vectors/ggml-vocab-gpt-2.gguf"))
		},
		"starcoder": func(t testing.TB) *tokenizer.Tokenizer {
			return vocabFile(t, testdata.Shared(t, "vectors/ggml-vocab-starcoder.gguf"))
		},
		"llama-spm": func(t testing.TB) *tokenizer.Tokenizer {
			return vocabFile(t, testdata.Shared(t, "vectors/ggml-vocab-llama-spm.gguf"))
		},
		"prose-6m": func(t testing.TB) *tokenizer.Tokenizer { return jsonFile(t, testdata.Shared(t, "models/prose-6m")) },
		"tinystories": func(t testing.TB) *tokenizer.Tokenizer {
			return jsonFile(t, testdata.Shared(t, "models/tinystories-656k"))
		},
	} {
		b.Run(name, func(b *testing.B) {
			t := load(b)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				t.Encode(string(text), false, false)
			}
		})
	}
}
