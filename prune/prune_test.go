package prune

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"

	"llmc/calibrate"
	"llmc/internal/fault"
)

// layer is a random weight [rows, cols] with correlated inputs; channel dead of
// them is always zero, and one in twenty weights is.
func layer(seed uint64, rows, cols, dead int) Layer { return layerWith(seed, rows, cols, dead, 20) }

// layerWith has a zero in so many weights.
func layerWith(seed uint64, rows, cols, dead, oneIn int) Layer {
	rng := rand.New(rand.NewPCG(seed, 7))
	l := Layer{Name: "linear", Rows: rows, Cols: cols, Weight: make([]float32, rows*cols), Threads: 2, Solution: &Solution{}}
	for i := range l.Weight {
		if rng.IntN(oneIn) > 0 {
			l.Weight[i] = float32(rng.NormFloat64())
		}
	}
	in := &calibrate.Inputs{Tokens: 4 * cols, MeanSquare: make([]float32, cols), Hessian: make([]float32, cols*cols)}
	x := make([]float64, cols)
	for range in.Tokens {
		common := rng.NormFloat64()
		for i := range x {
			x[i] = (rng.NormFloat64() + common) * (1 + 3*float64(i%5))
		}
		if dead >= 0 {
			x[dead] = 0
		}
		for i := range cols {
			in.MeanSquare[i] += float32(x[i] * x[i] / float64(in.Tokens))
			for j := range cols {
				in.Hessian[i*cols+j] += float32(x[i] * x[j])
			}
		}
	}
	l.Inputs = in
	return l
}

// lowest returns the indices of the k smallest of scores.
func lowest(scores []float64, k int) []int {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return scores[order[a]] < scores[order[b]] })
	return order[:k]
}

// byScore prunes a weight in float64 by scores alone: over runs of the weight
// that begin every step elements.
func byScore(l Layer, score func(r, c int) float64, step int, share float64) []float64 {
	out := make([]float64, len(l.Weight))
	for i, v := range l.Weight {
		out[i] = float64(v)
	}
	for from := 0; from < len(out); from += step {
		scores := make([]float64, step)
		for i := range scores {
			scores[i] = score((from+i)/l.Cols, (from+i)%l.Cols)
		}
		all := share * float64(step)
		k := int(all*float64(from/step+1)) - int(all*float64(from/step))
		for _, i := range lowest(scores, k) {
			out[from+i] = 0
		}
	}
	return out
}

// obs is SparseGPT with the inverse of what is left of the Hessian computed
// anew for every column (sections 3.2 to 3.4 of arXiv 2301.00774).
func obs(l Layer, p Pattern, damp float64) []float64 {
	n := l.Cols
	live, mean := 0.0, 0.0
	for c := range n {
		if d := float64(l.Inputs.Hessian[c*n+c]); d > 0 {
			live++
			mean += d
		}
	}
	mean /= live
	h := mat.NewSymDense(n, nil)
	for i := range n {
		for j := i; j < n; j++ {
			h.SetSym(i, j, float64(l.Inputs.Hessian[i*n+j]))
		}
		if h.At(i, i) == 0 {
			h.SetSym(i, i, mean)
		}
		h.SetSym(i, i, h.At(i, i)+damp*mean)
	}
	inverses := make([]mat.Dense, n) // of H[c:, c:]
	for c := range n {
		if err := inverses[c].Inverse(h.SliceSym(c, n)); err != nil {
			panic(err)
		}
	}
	w := make([]float64, len(l.Weight))
	gone, never := make([]bool, len(w)), make([]bool, len(w))
	zeros := 0
	for i, v := range l.Weight {
		if w[i] = float64(v); v == 0 {
			zeros++
		}
	}
	for i, v := range w {
		never[i] = v == 0 && 5*zeros >= len(w) || l.Inputs.Hessian[i%n*n+i%n] == 0
	}
	score := func(i int) float64 {
		if never[i] {
			return -1
		}
		return w[i] * w[i] / inverses[i%n].At(0, 0)
	}
	choose := func(indices []int, k int) {
		scores := make([]float64, len(indices))
		for i, at := range indices {
			scores[i] = score(at)
		}
		for _, i := range lowest(scores, k) {
			gone[indices[i]] = true
		}
	}
	for c := range n {
		if !p.structured() && c%sparseBlock == 0 {
			var block []int
			for r := range l.Rows {
				for j := c; j < min(c+sparseBlock, n); j++ {
					block = append(block, r*n+j)
				}
			}
			choose(block, int(p.Sparsity*float64(len(block))))
		}
		for r := range l.Rows {
			if p.structured() && c%p.Of == 0 {
				var group []int
				for j := range p.Of {
					group = append(group, r*n+c+j)
				}
				choose(group, p.Of-p.Keep)
			}
			if i := r*n + c; gone[i] || never[i] {
				e := w[i] / inverses[c].At(0, 0)
				for j := c; j < n; j++ {
					w[r*n+j] -= e * inverses[c].At(0, j-c)
				}
				w[i] = 0
			}
		}
	}
	return w
}

// inGroupOrder runs f on a layer whose groups of columns stand in the order of
// their inputs, the largest first.
func inGroupOrder(l Layer, p Pattern, f func(l Layer) []float64) []float64 {
	if !p.structured() {
		return f(l)
	}
	n := l.Cols
	groups := make([]int, n/p.Of)
	size := func(g int) (sum float64) {
		for c := g * p.Of; c < (g+1)*p.Of; c++ {
			sum += float64(l.Inputs.Hessian[c*n+c])
		}
		return sum
	}
	for g := range groups {
		groups[g] = g
	}
	sort.SliceStable(groups, func(a, b int) bool { return size(groups[a]) > size(groups[b]) })
	at := func(i int) int { return groups[i/p.Of]*p.Of + i%p.Of }
	moved := l
	moved.Weight = make([]float32, len(l.Weight))
	moved.Inputs = &calibrate.Inputs{MeanSquare: l.Inputs.MeanSquare, Hessian: make([]float32, n*n)}
	for i := range n {
		for j := range n {
			moved.Inputs.Hessian[i*n+j] = l.Inputs.Hessian[at(i)*n+at(j)]
		}
		for r := range l.Rows {
			moved.Weight[r*n+i] = l.Weight[r*n+at(i)]
		}
	}
	got := f(moved)
	back := make([]float64, len(got))
	for r := range l.Rows {
		for i := range n {
			back[r*n+at(i)] = got[r*n+i]
		}
	}
	return back
}

// TestMethods compares masks and weights with references in float64 that are
// written from the papers.
func TestMethods(t *testing.T) {
	patterns := []Pattern{{Sparsity: 0.5}, {Sparsity: 0.3}, {Sparsity: 0}, {Sparsity: 0.5, Keep: 2, Of: 4}, {Sparsity: 0.5, Keep: 4, Of: 8}, {Sparsity: 1 - 1./3, Keep: 1, Of: 3}}
	for i, p := range patterns {
		for _, dead := range []int{-1, 9} {
			oneIn := 20
			if dead >= 0 {
				oneIn = 4 // a mask, which stays
			}
			base := layerWith(uint64(i), 5, 168, dead, oneIn)
			magnitude := func(r, c int) float64 { return math.Abs(float64(base.Weight[r*base.Cols+c])) }
			wanda := func(r, c int) float64 { return magnitude(r, c) * math.Sqrt(float64(base.Inputs.MeanSquare[c])) }
			all, row := len(base.Weight), base.Cols
			if p.structured() {
				all, row = p.Of, p.Of
			}
			for _, try := range []struct {
				method Method
				want   []float64
			}{
				{Magnitude{}, byScore(base, magnitude, all, p.Sparsity+1e-12)},
				{Wanda{}, byScore(base, wanda, row, p.Sparsity+1e-12)},
				{SparseGPT{Damp: 0.02, FileOrder: true}, obs(base, p, 0.02)},
				{SparseGPT{Damp: 0.02}, inGroupOrder(base, p, func(l Layer) []float64 { return obs(l, p, 0.02) })},
			} {
				t.Run(fmt.Sprintf("%+v/%s/dead %d", try.method, p, dead), func(t *testing.T) {
					l := base
					l.Weight = slices.Clone(base.Weight)
					if err := try.method.Prune(context.Background(), l, p); err != nil {
						t.Fatal(err)
					}
					for i, got := range l.Weight {
						if math.Abs(float64(got)-try.want[i]) > 1e-4 || (got == 0) != (try.want[i] == 0) {
							t.Fatalf("row %d column %d is %g, want %g", i/l.Cols, i%l.Cols, got, try.want[i])
						}
						if base.Weight[i] == 0 && got != 0 && oneIn == 4 {
							t.Fatalf("row %d column %d was zero and is %g", i/l.Cols, i%l.Cols, got)
						}
					}
					if least := int(p.Sparsity * float64(len(l.Weight)) * 0.99); l.zeros(t.Context()) < least {
						t.Errorf("%d zeros of %d", l.zeros(t.Context()), len(l.Weight))
					}
				})
			}
		}
	}
}

// TestKeepZeros expects the few zeros of a weight to stay, and others to move.
func TestKeepZeros(t *testing.T) {
	for _, keep := range []bool{true, false} {
		l := layer(3, 6, 64, -1)
		was := slices.Clone(l.Weight)
		if err := (SparseGPT{KeepZeros: keep}).Prune(context.Background(), l, Pattern{Sparsity: 0.5, Keep: 2, Of: 4}); err != nil {
			t.Fatal(err)
		}
		moved := 0
		for i, v := range was {
			if v == 0 && l.Weight[i] != 0 {
				moved++
			}
		}
		if keep != (moved == 0) {
			t.Errorf("zeros stay is %v, and %d moved", keep, moved)
		}
	}
}

func TestSparseGPTFallsBack(t *testing.T) {
	l := layer(1, 3, 16, -1)
	clear(l.Inputs.Hessian)
	if err := (SparseGPT{}).Prune(context.Background(), l, Pattern{Sparsity: 0.5}); err != nil {
		t.Fatal(err)
	}
	if l.Solution.Fallback == "" || l.zeros(t.Context()) < 24 {
		t.Errorf("%+v with %d zeros", l.Solution, l.zeros(t.Context()))
	}
}

func TestParsePattern(t *testing.T) {
	for _, try := range []struct {
		text     string
		sparsity float64
		want     Pattern
	}{
		{"", 0.5, Pattern{Sparsity: 0.5}}, {"unstructured", 0.25, Pattern{Sparsity: 0.25}},
		{"2:4", 0, Pattern{0.5, 2, 4}}, {"2:4", 0.5, Pattern{0.5, 2, 4}}, {"1:4", 0.75, Pattern{0.75, 1, 4}},
	} {
		got, err := ParsePattern(try.text, try.sparsity)
		if err != nil || got != try.want {
			t.Errorf("%q, %g: %+v, %v, want %+v", try.text, try.sparsity, got, err, try.want)
		}
	}
	for _, try := range []struct {
		text     string
		sparsity float64
		want     string
	}{
		{"", 1, "allowed is 0 up to"}, {"", -0.1, "allowed is 0 up to"}, {"", math.NaN(), "allowed is 0 up to"},
		{"4:2", 0, "N below M"}, {"4:4", 0, "N below M"}, {"0:4", 0, "N below M"}, {"2:x", 0, "N below M"},
		{"2:128", 0, "up to 64"}, {"half", 0.5, "allowed are unstructured"}, {"2:4", 0.75, "has sparsity 0.5"},
	} {
		_, err := ParsePattern(try.text, try.sparsity)
		if err == nil || !strings.Contains(err.Error(), try.want) || fault.KindOf(err) != fault.KindOf(fault.Usage("")) {
			t.Errorf("%q, %g: %v, want a usage error with %q", try.text, try.sparsity, err, try.want)
		}
	}
}

func TestSmallest(t *testing.T) {
	var got []int
	smallest([]float32{3, 1, 2, 1, 1, 5}, 2, func(i int) { got = append(got, i) })
	if !slices.Equal(got, []int{1, 3}) {
		t.Errorf("the two smallest are %v", got)
	}
	smallest([]float32{1}, 0, func(int) { t.Error("none was asked for") })
}

// TestKthSmallest compares with sorting, long lists and short ones, with ties,
// zeros of both signs and negative numbers.
func TestKthSmallest(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for _, n := range []int{1, 2, 31, 500, 3000} {
		scores := make([]float32, n)
		for i := range scores {
			switch v := rng.NormFloat64(); i % 4 {
			case 0:
				scores[i] = float32(v)
			case 1:
				scores[i] = float32(math.Copysign(0, v))
			case 2:
				scores[i] = float32(int(3 * v))
			default:
				scores[i] = float32(1e-40 * v)
			}
		}
		sorted := slices.Clone(scores)
		slices.Sort(sorted)
		for _, k := range []int{1, (n + 1) / 2, max(1, n-1), n} {
			limit, ties := kthSmallest(scores, k)
			want := 0
			for _, v := range sorted[:k] {
				if v == sorted[k-1] {
					want++
				}
			}
			if limit != sorted[k-1] || ties != want {
				t.Errorf("%d of %d: %g with %d ties, want %g with %d", k, n, limit, ties, sorted[k-1], want)
			}
			if n > maxOf {
				continue
			}
			keys, lower, marked := make([]uint32, n), make([]bool, n), make([]bool, n)
			for i, v := range scores {
				keys[i] = ordered(v)
			}
			dropLowest(lower, keys, k)
			smallest(scores, k, func(i int) { marked[i] = true })
			if !slices.Equal(lower, marked) {
				t.Errorf("the lowest %d of %v are %v, want %v", k, scores, lower, marked)
			}
		}
	}
}
