package blocks

import (
	"fmt"
	"math"
	"strings"

	"llmc/dtype"
)

// quantizers holds, for each type that is written, the function that rounds
// one row: src is a whole number of blocks, dst takes their bytes, importance
// weighs the squared error of each column, or is nil.
var quantizers = [...]func(dst []byte, src, importance []float32){
	dtype.Q4_0:   quantizeQ4_0,
	dtype.Q4_1:   quantizeQ4_1,
	dtype.Q5_0:   quantizeQ5_0,
	dtype.Q5_1:   quantizeQ5_1,
	dtype.Q8_0:   quantizeQ8_0,
	dtype.Q2_K:   quantizeQ2K,
	dtype.Q3_K:   quantizeQ3K,
	dtype.Q4_K:   quantizeQ4K,
	dtype.Q5_K:   quantizeQ5K,
	dtype.Q6_K:   quantizeQ6K,
	dtype.IQ4_NL: quantizeIQ4NL,
	dtype.IQ4_XS: quantizeIQ4XS,
	dtype.MXFP4:  quantizeMXFP4,
}

// CanQuantize reports whether [Quantize] writes the type.
func CanQuantize(t dtype.Type) bool { return int(t) < len(quantizers) && quantizers[t] != nil }

// Quantize rounds rows of rowLen values to blocks of type t, with the searches
// of ggml's reference quantizer. importance, when not nil, holds a weight for
// the squared error of each of the rowLen columns (llama.cpp's importance
// matrix); types without a search ignore it. Rows are independent of one
// another. A type that is not written, a length that does not fit and a value
// that is not finite are errors.
func Quantize(t dtype.Type, dst []byte, src []float32, rowLen int, importance []float32) error {
	if !CanQuantize(t) {
		return fmt.Errorf("cannot quantize to %s, allowed are %s", t, written())
	}
	rowBytes, whole := t.RowBytes(rowLen)
	switch {
	case rowLen < 1 || !whole:
		return fmt.Errorf("%s takes rows of a multiple of %d values, not %d", t, t.BlockSize(), rowLen)
	case len(src)%rowLen != 0 || len(dst) != len(src)/rowLen*rowBytes:
		return fmt.Errorf("cannot quantize %d values in rows of %d to %d bytes of %s", len(src), rowLen, len(dst), t)
	case importance != nil && len(importance) != rowLen:
		return fmt.Errorf("importance has %d weights for rows of %d values", len(importance), rowLen)
	}
	if i := notFinite(src); i >= 0 {
		return fmt.Errorf("value %d is %v, only finite numbers can be quantized", i, src[i])
	}
	for len(src) > 0 {
		quantizers[t](dst[:rowBytes], src[:rowLen], importance)
		dst, src = dst[rowBytes:], src[rowLen:]
	}
	return nil
}

func written() string {
	var names []string
	for t := range quantizers {
		if CanQuantize(dtype.Type(t)) {
			names = append(names, dtype.Type(t).String())
		}
	}
	return strings.Join(names, ", ")
}

// notFinite returns the index of the first NaN or infinity, or -1.
func notFinite(values []float32) int {
	for i, v := range values {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return i
		}
	}
	return -1
}
