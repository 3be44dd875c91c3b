package kernels

import (
	"llmc/dtype"
	"llmc/kernels/blocks"
)

// decode turns stored numbers into float32. len(dst) is a whole number of
// blocks, and src holds exactly those.
func decode(dst []float32, src []byte, t dtype.Type) {
	if t.IsBlock() {
		blocks.Dequantize(t, dst, src)
		return
	}
	// The type was checked when the matrix was made, so this cannot fail.
	_ = dtype.Decode(dst, src, t)
}
