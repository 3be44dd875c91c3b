// Package imatrix reads and writes importance matrices, llama.cpp's files of
// how large the inputs of each linear are: the sums of their squares over a
// text, channel by channel (tools/imatrix of llama.cpp is the specification).
//
// [Open] and [Parse] read both forms, GGUF and the older .dat; [File.Save]
// writes the one that the name asks for.
package imatrix

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"llmc/formats/raw"
	"llmc/internal/fault"
)

// File is an importance matrix.
type File struct {
	Entries   []Entry  // by name
	Datasets  []string // the texts it was gathered on
	Chunks    int      // windows of text
	ChunkSize int      // tokens of a window; 0 when the file does not say, as the older form
}

// Entry is what was seen of the inputs of one linear, or of one linear of each
// expert.
type Entry struct {
	Name   string    // the weight's in a GGUF model: "blk.0.attn_q.weight"
	Sums   []float32 // [len(Counts), in] sums of squared inputs
	Counts []int64   // tokens that were summed
}

// Mean returns the mean square of each input channel, [len(Counts), in]; it is
// 1 for experts that no token reached, as llama.cpp has it.
func (e *Entry) Mean() []float32 {
	mean := make([]float32, len(e.Sums))
	in := len(e.Sums) / max(len(e.Counts), 1)
	for i, sum := range e.Sums {
		mean[i] = 1
		if n := e.Counts[i/in]; n > 0 {
			mean[i] = sum / float32(n)
		}
	}
	return mean
}

// check refuses numbers that no inputs could have given.
func (e *Entry) check() error {
	switch {
	case e.Name == "":
		return fault.Invalid("an entry has no name")
	case len(e.Sums) == 0 || len(e.Counts) == 0:
		return fault.Invalid("the entry %q is empty", e.Name)
	case len(e.Sums)%len(e.Counts) != 0:
		return fault.Invalid("the entry %q has %d sums for %d counts, which do not divide them", e.Name, len(e.Sums), len(e.Counts))
	}
	for i, v := range e.Sums {
		if !(v >= 0 && v <= math.MaxFloat32) {
			return fault.Invalid("the entry %q holds %v at %d, allowed are finite numbers from zero", e.Name, v, i)
		}
	}
	return nil
}

// Open reads the file at path; see [Parse].
func Open(path string) (*File, error) {
	m, err := raw.Map(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no importance matrix %s", path)
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return Parse(path, m.Data)
}

// Parse reads a file of either form; path is only for errors. A damaged one is
// an error of the kind fault.InvalidFile.
func Parse(path string, data []byte) (*File, error) {
	parse := parseLegacy
	if len(data) >= 4 && string(data[:4]) == "GGUF" {
		parse = parseGGUF
	}
	f, err := parse(path, data)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(f.Entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	for i := range f.Entries {
		if err := f.Entries[i].check(); err != nil {
			return nil, fault.Invalid("%s: %w", path, err)
		}
		if i > 0 && f.Entries[i-1].Name == f.Entries[i].Name {
			return nil, fault.Invalid("%s: there are two entries %q", path, f.Entries[i].Name)
		}
	}
	return f, nil
}

// Save writes the file to path, whole or not at all: in the older form when
// the name ends in .dat, else as GGUF. An existing file is an error of the kind
// fault.UsageError unless force is set.
func (f *File) Save(path string, force bool) error {
	out, err := raw.CreateFile(path, force)
	if err != nil {
		return err
	}
	defer out.Abort()
	write := f.Write
	if IsLegacyName(path) {
		write = f.WriteLegacy
	}
	if err := write(out); err != nil {
		return err
	}
	return out.Commit()
}

// IsLegacyName reports whether Save writes the older form under a name.
func IsLegacyName(path string) bool { return strings.EqualFold(filepath.Ext(path), ".dat") }
