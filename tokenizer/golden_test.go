package tokenizer_test

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"testing"

	"llmc/internal/testdata"
	"llmc/tokenizer"
)

// digest is the number of ids and a hash of them as little-endian 32-bit words.
func digest(ids []int32) string {
	h := fnv.New64a()
	for _, id := range ids {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(id)))
	}
	return fmt.Sprintf("%d %016x", len(ids), h.Sum64())
}

// TestWholeTexts compares with the ids of the tokenizers library 0.23.3, for
// the models, and of llama.cpp, for the vocabularies: both with their special
// tokens around the text.
func TestWholeTexts(t *testing.T) {
	for _, test := range []struct{ path, text, want string }{
		{"models/prose-6m", "wiki.test.raw", "453137 1de463ca52c7e2eb"},
		{"models/prose-6m", "prose-heldout-a.txt", "52524 e4f4fc1e44e38fa4"},
		{"models/tinystories-656k", "wiki.test.raw", "554432 e0a44768d448f1bd"},
		{"models/tinystories-656k", "tinystories-val-a.txt", "94873 c67aa0ed57f1cea4"},
		{"vectors/ggml-vocab-gpt-2.gguf", "wiki.test.raw", "286221 71dab1e5b175239c"},
		{"vectors/ggml-vocab-starcoder.gguf", "wiki.test.raw", "355915 148d47e8dbe23c20"},
		{"vectors/ggml-vocab-llama-spm.gguf", "wiki.test.raw", "335688 f4e002cf88b51111"},
		{"vectors/ggml-vocab-phi-3.gguf", "wiki.test.raw", "335688 f4e002cf88b51111"},
	} {
		t.Run(test.path+"/"+test.text, func(t *testing.T) {
			path := testdata.Shared(t, test.path)
			text, err := os.ReadFile(testdata.Shared(t, "texts/"+test.text))
			if err != nil {
				t.Fatal(err)
			}
			var tok *tokenizer.Tokenizer
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				tok = jsonFile(t, path)
			} else {
				tok = vocabFile(t, path)
			}
			if got := digest(tok.Encode(string(text), true, true)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
