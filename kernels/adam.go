package kernels

import "math"

// AdamStep are the numbers of one step of AdamW (arXiv 1711.05101, algorithm 2),
// which makes of a weight x with gradient g, g' = GradScale g,
//
//	m = Beta1 m + (1-Beta1) g'
//	v = Beta2 v + (1-Beta2) g'²
//	x = Keep x - Size m/(Root √v + Epsilon)
//
// Keep is 1 less what decays; Size is the rate and Root 1, each less the bias of
// m and √v towards zero.
type AdamStep struct {
	Beta1, Rest1, Beta2, Rest2 float32 // Rest is 1-Beta, rounded once
	GradScale                  float32
	Keep, Size, Root, Epsilon  float32
	KeepZeros                  bool // an x that is 0 stays
}

// Apply takes the step for weights x with gradients grad, and their moments m and
// v; all are of one length. The result is the same on every machine that rounds
// products before it adds them.
func (s *AdamStep) Apply(x, grad, m, v []float32) {
	n := len(x)
	mustEqual("AdamStep", n, len(grad))
	mustEqual("AdamStep", n, len(m))
	mustEqual("AdamStep", n, len(v))
	defaultOps().adam(s, x, grad, m, v)
}

// fixed is the number that an x which stays is equal to: NaN for none.
func (s *AdamStep) fixed() float32 {
	if s.KeepZeros {
		return 0
	}
	return float32(math.NaN())
}

func adamPortable(s *AdamStep, x, grad, m, v []float32) {
	fixed := s.fixed()
	grad, m, v = grad[:len(x)], m[:len(x)], v[:len(x)]
	for i, old := range x {
		d := grad[i] * s.GradScale
		m[i] = s.Beta1*m[i] + s.Rest1*d
		v[i] = s.Beta2*v[i] + s.Rest2*d*d
		if old != fixed {
			x[i] = old*s.Keep - s.Size*m[i]/(float32(math.Sqrt(float64(v[i])))*s.Root+s.Epsilon)
		}
	}
}

// SumSquares returns the sum of the squares of x, in float64.
func SumSquares(x []float32) float64 { return defaultOps().sumSquares(x) }
