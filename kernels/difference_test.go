package kernels

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestDifference compares every level with the portable one, in rows of all
// lengths around whole vectors, added one after the other.
func TestDifference(t *testing.T) {
	for _, o := range levels() {
		r := rand.New(rand.NewPCG(61, 62))
		var got, want Difference
		for n := range 70 {
			x, y := randoms(r, n), randoms(r, n)
			for i := range x {
				switch r.IntN(5) {
				case 0:
					x[i] = 0
				case 1:
					y[i] = float32(math.Copysign(0, -1))
				case 2:
					y[i] = x[i]
				}
			}
			o.difference(&got, x, y)
			differencePortable(&want, x, y)
			close := func(a, b float64) bool { return math.Abs(a-b) <= 1e-14*b }
			if !close(got.Square, want.Square) || !close(got.Error, want.Error) {
				t.Fatalf("%s, %d numbers: sums are %g and %g, want %g and %g", o.level, n, got.Square, got.Error, want.Square, want.Error)
			}
			if got.Max != want.Max || got.ZerosX != want.ZerosX || got.ZerosY != want.ZerosY {
				t.Fatalf("%s, %d numbers: %+v, want %+v", o.level, n, got, want)
			}
		}
	}
}
