package tokenizer_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"llmc/formats/gguf"
	"llmc/internal/testdata"
	"llmc/tokenizer"
)

// vocabFile loads the tokenizer of a GGUF file.
func vocabFile(t testing.TB, path string) *tokenizer.Tokenizer {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := tokenizer.ReadVocab(f.Meta)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromVocab(v)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// vectors reads llama.cpp's test vectors for a vocabulary: texts and their ids.
func vectors(t *testing.T, gguf string) (texts []string, ids [][]int32) {
	t.Helper()
	inp, err := os.ReadFile(gguf + ".inp")
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(gguf + ".out")
	if err != nil {
		t.Fatal(err)
	}
	texts = strings.Split(string(inp), "\n__ggml_vocab_test__\n")
	texts = texts[:len(texts)-1]
	for line := range strings.Lines(string(out)) {
		var want []int32
		for _, f := range strings.Fields(line) {
			id, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, int32(id))
		}
		ids = append(ids, want)
	}
	if len(texts) != len(ids) {
		t.Fatalf("%d texts, but %d lines of ids", len(texts), len(ids))
	}
	return texts, ids
}

func TestLlamaVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testdata.Shared(t, "vectors"), "*.gguf"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			tok := vocabFile(t, file)
			texts, want := vectors(t, file)
			for i, text := range texts {
				if got := tok.Encode(text, false, false); !slices.Equal(got, want[i]) {
					t.Errorf("%q: got %v, want %v", text, got, want[i])
				}
			}
		})
	}
}
