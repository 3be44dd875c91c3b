package prune

import (
	"context"
	"math"
	"slices"
	"testing"

	"llmc/calibrate"
	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// tiny opens a model of four blocks with random weights, and windows of ids. The
// weights of some blocks have outliers.
func tiny(t *testing.T) (*model.Weights, [][]int32) {
	t.Helper()
	dir := t.TempDir() + "/model"
	if err := tinymodel.Write(dir, tinymodel.Spec{Layers: 4, Hidden: 64, FFN: 96}); err != nil {
		t.Fatal(err)
	}
	c, err := formats.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	for block := range 3 {
		id := model.ID{Role: model.Up, Block: block}
		m, err := w.Matrix(id)
		if err != nil {
			t.Fatal(err)
		}
		rows, cols := m.Shape()
		values := slices.Clone(kernels.Float32s(m))
		for i := 0; i < len(values); i += 9 - 2*block {
			values[i] *= 30
		}
		w.Replace(id, kernels.FromFloat32s(rows, cols, values))
	}
	windows := make([][]int32, 3)
	for i := range windows {
		for j := range 40 {
			windows[i] = append(windows[i], int32(5+(i*37+j*11)%200))
		}
	}
	return w, windows
}

func allocated(t *testing.T, a Allocation, sparsity float64) (*Run, []float64) {
	t.Helper()
	w, windows := tiny(t)
	m, err := NewMethod("wanda", SparseGPT{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRun(w, m, Pattern{Sparsity: sparsity}, []string{"k"}, 2)
	if err != nil {
		t.Fatal(err)
	}
	dev := kernels.NewCPU(2)
	t.Cleanup(dev.Close)
	ratios, err := r.Allocate(context.Background(), dev, a, windows, calibrate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r, ratios
}

// TestAllocationsAreExact sums up what every allocation gives.
func TestAllocationsAreExact(t *testing.T) {
	for _, a := range []Allocation{Global, OWL, Sensitivity} {
		for _, sparsity := range []float64{0.1, 0.5, 0.97} {
			r, _ := allocated(t, a, sparsity)
			sum, total := 0.0, 0.0
			shares := map[float64]bool{}
			for _, id := range r.linears() {
				p := r.PatternOf(id)
				if id.Role == model.K || !(p.Sparsity >= 0 && p.Sparsity < 1) {
					t.Errorf("%s: %s is %g sparse", a, id, p.Sparsity)
				}
				shares[p.Sparsity] = true
				sum += p.Sparsity * r.size(id)
				total += r.size(id)
			}
			if math.Abs(sum/total-sparsity) > 1e-9 || len(shares) < 3 {
				t.Errorf("%s of %g: %g in all, %d different shares", a, sparsity, sum/total, len(shares))
			}
		}
	}
}

// TestOWL compares with section 3.2 of arXiv 2310.05175 in float64.
func TestOWL(t *testing.T) {
	const sparsity, lambda, m = 0.6, 0.08, 5
	r, ratios := allocated(t, OWL, sparsity)
	w, windows := tiny(t)
	want := make([]float64, w.Config.Blocks)
	dev := kernels.NewCPU(1)
	defer dev.Close()
	products := make([][]float64, w.Config.Blocks)
	err := calibrate.Walk(context.Background(), dev, w, windows, calibrate.Options{Unchanged: true, Hessian: true},
		func(_ context.Context, block int, roles []model.Role, in *calibrate.Inputs) error {
			for _, role := range roles {
				if role == model.K { // ignored
					continue
				}
				x, err := w.Matrix(model.ID{Role: role, Block: block})
				if err != nil {
					return err
				}
				_, cols := x.Shape()
				for i, v := range kernels.Float32s(x) {
					norm := math.Sqrt(float64(in.Hessian[i%cols*(cols+1)]))
					products[block] = append(products[block], math.Abs(float64(v))*norm)
				}
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	for block, list := range products {
		mean := 0.0
		for _, v := range list {
			mean += v / float64(len(list))
		}
		for _, v := range list {
			if v > m*mean {
				want[block] += 100 / float64(len(list))
			}
		}
		if math.Abs(ratios[block]-want[block]) > 0.02 {
			t.Errorf("block %d has %g%% outliers, want %g%%", block, ratios[block], want[block])
		}
	}
	low, high, mean := slices.Min(want), slices.Max(want), 0.0
	for i := range want {
		want[i] = (want[i] - low) / (high - low) * 2 * lambda
		mean += want[i] / float64(len(want))
	}
	for _, id := range r.linears() {
		if got, want := r.PatternOf(id).Sparsity, 1-(want[id.Block]-mean+1-sparsity); math.Abs(got-want) > 2e-3 {
			t.Errorf("%s is %g sparse, want %g", id, got, want)
		}
	}
}

// TestLeastErrors tries all combinations of points for three linears.
func TestLeastErrors(t *testing.T) {
	points := []float64{0.3, 0.4, 0.5, 0.6, 0.7}
	ids := []model.ID{{Block: 0}, {Block: 1}, {Block: 2}}
	size := func(model.ID) float64 { return 10 }
	curves := map[model.ID][]float64{ids[0]: {1, 2, 4, 8, 16}, ids[1]: {5, 5.5, 6, 6.6, 8}, ids[2]: {0, 3, 5, 5.5, 9}}
	cost := func(shares [3]int) (sum float64) {
		for i, at := range shares {
			sum += curves[ids[i]][at]
		}
		return sum
	}
	best := math.Inf(1)
	for i := range 125 {
		if at := [3]int{i % 5, i / 5 % 5, i / 25}; at[0]+at[1]+at[2] == 6 { // 0.5 in all
			best = min(best, cost(at))
		}
	}
	got := leastErrors(ids, size, points, curves, 0.5)
	sum, expected := 0.0, 0.0
	for _, id := range ids {
		sum += got[id] / 3
		hull := convexHull(points, curves[id])
		for i := 1; i < len(hull); i++ {
			a, b := points[hull[i-1]], points[hull[i]]
			if x := got[id]; x >= a-1e-9 && x <= b+1e-9 {
				expected += curves[id][hull[i-1]] + (x-a)/(b-a)*(curves[id][hull[i]]-curves[id][hull[i-1]])
				break
			}
		}
	}
	if math.Abs(sum-0.5) > 1e-12 || expected > best+1e-9 {
		t.Errorf("%v: mean %g, error %g, the best of all points has %g", got, sum, expected, best)
	}
}
