package quantize

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"testing"

	"llmc/dtype"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/fold"
)

// TestSmoothScale compares scales with equation 4 of arXiv 2211.10438, for a
// group whose channels several inputs share and for one of several linears.
func TestSmoothScale(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{Hidden: 64, FFN: 96, Heads: 4, KVHeads: 2, Seed: 7})
	for _, alpha := range []float64{0.25, 0.5, 0.8} {
		for _, g := range fold.Groups(&w.Config, 1) {
			in := &Inputs{MaxAbs: make([]float32, g.Inputs)}
			for i := range in.MaxAbs {
				in.MaxAbs[i] = float32(i*37%101) / 8 // 0 for one
			}
			var layers []Layer
			for _, id := range g.Linears {
				m, err := w.Matrix(id)
				if err != nil {
					t.Fatal(err)
				}
				layers = append(layers, Layer{Weight: m, Inputs: in})
			}
			got, err := Smooth{Method: RTN{}, Alpha: alpha}.Scale(context.Background(), &g, layers, nil)
			if err != nil {
				t.Fatal(err)
			}
			for c := range g.Channels {
				x, weight := 0.0, 0.0
				for i := range g.Inputs {
					if g.Channel(i) != c {
						continue
					}
					x = math.Max(x, float64(in.MaxAbs[i]))
					for _, l := range layers {
						values := kernels.Float32s(l.Weight)
						for at := i; at < len(values); at += g.Inputs {
							weight = math.Max(weight, math.Abs(float64(values[at])))
						}
					}
				}
				want := math.Pow(x, alpha) / math.Pow(weight, 1-alpha)
				if x == 0 {
					want = 1
				}
				if math.Abs(float64(got[c])-want) > 1e-6*want {
					t.Fatalf("alpha %g, %v, channel %d: scale %g, want %g", alpha, g.Linears, c, got[c], want)
				}
			}
		}
	}
}

// activationPlan is a plan of 8-bit weights and activations.
func activationPlan(t *testing.T, w *model.Weights, in kernels.Rounding) *Plan {
	t.Helper()
	scheme := Scheme{Bits: 8, Float: in.Float, Symmetric: true, ScaleType: dtype.BF16}
	plan, err := NewPlan(&w.Config, Describe(w), Policy{Scheme: scheme, Inputs: in, Head: true})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// TestStaticInputs: the scale of activations is that of the largest that the
// model of rounded blocks puts out, also after smoothing, and of the head's.
func TestStaticInputs(t *testing.T) {
	for _, method := range []Method{RTN{}, GPTQSolver{}, Smooth{Method: RTN{}, Alpha: 0.5}} {
		for _, static := range []kernels.Rounding{{Bits: 8, Static: true}, {Bits: 8, Float: true, Static: true}} {
			w := tinyWeights(t, tinymodel.Spec{Hidden: 64, FFN: 96, Heads: 4, KVHeads: 2, Untied: true, Seed: 8})
			run := NewRun(w, activationPlan(t, w, static), method, 2)
			dev := kernels.NewCPU(2)
			defer dev.Close()
			if err := run.Calibrate(context.Background(), dev, someWindows, run.CalibrationOptions()); err != nil {
				t.Fatal(err)
			}
			checkStatic(t, w, run, dev)
			checkKept(t, run)
		}
	}
}

// checkKept expects of a run that takes in what another has kept that it rounds
// activations alike.
func checkKept(t *testing.T, run *Run) {
	t.Helper()
	w := tinyWeights(t, tinymodel.Spec{Hidden: 64, FFN: 96, Heads: 4, KVHeads: 2, Untied: true, Seed: 8})
	resumed := NewRun(w, run.plan, run.method, 2)
	for block := -1; block < w.Config.Blocks; block++ {
		saved, err := run.save(block)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(saved)
		if err != nil {
			t.Fatal(err)
		}
		if err := resumed.load(block, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range w.Config.IDs() {
		want, _ := run.weights.Inputs(id)
		if got, err := w.Inputs(id); err != nil || got != want {
			t.Errorf("%s: activations are %+v after a resume, %v, want %+v", id, got, err, want)
		}
	}
}

// checkStatic takes the calibration's tokens through the rounded model and
// compares the largest activations with the scales.
func checkStatic(t *testing.T, w *model.Weights, run *Run, dev kernels.Device) {
	t.Helper()
	largest := map[model.ID]float32{}
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	m.SetHook(func(block int, to model.Input, in *kernels.Tensor) {
		for _, role := range to.Roles {
			id := model.ID{Role: role, Block: block}
			for _, v := range in.Data {
				largest[id] = max(largest[id], v, -v)
			}
		}
	})
	for _, ids := range someWindows {
		err := m.Forward(context.Background(), m.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
			head := model.ID{Role: model.Head, Block: -1}
			for _, v := range hidden.Data {
				largest[head] = max(largest[head], v, -v)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := len(run.Results()); n != 15 || len(largest) != n {
		t.Errorf("%d linears were rounded, %d seen, want 15", n, len(largest))
	}
	for _, r := range run.Results() {
		in, err := w.Inputs(r.Entry.ID)
		if err != nil || in.Scale != r.Solution.InputScale || !in.Static {
			t.Errorf("%s: activations are %+v, %v, want the scale %g", r.Entry.Name, in, err, r.Solution.InputScale)
		}
		want := largest[r.Entry.ID] / 127.5
		if in.Float {
			want = largest[r.Entry.ID] / 448
		}
		// The calibration saw the block's inputs before the block was rounded.
		if !(in.Scale > 0.8*want && in.Scale < 1.25*want) {
			t.Errorf("%s: scale %g, want about %g", r.Entry.Name, in.Scale, want)
		}
		if r.Entry.ID.Block == 0 && slices.Contains([]model.Role{model.Q, model.K, model.V}, r.Entry.ID.Role) && math.Abs(float64(in.Scale-want)) > 0.004*float64(want) {
			t.Errorf("%s: scale %g, want %g, rounded to BF16", r.Entry.Name, in.Scale, want)
		}
	}
}

// TestDynamicInputs: without calibration, a model in memory rounds activations
// as the plan says, and no more as its checkpoint did.
func TestDynamicInputs(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{})
	in := kernels.Rounding{Bits: 8, Float: true}
	w.RoundInputs(model.ID{Role: model.Head, Block: -1}, kernels.Rounding{Bits: 4})
	run := NewRun(w, activationPlan(t, w, in), RTN{}, 2)
	if err := run.Replace(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	for _, id := range w.Config.IDs() {
		want := kernels.Rounding{}
		if id.Role.IsLinear() && !id.Bias && id.Block >= 0 {
			want = in
		}
		if got, err := w.Inputs(id); err != nil || got != want {
			t.Errorf("%s: activations are %s, %v, want %s", id, got, err, want)
		}
	}
	static := NewRun(w, activationPlan(t, w, kernels.Rounding{Bits: 8, Static: true}), RTN{}, 2)
	if err := static.Replace(context.Background(), nil); err == nil {
		t.Error("static scales without calibration are no error")
	}
}
