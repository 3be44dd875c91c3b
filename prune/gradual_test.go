package prune

import (
	"context"
	"math"
	"slices"
	"testing"

	"llmc/internal/solve"
	"llmc/kernels"
)

func TestSteps(t *testing.T) {
	var got []float64
	for _, p := range (Pattern{Sparsity: 0.8}).steps(4) {
		got = append(got, math.Round(p.Sparsity*1e4)/1e4)
	}
	if want := []float64{0.4625, 0.7, 0.7875, 0.8}; !slices.Equal(got, want) { // 0.8(1-(1-t/4)³)
		t.Errorf("sparsities %v, want %v", got, want)
	}
	var keep []int
	for _, p := range (Pattern{Sparsity: 0.75, Keep: 2, Of: 8}).steps(4) {
		keep = append(keep, p.Keep)
	}
	if want := []int{5, 3, 2}; !slices.Equal(keep, want) {
		t.Errorf("of 8 stay %v, want %v", keep, want)
	}
}

// TestGradual: every step of the way to the same zeros makes the layer's output
// nearer to what it was, zeros of the source stay, and the pattern holds.
func TestGradual(t *testing.T) {
	for _, p := range []Pattern{{Sparsity: 0.6}, {Sparsity: 0.5, Keep: 2, Of: 4}} {
		for _, inner := range []Method{Magnitude{}, Wanda{}, SparseGPT{}} {
			base := layerWith(21, 24, 160, 5, 4)
			errorOf := func(m Method) float64 {
				l := base
				l.Weight, l.Solution = slices.Clone(base.Weight), &Solution{}
				if err := m.Prune(context.Background(), l, p); err != nil {
					t.Fatal(err)
				}
				for i, v := range base.Weight {
					if v == 0 && l.Weight[i] != 0 {
						t.Fatalf("%s: a zero of the source is %g", m.Name(), l.Weight[i])
					}
				}
				if n := l.zeros(t.Context()); float64(n) < 0.99*p.Sparsity*float64(len(l.Weight)) || float64(n) > (p.Sparsity+0.1)*float64(len(l.Weight)) {
					t.Errorf("%s %s: %d zeros of %d", m.Name(), p, n, len(l.Weight))
				}
				w, q := kernels.FromFloat32s(l.Rows, l.Cols, base.Weight), kernels.FromFloat32s(l.Rows, l.Cols, l.Weight)
				errors, whole := solve.OutputErrors(w, base.Inputs.Hessian, 1, q)
				sum := 0.0
				for _, e := range errors[0] {
					sum += e
				}
				return sum / whole
			}
			plain, one, four := errorOf(inner), errorOf(Gradual{Method: inner, Steps: 1}), errorOf(Gradual{Method: inner, Steps: 4})
			t.Logf("%s %s: %.4f plain, %.4f in one step, %.4f in four", inner.Name(), p, plain, one, four)
			if !(one < plain && four < 1.02*one) {
				t.Errorf("%s %s: squared error %.4f, repaired %.4f, in four steps %.4f", inner.Name(), p, plain, one, four)
			}
		}
	}
}
