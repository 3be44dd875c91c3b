// Package gguf reads and writes GGUF, the format of llama.cpp
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): typed metadata,
// a list of tensors, and their data, each aligned.
//
// [Open] maps a file, or all parts of a split one, and checks its header;
// [Create] begins a file from its metadata and the list of what it will hold.
package gguf

import (
	"encoding/binary"

	"llmc/formats/raw"
	"llmc/internal/fault"
)

const (
	magic            = "GGUF"
	version          = 3 // what is written; 2 is the same as far as llmc goes
	defaultAlignment = 32
	alignmentKey     = "general.alignment"

	// The limits below are far beyond what is in use. They bound the memory of
	// what takes more of it than of the file.
	maxKeys   = 1 << 16
	maxKey    = 1<<16 - 1 // the specification's limit
	maxDims   = 4
	maxDepth  = 4
	maxNested = 1 << 16
)

// File is an open GGUF file, or all parts of a split one.
type File struct {
	Path    string // of the first part
	Version uint32
	Meta    *Metadata    // of the first part, without the keys of the split
	Tensors []raw.Tensor // shapes outermost first: the reverse of the file's
	Parts   []string     // the paths of all parts, one for a file that is not split
	Size    int64        // of all parts, in bytes

	mappings []*raw.Mapping
}

// Open maps a file and checks its header. Given any part of a split file, it
// opens all of them. Damaged files and those of version 1 or of big-endian
// machines are errors of the kind fault.InvalidFile, which name the tensor or
// metadata key and the bytes.
func Open(path string) (*File, error) {
	f := &File{}
	if err := f.open(path); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *File) open(path string) error {
	first, err := f.part(path)
	if err != nil {
		return err
	}
	s, err := splitOf(path, first.meta)
	if err != nil {
		return fault.Invalid("%s: %w", path, err)
	}
	if s == nil {
		f.take(path, first)
		return nil
	}
	return f.join(s, path, first)
}

// Parse reads a file that is in memory and not split; path is only for errors.
// Tensors are views into data.
func Parse(path string, data []byte) (*File, error) {
	p, err := parsePart(path, data)
	if err != nil {
		return nil, err
	}
	if count, ok := p.meta.Uint(splitCountKey); ok && count > 1 {
		return nil, fault.Invalid("%s is one of %d parts of a split file, which cannot be read from memory", path, count)
	}
	f := &File{Size: int64(len(data))}
	f.take(path, p)
	return f, nil
}

func (f *File) take(path string, p *part) {
	f.Path, f.Parts = path, []string{path}
	f.Version, f.Meta, f.Tensors = p.version, p.meta, p.tensors
}

// part maps and parses one file.
func (f *File) part(path string) (*part, error) {
	m, err := raw.Map(path)
	if err != nil {
		return nil, err
	}
	f.mappings = append(f.mappings, m)
	f.Size += int64(len(m.Data))
	return parsePart(path, m.Data)
}

// Close releases the file's memory. The tensors' data must not be used after.
func (f *File) Close() error {
	var first error
	for _, m := range f.mappings {
		if err := m.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// part is what one file holds.
type part struct {
	version uint32
	meta    *Metadata
	tensors []raw.Tensor
}

func parsePart(path string, data []byte) (*part, error) {
	p, err := parseHeader(data)
	if err != nil {
		return nil, fault.Invalid("%s: %w", path, err)
	}
	return p, nil
}

func parseHeader(data []byte) (*part, error) {
	r := &reader{data: data}
	tensors, keys, p, err := r.preamble()
	if err != nil {
		return nil, err
	}
	if p.meta, err = r.metadata(keys); err != nil {
		return nil, err
	}
	alignment, err := alignmentOf(p.meta)
	if err != nil {
		return nil, err
	}
	infos, err := r.infos(tensors)
	if err != nil {
		return nil, err
	}
	p.tensors, err = place(infos, data, pad(uint64(r.pos), alignment), alignment)
	return p, err
}

func pad(n, alignment uint64) uint64 {
	return (n + alignment - 1) &^ (alignment - 1)
}

func alignmentOf(m *Metadata) (uint64, error) {
	value, ok := m.Get(alignmentKey)
	if !ok {
		return defaultAlignment, nil
	}
	a, ok := value.(uint32)
	if !ok {
		return 0, fault.Invalid("%s is a %T, allowed is a uint32", alignmentKey, value)
	}
	if a < 8 || a&(a-1) != 0 {
		return 0, fault.Invalid("%s is %d, allowed is a power of two from 8 up", alignmentKey, a)
	}
	return uint64(a), nil
}

// preamble reads magic, version and the two counts.
func (r *reader) preamble() (tensors, keys uint64, p *part, err error) {
	if len(r.data) < 24 {
		return 0, 0, nil, fault.Invalid("the file has %d bytes, a GGUF header needs at least 24", len(r.data))
	}
	if got := string(r.data[:4]); got != magic {
		return 0, 0, nil, fault.Invalid("the file begins with %q, a GGUF file with %q", got, magic)
	}
	v := binary.LittleEndian.Uint32(r.data[4:])
	switch {
	case v == 1:
		return 0, 0, nil, fault.Hint(fault.Invalid("GGUF version 1 is not supported, versions 2 and 3 are"), "convert the original model again")
	case v&0xffff == 0 && v != 0:
		return 0, 0, nil, fault.Hint(fault.Invalid("the file was made for a big-endian machine, which is not supported"), "convert the original model again")
	case v != 2 && v != 3:
		return 0, 0, nil, fault.Invalid("GGUF version %d is not supported, versions 2 and 3 are", v)
	}
	tensors = binary.LittleEndian.Uint64(r.data[8:])
	keys = binary.LittleEndian.Uint64(r.data[16:])
	r.pos = 24
	if keys > maxKeys {
		return 0, 0, nil, fault.Invalid("the file says it has %d metadata keys, up to %d are allowed", keys, maxKeys)
	}
	return tensors, keys, &part{version: v}, nil
}
