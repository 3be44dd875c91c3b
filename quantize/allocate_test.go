package quantize

import (
	"context"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// someTokens are windows of token ids below 256.
func someTokens(windows, length int) [][]int32 {
	rng := rand.New(rand.NewPCG(5, 6))
	list := make([][]int32, windows)
	for i := range list {
		for range length {
			list[i] = append(list[i], int32(rng.IntN(256)))
		}
	}
	return list
}

func eightBits(t *testing.T, w *model.Weights) *Plan {
	t.Helper()
	mix, _ := ParseMix("Q8_0")
	plan, err := NewPlan(&w.Config, Describe(w), Policy{Mix: mix})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func nothing(*Entry) bool { return false }

// logitsOf are a model's predictions [tokens][vocab] on a window, in float64.
func logitsOf(t *testing.T, w *model.Weights, ids []int32) [][]float64 {
	t.Helper()
	m, err := model.New(kernels.NewCPU(1), w)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]float64
	err = m.Forward(context.Background(), m.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
		out := m.Logits(hidden)
		for r := range out.Rows {
			row := make([]float64, out.Cols)
			for c := range row {
				row[c] = float64(out.Data[r*out.Cols+c])
			}
			rows = append(rows, row)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// klOf is the divergence of two rows of logits, by its definition.
func klOf(base, variant []float64) float64 {
	sum := func(row []float64) (s float64) {
		for _, v := range row {
			s += math.Exp(v)
		}
		return math.Log(s)
	}
	b, v, kl := sum(base), sum(variant), 0.0
	for i := range base {
		kl += math.Exp(base[i]-b) * (base[i] - b - variant[i] + v)
	}
	return kl
}

// TestMeasure compares the losses that were tried in the model with those of a
// model that has the rounded matrix from the start.
func TestMeasure(t *testing.T) {
	for _, untied := range []bool{false, true} {
		w := tinyWeights(t, tinymodel.Spec{Untied: untied})
		windows := someTokens(2, 24)
		types := []Scheme{TypeScheme(dtype.Q2_K), TypeScheme(dtype.Q4_0), TypeScheme(dtype.Q8_0)}
		const tried = 1
		probe := Probe{Windows: windows, Pick: func(model.ID, []Scheme) int { return tried }}
		found, err := Measure(context.Background(), kernels.NewCPU(2), w, windows, func(model.ID, int, int) []Scheme { return types }, probe)
		if err != nil {
			t.Fatal(err)
		}
		if want := 2*7 + 1; len(found) != want && (!untied || len(found) != want+1) {
			t.Fatalf("%d matrices are measured", len(found))
		}
		base := [][][]float64{logitsOf(t, w, windows[0]), logitsOf(t, w, windows[1])}
		importance, err := GatherImportance(context.Background(), kernels.NewCPU(1), w, windows, ImportanceOptions())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range found {
			if s.ID.Block == 0 && s.ID.Role != model.Up {
				continue // enough is enough
			}
			original, err := w.Matrix(s.ID)
			if err != nil {
				t.Fatal(err)
			}
			q, err := RTN{}.Quantize(context.Background(), Layer{Weight: original, Inputs: importance[s.ID]}, types[tried])
			if err != nil {
				t.Fatal(err)
			}
			w.Replace(s.ID, q)
			want := 0.0
			for i, ids := range windows {
				for r, row := range logitsOf(t, w, ids) {
					want += klOf(base[i][r], row) / float64(len(windows)*len(ids))
				}
			}
			w.Replace(s.ID, nil)
			if got := s.Losses[tried]; math.Abs(got-want) > 1e-3*want+1e-8 {
				t.Errorf("%s: loss %g, want %g", s.ID, got, want)
			}
			if !(s.Losses[0] > s.Losses[1] && s.Losses[1] > s.Losses[2]) {
				t.Errorf("%s: losses are %g", s.ID, s.Losses)
			}
		}
	}
}

func TestExtrapolate(t *testing.T) {
	got := extrapolate([]float64{0.4, 0.1, 0}, 1, 0.05)
	if math.Abs(got[0]-0.8) > 1e-12 || got[1] != 0.05 || got[2] != 0 {
		t.Errorf("losses are %g", got)
	}
	if got := extrapolate([]float64{0.4, 0}, 1, 0); got[0] != 0 || got[1] != 0 {
		t.Errorf("without an error to go by, losses are %g", got)
	}
}

func TestAllocate(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{FFN: 320, Layers: 1}) // which no K-quant divides
	windows := someTokens(2, 16)
	plan := eightBits(t, w)
	elements := float64(plan.Elements())
	var last *Allocation
	for _, bits := range []float64{7, 6, 4.8} {
		var results []*Allocation
		for _, threads := range []int{1, 3} {
			if threads > 1 && bits != 6 {
				continue
			}
			b := Budget{Bytes: int64(bits * elements / 8), Among: GGUFChoices(), Fused: true}
			a, err := Allocate(context.Background(), kernels.NewCPU(threads), w, plan, nothing, windows, b, Probe{Windows: windows, Threads: threads})
			if err != nil {
				t.Fatal(err)
			}
			results = append(results, a)
		}
		a := results[0]
		if !reflect.DeepEqual(a, results[len(results)-1]) {
			t.Errorf("%g bits: the result depends on the number of threads", bits)
		}
		mixed, err := NewPlan(&w.Config, Describe(w), Policy{Mix: Mix{Name: "mixed", Default: dtype.Q8_0}, Tensors: a.Schemes})
		if err != nil {
			t.Fatal(err)
		}
		if _, after := mixed.Bytes(); after != a.Bytes || after > a.Budget {
			t.Errorf("%g bits: the plan makes %d bytes, the search %d of %d", bits, after, a.Bytes, a.Budget)
		}
		if a.Loss < a.Bound || a.Loss > 1.2*a.Bound+1e-12 {
			t.Errorf("%g bits: loss %g, bound %g", bits, a.Loss, a.Bound)
		}
		for b := range w.Config.Blocks {
			q, k := a.Schemes[model.ID{Role: model.Q, Block: b}], a.Schemes[model.ID{Role: model.K, Block: b}]
			if q != k {
				t.Errorf("%g bits: q is %s and k is %s in block %d", bits, q, k, b)
			}
		}
		if last != nil && a.Loss < last.Loss {
			t.Errorf("%g bits cost %g, more bits %g", bits, a.Loss, last.Loss)
		}
		last = a
	}
}

func TestAllocateRefuses(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{})
	windows := someTokens(1, 8)
	plan := eightBits(t, w)
	all := func(*Entry) bool { return true }
	for want, try := range map[string]struct {
		budget Budget
		fixed  func(*Entry) bool
	}{
		"the smallest types make":    {Budget{Bytes: 1000, Among: GGUFChoices()}, nothing},
		"whose bits could be chosen": {Budget{Bytes: 1 << 30, Among: GGUFChoices()}, all},
		"no type to choose from":     {Budget{Bytes: 1 << 30}, nothing},
	} {
		_, err := Allocate(context.Background(), kernels.NewCPU(1), w, plan, try.fixed, windows, try.budget, Probe{Windows: windows})
		if err == nil || !strings.Contains(err.Error(), want) || fault.KindOf(err) != fault.KindOf(fault.Usage("")) {
			t.Errorf("the error is %v, want a usage error with %q", err, want)
		}
	}
}
