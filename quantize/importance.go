package quantize

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"llmc/calibrate"
	"llmc/formats"
	"llmc/formats/imatrix"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Importance is the mean square of the inputs of linears (Inputs.MeanSquare
// and Inputs.Tokens), which the searches for scales weigh errors with:
// llama.cpp's importance matrix. A tied embedding has the head's.
type Importance map[model.ID]*Inputs

// ReadImportance matches a file's entries with the linears of w. A file that
// names other tensors, lacks a linear of a block, or has entries of another
// length was made of another model, and is refused. Experts that no token of the
// file's text reached weigh all inputs alike, as llama.cpp has it.
func ReadImportance(w *model.Weights, f *imatrix.File) (Importance, error) {
	m := Importance{}
	family, left := w.Config.Family, len(f.Entries)
	var mean []float32 // of an entry, whose experts follow each other
	for _, id := range w.Config.IDs() {
		if !id.Role.IsMatrix() || id.Bias {
			continue
		}
		name := family.TensorName(formats.GGUF, id)
		at, found := slices.BinarySearchFunc(f.Entries, name, func(e imatrix.Entry, name string) int { return strings.Compare(e.Name, name) })
		if !found {
			if id.Block < 0 || id.Role.IsRouter() {
				continue // llama-imatrix leaves the head out unless told otherwise
			}
			return nil, otherModel("it has no entry for %s", name)
		}
		e, cols, matrices, expert := &f.Entries[at], w.Config.Shape(id)[1], 1, max(id.Expert.Index(), 0)
		if id.Expert != model.NoExpert {
			matrices = w.Config.Experts.Count
		}
		// The older form has one count for all experts.
		if len(e.Sums) != cols*matrices || len(e.Counts) != matrices && len(e.Counts) != 1 {
			return nil, otherModel("%s has %d columns, its entry %d numbers for %d matrices", name, cols, len(e.Sums), len(e.Counts))
		}
		if expert == 0 {
			mean = e.Mean()
			left--
		}
		count := e.Counts[min(expert, len(e.Counts)-1)]
		m[id] = &Inputs{Tokens: int(min(count, math.MaxInt32)), MeanSquare: mean[expert*cols:][:cols]}
	}
	if left == 0 {
		return m, nil
	}
	for _, e := range f.Entries {
		id, ok := family.ParseName(formats.GGUF, e.Name)
		if _, used := m[id]; !ok || !used {
			return nil, otherModel("the model has no matrix %.80q", e.Name)
		}
	}
	return m, nil
}

func otherModel(format string, args ...any) error {
	return fault.Hint(fault.Invalid("the importance matrix is of another model: "+format, args...),
		"gather one of this model with --save-imatrix FILE --calibration TEXT")
}

// File returns the importance as a file would have it; text is what it was
// gathered on, in windows of a number of tokens.
func (m Importance) File(w *model.Weights, text string, windows, tokens int) *imatrix.File {
	f := &imatrix.File{Chunks: windows, ChunkSize: tokens, Datasets: []string{text}}
	for _, id := range w.Config.IDs() {
		in, ok := m[id]
		if !ok {
			continue
		}
		if id.Expert.Index() <= 0 {
			f.Entries = append(f.Entries, imatrix.Entry{Name: w.Config.Family.TensorName(formats.GGUF, id)})
		} // else one more expert of the entry before
		e := &f.Entries[len(f.Entries)-1]
		e.Counts = append(e.Counts, int64(in.Tokens))
		for _, v := range in.MeanSquare {
			e.Sums = append(e.Sums, float32(float64(v)*float64(in.Tokens)))
		}
	}
	slices.SortFunc(f.Entries, func(a, b imatrix.Entry) int { return strings.Compare(a.Name, b.Name) })
	return f
}

// Uncovered counts the linears of experts that saw no token, so that all tokens
// were run through them.
func (m Importance) Uncovered() int {
	n := 0
	for _, in := range m {
		if in.Uncovered() != "" {
			n++
		}
	}
	return n
}

// SetImportance makes the run weigh errors, in methods that need no
// calibration of their own.
func (r *Run) SetImportance(m Importance) { r.importance = m }

// GatherImportance takes windows of token ids through the model as it is and
// returns the importance of its linears and its head. o comes from
// ImportanceOptions.
func GatherImportance(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, o calibrate.Options) (Importance, error) {
	m := Importance{}
	err := calibrate.Walk(ctx, dev, w, windows, o, func(_ context.Context, block int, roles []model.Role, in *Inputs) error {
		for _, role := range roles {
			id := model.ID{Role: role, Block: block, Expert: in.Expert}
			if role == model.Head && w.Config.Tied {
				id.Role = model.Embed
			}
			m[id] = &Inputs{Expert: in.Expert, Routed: in.Routed, Tokens: in.Tokens, MeanSquare: in.MeanSquare}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("gathering an importance matrix: %w", err)
	}
	return m, nil
}

// ImportanceOptions is what a walk has to gather for GatherImportance.
func ImportanceOptions() calibrate.Options {
	return calibrate.Options{Final: true, Unchanged: true}
}
