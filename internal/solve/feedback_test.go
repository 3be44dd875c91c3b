package solve

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// tenths rounds every second weight to tenths and drops the others that are
// small, looking at the row as it stands.
type tenths struct{ blocks []int }

func (f *tenths) Block(_ context.Context, from, to int, w []float32) error {
	f.blocks = append(f.blocks, from, to)
	return nil
}

func (f *tenths) Group() int { return 1 }

func (f *tenths) Fix(p int, x Lanes) {
	for i, v := range x.At(0) {
		x.At(0)[i] = tenth(x.First+i, p, v)
	}
}

func tenth(r, p int, v float32) float32 {
	if (r+p)%2 == 0 && math.Abs(float64(v)) < 0.3 {
		return 0
	}
	return float32(math.Round(float64(v)*10) / 10)
}

// obs is the same walk in float64 with the inverse of what is left of the
// Hessian computed anew at every column (equation 2 of arXiv 2210.17323).
func obs(w []float64, n, r int, damped *mat.SymDense) []float64 {
	w = slices.Clone(w)
	for p := range n {
		var inverse mat.Dense
		if err := inverse.Inverse(damped.SliceSym(p, n)); err != nil {
			panic(err)
		}
		q := float64(tenth(r, p, float32(w[p])))
		e := (w[p] - q) / inverse.At(0, 0)
		for j := p; j < n; j++ {
			w[j] -= e * inverse.At(0, j-p)
		}
		w[p] = q
	}
	return w
}

func TestFeedback(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const rows, n = 5, 23
	h := hessian(rng, n, 3*n)
	f, err := FactorHessian(h, n, nil, 0, 2)
	if err != nil {
		t.Fatal(err)
	}
	mean := 0.0
	for i := range n {
		mean += float64(h[i*n+i]) / n
	}
	damped := mat.NewSymDense(n, nil)
	for i := range n {
		for j := i; j < n; j++ {
			damped.SetSym(i, j, float64(h[i*n+j]))
		}
		damped.SetSym(i, i, damped.At(i, i)+f.Damping*mean)
	}
	w := make([]float32, rows*n)
	for i := range w {
		w[i] = float32(rng.NormFloat64())
	}
	for _, block := range []int{1, 7, 8, n, 100} {
		for _, threads := range []int{1, 3} {
			got, fixer := slices.Clone(w), &tenths{}
			if err := Feedback(context.Background(), got, rows, n, f.Upper, block, threads, fixer); err != nil {
				t.Fatal(err)
			}
			for r := range rows {
				exact := make([]float64, n)
				for c := range exact {
					exact[c] = float64(w[r*n+c])
				}
				for c, want := range obs(exact, n, r, damped) {
					if math.Abs(float64(got[r*n+c])-want) > 1e-6 {
						t.Fatalf("block %d, %d threads: row %d column %d is %g, want %g", block, threads, r, c, got[r*n+c], want)
					}
				}
			}
			if last := fixer.blocks[len(fixer.blocks)-1]; last != n || fixer.blocks[0] != 0 {
				t.Errorf("block %d: the fixer saw %v", block, fixer.blocks)
			}
		}
	}
}

func TestFactorHessian(t *testing.T) {
	// Column 1 is dead, and 2 has the largest inputs.
	h := []float32{2, 0, 1, 0, 0, 0, 1, 0, 6}
	order := ByInput(h, 3, 1)
	if !slices.Equal(order, []int{2, 0, 1}) {
		t.Errorf("the order by input is %v", order)
	}
	f, err := FactorHessian(h, 3, order, 0.25, 2)
	if err != nil {
		t.Fatal(err)
	}
	if f.Dead != 1 || f.Damping != 0.25 || f.Upper[1*3+2] != 0 || f.Upper[0*3+2] != 0 {
		t.Errorf("the factor is %+v", f)
	}
	if _, err := FactorHessian(make([]float32, 9), 3, nil, 0, 2); !errors.Is(err, ErrZero) {
		t.Errorf("zeros: %v", err)
	}
	// The eigenvalues are 4 and -2: a damping of 1 is not enough. The next has
	// 2.1 and -0.1, so that 0.01 is doubled four times.
	if _, err := FactorHessian([]float32{1, 3, 3, 1}, 2, nil, 0, 2); !errors.Is(err, ErrIndefinite) {
		t.Errorf("indefinite: %v", err)
	}
	f, err = FactorHessian([]float32{1, 1.1, 1.1, 1}, 2, nil, 0, 2)
	if err != nil || f.Damping != 0.16 {
		t.Errorf("slightly indefinite: %+v, %v", f, err)
	}
}

// TestByInputGroups keeps neighbours together, equal groups as they stand.
func TestByInputGroups(t *testing.T) {
	const n = 8
	h := make([]float32, n*n)
	for c, v := range []float32{1, 1, 9, 0, 1, 1, 5, 5} {
		h[c*n+c] = v
	}
	if got := ByInput(h, n, 2); !slices.Equal(got, []int{6, 7, 2, 3, 0, 1, 4, 5}) {
		t.Errorf("pairs by their inputs are %v", got)
	}
}
