package quantize

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
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

// always rounds to one scheme, whatever is asked for.
type always struct {
	RTN
	scheme Scheme
}

func (m always) Quantize(ctx context.Context, l Layer, _ Scheme) (kernels.Matrix, error) {
	return m.RTN.Quantize(ctx, l, m.scheme)
}

// TestMeasure compares the losses that were tried in the model with those of a
// model that has the rounded matrix from the start, rounded by the method that
// was given where there are inputs to round by.
func TestMeasure(t *testing.T) {
	for i, untied := range []bool{false, true, true} {
		w := tinyWeights(t, tinymodel.Spec{Untied: untied})
		windows := someTokens(2, 24)
		types := []Scheme{TypeScheme(dtype.Q2_K), TypeScheme(dtype.Q4_0), TypeScheme(dtype.Q8_0)}
		const tried = 1
		var done, total int64
		probe := Probe{Pick: func(model.ID, []Scheme) int { return tried }, Progress: func(d, all int64) {
			if d < done || d > all || total != 0 && all != total {
				t.Errorf("progress goes from %d of %d to %d of %d", done, total, d, all)
			}
			done, total = d, all
		}}
		if i == 2 {
			probe.Method = always{scheme: types[0]}
		}
		measured, err := Measure(context.Background(), kernels.NewCPU(2), w, windows, func(model.ID, int, int) []Scheme { return types }, probe)
		if err != nil {
			t.Fatal(err)
		}
		found := measured.Sensitivities
		if measured.Tokens != 48 || measured.Operations != float64(done) || measured.Memory < 128<<20 {
			t.Errorf("measured on %d tokens by %g operations in %d bytes, want 48 by %d", measured.Tokens, measured.Operations, measured.Memory, done)
		}
		if total == 0 || float64(done) < 0.99*float64(total) {
			t.Errorf("progress ends at %d of %d", done, total)
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
			to := types[tried]
			if probe.Method != nil && s.ID.Role != model.Embed {
				to = types[0]
			}
			q, err := RTN{}.Quantize(context.Background(), Layer{Weight: original, Inputs: importance[s.ID]}, to)
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

func TestExcerpt(t *testing.T) {
	windows := make([][]int32, 10)
	for i := range windows {
		windows[i] = slices.Repeat([]int32{int32(i)}, 600)
	}
	for tokens, want := range map[int][]int32{100: {0}, 1024: {0, 5}, 2600: {0, 2, 4, 6, 8}, 1 << 20: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}} {
		var got []int32
		for _, ids := range excerpt(windows, tokens) {
			if len(ids) != 512 {
				t.Fatalf("a window has %d tokens", len(ids))
			}
			got = append(got, ids[0])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d tokens are of windows %d, want %d", tokens, got, want)
		}
	}
	if got := excerpt(nil, 8); got != nil {
		t.Errorf("%d windows of none", len(got))
	}
}

// TestSampleRows: rows from all over a matrix, at least 128 if it has them.
func TestSampleRows(t *testing.T) {
	for rows, want := range map[int][2]int{5: {5, 1}, 128: {128, 1}, 255: {255, 1}, 256: {128, 2}, 1000: {143, 7}} {
		values := make([]float32, rows)
		for r := range values {
			values[r] = float32(r)
		}
		m := sampleRows(kernels.FromFloat32s(rows, 1, values))
		n, cols := m.Shape()
		row := make([]float32, 1)
		m.Row(row, n-1)
		if n != want[0] || cols != 1 || row[0] != float32((n-1)*want[1]) {
			t.Errorf("of %d rows %d, the last %g; want %d, every %d", rows, n, row[0], want[0], want[1])
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
			a, err := Allocate(context.Background(), kernels.NewCPU(threads), w, plan, nothing, windows, b, Probe{Threads: threads})
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

// TestRivals: what the whole model loses is measured as chosen and as rivals have
// it, against the definition, and the least loss decides.
func TestRivals(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{Layers: 2})
	windows := someTokens(2, 24)
	ctx := context.Background()
	eight := eightBits(t, w)
	two, _ := ParseMix("Q2_K")
	worse, err := NewPlan(&w.Config, Describe(w), Policy{Mix: two})
	if err != nil {
		t.Fatal(err)
	}
	allocate := func(rivals ...Rival) *Allocation {
		b := Budget{Bytes: int64(4.5 * float64(eight.Elements()) / 8), Among: GGUFChoices(), Rivals: rivals}
		a, err := Allocate(ctx, kernels.NewCPU(2), w, eight, nothing, windows, b, Probe{})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	bad, good := Rival{Name: "bad", Plan: worse}, Rival{Name: "good", Plan: eight}
	alone, won, lost := allocate(), allocate(bad, good, bad), allocate(bad)
	if alone.Nearest <= alone.Loss/10 || alone.Rivals != nil || alone.Took != "" {
		t.Errorf("without a rival, %+v", alone)
	}
	if lost.Took != "" || lost.Rivals[0].Nearest <= lost.Nearest || lost.Nearest != alone.Nearest || !reflect.DeepEqual(lost.Schemes, alone.Schemes) {
		t.Errorf("a worse rival makes %+v of %+v", lost, alone)
	}
	_, bytes := eight.Bytes()
	if won.Took != "good" || won.Rivals[1].Nearest >= won.Nearest || won.Bytes != bytes || won.Loss >= alone.Loss {
		t.Errorf("of the better rival's %d bytes is made %+v", bytes, won)
	}
	var base [][][]float64
	for _, ids := range windows {
		base = append(base, logitsOf(t, w, ids))
	}
	for i := range eight.Entries {
		e := &eight.Entries[i]
		if !e.isMatrix() {
			continue
		}
		if won.Schemes[e.ID] != e.To {
			t.Errorf("%s is %s, the rival's is %s", e.Name, won.Schemes[e.ID], e.To)
		}
		m, err := w.Matrix(e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if m, err = (RTN{}).Quantize(ctx, Layer{Name: e.Name, Weight: m}, e.To); err != nil {
			t.Fatal(err)
		}
		w.Replace(e.ID, m)
	}
	sum, n := 0.0, 0
	for i, ids := range windows {
		for p, row := range logitsOf(t, w, ids) {
			sum += klOf(base[i][p], row)
			n++
		}
	}
	if want := sum / float64(n); math.Abs(won.Rivals[1].Nearest-want) > 1e-3*want {
		t.Errorf("the rival costs %g, by the definition %g", won.Rivals[1].Nearest, want)
	}
}

// TestLargestMixes: the largest within a budget, the largest first.
func TestLargestMixes(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{})
	for bits, want := range map[float64]string{
		100: "[Q8_0 Q6_K Q5_1]", // no floats, which cannot be rivals
		6.6: "[Q6_K Q5_1 Q5_K_M]",
		1:   "[]",
	} {
		budget := int64(bits * float64(eightBits(t, w).Elements()) / 8)
		names, last := []string{}, budget
		for _, r := range LargestMixes(&w.Config, Describe(w), Policy{}, budget) {
			_, after := r.Plan.Bytes()
			if names = append(names, r.Name); after > last {
				t.Errorf("%s has %d bytes, more than the %d before it", r.Name, after, last)
			}
			last = after
		}
		if got := fmt.Sprint(names); got != want {
			t.Errorf("within %g bits the largest mixes are %s, want %s", bits, got, want)
		}
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
		_, err := Allocate(context.Background(), kernels.NewCPU(1), w, plan, try.fixed, windows, try.budget, Probe{})
		if err == nil || !strings.Contains(err.Error(), want) || fault.KindOf(err) != fault.KindOf(fault.Usage("")) {
			t.Errorf("the error is %v, want a usage error with %q", err, want)
		}
	}
}

// TestLeanProbe: with blocks loaded as they are used, and without, the same
// divergences.
func TestLeanProbe(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{Layers: 3})
	windows := someTokens(2, 16)
	ctx, one := context.Background(), func(model.ID, int, int) []Scheme { return []Scheme{TypeScheme(dtype.Q4_0)} }
	var want []float64
	for _, memory := range []int64{0, 1} {
		p, err := newProbe(ctx, kernels.NewCPU(2), w, windows, one, Probe{MaxMemory: memory, Pick: func(model.ID, []Scheme) int { return 0 }}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if p.run.Lean() != (memory > 0) {
			t.Errorf("with %d bytes of memory, lean is %t", memory, p.run.Lean())
		}
		var got []float64
		for _, block := range []int{0, 1} {
			if err := p.run.Advance(ctx, block); err != nil {
				t.Fatal(err)
			}
			for _, role := range []model.Role{model.V, model.Down} {
				s, err := p.linear(ctx, model.ID{Role: role, Block: block}, nil)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, s.Losses[0])
			}
		}
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) || got[0] == got[1] {
			t.Errorf("with %d bytes of memory, losses are %g, without a limit %g", memory, got, want)
		}
		p.run.Free()
	}
}

// TestMeasureNotFinite: activations that overflow are found where they do.
func TestMeasureNotFinite(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{})
	id := model.ID{Role: model.Up, Block: 1}
	up, err := w.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	rows, cols := up.Shape()
	w.Replace(id, kernels.FromFloat32s(rows, cols, slices.Repeat([]float32{1e38}, rows*cols)))
	_, err = Measure(context.Background(), kernels.NewCPU(1), w, someTokens(1, 8),
		func(model.ID, int, int) []Scheme { return []Scheme{TypeScheme(dtype.Q4_0)} }, Probe{Pick: func(model.ID, []Scheme) int { return 0 }})
	if fault.KindOf(err) != fault.InvalidFile || !strings.Contains(err.Error(), "block 1, the input of down") {
		t.Errorf("the error is %v, want an invalid input of down in block 1", err)
	}
}

// TestKnown: what is known already is taken, and what is found is told.
func TestKnown(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{Layers: 1})
	kept := map[model.ID]Sensitivity{}
	limit := 3
	tooMany := errors.New("too many")
	var done, total int64
	probe := Probe{
		Pick:     func(model.ID, []Scheme) int { return 1 },
		Progress: func(d, all int64) { done, total = d, all },
		Known:    func(id model.ID) (Sensitivity, bool) { s, ok := kept[id]; return s, ok },
		Found: func(s Sensitivity) error {
			if kept[s.ID] = s; len(kept) == limit {
				return tooMany
			}
			return nil
		},
	}
	measure := func() (*Measured, error) {
		return Measure(context.Background(), kernels.NewCPU(2), w, someTokens(2, 16),
			func(model.ID, int, int) []Scheme { return []Scheme{TypeScheme(dtype.Q4_0), TypeScheme(dtype.Q8_0)} }, probe)
	}
	if _, err := measure(); !errors.Is(err, tooMany) || len(kept) != limit {
		t.Fatalf("%v with %d matrices found, want an error at the third", err, len(kept))
	}
	limit = -1
	resumed, err := measure()
	if err != nil {
		t.Fatal(err)
	}
	if float64(done) < 0.99*float64(total) || done > total {
		t.Errorf("progress ends at %d of %d", done, total)
	}
	clear(kept)
	alone, err := measure()
	if err != nil || !reflect.DeepEqual(resumed.Sensitivities, alone.Sensitivities) || len(kept) != 8 {
		t.Errorf("resumed, %+v, alone %+v, of %d matrices; %v", resumed, alone, len(kept), err)
	}
}
