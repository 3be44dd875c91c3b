package tokenizer_test

import (
	"os"
	"path/filepath"
	"testing"

	"llmc/tokenizer"
)

// jsonFile loads the tokenizer of a Hugging Face folder.
func jsonFile(t testing.TB, dir string) *tokenizer.Tokenizer {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromJSON(data, config)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}
