package quantize

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/export"
	"llmc/model/fold"
)

// randomScaler scales all channels at random and rounds like RTN.
type randomScaler struct {
	RTN
	rng  *rand.Rand
	seen map[model.ID]kernels.Matrix // if not nil, the weights it was shown
}

func (randomScaler) Needs() Needs { return NeedsMeanSquare }

func (m randomScaler) Scale(_ context.Context, g *fold.Group, layers []Layer, _ []Scheme) ([]float32, error) {
	for _, l := range layers {
		if m.seen != nil {
			m.seen[l.ID] = l.Weight
		}
	}
	scale := make([]float32, g.Channels)
	for c := range scale {
		scale[c] = float32(math.Exp(m.rng.NormFloat64()))
	}
	return scale, nil
}

func logits(t *testing.T, w *model.Weights, ids []int32) []float32 {
	t.Helper()
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	var all []float32
	err = m.Forward(context.Background(), m.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
		out := m.Logits(hidden)
		all = append(all, out.Data...)
		dev.Free(out)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var someWindows = [][]int32{{1, 2, 3, 4, 5, 77, 91, 200, 13, 64}, {9, 8, 7, 6, 5, 100, 31, 32, 33, 34}}

// TestScaledModelIsTheSame scales every group of every family, "rounds" to F32,
// writes a file, and expects of it the logits of the source.
func TestScaledModelIsTheSame(t *testing.T) {
	for _, family := range []string{"llama", "mistral", "qwen2", "qwen3", "gemma3", "mixtral", "qwen2moe"} {
		t.Run(family, func(t *testing.T) {
			spec := tinymodel.Spec{Family: family, Hidden: 64, FFN: 96, Seed: 3}
			c, err := formats.FromMemory(tinymodel.Files(spec))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			want := logits(t, tinyWeights(t, spec), someWindows[0])
			w := tinyWeights(t, spec)
			mix := Mix{Name: "F32", Default: dtype.F32}
			plan, err := NewPlan(&w.Config, Describe(w), Policy{Mix: mix, Vectors: dtype.F32})
			if err != nil {
				t.Fatal(err)
			}
			run := NewRun(w, plan, randomScaler{rng: rand.New(rand.NewPCG(1, 1))}, 1)
			dev := kernels.NewCPU(1)
			defer dev.Close()
			if err := run.Calibrate(context.Background(), dev, someWindows, run.CalibrationOptions()); err != nil {
				t.Fatal(err)
			}
			items, err := plan.Spec(w, GGUF, mix)
			if err != nil {
				t.Fatal(err)
			}
			out, err := export.New(c, w, items)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "out.gguf")
			if err := out.Write(context.Background(), path, false, run.Matrix, nil); err != nil {
				t.Fatal(err)
			}
			written, err := formats.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer written.Close()
			back, err := model.Open(written)
			if err != nil {
				t.Fatal(err)
			}
			largest, worst := 0.0, 0.0
			for i, v := range logits(t, back, someWindows[0]) {
				largest = max(largest, math.Abs(float64(want[i])))
				worst = max(worst, math.Abs(float64(v-want[i])))
			}
			if !(worst <= 1e-5*largest) {
				t.Errorf("logits up to %g changed by %g", largest, worst)
			}
		})
	}
}

// TestScaleSkipsWhatIsKept leaves groups alone of which a matrix is kept.
func TestScaleSkipsWhatIsKept(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{})
	plan, err := NewPlan(&w.Config, Describe(w), Policy{Scheme: int4(64), Ignore: []string{"v", "gate"}})
	if err != nil {
		t.Fatal(err)
	}
	run := NewRun(w, plan, randomScaler{rng: rand.New(rand.NewPCG(1, 1))}, 1)
	dev := kernels.NewCPU(1)
	defer dev.Close()
	if err := run.Calibrate(context.Background(), dev, someWindows, run.CalibrationOptions()); err != nil {
		t.Fatal(err)
	}
	for _, id := range w.Config.IDs() {
		changed := slices.Contains([]model.Role{model.Q, model.K, model.O, model.Up, model.Down}, id.Role) && !id.Bias
		if w.Replaced(id) != changed {
			t.Errorf("%s: replaced is %v", id, !changed)
		}
	}
	for _, r := range run.Results() {
		want := map[model.Role]string{model.Q: "v is kept as it is", model.K: "v is kept as it is", model.O: "v is kept as it is", model.Up: "gate is kept as it is"}
		if got := r.Solution.Unscaled; got != want[r.Entry.ID.Role] {
			t.Errorf("%s: unscaled because %q", r.Entry.Name, got)
		}
	}
}

// TestScaleIsShownTheSource expects the source's weights where the rows of v
// and up have been divided already.
func TestScaleIsShownTheSource(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{})
	source := tinyWeights(t, tinymodel.Spec{})
	plan, err := NewPlan(&w.Config, Describe(w), Policy{Scheme: int4(64)})
	if err != nil {
		t.Fatal(err)
	}
	m := randomScaler{rng: rand.New(rand.NewPCG(1, 1)), seen: map[model.ID]kernels.Matrix{}}
	run := NewRun(w, plan, m, 1)
	dev := kernels.NewCPU(1)
	defer dev.Close()
	if err := run.Calibrate(context.Background(), dev, someWindows, run.CalibrationOptions()); err != nil {
		t.Fatal(err)
	}
	if len(m.seen) != 14 {
		t.Fatalf("%d weights were shown, want 14", len(m.seen))
	}
	for id, got := range m.seen {
		want, err := source.Matrix(id)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(kernels.Float32s(got), kernels.Float32s(want)) {
			t.Errorf("%s is not the source's", id)
		}
	}
}

// TestOutputErrorOfDividedRows expects errors in the source's units, of a whole
// matrix and of a part.
func TestOutputErrorOfDividedRows(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{})
	id := model.ID{Role: model.Up}
	source, err := w.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	rows, cols := source.Shape()
	in := correlatedInputs(3, cols, 400)
	values := kernels.Float32s(source)
	rounded, divided := make([]float32, rows*cols), make([]float32, rows*cols)
	scale := make([]float32, rows)
	for r := range scale {
		scale[r] = float32(math.Exp2(float64(r%7) - 3))
		for i := r * cols; i < (r+1)*cols; i++ {
			rounded[i] = float32(math.Round(float64(values[i])*10)) / 10
			divided[i] = rounded[i] / scale[r]
		}
	}
	want, whole := outputErrors(source, in.Hessian, 1, kernels.FromFloat32s(rows, cols, rounded))
	g := fold.Groups(&w.Config, 0)[3]
	if _, err := g.Apply(w, scale); err != nil {
		t.Fatal(err)
	}
	folded, err := w.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	q := kernels.FromFloat32s(rows, cols, divided)
	got, all := outputErrors(folded, in.Hessian, 1, q)
	if math.Abs(all/whole-1) > 1e-5 {
		t.Errorf("the whole output has %g, want %g", all, whole)
	}
	part, _ := outputErrors(rowsOf{folded, 5, 9}, in.Hessian, 1, rowsOf{q, 5, 9})
	for r, e := range want[0] {
		if math.Abs(got[0][r]/e-1) > 1e-4 || r >= 5 && r < 14 && math.Abs(part[0][r-5]/e-1) > 1e-4 {
			t.Fatalf("row %d has the error %g, want %g", r, got[0][r], e)
		}
	}
}
