package calibrate

import (
	"context"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/internal/solve"
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

// TestFirstToken expects the first row of every window in the Hessian once more,
// times a share of the window's rows, and means that know nothing of it.
func TestFirstToken(t *testing.T) {
	dev := kernels.NewCPU(1)
	defer dev.Close()
	gather := func(share float64) *Inputs {
		g := newGatherer(dev, model.Input{Roles: []model.Role{model.Q, model.K, model.V}}, 2, true)
		g.first = share
		for _, rows := range [][]float32{{1, 2, 3, 0, 0, 1, 1, 1}, {-1, 3, 2, 2}} {
			x := dev.NewTensor(len(rows)/2, 2)
			dev.Write(x, rows)
			g.add(x)
		}
		in, err := g.inputs()
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	plain, weighed := gather(0), gather(0.5)
	if want := []float32{16, 4, 4, 19}; !slices.Equal(plain.Hessian, want) {
		t.Errorf("X Xᵀ is %v, want %v", plain.Hessian, want)
	}
	// 2 (1, 2)(1, 2)ᵀ of the window of 4 and 1 (-1, 3)(-1, 3)ᵀ of that of 2.
	want := []float32{16 + 2 + 1, 4 + 4 - 3, 4 + 4 - 3, 19 + 8 + 9}
	near(t, "weighed X Xᵀ", weighed.Hessian, want, func(i int) float32 { return want[i] })
	if !slices.Equal(weighed.MeanSquare, plain.MeanSquare) || weighed.Tokens != 6 {
		t.Errorf("of %d tokens the mean x² is %v, want 6 and %v", weighed.Tokens, weighed.MeanSquare, plain.MeanSquare)
	}
}

// TestFirstTokenOfKeys expects the weight of first tokens in what q, k and v
// take, and there alone.
func TestFirstTokenOfKeys(t *testing.T) {
	w, tok := tiny(t, small)
	windows, err := Windows(tok, strings.Repeat(sentence, 10), Sampling{Samples: 2, Context: 20})
	if err != nil {
		t.Fatal(err)
	}
	hessians := func(share float64) (list [][]float32, keys []bool) {
		dev := kernels.NewCPU(2)
		defer dev.Close()
		o := Options{Hessian: true, FirstToken: share, Unchanged: true}
		err := Walk(context.Background(), dev, w, windows, o, func(_ context.Context, _ int, roles []model.Role, in *Inputs) error {
			list = append(list, slices.Clone(in.Hessian))
			keys = append(keys, slices.Contains(roles, model.K))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return list, keys
	}
	plain, keys := hessians(0)
	weighed, _ := hessians(0.25)
	for i := range plain {
		if same := slices.Equal(plain[i], weighed[i]); same == keys[i] {
			t.Errorf("input %d of keys: %v, its Hessian stays: %v", i, keys[i], same)
		}
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

// TestFactor: a factor is made again for another order, damping or Hessian only.
func TestFactor(t *testing.T) {
	in := &Inputs{MeanSquare: make([]float32, 2), MeanAbs: make([]float32, 2), MaxAbs: make([]float32, 2), Hessian: []float32{4, 1, 1, 9}}
	made := func(order []int, damp float64) *solve.Factor {
		t.Helper()
		f, err := in.Factor(order, damp, 1)
		if err != nil {
			t.Fatal(err)
		}
		want, err := solve.FactorHessian(in.Hessian, 2, order, damp, 1)
		if err != nil || !reflect.DeepEqual(f, want) {
			t.Errorf("order %v, damping %g: %+v, want %+v (%v)", order, damp, f, want, err)
		}
		return f
	}
	first := made(nil, 0.1)
	if made([]int{0, 1}, 0.1) != first {
		t.Error("the order of the file has another factor than none")
	}
	for i, next := range []func() *solve.Factor{
		func() *solve.Factor { return made([]int{1, 0}, 0.1) },
		func() *solve.Factor { return made(nil, 0.2) },
		func() *solve.Factor { in.Divide([]float32{2, 3}); return made(nil, 0.2) },
		func() *solve.Factor { in.Hessian = []float32{2, 0, 0, 3}; return made(nil, 0.2) },
	} {
		if f := next(); f == first {
			t.Errorf("change %d is not seen", i)
		}
	}
}
