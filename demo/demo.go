// Package demo is the built-in model: a small llama that was trained for this
// program on text that this program generates, so that every command has
// something real to work on where nothing was downloaded.
//
// Start with [Checkpoint] for the model, and with [EvalText] and
// [CalibrationText] for text that it was not trained on. README.md in this
// folder says how the model was made and how to make it again.
package demo

import (
	"embed"
	"fmt"
	"path"
	"sync"

	"llmc/demo/corpus"
	"llmc/formats"
)

// Name is what reports call the built-in model.
const Name = "demo"

// Sizes in bytes of the texts. The held-out text makes some 50,000 tokens:
// enough that the standard error of a perplexity is below a percent, little
// enough that an evaluation takes seconds.
const (
	evalSize        = 150_000
	calibrationSize = 200_000
)

//go:embed model
var files embed.FS

// Checkpoint opens the built-in model: a Hugging Face checkpoint in memory with
// bfloat16 weights, tokenizer and configuration. The caller closes it.
func Checkpoint() (*formats.Checkpoint, error) {
	entries, err := files.ReadDir("model")
	if err != nil {
		return nil, fmt.Errorf("reading the built-in model: %w", err)
	}
	contents := map[string][]byte{}
	for _, entry := range entries {
		// Slashes on every system: these are names inside the program.
		data, err := files.ReadFile(path.Join("model", entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the built-in model: %w", err)
		}
		contents[entry.Name()] = data
	}
	checkpoint, err := formats.FromMemory(contents)
	if err != nil {
		return nil, fmt.Errorf("opening the built-in model: %w", err)
	}
	checkpoint.Path = Name
	return checkpoint, nil
}

// EvalText returns held-out text: of the same kinds as the training text, from
// another seed. It is the same on every machine and in every run.
func EvalText() string { return evalText() }

// CalibrationText returns text of the training text's kinds for methods that
// look at a model's activations. It shares no seed with the training text, nor
// with [EvalText].
func CalibrationText() string { return calibrationText() }

var evalText = sync.OnceValue(func() string { return corpus.Text(corpus.HeldOutSeed, evalSize) })

var calibrationText = sync.OnceValue(func() string { return corpus.Text(corpus.CalibrationSeed, calibrationSize) })
