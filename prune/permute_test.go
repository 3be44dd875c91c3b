package prune

import (
	"context"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"llmc/calibrate"
	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// logits are a model's of some ids.
func logits(t *testing.T, w *model.Weights) []float32 {
	t.Helper()
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	ids := []int32{5, 80, 33, 120, 7, 9, 200, 31}
	x, state := m.Embed(ids), m.NewState()
	for b := range w.Config.Blocks {
		state.Truncate(0)
		m.Block(b, x, state)
	}
	m.Norm(x)
	out := m.Logits(x)
	values := make([]float32, out.Rows*out.Cols)
	dev.Read(values, out)
	return values
}

// TestPermuteKeepsTheModel reorders the inputs of every down and o without
// pruning anything: the predictions stay.
func TestPermuteKeepsTheModel(t *testing.T) {
	for _, family := range []string{"llama", "qwen2", "gemma3"} {
		c, err := formats.FromMemory(tinymodel.Files(tinymodel.Spec{Family: family, Hidden: 64, FFN: 96, Heads: 4, KVHeads: 2, Seed: 4}))
		if err != nil {
			t.Fatal(err)
		}
		w, err := model.Open(c)
		if err != nil {
			t.Fatal(err)
		}
		before := logits(t, w)
		r, err := NewRun(w, Magnitude{}, Pattern{Sparsity: 0.5, Keep: 2, Of: 4}, nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		r.Permute()
		for _, id := range r.linears() {
			old, err := w.Matrix(id)
			if err != nil {
				t.Fatal(err)
			}
			values := slices.Clone(kernels.Float32s(old))
			_, permuted, err := r.permute(context.Background(), id, nil)
			if err != nil {
				t.Fatal(err)
			}
			if id.Role != model.Down && id.Role != model.O {
				continue
			}
			now, err := w.Matrix(id)
			if err != nil {
				t.Fatal(err)
			}
			if permuted == nil || !(permuted.After > permuted.Before && permuted.After < 1) || slices.Equal(values, kernels.Float32s(now)) {
				t.Errorf("%s: %s is as it was: %+v", family, id, permuted)
			}
		}
		largest := 0.0
		for _, v := range before {
			largest = max(largest, math.Abs(float64(v)))
		}
		for i, v := range logits(t, w) {
			if math.Abs(float64(v)-float64(before[i])) > 1e-5*largest {
				t.Fatalf("%s: logit %d is %g, it was %g", family, i, v, before[i])
			}
		}
	}
}

// TestPermuteBlock reorders blocks by what text shows: the predictions stay, in a
// mixture of experts, too.
func TestPermuteBlock(t *testing.T) {
	for _, family := range []string{"llama", "qwen2moe"} {
		c, err := formats.FromMemory(tinymodel.Files(tinymodel.Spec{Family: family, Hidden: 64, FFN: 96, Heads: 4, KVHeads: 2, Seed: 4}))
		if err != nil {
			t.Fatal(err)
		}
		w, err := model.Open(c)
		if err != nil {
			t.Fatal(err)
		}
		before := logits(t, w)
		r, err := NewRun(w, SparseGPT{}, Pattern{Sparsity: 0.5, Keep: 2, Of: 4}, nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		r.Permute()
		dev := kernels.NewCPU(1)
		defer dev.Close()
		if err := r.Observe(context.Background(), dev, [][]int32{{5, 80, 33, 120, 7, 9, 200, 31}}, calibrate.Options{}); err != nil {
			t.Fatal(err)
		}
		for block := range w.Config.Blocks {
			list, err := r.PermuteBlock(context.Background(), block)
			if want := 2 + w.Config.Experts.Count; err != nil || len(list) != want {
				t.Errorf("%s: %d linears are reordered, want %d: %v", family, len(list), want, err)
			}
		}
		for i, v := range logits(t, w) {
			if math.Abs(float64(v)-float64(before[i])) > 1e-4 {
				t.Fatalf("%s: logit %d is %g, it was %g", family, i, v, before[i])
			}
		}
	}
}

// TestArrangement compares with the best of all ways to put 8 columns into two
// groups.
func TestArrangement(t *testing.T) {
	const rows, cols = 20, 8
	rng := rand.New(rand.NewPCG(5, 6))
	gains, bestGains := 0.0, 0.0
	for trial := range 10 {
		a := &arrangement{pattern: Pattern{Keep: 2, Of: 4}, cols: cols, scores: make([]float32, rows*cols)}
		for i := range a.scores {
			a.scores[i] = float32(rng.ExpFloat64()) * float32(1+i%cols%3)
		}
		before, after, whole, err := a.search(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		best := 0.0
		for set := range uint(1 << cols) {
			if bits.OnesCount(set) != 4 {
				continue
			}
			sum := 0.0
			for r := range rows {
				for _, side := range []uint{set, ^set} {
					var group []float64
					for c := range cols {
						if side>>c&1 == 1 {
							group = append(group, float64(a.scores[r*cols+c]))
						}
					}
					slices.Sort(group)
					sum += group[2] + group[3]
				}
			}
			best = max(best, sum)
		}
		sorted := slices.Clone(a.order)
		slices.Sort(sorted)
		if !slices.Equal(sorted, []int{0, 1, 2, 3, 4, 5, 6, 7}) || !(after >= before && after <= best*(1+1e-6) && whole > after) {
			t.Errorf("trial %d: order %v keeps %g, %g before, %g at best, of %g", trial, a.order, after, before, best, whole)
		}
		gains += after - before
		bestGains += best - before
	}
	if gains < 0.75*bestGains {
		t.Errorf("swaps gain %g in all, the best orders %g", gains, bestGains)
	}
}
