// Package safetensors reads and writes single safetensors files, the format of
// https://github.com/huggingface/safetensors: eight bytes that hold the
// header's length, a JSON header, and the tensors' data without gaps.
//
// [Open] maps a file and checks its header; [Create] begins a file from the
// list of what it will hold.
package safetensors

import (
	"encoding/binary"
	"math"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/internal/fault"
)

const (
	// maxHeader is the limit that the reference implementation sets.
	maxHeader = 100_000_000
	// maxMetadata bounds what takes far more memory than its text.
	maxMetadata = 1 << 16
	// maxDims keeps shapes from costing more memory than their text does.
	maxDims = 8

	metadataKey = "__metadata__"
)

// File is an open safetensors file. Nothing but the header has been read.
type File struct {
	Path     string
	Tensors  []raw.Tensor      // in the order of their data
	Metadata map[string]string // nil when there is none
	Size     int64             // of the whole file, in bytes

	mapping *raw.Mapping
}

// Open maps a file and checks that its header describes every byte of it.
// A damaged file is an error of the kind fault.InvalidFile that names the
// tensor and the bytes.
func Open(path string) (*File, error) {
	m, err := raw.Map(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(path, m.Data)
	if err != nil {
		m.Close()
		return nil, err
	}
	f.mapping = m
	return f, nil
}

// Parse reads a file that is in memory; path is only for errors. Tensors are
// views into data.
func Parse(path string, data []byte) (*File, error) {
	f := &File{Path: path, Size: int64(len(data))}
	if len(data) < 8 {
		return nil, fault.Invalid("%s has %d bytes, a safetensors header needs at least 8", path, len(data))
	}
	length := binary.LittleEndian.Uint64(data)
	switch {
	case length > uint64(len(data)-8):
		return nil, fault.Invalid("%s says its header has %d bytes, %d are left in the file", path, length, len(data)-8)
	case length > maxHeader:
		return nil, fault.Invalid("%s says its header has %d bytes, at most %d are allowed", path, length, maxHeader)
	}
	h := header{file: f, text: data[8 : 8+length]}
	if err := h.parse(); err != nil {
		return nil, fault.Invalid("%s: the header is not valid: %w", path, err)
	}
	if err := h.place(data[8+length:]); err != nil {
		return nil, fault.Invalid("%s: %w", path, err)
	}
	return f, nil
}

// Close releases the file's memory. The tensors' data must not be used after.
func (f *File) Close() error {
	if f.mapping == nil {
		return nil
	}
	return f.mapping.Close()
}

// types are the number formats that the header may name.
var types = func() map[string]dtype.Type {
	m := map[string]dtype.Type{}
	for t := dtype.F64; t <= dtype.Bool; t++ {
		m[t.String()] = t
	}
	return m
}()

// sizeOf is the number of bytes of a tensor, and false when no file can hold it.
func sizeOf(t dtype.Type, shape []int) (int, bool) {
	n := t.BlockBytes()
	empty := false
	for _, d := range shape {
		if d == 0 {
			empty = true
			continue
		}
		if n > math.MaxInt/d {
			return 0, false
		}
		n *= d
	}
	if empty {
		return 0, true
	}
	return n, true
}
