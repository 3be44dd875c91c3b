package fold

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// families are small models of each family. Gemma's norms go through the
// number that vanishes, and heads share keys in different ways.
var families = []tinymodel.Spec{
	{Family: "llama", Hidden: 48, FFN: 72, Heads: 6, KVHeads: 2},
	{Family: "mistral", Hidden: 48, FFN: 72, Heads: 4, KVHeads: 4},
	{Family: "qwen2", Hidden: 48, FFN: 72, Heads: 4, KVHeads: 2},
	{Family: "qwen3", Hidden: 48, FFN: 72, Heads: 4, KVHeads: 1},
	{Family: "gemma3", Hidden: 48, FFN: 72, Heads: 4, KVHeads: 1},
	{Family: "mixtral", Hidden: 48, FFN: 40, Heads: 4, KVHeads: 2, Experts: 3},
	{Family: "qwen2moe", Hidden: 48, FFN: 40, Heads: 4, KVHeads: 2, Experts: 5},
}

func open(t *testing.T, spec tinymodel.Spec) *model.Weights {
	t.Helper()
	c, err := formats.FromMemory(tinymodel.Files(spec))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func logits(t *testing.T, w *model.Weights) []float32 {
	t.Helper()
	dev := kernels.NewCPU(2)
	defer dev.Close()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int32
	for i := range 40 {
		ids = append(ids, int32(i*37%256))
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

// TestApplyKeepsTheModel folds random scales everywhere: the logits stay.
func TestApplyKeepsTheModel(t *testing.T) {
	for _, spec := range families {
		t.Run(spec.Family, func(t *testing.T) {
			w := open(t, spec)
			want := logits(t, w)
			rng := rand.New(rand.NewPCG(1, 2))
			weights := 0.0
			for block := range w.Config.Blocks {
				for _, g := range Groups(&w.Config, block) {
					scale := make([]float32, g.Channels)
					for c := range scale {
						scale[c] = float32(math.Exp(rng.NormFloat64()))
					}
					before := norm(t, w, g.Linears[0])
					applied, err := g.Apply(w, scale)
					if err != nil {
						t.Fatal(err)
					}
					if off := apart(applied, g.Spread(scale)); off > 0.1 {
						t.Errorf("%v: %.0f%% of the scales are not those asked for", g.Linears, 100*off)
					}
					weights += math.Abs(norm(t, w, g.Linears[0]) - before)
				}
			}
			if weights == 0 {
				t.Error("no weight changed, so the test shows nothing")
			}
			got, largest, worst := logits(t, w), 0.0, 0.0
			for i, v := range want {
				largest = max(largest, math.Abs(float64(v)))
				worst = max(worst, math.Abs(float64(v-got[i])))
			}
			if !(worst <= 1e-5*largest) {
				t.Errorf("logits up to %g changed by %g", largest, worst)
			}
		})
	}
}

// apart is the share of scales that are not within a percent of those wanted.
func apart(got, want []float32) float64 {
	n := 0
	for i, s := range want {
		if math.Abs(float64(got[i]/s)-1) > 0.01 {
			n++
		}
	}
	return float64(n) / float64(len(want))
}

func norm(t *testing.T, w *model.Weights, id model.ID) float64 {
	t.Helper()
	m, err := w.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, v := range kernels.Float32s(m) {
		sum += float64(v) * float64(v)
	}
	return sum
}

// TestApplyLeavesShortVectors expects norms and biases that every type of an
// output holds, F16 and BF16 alike, in a file's terms.
func TestApplyLeavesShortVectors(t *testing.T) {
	for _, spec := range families {
		w := open(t, spec)
		for _, g := range Groups(&w.Config, 1) {
			scale := make([]float32, g.Channels)
			for c := range scale {
				scale[c] = 0.7 + float32(c)/50
			}
			if _, err := g.Apply(w, scale); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range w.Config.IDs() {
			if !w.Replaced(id) || id.Role.IsMatrix() && !id.Bias {
				continue
			}
			v, err := w.Vector(id)
			if err != nil {
				t.Fatal(err)
			}
			for c, x := range v {
				if w.Config.Family.NormPlusOne {
					x--
				}
				if dtype.BF16ToF32(dtype.F32ToBF16(x)) != x || dtype.F16ToF32(dtype.F32ToF16(x)) != x {
					t.Fatalf("%s: %s %d is %g, which is not short", spec.Family, id, c, x)
				}
			}
		}
	}
}

// TestChannel takes the heads of o's inputs back to those of v.
func TestChannel(t *testing.T) {
	w := open(t, families[0]) // 6 query heads of 8, three to one of v
	g := Groups(&w.Config, 0)[1]
	if g.From.Role != model.V || g.Channels != 16 || g.Inputs != 48 {
		t.Fatalf("o's group is %+v", g)
	}
	for input, want := range map[int]int{0: 0, 7: 7, 8: 0, 23: 7, 24: 8, 40: 8, 47: 15} {
		if got := g.Channel(input); got != want {
			t.Errorf("input %d comes from channel %d, want %d", input, got, want)
		}
	}
	if got := g.Matrices(); !slices.Equal(got, []model.ID{{Role: model.O}, {Role: model.V}}) {
		t.Errorf("o's group changes %v", got)
	}
}

// TestDivideVector meets channels that cannot be divided.
func TestDivideVector(t *testing.T) {
	w := open(t, families[4])
	id := model.ID{Role: model.AttnNorm, Block: 0}
	v := make([]float32, 48)
	for i := range v {
		v[i] = 1
	}
	v[0], v[1], v[2], v[3] = 0, -2, 1e-3, 6e4
	w.ReplaceVector(id, slices.Clone(v))
	scale := slices.Repeat([]float32{4}, 48)
	scale[3] = 0.25
	applied, err := Groups(&w.Config, 0)[0].Apply(w, scale)
	if err != nil {
		t.Fatal(err)
	}
	// 1e-3/4-1 has no 8 bits that keep the sum, 6e4*4 no place in F16.
	want := slices.Repeat([]float32{4}, 48)
	want[2], want[3] = 1, 1
	got, _ := w.Vector(id)
	for i := range v {
		if applied[i] != want[i] || got[i]*applied[i] != v[i] {
			t.Errorf("channel %d: %g became %g by the scale %g, want %g", i, v[i], got[i], applied[i], want[i])
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	w := open(t, families[0])
	g := Groups(&w.Config, 0)[3]
	for _, bad := range []float32{0, -1, float32(math.Inf(1)), float32(math.NaN())} {
		scale := slices.Repeat([]float32{1}, g.Channels)
		scale[5] = bad
		if _, err := g.Apply(w, scale); err == nil || !strings.Contains(err.Error(), "the scale of channel 5 of block 0 up is") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if _, err := g.Apply(w, make([]float32, 3)); err == nil {
		t.Error("3 scales are allowed")
	}
	if w.Replaced(model.ID{Role: model.Down, Block: 0}) {
		t.Error("a failure changed a weight")
	}
}
