package gguf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"llmc/dtype"
	"llmc/formats/raw"
)

// reader walks through a header. It takes memory only for what it has seen
// enough bytes of.
type reader struct {
	data   []byte
	pos    int
	nested int // arrays within arrays so far
}

// take returns the next n bytes.
func (r *reader) take(n uint64) ([]byte, error) {
	if left := len(r.data) - r.pos; n > uint64(left) {
		return nil, fmt.Errorf("%d bytes are needed at byte %d, the file has %d more", n, r.pos, left)
	}
	b := r.data[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b, nil
}

func (r *reader) uint32() (uint32, error) {
	b, err := r.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (r *reader) uint64() (uint64, error) {
	b, err := r.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// text returns the next string's bytes.
func (r *reader) text() ([]byte, error) {
	n, err := r.uint64()
	if err != nil {
		return nil, err
	}
	return r.take(n)
}

// name reads a string that names something.
func (r *reader) name() (string, error) {
	b, err := r.text()
	switch {
	case err != nil:
		return "", err
	case len(b) == 0 || len(b) > maxKey:
		return "", fmt.Errorf("its name has %d bytes, allowed are 1 to %d", len(b), maxKey)
	case !utf8.Valid(b):
		return "", fmt.Errorf("its name %.40q is not UTF-8", b)
	}
	return string(b), nil
}

func (r *reader) metadata(count uint64) (*Metadata, error) {
	m := &Metadata{}
	for i := range count {
		key, err := r.name()
		if err != nil {
			return nil, fmt.Errorf("metadata key %d of %d: %w", i+1, count, err)
		}
		if m.Has(key) {
			return nil, fmt.Errorf("the metadata key %.200q appears twice", key)
		}
		value, err := r.value()
		if err != nil {
			return nil, fmt.Errorf("metadata key %.200q: %w", key, err)
		}
		m.set(key, value)
	}
	return m, nil
}

func (r *reader) valueType() (valueType, error) {
	t, err := r.uint32()
	if err == nil && t >= uint32(numValueTypes) {
		err = fmt.Errorf("the value has type %d, allowed are 0 to %d", t, numValueTypes-1)
	}
	return valueType(t), err
}

func (r *reader) value() (any, error) {
	t, err := r.valueType()
	if err != nil {
		return nil, err
	}
	if t == typeArray {
		return r.array(0)
	}
	if t == typeString {
		b, err := r.text()
		return string(b), err
	}
	b, err := r.take(minBytes[t])
	if err != nil {
		return nil, err
	}
	return scalar(t, b)
}

func scalar(t valueType, b []byte) (any, error) {
	le := binary.LittleEndian
	switch t {
	case typeUint8:
		return b[0], nil
	case typeInt8:
		return int8(b[0]), nil
	case typeUint16:
		return le.Uint16(b), nil
	case typeInt16:
		return int16(le.Uint16(b)), nil
	case typeUint32:
		return le.Uint32(b), nil
	case typeInt32:
		return int32(le.Uint32(b)), nil
	case typeFloat32:
		return math.Float32frombits(le.Uint32(b)), nil
	case typeUint64:
		return le.Uint64(b), nil
	case typeInt64:
		return int64(le.Uint64(b)), nil
	case typeFloat64:
		return math.Float64frombits(le.Uint64(b)), nil
	case typeBool:
		return toBool(b[0])
	}
	return nil, errors.New("the value has a type without a size") // strings and arrays are read elsewhere
}

func toBool(b byte) (bool, error) {
	if b > 1 {
		return false, fmt.Errorf("a truth value is %d, allowed are 0 and 1", b)
	}
	return b == 1, nil
}

// array reads an array after its own type number.
func (r *reader) array(depth int) (any, error) {
	t, err := r.valueType()
	if err != nil {
		return nil, err
	}
	n, err := r.uint64()
	if err != nil {
		return nil, err
	}
	if left := uint64(len(r.data) - r.pos); n > left/minBytes[t] {
		return nil, fmt.Errorf("an array of %d values needs at least %d bytes each at byte %d, the file has %d more", n, minBytes[t], r.pos, left)
	}
	switch t {
	case typeArray:
		return r.arrays(int(n), depth+1)
	case typeString:
		return r.strings(int(n))
	}
	b, err := r.take(n * minBytes[t])
	if err != nil {
		return nil, err
	}
	return numbers(t, b)
}

func (r *reader) arrays(n, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("arrays are nested more than %d deep", maxDepth)
	}
	if r.nested += n; r.nested > maxNested {
		return nil, fmt.Errorf("there are more than %d arrays within arrays", maxNested)
	}
	list := make([]any, n)
	for i := range list {
		var err error
		if list[i], err = r.array(depth); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// strings reads n strings into one piece of memory, since a vocabulary has
// hundreds of thousands of them.
func (r *reader) strings(n int) ([]string, error) {
	start := r.pos
	total := 0
	for i := range n {
		b, err := r.text()
		if err != nil {
			return nil, fmt.Errorf("string %d of %d: %w", i, n, err)
		}
		total += len(b)
	}
	r.pos = start
	var all strings.Builder
	all.Grow(total)
	list := make([]string, n)
	for i := range list {
		b, err := r.text()
		if err != nil {
			return nil, err
		}
		all.Write(b)
		list[i] = all.String()[all.Len()-len(b):]
	}
	return list, nil
}

// numbers decodes an array of numbers or truth values.
func numbers(t valueType, b []byte) (any, error) {
	le := binary.LittleEndian
	switch t {
	case typeUint8:
		return slices.Clone(b), nil
	case typeInt8:
		return decode(b, 1, func(b []byte) int8 { return int8(b[0]) }), nil
	case typeUint16:
		return decode(b, 2, le.Uint16), nil
	case typeInt16:
		return decode(b, 2, func(b []byte) int16 { return int16(le.Uint16(b)) }), nil
	case typeUint32:
		return decode(b, 4, le.Uint32), nil
	case typeInt32:
		return decode(b, 4, func(b []byte) int32 { return int32(le.Uint32(b)) }), nil
	case typeFloat32:
		return decode(b, 4, func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) }), nil
	case typeUint64:
		return decode(b, 8, le.Uint64), nil
	case typeInt64:
		return decode(b, 8, func(b []byte) int64 { return int64(le.Uint64(b)) }), nil
	case typeFloat64:
		return decode(b, 8, func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) }), nil
	case typeBool:
		for _, x := range b {
			if _, err := toBool(x); err != nil {
				return nil, err
			}
		}
		return decode(b, 1, func(b []byte) bool { return b[0] == 1 }), nil
	}
	return nil, errors.New("the array has a type without a size") // strings and arrays are read elsewhere
}

func decode[T any](b []byte, size int, one func([]byte) T) []T {
	list := make([]T, len(b)/size)
	for i := range list {
		list[i] = one(b[i*size:])
	}
	return list
}

// info is a tensor's description: where it lies is counted from the beginning
// of the data.
type info struct {
	tensor raw.Tensor
	offset uint64
	size   uint64
}

// minInfo is the length of the shortest description of a tensor and the least
// that its data takes.
const minInfo = 8 + 1 + 4 + 4 + 8 + 8

func (r *reader) infos(count uint64) ([]info, error) {
	left := len(r.data) - r.pos
	if count > uint64(left)/(minInfo-8) {
		return nil, fmt.Errorf("the file says it has %d tensors, the %d bytes that are left cannot describe them", count, left)
	}
	infos := make([]info, 0, min(count, uint64(left)/minInfo))
	for i := range count {
		name, err := r.name()
		if err != nil {
			return nil, fmt.Errorf("tensor %d of %d: %w", i+1, count, err)
		}
		in := info{tensor: raw.Tensor{Name: name}}
		if err := r.info(&in); err != nil {
			return nil, fmt.Errorf("tensor %.200q: %w", name, err)
		}
		infos = append(infos, in)
	}
	return infos, checkNames(infos)
}

func (r *reader) info(in *info) error {
	dims, err := r.uint32()
	if err != nil {
		return err
	}
	if dims > maxDims {
		return fmt.Errorf("it has %d dimensions, allowed are up to %d", dims, maxDims)
	}
	in.tensor.Shape = make([]int, dims)
	for i := range in.tensor.Shape {
		d, err := r.uint64()
		if err != nil {
			return err
		}
		if d == 0 || d > math.MaxInt {
			return fmt.Errorf("it has a dimension of %d", d)
		}
		in.tensor.Shape[int(dims)-1-i] = int(d)
	}
	number, err := r.uint32()
	if err != nil {
		return err
	}
	if in.tensor.Type, err = TypeOf(number); err != nil {
		return err
	}
	if in.size, err = sizeOf(in.tensor.Type, in.tensor.Shape); err != nil {
		return err
	}
	in.offset, err = r.uint64()
	return err
}

// sizeOf is the number of bytes of a tensor.
func sizeOf(t dtype.Type, shape []int) (uint64, error) {
	row := 1
	if len(shape) > 0 {
		row = shape[len(shape)-1]
	}
	if row%t.BlockSize() != 0 {
		return 0, fmt.Errorf("has rows of %d values, %s has blocks of %d", row, t, t.BlockSize())
	}
	size := uint64(row / t.BlockSize())
	if size > math.MaxInt/uint64(t.BlockBytes()) {
		return 0, fmt.Errorf("has the shape %v, which no file can hold", shape)
	}
	size *= uint64(t.BlockBytes())
	for _, d := range shape[:max(len(shape)-1, 0)] {
		if size > math.MaxInt/uint64(d) {
			return 0, fmt.Errorf("has the shape %v, which no file can hold", shape)
		}
		size *= uint64(d)
	}
	return size, nil
}

func checkNames(infos []info) error {
	order := sorted(infos, func(a, b int32) int {
		return strings.Compare(infos[a].tensor.Name, infos[b].tensor.Name)
	})
	for i := 1; i < len(order); i++ {
		if name := infos[order[i]].tensor.Name; name == infos[order[i-1]].tensor.Name {
			return fmt.Errorf("the tensor %.200q appears twice", name)
		}
	}
	return nil
}

// sorted returns the tensors' indices in the order of compare.
func sorted(infos []info, compare func(a, b int32) int) []int32 {
	order := make([]int32, len(infos))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, compare)
	return order
}

// place finds each tensor in the data, which begins at byte start of the file,
// and checks that no two share a byte.
func place(infos []info, file []byte, start, alignment uint64) ([]raw.Tensor, error) {
	data := file[min(start, uint64(len(file))):]
	for i := range infos {
		in := &infos[i]
		switch {
		case in.offset%alignment != 0:
			return nil, fmt.Errorf("tensor %.200q begins at byte %d of the data, which is not a multiple of %d", in.tensor.Name, in.offset, alignment)
		case in.offset > uint64(len(data)) || in.size > uint64(len(data))-in.offset:
			return nil, fmt.Errorf("tensor %.200q takes %d bytes from byte %d of the data, which has %d bytes", in.tensor.Name, in.size, in.offset, len(data))
		}
	}
	order := sorted(infos, func(a, b int32) int { return cmp.Compare(infos[a].offset, infos[b].offset) })
	for i := 1; i < len(order); i++ {
		before, in := &infos[order[i-1]], &infos[order[i]]
		if end := before.offset + before.size; in.offset < end {
			return nil, fmt.Errorf("tensor %.200q begins at byte %d of the data, inside tensor %.200q, which ends at byte %d",
				in.tensor.Name, in.offset, before.tensor.Name, end)
		}
	}
	tensors := make([]raw.Tensor, len(infos))
	for i, in := range infos {
		tensors[i] = in.tensor
		tensors[i].Data = data[in.offset : in.offset+in.size : in.offset+in.size]
	}
	return tensors, nil
}
