package kernels

// Matrix is the weight of y = W x, shape [rows, cols] = [out, in], in whatever
// numbers it is stored: dense, ggml blocks, or groups of integer codes.
type Matrix interface {
	// Shape returns the number of rows (outputs) and columns (inputs).
	Shape() (rows, cols int)
	// Row dequantizes row r exactly into dst, which has length cols.
	Row(dst []float32, r int)
	// Bytes is the storage of the codes and everything needed to read them.
	Bytes() int64
}

// columnReader is a Matrix that can dequantize a part of a row: columns from
// to from+len(dst). from is a multiple of columnStep, and the part ends at the
// row's end or at a multiple of columnStep.
type columnReader interface {
	columns(dst []float32, r, from int)
}

// columnStep is divisible by the size of every ggml block.
const columnStep = 256

// Float32s returns all of m as row-major float32 numbers. It copies, unless m
// is aligned F32 memory already: then the result is m's own memory and must
// not be changed.
func Float32s(m Matrix) []float32 {
	if d, ok := m.(*Dense); ok {
		if v := d.float32s(); v != nil {
			return v
		}
	}
	rows, cols := m.Shape()
	all := make([]float32, rows*cols)
	for r := range rows {
		m.Row(all[r*cols:(r+1)*cols], r)
	}
	return all
}
