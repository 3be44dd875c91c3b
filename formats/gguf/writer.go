package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"llmc/formats/raw"
)

// maxTensorName is one less than GGML_MAX_NAME: llama.cpp refuses longer names.
const maxTensorName = 63

// Writer writes a file whose contents were planned. Its methods are not for
// use by several goroutines at once.
type Writer struct {
	w         io.Writer
	tensors   []raw.Tensor
	sizes     []int64
	alignment uint64
	next      int
}

// Create writes the header, version 3, for tensors of which name, type and
// shape are given (Data is not looked at). Their data is to be written in the
// same order. The data is aligned as general.alignment says, to 32 bytes
// without it.
func Create(w io.Writer, meta *Metadata, tensors []raw.Tensor) (*Writer, error) {
	alignment, err := alignmentOf(meta)
	if err != nil {
		return nil, err
	}
	out := &Writer{w: w, tensors: tensors, sizes: make([]int64, len(tensors)), alignment: alignment}
	if err := out.check(); err != nil {
		return nil, err
	}
	_, err = w.Write(out.header(meta))
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

// Size is the number of bytes that a tensor's data takes in a file, without
// the padding after it. The error says why a file cannot hold the tensor: its
// name, type or shape.
func Size(t raw.Tensor) (int64, error) {
	if t.Name == "" || len(t.Name) > maxTensorName || !utf8.ValidString(t.Name) {
		return 0, fmt.Errorf("%q cannot be a tensor's name in a GGUF file, which has 1 to %d bytes of UTF-8", t.Name, maxTensorName)
	}
	if _, ok := TypeNumber(t.Type); !ok {
		return 0, fmt.Errorf("tensor %q has type %s, which a GGUF file cannot hold", t.Name, t.Type)
	}
	if len(t.Shape) > maxDims {
		return 0, fmt.Errorf("tensor %q has %d dimensions, GGUF allows %d", t.Name, len(t.Shape), maxDims)
	}
	for _, d := range t.Shape {
		if d < 1 {
			return 0, fmt.Errorf("tensor %q has the shape %v", t.Name, t.Shape)
		}
	}
	size, err := sizeOf(t.Type, t.Shape)
	if err != nil {
		return 0, fmt.Errorf("tensor %q %w", t.Name, err)
	}
	return int64(size), nil
}

// header returns all bytes before the data, padding included.
func (w *Writer) header(meta *Metadata) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, 1<<16)
	b = append(b, magic...)
	b = le.AppendUint32(b, version)
	b = le.AppendUint64(b, uint64(len(w.tensors)))
	b = le.AppendUint64(b, uint64(meta.Len()))
	for _, key := range meta.keys {
		b = appendText(b, key)
		b = appendValue(b, meta.values[key])
	}
	var offset uint64
	for i, t := range w.tensors {
		b = appendText(b, t.Name)
		b = le.AppendUint32(b, uint32(len(t.Shape)))
		for j := range t.Shape {
			b = le.AppendUint64(b, uint64(t.Shape[len(t.Shape)-1-j]))
		}
		number, _ := TypeNumber(t.Type) // checked
		b = le.AppendUint32(b, number)
		b = le.AppendUint64(b, offset)
		offset = pad(offset+uint64(w.sizes[i]), w.alignment)
	}
	return append(b, make([]byte, pad(uint64(len(b)), w.alignment)-uint64(len(b)))...)
}

func appendText(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

// appendValue appends a value after its type number.
func appendValue(b []byte, value any) []byte {
	t, _ := typeOfValue(value) // Set has checked it
	b = binary.LittleEndian.AppendUint32(b, uint32(t))
	if t == typeArray {
		return appendArray(b, value)
	}
	return appendScalar(b, value)
}

func appendScalar(b []byte, value any) []byte {
	le := binary.LittleEndian
	switch v := value.(type) {
	case uint8:
		return append(b, v)
	case int8:
		return append(b, byte(v))
	case uint16:
		return le.AppendUint16(b, v)
	case int16:
		return le.AppendUint16(b, uint16(v))
	case uint32:
		return le.AppendUint32(b, v)
	case int32:
		return le.AppendUint32(b, uint32(v))
	case float32:
		return le.AppendUint32(b, math.Float32bits(v))
	case bool:
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case string:
		return appendText(b, v)
	case uint64:
		return le.AppendUint64(b, v)
	case int64:
		return le.AppendUint64(b, uint64(v))
	case float64:
		return le.AppendUint64(b, math.Float64bits(v))
	}
	return b
}

// appendArray appends an array's element type, length and elements.
func appendArray(b []byte, value any) []byte {
	t, _ := elementType(value)
	b = binary.LittleEndian.AppendUint32(b, uint32(t))
	switch v := value.(type) {
	case []uint8:
		return appendList(b, v)
	case []int8:
		return appendList(b, v)
	case []uint16:
		return appendList(b, v)
	case []int16:
		return appendList(b, v)
	case []uint32:
		return appendList(b, v)
	case []int32:
		return appendList(b, v)
	case []float32:
		return appendList(b, v)
	case []bool:
		return appendList(b, v)
	case []string:
		return appendList(b, v)
	case []uint64:
		return appendList(b, v)
	case []int64:
		return appendList(b, v)
	case []float64:
		return appendList(b, v)
	case []any:
		b = binary.LittleEndian.AppendUint64(b, uint64(len(v)))
		for _, inner := range v {
			b = appendArray(b, inner)
		}
	}
	return b
}

func appendList[T any](b []byte, list []T) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(list)))
	for _, v := range list {
		b = appendScalar(b, v)
	}
	return b
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
	if err := raw.Produce(w.w, w.sizes[i], produce); err != nil {
		return fmt.Errorf("tensor %q: %w", w.tensors[i].Name, err)
	}
	size := uint64(w.sizes[i])
	if padding := pad(size, w.alignment) - size; padding > 0 {
		_, err := w.w.Write(make([]byte, padding))
		return err
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
