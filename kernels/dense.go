package kernels

import (
	"encoding/binary"
	"math"
	"unsafe"

	"llmc/dtype"
	"llmc/internal/fault"
)

// Dense is a matrix of scalar numbers or ggml blocks, row after row as they
// lie in a file. Data is not copied and must stay valid. [NewDense] checks the
// fields.
type Dense struct {
	Rows, Cols int
	Type       dtype.Type // F32, F16, BF16, F64, F8E4M3, F8E5M2 or a block type that divides Cols
	Data       []byte     // [Rows, Type.RowBytes(Cols)], little-endian
}

// NewDense returns the matrix of the given shape and type in data. It fails
// when the type is not a float or block type, does not divide cols, or when
// data is not exactly as long as the shape asks.
func NewDense(rows, cols int, t dtype.Type, data []byte) (*Dense, error) {
	if !t.IsFloat() && !t.IsBlock() {
		return nil, fault.Invalid("a matrix of type %s cannot be computed with: allowed are float and block types", t)
	}
	if rows < 1 || cols < 1 {
		return nil, fault.Invalid("a matrix has shape [%d, %d], allowed is 1 and more", rows, cols)
	}
	rowBytes, ok := t.RowBytes(cols)
	if !ok {
		return nil, fault.Invalid("rows of %d are not divisible into blocks of %d, which %s needs", cols, t.BlockSize(), t)
	}
	if rows > math.MaxInt/rowBytes || rows*rowBytes != len(data) {
		return nil, fault.Invalid("a matrix of %d rows of %d bytes has %d bytes of data", rows, rowBytes, len(data))
	}
	return &Dense{Rows: rows, Cols: cols, Type: t, Data: data}, nil
}

// FromFloat32s returns an F32 matrix of the row-major values [rows, cols],
// whose memory it shares. It panics when their number is not rows*cols.
func FromFloat32s(rows, cols int, values []float32) *Dense {
	if len(values) != rows*cols {
		panic("kernels: FromFloat32s: the number of values is not rows*cols")
	}
	return &Dense{Rows: rows, Cols: cols, Type: dtype.F32, Data: bytesOf(values)}
}

// Shape returns the number of rows (outputs) and columns (inputs).
func (d *Dense) Shape() (rows, cols int) { return d.Rows, d.Cols }

// Bytes is the length of the data.
func (d *Dense) Bytes() int64 { return int64(len(d.Data)) }

// Row dequantizes row r exactly into dst, which has length Cols.
func (d *Dense) Row(dst []float32, r int) { d.columns(dst[:d.Cols], r, 0) }

func (d *Dense) columns(dst []float32, r, from int) {
	decode(dst, d.bytes(r, from, len(dst)), d.Type)
}

// bytes returns the stored bytes of n columns of row r, from a column on that
// begins a block.
func (d *Dense) bytes(r, from, n int) []byte {
	size, step := d.Type.BlockSize(), d.Type.BlockBytes()
	at := r*(d.Cols/size)*step + from/size*step
	return d.Data[at : at+n/size*step]
}

// float32s returns the matrix as numbers without a copy, nil where its type,
// its alignment or the machine's byte order do not allow that.
func (d *Dense) float32s() []float32 {
	if d.Type != dtype.F32 || !littleEndian || len(d.Data) == 0 {
		return nil
	}
	p := unsafe.Pointer(&d.Data[0])
	if uintptr(p)%4 != 0 {
		return nil
	}
	return unsafe.Slice((*float32)(p), d.Rows*d.Cols)
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// bytesOf returns little-endian bytes of v, without a copy where the machine
// stores numbers that way.
func bytesOf(v []float32) []byte {
	if len(v) == 0 {
		return nil
	}
	if littleEndian {
		return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 4*len(v))
	}
	data := make([]byte, 0, 4*len(v))
	for _, x := range v {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return data
}
