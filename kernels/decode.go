package kernels

import (
	"llmc/dtype"
	"llmc/kernels/blocks"
)

// decode turns stored numbers into float32. len(dst) is a whole number of
// blocks, and src holds exactly those.
func decode(dst []float32, src []byte, t dtype.Type) {
	if loops := defaultOps().formats[t]; loops != nil && loops.unpack != nil {
		n := len(dst) / loops.values
		if n > 0 {
			_, _ = dst[n*loops.values-1], src[len(dst)/t.BlockSize()*t.BlockBytes()-1]
			loops.unpack(&dst[0], &src[0], n)
		}
		at := n * loops.values
		dst, src = dst[at:], src[at/t.BlockSize()*t.BlockBytes():]
	}
	if len(dst) > 0 {
		decodePortable(dst, src, t)
	}
}

// decodePortable is the definition of decode.
func decodePortable(dst []float32, src []byte, t dtype.Type) {
	if t.IsBlock() {
		blocks.Dequantize(t, dst, src)
		return
	}
	// The type was checked when the matrix was made, so this cannot fail.
	_ = dtype.Decode(dst, src, t)
}

// Encode rounds numbers to a scalar type, as [dtype.Encode] does.
func Encode(dst []byte, src []float32, t dtype.Type) error { return encode(defaultOps(), dst, src, t) }

func encode(o *ops, dst []byte, src []float32, t dtype.Type) error {
	if pack := o.pack[t]; pack != nil && len(dst) == len(src)*t.BlockBytes() {
		n := len(src) / o.lanes
		if n > 0 {
			pack(&dst[0], &src[0], n)
		}
		at := n * o.lanes
		dst, src = dst[at*t.BlockBytes():], src[at:]
	}
	return dtype.Encode(dst, src, t)
}
