package kernels

import (
	"math"

	"llmc/dtype"
	"llmc/internal/fault"
)

// Float8 is a matrix of 8-bit floats with a scale for each rectangle of High
// rows and Wide columns:
//
//	w[r][c] = Scales[r/High][c/Wide] * code[r][c]
//
// One scale for the matrix is High = Rows and Wide = Cols, one for each channel
// High = 1 and Wide = Cols. The rectangles at the ends may be smaller.
// [NewFloat8] checks the fields.
type Float8 struct {
	Rows, Cols int
	Type       dtype.Type // F8E4M3 or F8E5M2
	Codes      []byte     // [Rows, Cols]
	High, Wide int
	Scales     []float32 // [ceil(Rows/High), ceil(Cols/Wide)]
}

// NewFloat8 returns a matrix of 8-bit floats, whose memory it shares.
func NewFloat8(rows, cols int, t dtype.Type, codes []byte, high, wide int, scales []float32) (*Float8, error) {
	switch {
	case t != dtype.F8E4M3 && t != dtype.F8E5M2:
		return nil, fault.Invalid("8-bit floats are of type %s, allowed are %s and %s", t, dtype.F8E4M3, dtype.F8E5M2)
	case rows < 1 || cols < 1 || rows > math.MaxInt/cols:
		return nil, fault.Invalid("a matrix has shape [%d, %d], allowed is 1 and more", rows, cols)
	case high < 1 || wide < 1:
		return nil, fault.Invalid("a scale is for %d rows and %d columns, allowed is 1 and more", high, wide)
	case len(codes) != rows*cols:
		return nil, fault.Invalid("%d rows of %d codes of a byte have %d bytes", rows, cols, len(codes))
	}
	if n := ceilDiv(rows, high) * ceilDiv(cols, wide); len(scales) != n {
		return nil, fault.Invalid("a matrix has %d scales, allowed are %d", len(scales), n)
	}
	return &Float8{Rows: rows, Cols: cols, Type: t, Codes: codes, High: high, Wide: wide, Scales: scales}, nil
}

// Shape returns the number of rows (outputs) and columns (inputs).
func (f *Float8) Shape() (rows, cols int) { return f.Rows, f.Cols }

// Bytes is the storage of the codes and of scales of 16 bits.
func (f *Float8) Bytes() int64 { return int64(len(f.Codes)) + 2*int64(len(f.Scales)) }

// Row dequantizes row r into dst, which has length Cols.
func (f *Float8) Row(dst []float32, r int) { f.columns(dst[:f.Cols], r, 0) }

func (f *Float8) columns(dst []float32, r, from int) {
	decode(dst, f.Codes[r*f.Cols+from:][:len(dst)], f.Type)
	across := ceilDiv(f.Cols, f.Wide)
	scales := f.Scales[r/f.High*across:][:across]
	for len(dst) > 0 {
		n := min(len(dst), f.Wide-from%f.Wide)
		defaultOps().scale(dst[:n], scales[from/f.Wide])
		dst, from = dst[n:], from+n
	}
}
