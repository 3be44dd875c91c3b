package solve

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// TestRidge compares with gonum's general solver in float64.
func TestRidge(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	const rows = 7
	for _, n := range []int{1, 9, 130} {
		h := hessian(rng, n, 3*n)
		dead := -1
		if n > 1 {
			dead = n / 2
			for i := range n {
				h[i*n+dead], h[dead*n+i] = 0, 0
			}
		}
		mean, alive := 0.0, 0.0
		for i := range n {
			if i != dead {
				mean, alive = mean+float64(h[i*n+i]), alive+1
			}
		}
		mean /= alive
		b := make([]float32, rows*n)
		for i := range b {
			b[i] = float32(rng.NormFloat64())
		}
		const damp = 0.001
		one, used, err := Ridge(h, n, damp, b, rows, 1)
		if err != nil || used != damp {
			t.Fatalf("n=%d: damping %g, %v", n, used, err)
		}
		three, _, err := Ridge(h, n, damp, b, rows, 3)
		if err != nil || !slices.Equal(one, three) {
			t.Errorf("n=%d: the result depends on the threads (%v)", n, err)
		}
		damped, right := mat.NewDense(n, n, nil), mat.NewDense(n, rows, nil)
		for i := range n {
			for j := range n {
				damped.Set(i, j, float64(h[i*n+j]))
			}
			damped.Set(i, i, damped.At(i, i)+damp*mean)
			for r := range rows {
				if i != dead {
					right.Set(i, r, float64(b[r*n+i]))
				}
			}
		}
		var want mat.Dense
		if err := want.Solve(damped, right); err != nil {
			t.Fatal(err)
		}
		size := mat.Norm(&want, math.Inf(1)) / rows
		for r := range rows {
			for i := range n {
				if d := math.Abs(float64(one[r*n+i]) - want.At(i, r)); !(d <= 1e-4*size) {
					t.Fatalf("n=%d: X[%d,%d] is %g, want %g", n, r, i, one[r*n+i], want.At(i, r))
				}
			}
		}
	}
	if _, _, err := Ridge(make([]float32, 4), 2, 0, make([]float32, 2), 1, 1); !errors.Is(err, ErrZero) {
		t.Errorf("zeros: %v", err)
	}
}
