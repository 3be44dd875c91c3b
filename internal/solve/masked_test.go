package solve

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// TestFitMasked compares with the normal equations of each row's weights that
// are not zero, in float64.
func TestFitMasked(t *testing.T) {
	const rows, n, tokens, damp = 7, 40, 300, 0.02
	rng := rand.New(rand.NewPCG(3, 4))
	x := make([]float64, tokens*n)
	for i := range tokens {
		common := rng.NormFloat64()
		for c := range n - 1 { // the last is never used
			x[i*n+c] = (rng.NormFloat64() + common) * (0.5 + float64(c%4))
		}
	}
	var full mat.Dense
	full.Mul(mat.NewDense(tokens, n, x).T(), mat.NewDense(tokens, n, x))
	h, mean := make([]float32, n*n), 0.0
	for i := range h {
		h[i] = float32(full.At(i/n, i%n))
	}
	for c := range n {
		mean += full.At(c, c) / (n - 1)
	}
	target, w := make([]float32, rows*n), make([]float32, rows*n)
	for i := range w {
		target[i] = float32(rng.NormFloat64())
		if rng.IntN(2) == 0 && i >= n { // the first row has nothing left
			w[i] = target[i]
		}
	}
	want := make([]float64, rows*n)
	for r := range rows {
		var kept []int
		for c := range n {
			if w[r*n+c] != 0 {
				kept = append(kept, c)
			}
		}
		if len(kept) == 0 {
			continue
		}
		a, b := mat.NewSymDense(len(kept), nil), mat.NewVecDense(len(kept), nil)
		for i, ci := range kept {
			for c := range n {
				b.SetVec(i, b.AtVec(i)+full.At(ci, c)*float64(target[r*n+c]))
			}
			b.SetVec(i, b.AtVec(i)+damp*mean*float64(target[r*n+ci]))
			for j, cj := range kept {
				a.SetSym(i, j, full.At(ci, cj))
			}
			a.SetSym(i, i, a.At(i, i)+damp*mean)
		}
		var solved mat.VecDense
		if err := solved.SolveVec(a, b); err != nil {
			t.Fatal(err)
		}
		for i, c := range kept {
			want[r*n+c] = solved.AtVec(i)
		}
	}
	for _, threads := range []int{1, 3} {
		got := slices.Clone(w)
		if err := FitMasked(context.Background(), h, n, damp, target, got, rows, threads); err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			if (v == 0) != (w[i] == 0) || math.Abs(float64(v)-want[i]) > 2e-3 {
				t.Fatalf("row %d column %d is %g, want %g", i/n, i%n, v, want[i])
			}
		}
	}
	zero := make([]float32, n*n)
	got := slices.Clone(w)
	if err := FitMasked(context.Background(), zero, n, damp, target, got, rows, 1); err != nil || !slices.Equal(got, w) {
		t.Errorf("without inputs the weights changed, or %v", err)
	}
}
