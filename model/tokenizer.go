package model

import (
	"errors"
	"io/fs"

	"llmc/formats"
	"llmc/internal/fault"
	"llmc/tokenizer"
)

// OpenTokenizer returns the tokenizer of a checkpoint, from tokenizer.json or
// from GGUF metadata.
func OpenTokenizer(c *formats.Checkpoint) (*tokenizer.Tokenizer, error) {
	if c.Kind == formats.GGUF {
		vocab, err := tokenizer.ReadVocab(c.Meta)
		if err != nil {
			return nil, err
		}
		return tokenizer.FromVocab(vocab)
	}
	text, err := c.Companion("tokenizer.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Hint(fault.Invalid("%s has no tokenizer.json", c.Path),
			"transformers' save_pretrained of a fast tokenizer writes it")
	}
	if err != nil {
		return nil, err
	}
	config, err := c.Companion("tokenizer_config.json")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return tokenizer.FromJSON(text, config)
}
