// Package raw holds what every checkpoint format shares: a tensor as it lies
// in a file ([Tensor]), read-only memory mapping ([Map]), and output that
// appears whole or not at all ([CreateFile], [CreateDir]).
package raw

import "llmc/dtype"

// Tensor is a tensor as it lies in a file. Data is usually a view into a
// read-only memory mapping: it must not be written to, and it is gone when
// the file it came from is closed.
type Tensor struct {
	Name  string
	Type  dtype.Type
	Shape []int // outermost first, row-major: a linear weight is [out, in]
	Data  []byte
}

// Elements is the product of the shape (1 for a scalar).
func (t *Tensor) Elements() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Bytes is the size of the data, whether it is there or not.
func (t *Tensor) Bytes() int64 {
	return int64(t.Elements()/t.Type.BlockSize()) * int64(t.Type.BlockBytes())
}
