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

// TestRepair compares with the least squares of X (W+S)ᵀ = X Wᵀ + D that gonum
// finds by QR from inputs and gap themselves, without Hessian or damping.
func TestRepair(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 7))
	w := tiny(t, nil)
	id := model.ID{Role: model.Down, Block: 1}
	m, err := w.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	before := kernels.Float32s(m)
	rows, cols := m.Shape()
	const tokens = 200
	x, d := mat.NewDense(tokens, cols, nil), mat.NewDense(tokens, rows, nil)
	energy, byRow := 0.0, make([]float64, rows)
	for r := range tokens {
		common := rng.NormFloat64()
		for c := range cols {
			x.Set(r, c, rng.NormFloat64()+common)
		}
		for c := range rows {
			d.Set(r, c, rng.NormFloat64()+0.3*common)
			energy += d.At(r, c) * d.At(r, c)
			byRow[c] += d.At(r, c) * d.At(r, c)
		}
	}
	var h, cross, step, left mat.Dense
	h.Mul(x.T(), x)
	cross.Mul(d.T(), x)
	if err := step.Solve(x, d); err != nil {
		t.Fatal(err)
	}
	left.Mul(x, &step)
	left.Sub(d, &left)
	gap := &calibrate.Gap{Tokens: tokens, Hessian: float32s(&h), Cross: float32s(&cross), Energy: byRow}
	r, err := repair(w, id, gap, Options{Damp: 1e-7, Threads: 2})
	if err != nil || !r.Used || r.Damping != 1e-7 || r.ID != id {
		t.Fatalf("%+v, %v", r, err)
	}
	norm := mat.Norm(&left, 2)
	if want := norm / math.Sqrt(tokens); math.Abs(r.Repaired-want) > 1e-4*want {
		t.Errorf("an error of %g is left, want %g", r.Repaired, want)
	}
	if want := math.Sqrt(energy / tokens); math.Abs(r.Cut-want) > 1e-6*want {
		t.Errorf("the error was %g, want %g", r.Cut, want)
	}
	m, _ = w.Matrix(id)
	for i, v := range kernels.Float32s(m) {
		if want := step.At(i%cols, i/cols); math.Abs(float64(v-before[i])-want) > 1e-4 {
			t.Fatalf("weight %d moves by %g, want %g", i, v-before[i], want)
		}
	}
	for _, nothing := range []*calibrate.Gap{
		{Tokens: 1, Hessian: make([]float32, cols*cols), Cross: make([]float32, rows*cols), Energy: byRow},
		{Tokens: tokens, Hessian: gap.Hessian, Cross: make([]float32, rows*cols), Energy: byRow},
	} {
		if r, err := repair(w, id, nothing, Options{}); err != nil || r.Used || r.Cut == 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// TestRepairChecks fits to a gap of which one row is a function of the inputs, one
// is noise, and expects the first to be closed and the second to be left alone.
func TestRepairChecks(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 7))
	w := tiny(t, nil)
	id := model.ID{Role: model.Down, Block: 1}
	m, err := w.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	rows, cols := m.Shape()
	coefficients := make([]float64, cols)
	for i := range coefficients {
		coefficients[i] = rng.NormFloat64()
	}
	part := func(tokens int) *calibrate.Gap {
		x, d := mat.NewDense(tokens, cols, nil), mat.NewDense(tokens, rows, nil)
		energy := make([]float64, rows)
		for r := range tokens {
			for c := range cols {
				v := rng.NormFloat64()
				x.Set(r, c, v)
				d.Set(r, 0, d.At(r, 0)+v*coefficients[c])
			}
			d.Set(r, 1, 10*rng.NormFloat64())
			energy[0] += d.At(r, 0) * d.At(r, 0)
			energy[1] += d.At(r, 1) * d.At(r, 1)
		}
		var h, cross mat.Dense
		h.Mul(x.T(), x)
		cross.Mul(d.T(), x)
		return &calibrate.Gap{Tokens: tokens, Hessian: float32s(&h), Cross: float32s(&cross), Energy: energy}
	}
	before := slices.Clone(kernels.Float32s(m))
	gap := part(2 * cols)
	gap.Check = part(400)
	r, err := repair(w, id, gap, Options{Damp: 1e-4, Threads: 2})
	if err != nil || !r.Used {
		t.Fatalf("%+v, %v", r, err)
	}
	m, _ = w.Matrix(id)
	after := kernels.Float32s(m)
	off, moved := 0.0, 0.0
	for c, want := range coefficients {
		off = max(off, math.Abs(float64(after[c]-before[c])-want))
		moved = max(moved, math.Abs(float64(after[cols+c]-before[cols+c])))
	}
	if off > 0.02 || moved > 0.4 {
		t.Errorf("the row that can be fitted is off by %g, the other one moves by %g", off, moved)
	}
	want := math.Sqrt(gap.Check.Energy[1] / 400)
	if r.Repaired > 1.001*want || r.Repaired < 0.95*want {
		t.Errorf("an error of %g is left, the noise is %g", r.Repaired, want)
	}
}

func float32s(m *mat.Dense) []float32 {
	var list []float32
	for _, v := range m.RawMatrix().Data {
		list = append(list, float32(v))
	}
	return list
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
			per := len(fitted(&w.Config, cut))
			if len(repairs) != 3*per {
				t.Fatalf("%s: %d repairs", name, len(repairs))
			}
			for i, r := range repairs {
				if r.ID != (model.ID{Role: fitted(&w.Config, cut)[i%per], Block: i / per}) || r.Reason != "" {
					t.Errorf("%s: repair %+v", name, r)
				}
				if i%per == 0 && (!r.Used || !(r.Repaired < 0.02*r.Cut) || r.Damping != 1e-4) {
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

// TestApplyClosesGap removes channels and layers, which leave too little for the
// same model: the last linear's error is to be smaller for the repair.
func TestApplyClosesGap(t *testing.T) {
	w := tiny(t, nil)
	windows := randomWindows(20, 30)
	dev := kernels.NewCPU(2)
	defer dev.Close()
	for name, cut := range map[string]*model.Cut{
		"channels": {Hidden: []int{0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 27, 28, 29, 30}},
		"a layer":  {Blocks: []int{0, 2}},
	} {
		plain, err := w.Cut(cut)
		if err != nil {
			t.Fatal(err)
		}
		var without float64
		err = calibrate.Follow(context.Background(), dev, lead(w, cut), plain, windows, calibrate.Options{}, func(_ context.Context, _ model.ID, gap *calibrate.Gap) error {
			without = rootMean(total(gap.Check.Energy), gap.Check.Tokens)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		out, repairs, err := Apply(context.Background(), dev, w, cut, windows, Options{Repair: true}, calibrate.Options{})
		if err != nil {
			t.Fatal(err)
		}
		last := repairs[len(repairs)-1]
		if len(repairs) != 2*out.Config.Blocks || !(last.Repaired < 0.9*without) {
			t.Errorf("%s: an error of %g is left, %g without repair", name, last.Repaired, without)
		}
	}
}
