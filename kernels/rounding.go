package kernels

import (
	"fmt"
	"math"

	"llmc/dtype"
)

// Rounding is how the activations that a linear multiplies are rounded, to
// what an engine with products of small numbers gives it. The zero Rounding
// leaves them as they are.
//
// The arithmetic is that of compressed-tensors (quantization/lifecycle of that
// package) in float32: a scale of (largest magnitude) / ((2^Bits-1)/2) for
// symmetric integers, (largest - smallest) / (2^Bits-1) with a zero point for
// asymmetric ones, (largest magnitude) / 448 for 8-bit floats; x/scale is
// rounded, halves to even, and multiplied by the scale again.
type Rounding struct {
	Bits       int  // of a number, 2 to 8; 0 for activations as they are
	Float      bool // 8-bit floats, E4M3; integers otherwise
	Asymmetric bool // integers have a zero point
	Group      int  // columns that share a scale; 0 for all of a token
	// Static rounds all tokens with Scale and Zero. Otherwise every group has
	// the scale that its own numbers need.
	Static bool
	Scale  float32
	Zero   float32 // an integer, from -2^(Bits-1) on
}

// String describes the rounding for reports: "int8 per token", "fp8 static".
func (r Rounding) String() string {
	if r.Bits == 0 {
		return "exact"
	}
	numbers := "int"
	if r.Float {
		numbers = "fp"
	}
	text := fmt.Sprintf("%s%d", numbers, r.Bits)
	if r.Asymmetric {
		text += " asymmetric"
	}
	switch {
	case r.Static:
		return text + " static"
	case r.Group > 0:
		return fmt.Sprintf("%s in groups of %d", text, r.Group)
	}
	return text + " per token"
}

// largestFloat8 is the largest number of E4M3.
const largestFloat8 = 448

// Grid returns the scale and the zero point for numbers from lo to hi. The
// scale of nothing but zeros is the smallest that compressed-tensors takes.
func (r Rounding) Grid(lo, hi float32) (scale, zero float32) {
	lo, hi = min(lo, 0), max(hi, 0)
	span := float32(int(1)<<r.Bits - 1)
	switch {
	case r.Float:
		scale = max(-lo, hi) / largestFloat8
	case r.Asymmetric:
		scale = (hi - lo) / span
	default:
		scale = max(-lo, hi) / (span / 2)
	}
	if scale == 0 {
		scale = 1.0 / (1 << 23) // float32's epsilon
	}
	if !r.Asymmetric || r.Float {
		return scale, 0
	}
	least := -float32(int(1) << (r.Bits - 1))
	zero = min(max(least-lo/scale, least), least+span)
	return scale, float32(math.RoundToEven(float64(zero)))
}

// Round sets dst to the rounded numbers of x. dst may be x. NaN stays NaN, and
// makes all numbers of its group NaN where the scale depends on them.
func (c *CPU) Round(dst, x *Tensor, r Rounding) {
	mustEqual("Round", dst.Rows, x.Rows)
	mustEqual("Round", dst.Cols, x.Cols)
	c.forRows(x.Rows, 4*x.Cols, rowTask{dst: dst, x: x, rounding: r, op: func(t *rowTask, i int) {
		t.rounding.row(t.dst.row(i), t.x.row(i))
	}})
}

// row rounds one token.
func (r *Rounding) row(dst, x []float32) {
	size := len(x)
	if r.Group > 0 && !r.Static {
		size = r.Group
	}
	for from := 0; from < len(x); from += size {
		to := min(from+size, len(x))
		scale, zero := r.Scale, r.Zero
		if !r.Static {
			scale, zero = r.Grid(bounds(x[from:to]))
		}
		r.group(dst[from:to], x[from:to], scale, zero)
	}
}

// bounds returns the smallest and the largest of x and 0, both NaN if x holds
// one.
func bounds(x []float32) (lo, hi float32) {
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}

// group rounds numbers that share a scale.
func (r *Rounding) group(dst, x []float32, scale, zero float32) {
	if r.Float {
		for i, v := range x {
			dst[i] = dtype.RoundF8E4M3(v/scale) * scale
		}
		return
	}
	// Adding and taking away 1.5*2^23 leaves a float32 rounded to an integer.
	const magic = 3 << 22
	least := -float32(int(1) << (r.Bits - 1))
	most := -least - 1
	for i, v := range x {
		q := min(max(v/scale+zero, least), most)
		dst[i] = ((q + magic - magic) - zero) * scale
	}
}
