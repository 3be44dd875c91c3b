package blocks

import "math"

// The searches for scales. Each tries a list of scales near the obvious one
// and keeps the one with the least weighted squared error after the best scale
// for its codes has been solved for. Their order of operations is part of the
// result: every product that is added to something is converted first, and
// comparisons are written so that NaN (of weights that are all zero) fails
// them as in C.

// tiny is the absolute maximum below which a run of values counts as zero.
const tiny = 1e-15

// maxSubBlock is the largest number of values that share a scale.
const maxSubBlock = 32

// nearest rounds to an integer, ties to even, by adding a number so large that
// the sum has no fraction bits. Valid for |v| below 2^22. The conversion keeps
// a product in the argument from being fused with the addition.
func nearest(v float32) int32 {
	return int32(math.Float32bits(float32(v)+12582912)&0x007fffff) - 0x00400000
}

// levels holds what values round to in the inner loops, clamped to the range of
// the codes: at index n modulo 128 for values that round to n in [-64, 64).
type levels [128]float32

func newLevels(low, high int32) *levels {
	l := new(levels)
	for n := int32(-64); n < 64; n++ {
		l[n&127] = float32(clamp(n, low, high))
	}
	return l
}

// of returns the level of v. It is nearest with the lowest bits for the index.
func (l *levels) of(v float32) float32 { return l[math.Float32bits(float32(v)+12582912)&127] }

// inLevels reports whether v is far enough from the ends of levels.
func inLevels(v float32) bool { return v > -64 && v < 63 }

func clamp(v, low, high int32) int32 { return max(low, min(high, v)) }

func abs32(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }

func sqrt32(v float32) float32 { return float32(math.Sqrt(float64(v))) }

// inverseOf is 1/d, and 0 for 0.
func inverseOf(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

// extreme returns the value with the largest magnitude, the first of equals.
func extreme(x []float32) (value, magnitude float32) {
	for _, v := range x {
		if a := abs32(v); a > magnitude {
			value, magnitude = v, a
		}
	}
	return value, magnitude
}

// limits returns the least and the largest value, the first of equals: zeros
// keep their sign.
func limits(x []float32) (low, high float32) {
	low, high = x[0], x[0]
	for _, v := range x {
		if v < low {
			low = v
		}
		if v > high {
			high = v
		}
	}
	return low, high
}

// largest returns the largest of values, and zero when none is above it.
func largest(values []float32) (top float32) {
	for _, v := range values {
		if v > top {
			top = v
		}
	}
	return top
}

// sumSquares adds up x² in order.
func sumSquares(x []float32) (sum float32) {
	for _, v := range x {
		sum += float32(v * v)
	}
	return sum
}

// sum adds up w in order.
func sum(w []float32) (total float32) {
	for _, v := range w {
		total += v
	}
	return total
}

// weigh sets w to importance * sqrt(sigma2 + x²), how much an error of x
// matters: the importance of its column, more for large values.
func weigh(w, x, importance []float32, sigma2 float32) {
	for i, v := range x {
		w[i] = importance[i] * sqrt32(sigma2+float32(v*v))
	}
}

// store sets codes to whole numbers l.
func store(codes []uint8, l []float32) {
	for i, v := range l {
		codes[i] = uint8(v)
	}
}

// fit holds the weighted sums of l*x and l*l for codes l: their quotient is
// the best scale for these codes.
type fit struct{ lx, ll float32 }

// scale returns the best scale, and zero when all codes are.
func (f fit) scale() float32 {
	if f.ll > 0 {
		return f.lx / f.ll
	}
	return 0
}

// beats reports whether f leaves a smaller error than a fit whose product of
// scale and lx is best.
func (f fit) beats(best float32) bool {
	return f.ll > 0 && float32(f.lx*f.lx) > float32(best*f.ll)
}

// better reports whether f leaves a smaller error than g.
func (f fit) better(g fit) bool {
	return float32(float32(f.lx*f.lx)*g.ll) > float32(float32(g.lx*g.lx)*f.ll)
}

// with returns f with the sums of one more value of weight w: wx is w*x.
func (f fit) with(wx, w, l float32) fit {
	return fit{f.lx + float32(wx*l), f.ll + float32(float32(w*l)*l)}
}

// without is the inverse of with.
func (f fit) without(wx, w, l float32) fit {
	return fit{f.lx - float32(wx*l), f.ll - float32(float32(w*l)*l)}
}

// products returns w*x.
func products(w, x []float32) (wx [maxSubBlock]float32) {
	for i, v := range x {
		wx[i] = w[i] * v
	}
	return wx
}
