package kernels

import "math"

// portable is the level that every machine has.
var portable = ops{
	level: "portable",
	mr:    4, nr: 8,
	micro:       microPortable,
	turn:        turnPortable,
	dot:         dotPortable,
	add:         addPortable,
	addScaled:   addScaledPortable,
	scale:       scalePortable,
	sumSquares:  sumSquaresPortable,
	normalize:   normalizePortable,
	largest:     largestPortable,
	expSum:      expSumPortable,
	sumExp:      sumExpPortable,
	divergence:  divergencePortable,
	difference:  differencePortable,
	moments:     momentsPortable,
	adam:        adamPortable,
	gate:        [numActivations]gateFunc{siluPortable, geluTanhPortable, geluPortable, reluPortable},
	gateGrad:    [numActivations]gateGradFunc{siluGradPortable, geluTanhGradPortable, geluGradPortable, reluGradPortable},
	softmaxGrad: softmaxGradPortable,
	rotate:      rotatePortable,
	rotatePairs: rotatePairsPortable,
}

func microPortable(rows, k int, a []float32, lda int, b, c []float32, ldc int, accumulate bool) {
	const nr = 8
	for i := 0; i < rows; i += 2 {
		a0 := a[i*lda:][:k]
		a1, odd := a0, i+1 == rows
		if !odd {
			a1 = a[(i+1)*lda:][:k]
		}
		for j := 0; j < nr; j += 4 {
			var s00, s01, s02, s03, s10, s11, s12, s13 float32
			for p, x0 := range a0 {
				x1 := a1[p]
				w := b[p*nr+j:][:4:4]
				s00 += x0 * w[0]
				s01 += x0 * w[1]
				s02 += x0 * w[2]
				s03 += x0 * w[3]
				s10 += x1 * w[0]
				s11 += x1 * w[1]
				s12 += x1 * w[2]
				s13 += x1 * w[3]
			}
			store4(c[i*ldc+j:], accumulate, s00, s01, s02, s03)
			if !odd {
				store4(c[(i+1)*ldc+j:], accumulate, s10, s11, s12, s13)
			}
		}
	}
}

func store4(c []float32, accumulate bool, s0, s1, s2, s3 float32) {
	c = c[:4]
	if accumulate {
		s0, s1, s2, s3 = c[0]+s0, c[1]+s1, c[2]+s2, c[3]+s3
	}
	c[0], c[1], c[2], c[3] = s0, s1, s2, s3
}

func turnPortable(dst []float32, stride int, src []float32, ld, rows, cols int) {
	for r := range rows {
		for c, v := range src[r*ld:][:cols] {
			dst[c*stride+r] = v
		}
	}
}

func dotPortable(x, y []float32) float32 {
	y = y[:len(x)]
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s0 += x[i] * y[i]
		s1 += x[i+1] * y[i+1]
		s2 += x[i+2] * y[i+2]
		s3 += x[i+3] * y[i+3]
	}
	for ; i < len(x); i++ {
		s0 += x[i] * y[i]
	}
	return (s0 + s1) + (s2 + s3)
}

func addPortable(dst, x []float32) {
	for i, v := range x[:len(dst)] {
		dst[i] += v
	}
}

func addScaledPortable(dst, x []float32, s float32) {
	for i, v := range x[:len(dst)] {
		dst[i] += v * s
	}
}

func scalePortable(x []float32, s float32) {
	for i := range x {
		x[i] *= s
	}
}

func sumSquaresPortable(x []float32) float64 {
	var s0, s1 float64
	for len(x) >= 2 {
		s0 += float64(x[0]) * float64(x[0])
		s1 += float64(x[1]) * float64(x[1])
		x = x[2:]
	}
	for _, v := range x {
		s0 += float64(v) * float64(v)
	}
	return s0 + s1
}

func normalizePortable(dst, x, w []float32, s float32) {
	x, w = x[:len(dst)], w[:len(dst)]
	for i := range dst {
		dst[i] = x[i] * s * w[i]
	}
}

func largestPortable(x []float32) float32 {
	largest := float32(math.Inf(-1))
	for _, v := range x {
		if v > largest {
			largest = v
		}
	}
	return largest
}

func expSumPortable(x []float32, s, shift float32) float64 {
	sum := 0.0
	for i, v := range x {
		e := exp32(v*s - shift)
		x[i] = e
		sum += float64(e)
	}
	return sum
}

func sumExpPortable(x []float32, s, shift float32) float64 {
	sum := 0.0
	for _, v := range x {
		sum += float64(exp32(v*s - shift))
	}
	return sum
}

func divergencePortable(p, q []float32, lse float32, offset float64) float64 {
	q = q[:len(p)]
	sum := 0.0
	for i, v := range p {
		sum += float64(exp32(v-lse)) * (float64(v) - float64(q[i]) - offset)
	}
	return sum
}

func siluPortable(dst, g, up []float32) {
	g, up = g[:len(dst)], up[:len(dst)]
	for i := range dst {
		dst[i] = g[i] / (1 + exp32(-g[i])) * up[i]
	}
}

// geluTanhPortable uses (1+tanh(u))/2 = 1/(1+exp(-2u)), which loses no digits
// where tanh(u) is close to -1.
func geluTanhPortable(dst, g, up []float32) {
	g, up = g[:len(dst)], up[:len(dst)]
	for i := range dst {
		x := g[i]
		u := x * (geluLinear + geluCubic*x*x)
		dst[i] = x / (1 + exp32(-u)) * up[i]
	}
}

const (
	geluLinear = 2 * 0.79788456080286535588 // 2*sqrt(2/pi)
	geluCubic  = geluLinear * 0.044715
)

func geluPortable(dst, g, up []float32) {
	g, up = g[:len(dst)], up[:len(dst)]
	for i := range dst {
		x := float64(g[i])
		dst[i] = float32(0.5*x*math.Erfc(-x/math.Sqrt2)) * up[i]
	}
}

func reluPortable(dst, g, up []float32) {
	g, up = g[:len(dst)], up[:len(dst)]
	for i := range dst {
		x := g[i]
		if x < 0 {
			x = 0
		}
		dst[i] = x * up[i]
	}
}

func rotatePortable(lo, hi, cos, sin []float32) {
	hi, cos, sin = hi[:len(lo)], cos[:len(lo)], sin[:len(lo)]
	for j := range lo {
		a, b := lo[j], hi[j]
		lo[j] = a*cos[j] - b*sin[j]
		hi[j] = a*sin[j] + b*cos[j]
	}
}

func rotatePairsPortable(x, cos, sin []float32) {
	cos, sin = cos[:len(x)], sin[:len(x)]
	for j := 0; j+1 < len(x); j += 2 {
		a, b := x[j], x[j+1]
		x[j] = a*cos[j] - b*sin[j]
		x[j+1] = a*sin[j] + b*cos[j]
	}
}

// exp32 is e^x within 2 units in the last place: x = n*ln2 + r with
// |r| <= ln2/2, a polynomial for e^r, and a scale by 2^n in two steps, so that
// denormal results are right.
func exp32(x float32) float32 {
	switch {
	case x > expLargest:
		return float32(math.Inf(1))
	case x < expSmallest:
		return 0
	case x != x:
		return x
	}
	n := float32(math.RoundToEven(float64(x * expLog2E)))
	r := x - n*expLn2High - n*expLn2Low
	p := ((((expC6*r+expC5)*r+expC4)*r+expC3)*r + expC2) * r
	p = (p+1)*r + 1
	half := int32(n) >> 1
	return p * exp2int(half) * exp2int(int32(n)-half)
}

// exp2int returns 2^n for n from -126 to 127.
func exp2int(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

const (
	expLargest  = 88.72284    // above, e^x is not finite
	expSmallest = -103.972084 // below, e^x rounds to 0
	expLog2E    = 1.44269504088896341
	expLn2High  = 0.693359375 // ln2 = high + low; n*high is exact
	expLn2Low   = -2.12194440e-4
	// The least worst relative error of 1+r+C2*r²+...+C6*r⁶ on |r| <= ln2/2,
	// 3e-9, found by Lawson's iteration.
	expC2 = 0.4999999403953552
	expC3 = 0.16666515171527863
	expC4 = 0.04166845604777336
	expC5 = 0.008369418792426586
	expC6 = 0.0013813144760206342
)
