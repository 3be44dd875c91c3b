package structured

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// TestEliminate compares with a search that solves the least squares of every
// unit that could go next anew, in float64.
func TestEliminate(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	const rows, damp = 7, 0.01
	for _, c := range []struct{ cols, size, least int }{{20, 1, 4}, {24, 4, 1}, {9, 3, 1}} {
		x := mat.NewDense(90, c.cols, nil)
		for r := range 90 {
			a, b := rng.NormFloat64(), rng.NormFloat64()
			for i := range c.cols {
				x.Set(r, i, (rng.NormFloat64()+a*float64(i%3)+b*float64(i%2))*float64(1+i%4))
			}
		}
		for r := range 90 {
			x.Set(r, c.size, 0) // a column without inputs, in the second unit
		}
		var h mat.Dense
		h.Mul(x.T(), x)
		w := mat.NewDense(rows, c.cols, nil)
		for i := range rows * c.cols {
			w.Set(i/c.cols, i%c.cols, rng.NormFloat64())
		}
		scores, damping, err := eliminate(float32s(w), rows, float32s(&h), c.cols, c.size, c.least, damp, 2)
		if err != nil || damping != damp {
			t.Fatal(damping, err)
		}
		want := slowElimination(w, &h, c.size, c.least, damp)
		for u, s := range scores {
			if math.Abs(s-want[u]) > 1e-4*want[u]+1e-7 {
				t.Errorf("%d columns by %d: unit %d has %g, want %g", c.cols, c.size, u, s, want[u])
			}
		}
	}
}

func slowElimination(w, h *mat.Dense, size, least int, damp float64) []float64 {
	rows, cols := w.Dims()
	damped := mat.DenseCopyOf(h)
	mean, alive := 0.0, 0
	for i := range cols {
		if v := h.At(i, i); v > 0 {
			mean, alive = mean+v, alive+1
		}
	}
	mean /= float64(alive)
	plain := mat.DenseCopyOf(w)
	for i := range cols {
		damped.Set(i, i, h.At(i, i)+damp*mean)
		if h.At(i, i) == 0 {
			for r := range rows {
				plain.Set(r, i, 0)
			}
		}
	}
	// The error of leaving out some columns, the others fitted: with the damping
	// that holds them to where they were.
	lost := func(kept []int) float64 {
		k := len(kept)
		square, cross := mat.NewDense(k, k, nil), mat.NewDense(k, rows, nil)
		var all mat.Dense
		all.Mul(damped, plain.T())
		for i, a := range kept {
			for j, b := range kept {
				square.Set(i, j, damped.At(a, b))
			}
			for r := range rows {
				cross.Set(i, r, all.At(a, r))
			}
		}
		var fit mat.Dense
		if err := fit.Solve(square, cross); err != nil {
			panic(err)
		}
		diff := mat.DenseCopyOf(plain)
		for i, a := range kept {
			for r := range rows {
				diff.Set(r, a, diff.At(r, a)-fit.At(i, r))
			}
		}
		return quadratic(diff, damped)
	}
	var left []int
	for u := range cols / size {
		left = append(left, u)
	}
	columns := func(units []int, without int) []int {
		var list []int
		for _, u := range units {
			for i := range size {
				if u != without {
					list = append(list, u*size+i)
				}
			}
		}
		return list
	}
	whole := quadratic(w, h)
	scores := make([]float64, cols/size)
	for len(left) > least {
		best, at := math.Inf(1), 0
		for i, u := range left {
			if e := lost(columns(left, u)); e < best-1e-12 {
				best, at = e, i
			}
		}
		scores[left[at]] = best / whole
		left = append(left[:at:at], left[at+1:]...)
	}
	for _, u := range left {
		if len(left) > 1 {
			scores[u] = lost(columns(left, u)) / whole
		} else {
			scores[u] = quadratic(plain, damped) / whole
		}
	}
	return scores
}

// quadratic is tr(w h wᵀ).
func quadratic(w, h *mat.Dense) float64 {
	var a, b mat.Dense
	a.Mul(w, h)
	b.Mul(&a, w.T())
	return mat.Trace(&b)
}

// TestEliminateTwins removes half of many columns at a time, each of which has a
// twin: nothing is lost while one of both stays.
func TestEliminateTwins(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	const rows, half = 5, 150
	x := mat.NewDense(400, 2*half, nil)
	w := mat.NewDense(rows, 2*half, nil)
	for c := range half {
		for r := range 400 {
			v := rng.NormFloat64()
			x.Set(r, c, v)
			x.Set(r, half+c, v)
		}
		for r := range rows {
			w.Set(r, c, rng.NormFloat64())
			w.Set(r, half+c, rng.NormFloat64())
		}
	}
	var h mat.Dense
	h.Mul(x.T(), x)
	scores, _, err := eliminate(float32s(w), rows, float32s(&h), 2*half, 1, half, 1e-4, 2)
	if err != nil {
		t.Fatal(err)
	}
	gone := slices.Clone(scores)
	slices.Sort(gone)
	for c := range half {
		if (scores[c] < gone[half]) == (scores[half+c] < gone[half]) {
			t.Errorf("twins %d go together or stay: %g and %g", c, scores[c], scores[half+c])
		}
	}
}
