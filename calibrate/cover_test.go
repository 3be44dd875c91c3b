package calibrate

import (
	"context"
	"math"
	"slices"
	"testing"

	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// mixed is a mixture whose experts see about 80 of 200 tokens each, some fewer
// than they have inputs.
var mixed = tinymodel.Spec{Family: "qwen2moe", Hidden: 64, FFN: 90, Heads: 4, KVHeads: 2, Layers: 2, Experts: 5, Seed: 3}

func mixedWindows() [][]int32 {
	windows := make([][]int32, 4)
	for i := range windows {
		for j := range 50 {
			windows[i] = append(windows[i], int32((i*31+j*j*7)%250))
		}
	}
	return windows
}

// slowInputs sums x xᵀ over the rows of the first block's inputs, as a hook sees
// them, and over all rows for experts that were sent fewer than they have inputs:
// for down by the definition of a gated layer.
func slowInputs(t *testing.T, w *model.Weights) (sums map[inputKey][]float64, routed map[inputKey]int) {
	t.Helper()
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.NewOutline(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.LoadBlock(w, 0); err != nil {
		t.Fatal(err)
	}
	rows := map[inputKey][][]float32{}
	m.SetHook(func(_ int, to model.Input, x *kernels.Tensor) {
		for r := range x.Rows {
			rows[keyOf(to)] = append(rows[keyOf(to)], slices.Clone(x.Data[r*x.Cols:][:x.Cols]))
		}
	})
	for _, ids := range mixedWindows() {
		m.Block(0, m.Embed(ids), m.NewState())
	}
	all := rows[inputKey{model.NoExpert, model.Router}]
	sums, routed = map[inputKey][]float64{}, map[inputKey]int{}
	for _, in := range w.Config.Inputs() {
		key := keyOf(in)
		width := w.Config.Shape(model.ID{Role: in.Roles[0], Expert: in.Expert})[1]
		list := rows[key]
		routed[key] = len(list)
		if in.Expert != model.NoExpert && len(list) < width {
			list = all
			if key.first == model.Down {
				list = gatedRows(t, w, in.Expert, all)
			}
		}
		sums[key] = make([]float64, width*width)
		for _, x := range list {
			for i, a := range x {
				for j, b := range x {
					sums[key][i*width+j] += float64(a) * float64(b)
				}
			}
		}
	}
	return sums, routed
}

// gatedRows are silu(gate x) * up x.
func gatedRows(t *testing.T, w *model.Weights, e model.Expert, all [][]float32) [][]float32 {
	t.Helper()
	product := func(role model.Role, x []float32) []float64 {
		m, err := w.Matrix(model.ID{Role: role, Expert: e})
		if err != nil {
			t.Fatal(err)
		}
		rows, cols := m.Shape()
		values, out := kernels.Float32s(m), make([]float64, rows)
		for r := range out {
			for c, v := range x {
				out[r] += float64(values[r*cols+c]) * float64(v)
			}
		}
		return out
	}
	var list [][]float32
	for _, x := range all {
		gate, up := product(model.Gate, x), product(model.Up, x)
		y := make([]float32, len(gate))
		for i, g := range gate {
			y[i] = float32(g / (1 + math.Exp(-g)) * up[i])
		}
		list = append(list, y)
	}
	return list
}

// TestCover compares the Hessians of a mixture's first block with loops, and
// expects that some experts saw enough tokens and some did not, and that it is
// said of each.
func TestCover(t *testing.T) {
	w, _ := tiny(t, mixed)
	want, routed := slowInputs(t, w)
	covered, uncovered := 0, 0
	got := walked(t, w, mixedWindows(), 2, nil)
	if n := len(got); n != 2*(3+1+2*5) {
		t.Fatalf("%d visits, want %d", n, 2*14)
	}
	order := w.Config.Inputs()
	for i, s := range got {
		to := order[len(order)-1-i%len(order)]
		if s.in.Expert != to.Expert || s.roles[0] != to.Roles[0] {
			t.Fatalf("visit %d is for %v of %d, want %v of %d", i, s.roles, s.in.Expert, to.Roles, to.Expert)
		}
		if s.block != 0 {
			continue
		}
		key := keyOf(to)
		if s.in.Routed != routed[key] || (s.in.Uncovered() != "") != (s.in.Tokens == 200 && routed[key] < 200) {
			t.Errorf("%s: %d of %d tokens, %q; want %d routed", inputString(to), s.in.Routed, s.in.Tokens, s.in.Uncovered(), routed[key])
		}
		switch {
		case to.Expert == model.NoExpert:
		case s.in.Uncovered() == "":
			covered++
		default:
			uncovered++
		}
		largest := slices.Max(want[key])
		for j, v := range want[key] {
			if off := math.Abs(v - float64(s.in.Hessian[j])); off > 1e-5*largest {
				t.Fatalf("%s: element %d of the Hessian is %g, want %g", inputString(to), j, s.in.Hessian[j], v)
			}
		}
	}
	if covered < 2 || uncovered < 2 {
		t.Errorf("%d inputs of experts were covered and %d not, so the test shows little", covered, uncovered)
	}
}

// TestCoverInLittleMemory: the same bits in several passes, from a file, with any
// number of threads, and when nothing changes on the way.
func TestCoverInLittleMemory(t *testing.T) {
	w, _ := tiny(t, mixed)
	want := walked(t, w, mixedWindows(), 1, nil)
	s, err := NewSchedule(w, 4, 50, Options{Hessian: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{
		{Hessian: true, MaxMemory: s.Least, Dir: t.TempDir()},
		{Hessian: true, Unchanged: true},
		{Hessian: true, Unchanged: true, MaxMemory: s.Least, Dir: t.TempDir()},
	} {
		dev := kernels.NewCPU(3)
		i := 0
		err := Walk(context.Background(), dev, w, mixedWindows(), o, func(_ context.Context, block int, roles []model.Role, in *Inputs) error {
			a := want[i]
			if i++; block != a.block || in.Expert != a.in.Expert || in.Routed != a.in.Routed || !slices.Equal(in.Hessian, a.in.Hessian) ||
				!slices.Equal(in.MeanSquare, a.in.MeanSquare) {
				t.Errorf("%+v: visit %d, %v of expert %d, differs", o, i, roles, in.Expert.Index())
			}
			return nil
		})
		dev.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCoverNone: an expert that the router never chooses gets the means of all
// tokens without a Hessian, too.
func TestCoverNone(t *testing.T) {
	w, _ := tiny(t, mixed)
	id := model.ID{Role: model.Router}
	m, err := w.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	values := slices.Clone(kernels.Float32s(m))
	const never = 2 // its score is 0, and those of the others are two above and two below
	for i := range values {
		values[i] = kernels.Float32s(m)[i%64] * float32(i/64-never)
	}
	w.Replace(id, kernels.FromFloat32s(5, 64, values))
	dev := kernels.NewCPU(2)
	defer dev.Close()
	found := 0
	err = Walk(context.Background(), dev, w, mixedWindows(), Options{}, func(_ context.Context, block int, roles []model.Role, in *Inputs) error {
		if block != 0 || in.Expert != model.ExpertAt(never) {
			return nil
		}
		found++
		if in.Routed != 0 || in.Tokens != 200 || in.Uncovered() != "the router sent no token" || slices.Max(in.MeanSquare) == 0 {
			t.Errorf("%v: %d of %d tokens, %q", roles, in.Routed, in.Tokens, in.Uncovered())
		}
		return nil
	})
	if err != nil || found != 2 {
		t.Errorf("%d visits, %v", found, err)
	}
}
