package structured

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"llmc/calibrate"
	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// small is a tiny llama in F32, so that fitted weights are stored as they are.
var small = tinymodel.Spec{Hidden: 32, FFN: 48, Layers: 3, Heads: 4, KVHeads: 2, Context: 64, Seed: 5}

// tiny opens a model; change may change its tensors first.
func tiny(t *testing.T, change func(name string, shape []int, values []float32)) *model.Weights {
	t.Helper()
	return tinyOf(t, small, change)
}

func tinyOf(t *testing.T, spec tinymodel.Spec, change func(name string, shape []int, values []float32)) *model.Weights {
	t.Helper()
	files := tinymodel.Files(spec)
	tensors := tinymodel.Tensors(spec)
	for i, x := range tensors {
		values := make([]float32, len(x.Data)/2)
		for j := range values {
			values[j] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(x.Data[2*j:])) << 16)
		}
		if change != nil {
			change(x.Name, x.Shape, values)
		}
		tensors[i].Type, tensors[i].Data = "F32", nil
		for _, v := range values {
			tensors[i].Data = binary.LittleEndian.AppendUint32(tensors[i].Data, math.Float32bits(v))
		}
	}
	files["model.safetensors"] = tinymodel.SafeTensors(tensors)
	c, err := formats.FromMemory(files)
	if err != nil {
		t.Fatal(err)
	}
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func randomWindows(n, length int) [][]int32 {
	rng := rand.New(rand.NewPCG(8, 8))
	windows := make([][]int32, n)
	for i := range windows {
		for range length {
			windows[i] = append(windows[i], int32(rng.IntN(256)))
		}
	}
	return windows
}

// TestRank compares the scores with those computed from whole forward passes.
func TestRank(t *testing.T) {
	w := tiny(t, nil)
	windows := randomWindows(3, 20)
	want := slowScores(t, w, windows)
	for a := range Axis(len(axisNames)) {
		dev := kernels.NewCPU(2)
		r, err := Rank(context.Background(), dev, w, windows, a, RankOptions{Importance: map[bool]Importance{false: Activations, true: Influence}[a == Layers]}, calibrate.Options{})
		dev.Close()
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Scores) != len(want[a]) {
			t.Fatalf("%s: %d lists of scores, want %d", a, len(r.Scores), len(want[a]))
		}
		for i, scores := range r.Scores {
			if len(scores) != len(want[a][i]) {
				t.Fatalf("%s: %d scores, want %d", a, len(scores), len(want[a][i]))
			}
			for u, s := range scores {
				if d := math.Abs(s - want[a][i][u]); !(d <= 1e-5*want[a][i][u]) {
					t.Errorf("%s: unit %d of list %d has %g, want %g", a, u, i, s, want[a][i][u])
				}
			}
		}
		for i, order := range r.order {
			for at := range order[1:] {
				if r.Scores[i][order[at]] < r.Scores[i][order[at+1]] {
					t.Errorf("%s: list %d is not in order", a, i)
				}
			}
		}
	}
}

// slowScores runs the whole model and adds up squares by the definitions.
func slowScores(t *testing.T, w *model.Weights, windows [][]int32) map[Axis][][]float64 {
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	c := &w.Config
	seen := map[string]float64{}
	tokens := 0.0
	square := func(key string, v float32) { seen[key] += float64(v) * float64(v) }
	key := func(what string, block, unit int) string {
		return what + strings.Repeat("|", block+1) + strings.Repeat("-", unit)
	}
	m.SetHook(func(block int, to model.Input, in *kernels.Tensor) {
		for i, v := range in.Data[:in.Rows*in.Cols] {
			ch := i % in.Cols
			switch to.Roles[0] {
			case model.Q:
				square(key("attn", block, ch), v)
			case model.Gate:
				square(key("ffn", block, ch), v)
			case model.Down:
				square(key("neuron", block, ch), v)
			case model.O:
				square(key("group", block, ch/(c.Heads/c.KVHeads*c.HeadDim)), v)
			}
		}
	})
	influence := make([]float64, c.Blocks)
	for _, ids := range windows {
		x, s := m.Embed(ids), m.NewState()
		for b := range c.Blocks {
			before := append([]float32(nil), x.Data...)
			m.Block(b, x, s)
			for r := range ids {
				var dot, a, z float64
				for i := range c.Hidden {
					p, q := float64(before[r*c.Hidden+i]), float64(x.Data[r*c.Hidden+i])
					dot, a, z = dot+p*q, a+p*p, z+q*q
				}
				influence[b] += 1 - dot/math.Sqrt(a*z)
			}
		}
		m.Norm(x)
		for i, v := range x.Data[:len(ids)*c.Hidden] {
			square(key("final", 0, i%c.Hidden), v)
		}
		tokens += float64(len(ids))
	}
	want := map[Axis][][]float64{Heads: nil, FFN: nil, Hidden: {nil}, Layers: {nil}}
	size := float64(c.Heads / c.KVHeads * c.HeadDim)
	for b := range c.Blocks {
		var groups, neurons []float64
		for g := range c.KVHeads {
			groups = append(groups, math.Sqrt(seen[key("group", b, g)]/tokens/size))
		}
		for j := range c.FFN {
			neurons = append(neurons, math.Sqrt(seen[key("neuron", b, j)]/tokens))
		}
		want[Heads], want[FFN] = append(want[Heads], groups), append(want[FFN], neurons)
		want[Layers][0] = append(want[Layers][0], influence[b]/tokens)
	}
	for i := range c.Hidden {
		sum := math.Sqrt(seen[key("final", 0, i)] / tokens)
		for b := range c.Blocks {
			sum += math.Sqrt(seen[key("attn", b, i)]/tokens) + math.Sqrt(seen[key("ffn", b, i)]/tokens)
		}
		want[Hidden][0] = append(want[Hidden][0], sum)
	}
	return want
}

// TestTaylor compares with what the loss of each window becomes when what a unit
// writes is made a little smaller.
func TestTaylor(t *testing.T) {
	for a := range Axis(len(axisNames)) {
		checkTaylor(t, tiny(t, nil), a)
	}
	for _, family := range []string{"mixtral", "qwen2moe"} {
		mixture := small
		mixture.Family, mixture.Layers = family, 1
		checkTaylor(t, tinyOf(t, mixture, nil), FFN)
	}
}

func checkTaylor(t *testing.T, w *model.Weights, a Axis) {
	t.Helper()
	windows := randomWindows(2, 12)
	c := &w.Config
	const step = 0.02
	r, err := Rank(context.Background(), kernels.NewCPU(1), w, windows, a, RankOptions{Importance: Taylor, Threads: 2}, calibrate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for list := range r.Scores {
		for _, unit := range []int{0, a.Units(c) - 1} {
			want := 0.0
			for _, ids := range windows {
				slope := (scaledLoss(t, w, a, list, unit, 1+step, ids) - scaledLoss(t, w, a, list, unit, 1-step, ids)) / (2 * step)
				want += slope * slope / float64(len(windows))
			}
			if got := r.Scores[list][unit]; math.Abs(got-want) > 0.02*want+1e-6 {
				t.Errorf("%s: unit %d of list %d has %g, want %g", a, unit, list, got, want)
			}
		}
	}
}

// scaledLoss is the cross-entropy of a window, summed, when all weights that
// write what a unit makes are multiplied by a factor.
func scaledLoss(t *testing.T, w *model.Weights, a Axis, list, unit int, factor float32, ids []int32) float64 {
	t.Helper()
	out, err := w.Cut(&model.Cut{})
	if err != nil {
		t.Fatal(err)
	}
	c := &w.Config
	for _, id := range c.IDs() {
		if (id.Role != model.O && id.Role != model.Down && id.Role != model.Embed) || id.Bias {
			continue
		}
		m, err := w.Matrix(id)
		if err != nil {
			t.Fatal(err)
		}
		rows, cols := m.Shape()
		values := slices.Clone(kernels.Float32s(m))
		for i := range values {
			row, col := i/cols, i%cols
			hit := false
			switch {
			case a == Hidden && id.Role == model.Embed:
				hit = col == unit
			case id.Role == model.Embed:
			case a == Hidden:
				hit = row == unit
			case a == Layers:
				hit = id.Block == unit
			case a == FFN:
				hit = id.Role == model.Down && !shared(c, id) && a.list(c, id) == list && col == unit
			case a == Heads:
				hit = id.Role == model.O && id.Block == list && col/(cols/c.KVHeads) == unit
			}
			if hit {
				values[i] *= factor
			}
		}
		out.Replace(id, kernels.FromFloat32s(rows, cols, values))
	}
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.New(dev, out)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	err = m.Forward(context.Background(), m.NewState(), ids, func(first int, hidden *kernels.Tensor) error {
		logits := m.Logits(hidden)
		for r := range logits.Rows {
			if first+r+1 < len(ids) {
				row := logits.Data[r*logits.Cols:][:logits.Cols]
				sum += kernels.LogSumExp(row) - float64(row[ids[first+r+1]])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
