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
	dtype.TQ1_0:  quantizeTQ1_0,
	dtype.TQ2_0:  quantizeTQ2_0,
	dtype.MXFP4:  quantizeMXFP4,
}

// CanQuantize reports whether [Quantize] writes the type.
func CanQuantize(t dtype.Type) bool { return int(t) < len(quantizers) && quantizers[t] != nil }

// Quantize rounds rows of rowLen values to blocks of type t, with the searches
// of ggml's reference quantizer. importance, when not nil, holds a weight for
// the squared error of each of the rowLen columns (llama.cpp's importance
// matrix); types without a search ignore it. Rows are independent of one
// another. A type that is not written, a length that does not fit, a value that
// is not finite or too large for the type's scales, and a negative importance
// are errors.
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
	if i := firstAbove(src, largestValue(t)); i >= 0 {
		return fmt.Errorf("value %d is %v, %s takes finite magnitudes up to %g", i, src[i], t, largestValue(t))
	}
	for i, w := range importance {
		if !(w >= 0 && w <= math.MaxFloat32) {
			return fmt.Errorf("importance of column %d is %v, allowed are finite numbers from zero", i, w)
		}
	}
	round := rounder(t, importance)
	for len(src) > 0 {
		round(dst[:rowBytes], src[:rowLen], importance)
		if i := overflown(t, dst[:rowBytes]); i >= 0 {
			_, magnitude := extreme(src[i*t.BlockSize():][:t.BlockSize()])
			return fmt.Errorf("a magnitude of %g is too large for the half-precision scales of %s", magnitude, t)
		}
		dst, src = dst[rowBytes:], src[rowLen:]
	}
	return nil
}

// rounder returns the function that rounds rows: the chosen level's, where it
// has one for all of the work.
func rounder(t dtype.Type, importance []float32) func(dst []byte, src, importance []float32) {
	if native == nil || importance != nil && t != dtype.Q8_0 || native.rows[t] == nil {
		return quantizers[t]
	}
	round := native.rows[t]
	return func(dst []byte, src, _ []float32) { round(&dst[0], &src[0], len(src)/32) }
}

// scaleOffsets holds where the half-precision scales of a block are, for the
// types that are written.
var scaleOffsets = [...][]int{
	dtype.Q4_0:   {0},
	dtype.Q4_1:   {0, 2},
	dtype.Q5_0:   {0},
	dtype.Q5_1:   {0, 2},
	dtype.Q8_0:   {0},
	dtype.Q2_K:   {80, 82},
	dtype.Q3_K:   {108},
	dtype.Q4_K:   {0, 2},
	dtype.Q5_K:   {0, 2},
	dtype.Q6_K:   {208},
	dtype.IQ4_NL: {0},
	dtype.IQ4_XS: {0},
	dtype.TQ1_0:  {52},
	dtype.TQ2_0:  {64},
	dtype.MXFP4:  nil,
}

// largestValue bounds the magnitudes that can be rounded to t. No type with
// half-precision scales holds 2^28 (for Q6_K, 65504*128*32 is the end), and the
// sums of the searches overflow well above.
func largestValue(t dtype.Type) float32 {
	if scaleOffsets[t] == nil {
		return math.MaxFloat32
	}
	return 1 << 28
}

// overflown returns the index of the first block with a scale that is not
// finite, or -1.
func overflown(t dtype.Type, row []byte) int {
	for _, offset := range scaleOffsets[t] {
		for at := offset; at < len(row); at += t.BlockBytes() {
			if row[at+1]&0x7c == 0x7c {
				return at / t.BlockBytes()
			}
		}
	}
	return -1
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

// firstAbove returns the index of the first magnitude above limit, or NaN, or
// -1.
func firstAbove(values []float32, limit float32) int {
	bits := math.Float32bits(limit)
	if native != nil {
		n := len(values) / native.n
		if n > 0 && !native.anyAbove(&values[0], n, bits) {
			if i := firstAbove(values[n*native.n:], limit); i >= 0 {
				return n*native.n + i
			}
			return -1
		}
	}
	for i, v := range values {
		if math.Float32bits(v)&0x7fffffff > bits {
			return i
		}
	}
	return -1
}
