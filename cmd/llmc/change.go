package main

import (
	"context"

	"llmc/eval"
	"llmc/formats"
	"llmc/model"
)

// change is a model and what was made of it.
type change struct {
	path, out string // of the model, and of what was written; "" for nothing
	from      *formats.Checkpoint

	// Of what is in memory when nothing was written.
	weights *model.Weights
	label   string
	bytes   int64 // of all tensors
	scheme  string
}

// measure evaluates the model before and after.
func (c *change) measure(ctx context.Context, global *globalOptions, text eval.Text, window int) (*eval.Report, error) {
	paths := []string{c.path}
	if c.out != "" {
		paths = append(paths, c.out)
	}
	subjects, closeAll, err := loadSubjects(global.newDevice(), paths, false)
	defer closeAll()
	if err != nil {
		return nil, err
	}
	if c.out == "" {
		s, err := eval.LoadWeights(global.newDevice(), c.from, c.weights, c.label)
		if err != nil {
			return nil, err
		}
		s.SizeBytes, s.WeightBytes, s.Scheme = c.bytes, c.bytes, c.scheme
		subjects = append(subjects, s)
	}
	// What is written keeps the vocabulary, but a GGUF tokenizer may not give
	// every text the same tokens.
	opts := eval.Options{Context: window, Threads: global.threads, Progress: global.ui.progress, BaselineTokens: true}
	defer global.ui.closeProgress()
	return eval.Run(ctx, subjects, text, opts)
}
