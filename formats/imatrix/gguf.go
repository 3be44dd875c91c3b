package imatrix

import (
	"encoding/binary"
	"io"
	"math"
	"strings"

	"llmc/dtype"
	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/internal/fault"
)

// The metadata and the endings of the tensors' names.
const (
	typeKey      = "general.type"
	typeName     = "imatrix"
	datasetsKey  = "imatrix.datasets"
	chunksKey    = "imatrix.chunk_count"
	chunkSizeKey = "imatrix.chunk_size"

	sumsEnding   = ".in_sum2"
	countsEnding = ".counts"
)

func parseGGUF(path string, data []byte) (*File, error) {
	g, err := gguf.Parse(path, data)
	if err != nil {
		return nil, err
	}
	if kind, ok := g.Meta.String(typeKey); ok && kind != typeName {
		return nil, fault.Invalid("%s is a GGUF file of the type %q, an importance matrix has %q", path, kind, typeName)
	}
	f := &File{}
	f.Datasets, _ = g.Meta.Strings(datasetsKey)
	f.Chunks = smallUint(g.Meta, chunksKey)
	f.ChunkSize = smallUint(g.Meta, chunkSizeKey)
	at := map[string]int{}
	entry := func(name string) *Entry {
		i, ok := at[name]
		if !ok {
			i = len(f.Entries)
			at[name] = i
			f.Entries = append(f.Entries, Entry{Name: name})
		}
		return &f.Entries[i]
	}
	for _, t := range g.Tensors {
		name, isSums := strings.CutSuffix(t.Name, sumsEnding)
		stem, isCounts := strings.CutSuffix(t.Name, countsEnding)
		if !isSums && !isCounts {
			return nil, fault.Invalid("%s: the tensor %q is not of an importance matrix, whose names end in %s and %s", path, t.Name, sumsEnding, countsEnding)
		}
		if t.Type != dtype.F32 {
			return nil, fault.Invalid("%s: the tensor %q is %s, allowed is F32", path, t.Name, t.Type)
		}
		if isSums {
			entry(name).Sums = floats(t.Data)
			continue
		}
		e := entry(stem)
		for i, v := range floats(t.Data) {
			if !(v >= 0 && v < 1<<62) {
				return nil, fault.Invalid("%s: the tensor %q holds %v at %d, allowed are counts", path, t.Name, v, i)
			}
			e.Counts = append(e.Counts, int64(math.Round(float64(v))))
		}
	}
	if len(f.Entries) == 0 {
		return nil, fault.Invalid("%s is a GGUF file without entries of an importance matrix", path)
	}
	return f, nil
}

// smallUint is a number of the metadata, 0 when it is absent or beyond use.
func smallUint(m *gguf.Metadata, key string) int {
	if v, ok := m.Uint(key); ok && v <= math.MaxInt32 {
		return int(v)
	}
	return 0
}

func floats(data []byte) []float32 {
	values := make([]float32, len(data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return values
}

func floatBytes(values []float32) []byte {
	data := make([]byte, 0, 4*len(values))
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	return data
}

// Write writes the GGUF form.
func (f *File) Write(w io.Writer) error {
	datasets := f.Datasets
	if datasets == nil {
		datasets = []string{}
	}
	meta := &gguf.Metadata{}
	for _, pair := range []struct {
		key   string
		value any
	}{
		{typeKey, typeName}, {datasetsKey, datasets},
		{chunksKey, uint32(f.Chunks)}, {chunkSizeKey, uint32(f.ChunkSize)},
	} {
		if err := meta.Set(pair.key, pair.value); err != nil {
			return err
		}
	}
	var tensors []raw.Tensor
	for _, e := range f.Entries {
		counts := make([]float32, len(e.Counts))
		for i, n := range e.Counts {
			counts[i] = float32(n)
		}
		sumsShape, countsShape := []int{len(e.Sums)}, []int{1}
		if n := len(counts); n > 1 { // ggml does not write dimensions of 1 on the outside
			sumsShape, countsShape = []int{n, len(e.Sums) / n}, []int{n, 1}
		}
		tensors = append(tensors,
			raw.Tensor{Name: e.Name + sumsEnding, Type: dtype.F32, Shape: sumsShape, Data: floatBytes(e.Sums)},
			raw.Tensor{Name: e.Name + countsEnding, Type: dtype.F32, Shape: countsShape, Data: floatBytes(counts)})
	}
	out, err := gguf.Create(w, meta, tensors)
	if err != nil {
		return err
	}
	for _, t := range tensors {
		if err := out.WriteTensor(t.Data); err != nil {
			return err
		}
	}
	return out.Close()
}
