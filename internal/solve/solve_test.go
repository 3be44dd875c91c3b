package solve

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// hessian is X Xᵀ of tokens rows of n correlated inputs.
func hessian(rng *rand.Rand, n, tokens int) []float32 {
	h := make([]float32, n*n)
	x := make([]float64, n)
	for range tokens {
		common := rng.NormFloat64()
		for i := range x {
			x[i] = rng.NormFloat64() + common
		}
		for i := range n {
			for j := range n {
				h[i*n+j] += float32(x[i] * x[j])
			}
		}
	}
	return h
}

// upperPart is what is on and above the diagonal of h [n, n].
func upperPart(h []float32, n int) []float32 {
	u := slices.Clone(h)
	for i := range n {
		clear(u[i*n : i*n+i])
	}
	return u
}

// TestInvertFactor multiplies Uᵀ U and compares with gonum's general inverse.
func TestInvertFactor(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 7, 64, 150} {
		h := hessian(rng, n, 3*n)
		const damp = 0.5
		u := upperPart(h, n)
		if !InvertFactor(u, n, damp, 2) {
			t.Fatalf("n=%d: not positive definite", n)
		}
		damped := mat.NewDense(n, n, nil)
		upper := mat.NewDense(n, n, nil)
		for i := range n {
			for j := range n {
				damped.Set(i, j, float64(h[i*n+j]))
				upper.Set(i, j, float64(u[i*n+j]))
				if j < i && u[i*n+j] != 0 {
					t.Fatalf("n=%d: U[%d,%d] below the diagonal is %g", n, i, j, u[i*n+j])
				}
			}
			damped.Set(i, i, damped.At(i, i)+damp)
		}
		var inverse, product mat.Dense
		if err := inverse.Inverse(damped); err != nil {
			t.Fatal(err)
		}
		product.Mul(upper.T(), upper)
		for i := range n {
			for j := range n {
				want := inverse.At(i, j)
				limit := 1e-5 * math.Sqrt(inverse.At(i, i)*inverse.At(j, j))
				if d := math.Abs(product.At(i, j) - want); !(d <= limit) {
					t.Fatalf("n=%d: inverse[%d,%d] is %g, want %g", n, i, j, product.At(i, j), want)
				}
			}
		}
	}
}

func TestInvertFactorRefuses(t *testing.T) {
	nan := float32(math.NaN())
	for name, h := range map[string][]float32{
		"zeros": {0, 0, 0, 0}, "negative": {1, 0, 0, -1}, "indefinite": {1, 2, 2, 1}, "nan": {1, nan, nan, 1},
	} {
		if InvertFactor(upperPart(h, 2), 2, 0, 1) {
			t.Errorf("%s is said to be positive definite", name)
		}
	}
	if !InvertFactor([]float32{1, 2, 0, 1}, 2, 1.5, 1) {
		t.Error("damping does not make an indefinite matrix positive definite")
	}
}
