package calibrate

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"llmc/kernels"
	"llmc/model"
	"llmc/model/fold"
)

func TestGatherMeans(t *testing.T) {
	dev := kernels.NewCPU(1)
	defer dev.Close()
	g := newGatherer(dev, model.Input{Roles: []model.Role{model.Down}}, 3, false)
	for _, rows := range [][]float32{{1, -2, 0}, {-3, 4, 0, 2, 6, 0}} {
		x := dev.NewTensor(len(rows)/3, 3)
		dev.Write(x, rows)
		g.add(x)
	}
	in, err := g.inputs()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(in.MeanAbs, []float32{2, 4, 0}) || !slices.Equal(in.MeanSquare, []float32{14. / 3, 56. / 3, 0}) {
		t.Errorf("got mean |x| %v and mean x² %v", in.MeanAbs, in.MeanSquare)
	}
	if !slices.Equal(in.MaxAbs, []float32{3, 6, 0}) {
		t.Errorf("got largest |x| %v", in.MaxAbs)
	}
}

// TestDivide expects of inputs that are divided by scales what a walk through
// the model with these scales folded in gathers.
func TestDivide(t *testing.T) {
	w, tok := tiny(t, small)
	windows, err := Windows(tok, strings.Repeat(sentence, 10), Sampling{Samples: 3, Context: 20})
	if err != nil {
		t.Fatal(err)
	}
	before := walked(t, w, windows, 2, nil)
	rng := rand.New(rand.NewPCG(4, 4))
	applied := map[model.Role][]float32{}
	for _, g := range fold.Groups(&w.Config, 1) {
		scale := make([]float32, g.Channels)
		for c := range scale {
			scale[c] = float32(math.Exp(rng.NormFloat64()))
		}
		if applied[g.Linears[0].Role], err = g.Apply(w, scale); err != nil {
			t.Fatal(err)
		}
	}
	after := walked(t, w, windows, 2, nil)
	for i, want := range before {
		if scale := applied[want.roles[0]]; want.block == 1 {
			want.in.Divide(scale)
		}
		got := after[i]
		if got.block != want.block || got.roles[0] != want.roles[0] {
			t.Fatal("the walks differ")
		}
		n := len(want.in.MeanAbs)
		near(t, "mean |x|", got.in.MeanAbs, want.in.MeanAbs, func(int) float32 { return 1 })
		near(t, "largest |x|", got.in.MaxAbs, want.in.MaxAbs, func(int) float32 { return 1 })
		near(t, "mean x²", got.in.MeanSquare, want.in.MeanSquare, func(int) float32 { return 1 })
		near(t, "X Xᵀ", got.in.Hessian, want.in.Hessian, func(at int) float32 {
			return float32(math.Sqrt(float64(want.in.Hessian[at/n*n+at/n]) * float64(want.in.Hessian[at%n*n+at%n])))
		})
	}
}

// near compares numbers; size says what an error is measured against.
func near(t *testing.T, what string, got, want []float32, size func(int) float32) {
	t.Helper()
	for i, v := range want {
		if d := math.Abs(float64(got[i] - v)); !(d <= 1e-4*float64(size(i))) {
			t.Fatalf("%s: %d is %g, want %g", what, i, got[i], v)
		}
	}
}
