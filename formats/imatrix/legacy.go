package imatrix

import (
	"encoding/binary"
	"io"
	"slices"

	"llmc/internal/fault"
)

// The older form, little-endian, numbers int32: the number of entries; for each
// its name (length, bytes), calls, number of values, and these as float32: mean
// squares times calls. What follows may be missing: calls in all, and the name
// of the text. A call was a window once.

// legacyReader walks through a file. It takes memory only for what it has
// seen.
type legacyReader struct {
	data []byte
	pos  int
}

// take returns the next n bytes of what.
func (r *legacyReader) take(n int64, what string) ([]byte, error) {
	if left := int64(len(r.data) - r.pos); n < 0 || n > left {
		return nil, fault.Invalid("%s at byte %d has %d bytes, the file has %d more", what, r.pos, n, left)
	}
	b := r.data[r.pos:][:n]
	r.pos += int(n)
	return b, nil
}

func (r *legacyReader) int32(what string) (int32, error) {
	b, err := r.take(4, what)
	if err != nil {
		return 0, err
	}
	return int32(binary.LittleEndian.Uint32(b)), nil
}

func (r *legacyReader) text(what string) (string, error) {
	n, err := r.int32("the length of " + what)
	if err != nil {
		return "", err
	}
	b, err := r.take(int64(n), what)
	return string(b), err
}

func parseLegacy(path string, data []byte) (*File, error) {
	r := &legacyReader{data: data}
	f, err := r.file()
	if err != nil {
		return nil, fault.Invalid("%s is not an importance matrix: %w", path, err)
	}
	return f, nil
}

func (r *legacyReader) file() (*File, error) {
	count, err := r.int32("the number of entries")
	if err != nil {
		return nil, err
	}
	if count < 1 {
		return nil, fault.Invalid("it says it has %d entries, allowed is 1 and more", count)
	}
	f := &File{}
	for range count {
		e, err := r.entry()
		if err != nil {
			return nil, err
		}
		f.Entries = append(f.Entries, e)
	}
	if r.pos == len(r.data) {
		return f, nil
	}
	calls, err := r.int32("the number of calls")
	if err != nil {
		return nil, err
	}
	f.Chunks = int(max(calls, 0))
	if r.pos == len(r.data) {
		return f, nil
	}
	dataset, err := r.text("the name of the text")
	if err == nil && dataset != "" {
		f.Datasets = []string{dataset}
	}
	return f, err
}

func (r *legacyReader) entry() (Entry, error) {
	var e Entry
	var err error
	if e.Name, err = r.text("the name of an entry"); err != nil {
		return e, err
	}
	calls, err := r.int32("the number of calls")
	if err != nil {
		return e, err
	}
	n, err := r.int32("the number of values")
	if err != nil {
		return e, err
	}
	values, err := r.take(4*int64(n), "the entry "+e.Name)
	if err != nil {
		return e, err
	}
	// Without calls the values are used as they are.
	e.Sums, e.Counts = floats(values), []int64{int64(max(calls, 1))}
	return e, nil
}

// WriteLegacy writes the older form. What it cannot say is lost: how many
// tokens each expert saw, and all names of texts but the last.
func (f *File) WriteLegacy(w io.Writer) error {
	le := binary.LittleEndian
	appendText := func(b []byte, s string) []byte {
		return append(le.AppendUint32(b, uint32(len(s))), s...)
	}
	b := le.AppendUint32(nil, uint32(len(f.Entries)))
	for i := range f.Entries {
		e := &f.Entries[i]
		calls := slices.Max(e.Counts)
		if size := int64(f.ChunkSize); size > 0 {
			calls = (calls + size - 1) / size
		}
		calls = max(calls, 1)
		b = appendText(b, e.Name)
		b = le.AppendUint32(b, uint32(calls))
		b = le.AppendUint32(b, uint32(len(e.Sums)))
		values := e.Mean()
		for i := range values {
			values[i] *= float32(calls)
		}
		b = append(b, floatBytes(values)...)
	}
	b = le.AppendUint32(b, uint32(f.Chunks))
	dataset := ""
	if n := len(f.Datasets); n > 0 {
		dataset = f.Datasets[n-1]
	}
	_, err := w.Write(appendText(b, dataset))
	return err
}
