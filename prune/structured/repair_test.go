package structured

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"

	"llmc/calibrate"
	"llmc/kernels"
	"llmc/model"
)

// TestFold compares with the least-squares solution of X_K W'ᵀ = X Wᵀ that gonum
// finds from the inputs themselves, by QR, without Hessian or damping.
func TestFold(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 7))
	const rows, cols, tokens = 5, 14, 60
	x := mat.NewDense(tokens, cols, nil)
	for r := range tokens {
		common := rng.NormFloat64()
		for c := range cols {
			x.Set(r, c, rng.NormFloat64()+common)
		}
	}
	w := mat.NewDense(rows, cols, nil)
	values, h := make([]float32, rows*cols), make([]float32, cols*cols)
	for i := range values {
		values[i] = float32(rng.NormFloat64())
		w.Set(i/cols, i%cols, float64(values[i]))
	}
	var hessian, y mat.Dense
	hessian.Mul(x.T(), x)
	for i := range h {
		h[i] = float32(hessian.At(i/cols, i%cols))
	}
	y.Mul(x, w.T())
	kept := []int{0, 2, 3, 5, 8, 9, 12}
	own := mat.NewDense(tokens, len(kept), nil)
	for r := range tokens {
		for i, c := range kept {
			own.Set(r, i, x.At(r, c))
		}
	}
	var want mat.Dense
	if err := want.Solve(own, &y); err != nil {
		t.Fatal(err)
	}
	got, damping, err := fold(values, rows, cols, h, kept, 1e-7, 2)
	if err != nil || damping != 1e-7 {
		t.Fatalf("damping %g, %v", damping, err)
	}
	for r := range rows {
		for i := range kept {
			if d := math.Abs(float64(got[r*len(kept)+i]) - want.At(i, r)); d > 1e-4 {
				t.Errorf("row %d, column %d is %g, want %g", r, i, got[r*len(kept)+i], want.At(i, r))
			}
		}
	}
	// With all the damping there is, hardly anything is made up for.
	strong, _, err := fold(values, rows, cols, h, kept, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	plain := columns(values, rows, cols, kept)
	var near, far float64
	for i := range plain {
		near += math.Abs(float64(strong[i] - plain[i]))
		far += math.Abs(float64(got[i] - plain[i]))
	}
	if !(near < far) {
		t.Errorf("strong damping moves weights by %g, none by %g", near, far)
	}
	all := make([]int, cols)
	for i := range all {
		all[i] = i
	}
	if same, _, err := fold(values, rows, cols, h, all, 0.01, 1); err != nil || !slices.Equal(same, values) {
		t.Errorf("without a cut the weights become others (%v)", err)
	}
}

// TestApplyTwins removes neurons and heads that do what others do. With repair
// the model is the same afterwards, without it is not.
func TestApplyTwins(t *testing.T) {
	windows := randomWindows(6, 30)
	twin := func(values []float32, cols, from, to, rows int) {
		copy(values[to*cols:][:rows*cols], values[from*cols:][:rows*cols])
	}
	w := tiny(t, func(name string, shape []int, values []float32) {
		switch {
		case strings.Contains(name, "gate_proj"), strings.Contains(name, "up_proj"):
			for j := range 16 {
				twin(values, 32, j, 32+j, 1)
			}
		case strings.Contains(name, "q_proj"):
			twin(values, 32, 0, 16, 16)
		case strings.Contains(name, "k_proj"), strings.Contains(name, "v_proj"):
			twin(values, 32, 0, 8, 8)
		}
	})
	neurons, heads := make([][]int, small.Layers), make([][]int, small.Layers)
	for b := range 3 {
		for j := range 32 {
			neurons[b] = append(neurons[b], j)
		}
		heads[b] = []int{2 * (b % 2), 2*(b%2) + 1}
	}
	before := logits(t, w)
	for name, cut := range map[string]*model.Cut{"neurons": {Neurons: neurons}, "heads": {Heads: heads}} {
		dev := kernels.NewCPU(2)
		defer dev.Close()
		for _, threads := range []int{1, 3} {
			out, repairs, err := Apply(context.Background(), dev, w, cut, windows, Options{Repair: true, Damp: 1e-4, Threads: threads}, calibrate.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if d := furthest(before, logits(t, out)); d > 0.02 {
				t.Errorf("%s: with repair, logits are off by %g", name, d)
			}
			if len(repairs) != 3 {
				t.Fatalf("%s: %d repairs", name, len(repairs))
			}
			for b, r := range repairs {
				if r.ID.Block != b || !r.Used || !(r.Repaired < 0.01*r.Cut) || r.Damping != 1e-4 {
					t.Errorf("%s: repair %+v", name, r)
				}
			}
		}
		out, repairs, err := Apply(context.Background(), dev, w, cut, nil, Options{}, calibrate.Options{})
		if err != nil || repairs != nil {
			t.Fatal(repairs, err)
		}
		if d := furthest(before, logits(t, out)); d < 0.1 {
			t.Errorf("%s: without repair, logits are off by no more than %g", name, d)
		}
		if d := furthest(before, logits(t, w)); d != 0 {
			t.Errorf("%s: the whole model has changed", name)
		}
	}
}

func logits(t *testing.T, w *model.Weights) []float32 {
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	var all []float32
	err = m.Forward(context.Background(), m.NewState(), randomWindows(1, 12)[0], func(_ int, hidden *kernels.Tensor) error {
		all = append(all, m.Logits(hidden).Data...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// furthest is the largest difference, relative to the largest number.
func furthest(a, b []float32) float64 {
	size, off := 0.0, 0.0
	for i := range a {
		size = max(size, math.Abs(float64(a[i])))
		off = max(off, math.Abs(float64(a[i]-b[i])))
	}
	return off / size
}

// TestApplyResumes ends a walk after a block and goes on to the same bits.
func TestApplyResumes(t *testing.T) {
	w := tiny(t, nil)
	windows := randomWindows(3, 20)
	neurons := make([][]int, 3)
	for b := range neurons {
		for j := range 16 {
			neurons[b] = append(neurons[b], 3*j+b)
		}
	}
	cut := &model.Cut{Neurons: neurons}
	dev := kernels.NewCPU(1)
	defer dev.Close()
	want, repairs, err := Apply(context.Background(), dev, w, cut, windows, Options{Repair: true}, calibrate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, stop := range []bool{true, false} {
		journal, err := calibrate.OpenJournal(dir+"/journal", nil, true)
		if err != nil {
			t.Fatal(err)
		}
		o := calibrate.Options{Journal: journal, Progress: func(done, total int64) {
			if stop && done > total/2 {
				cancel()
			}
		}}
		if !stop {
			ctx = context.Background()
			if n := journal.Blocks(); n < 1 || n > 2 {
				t.Errorf("%d blocks are finished", n)
			}
		}
		got, again, err := Apply(ctx, dev, w, cut, windows, Options{Repair: true}, o)
		if (err != nil) != stop {
			t.Fatal(err)
		}
		if !stop {
			if !slices.Equal(again, repairs) {
				t.Errorf("repairs are %+v, want %+v", again, repairs)
			}
			if !slices.Equal(logits(t, want), logits(t, got)) {
				t.Error("the resumed model gives other logits")
			}
		}
		journal.Close()
	}
}
