package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"llmc/dtype"
	"llmc/formats/raw"
)

// Writer writes a file whose contents were planned. Its methods are not for
// use by several goroutines at once.
type Writer struct {
	w       io.WriterAt
	tensors []raw.Tensor
	offsets []int64 // of each tensor in the file
	sizes   []int64
	next    int
}

// Create writes the header for tensors of which name, type and shape are given
// (Data is not looked at). Their data is to be written in the same order. In
// the file it lies in that order too, unless a tensor's offset would then not
// be a multiple of its type's size, which PyTorch cannot load; wide types come
// first in that case.
func Create(w io.WriterAt, tensors []raw.Tensor, metadata map[string]string) (*Writer, error) {
	out := &Writer{w: w, tensors: tensors, offsets: make([]int64, len(tensors)), sizes: make([]int64, len(tensors))}
	if err := out.check(); err != nil {
		return nil, err
	}
	order := out.layOut()
	header, err := out.header(order, metadata)
	if err != nil {
		return nil, err
	}
	for i := range out.offsets {
		out.offsets[i] += int64(len(header))
	}
	_, err = w.WriteAt(header, 0)
	return out, err
}

// check finds what the format cannot hold.
func (w *Writer) check() error {
	seen := make(map[string]bool, len(w.tensors))
	for i, t := range w.tensors {
		if seen[t.Name] {
			return fmt.Errorf("two tensors are called %q", t.Name)
		}
		seen[t.Name] = true
		var err error
		if w.sizes[i], err = Size(t); err != nil {
			return err
		}
	}
	return nil
}

// Size is the number of bytes that a tensor's data takes in a file. The error
// says why a file cannot hold the tensor: its name, type or shape.
func Size(t raw.Tensor) (int64, error) {
	if t.Name == metadataKey || !utf8.ValidString(t.Name) {
		return 0, fmt.Errorf("%q cannot be a tensor's name in a safetensors file", t.Name)
	}
	if types[t.Type.String()] == dtype.Invalid {
		return 0, fmt.Errorf("tensor %q has type %s, which a safetensors file cannot hold", t.Name, t.Type)
	}
	if len(t.Shape) > maxDims {
		return 0, fmt.Errorf("tensor %q has %d dimensions, up to %d are supported", t.Name, len(t.Shape), maxDims)
	}
	for _, d := range t.Shape {
		if d < 0 {
			return 0, fmt.Errorf("tensor %q has the shape %v", t.Name, t.Shape)
		}
	}
	size, ok := sizeOf(t.Type, t.Shape)
	if !ok {
		return 0, fmt.Errorf("tensor %q has the shape %v, which no file can hold", t.Name, t.Shape)
	}
	return int64(size), nil
}

// layOut gives each tensor its offset in the data and returns their order.
func (w *Writer) layOut() []int {
	order := make([]int, len(w.tensors))
	for i := range order {
		order[i] = i
	}
	if !w.assign(order) {
		slices.SortStableFunc(order, func(a, b int) int {
			return cmp.Compare(w.tensors[b].Type.BlockBytes(), w.tensors[a].Type.BlockBytes())
		})
		w.assign(order)
	}
	return order
}

// assign lays the tensors out in a given order and reports whether all of
// them are aligned.
func (w *Writer) assign(order []int) bool {
	aligned := true
	var offset int64
	for _, i := range order {
		aligned = aligned && offset%int64(w.tensors[i].Type.BlockBytes()) == 0
		w.offsets[i] = offset
		offset += w.sizes[i]
	}
	return aligned
}

// header returns all bytes before the data.
func (w *Writer) header(order []int, metadata map[string]string) ([]byte, error) {
	b := make([]byte, 8, 8+160*len(order)+64)
	b = append(b, '{')
	if len(metadata) > 0 {
		b = appendString(b, metadataKey)
		b = append(b, ':', '{')
		for i, key := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, key), ':')
			b = appendString(b, metadata[key])
		}
		b = append(b, '}')
	}
	for _, i := range order {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = w.appendEntry(b, i)
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ')
	}
	if len(b)-8 > maxHeader {
		return nil, fmt.Errorf("the header would have %d bytes, at most %d are allowed", len(b)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-8))
	return b, nil
}

func (w *Writer) appendEntry(b []byte, i int) []byte {
	t := &w.tensors[i]
	b = appendString(b, t.Name)
	b = fmt.Appendf(b, `:{"dtype":%q,"shape":[`, t.Type)
	for j, d := range t.Shape {
		if j > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(d), 10)
	}
	return fmt.Appendf(b, `],"data_offsets":[%d,%d]}`, w.offsets[i], w.offsets[i]+w.sizes[i])
}

// appendString appends a JSON string. A byte that is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if enc.Encode(s) != nil {
		return append(b, `""`...) // not reached: every string can be encoded
	}
	return append(b, bytes.TrimSpace(text.Bytes())...)
}

// WriteTensor writes the next tensor's data.
func (w *Writer) WriteTensor(data []byte) error {
	return w.StreamTensor(func(out io.Writer) error {
		_, err := out.Write(data)
		return err
	})
}

// StreamTensor writes the next tensor's data as produce makes it.
func (w *Writer) StreamTensor(produce func(io.Writer) error) error {
	if w.next == len(w.tensors) {
		return errors.New("more tensors are written than were planned")
	}
	i := w.next
	w.next++
	out := io.NewOffsetWriter(w.w, w.offsets[i])
	if err := raw.Produce(out, w.sizes[i], produce); err != nil {
		return fmt.Errorf("tensor %q: %w", w.tensors[i].Name, err)
	}
	return nil
}

// Close checks that all tensors were written. It does not close the file.
func (w *Writer) Close() error {
	if w.next < len(w.tensors) {
		return fmt.Errorf("%d of %d tensors were written", w.next, len(w.tensors))
	}
	return nil
}
