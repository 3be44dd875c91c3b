package kernels

import (
	"encoding/binary"
	"math"

	"llmc/dtype"
)

// decode turns stored numbers into float32. Until the packages dtype and
// blocks can do so, it knows the common scalar types.
func decode(dst []float32, src []byte, t dtype.Type) {
	for i := range dst {
		switch t {
		case dtype.F64:
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		case dtype.F32:
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		case dtype.BF16:
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		default:
			dst[i] = float32(math.NaN())
		}
	}
}
