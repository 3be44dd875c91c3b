package distill

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/train"
)

func tinyWeights(t *testing.T, spec tinymodel.Spec) *model.Weights {
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

var tinySpec = tinymodel.Spec{Hidden: 32, FFN: 48, Layers: 4, Heads: 4, KVHeads: 2}

func device(t *testing.T) *kernels.CPU {
	dev := kernels.NewCPU(2)
	t.Cleanup(dev.Close)
	return dev
}

func tinyModel(t *testing.T, dev *kernels.CPU, w *model.Weights) *model.Model {
	t.Helper()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tinyWindows(n, length int) [][]int32 {
	rng := rand.New(rand.NewPCG(4, 4))
	var list [][]int32
	for range n {
		w := make([]int32, length)
		for i := range w {
			w[i] = int32(rng.IntN(250))
		}
		list = append(list, w)
	}
	return list
}

// TestLive compares a live teacher with the model's own logits, with and without
// hidden states that are kept.
func TestLive(t *testing.T) {
	dev := device(t)
	m := tinyModel(t, dev, tinyWeights(t, tinySpec))
	windows := tinyWindows(3, 20)
	for _, keep := range [][]int{nil, {-1, 1}} {
		all := NewLive(m, LiveOptions{Vocab: 270, Keep: keep})
		few := NewLive(m, LiveOptions{Vocab: 270, Top: 5, Temperature: 2, Keep: keep})
		for _, l := range []*Live{all, few} {
			if err := l.Prepare(t.Context(), nil, windows); err != nil {
				t.Fatal(err)
			}
		}
		for i, ids := range windows {
			var want []float32
			err := m.Forward(t.Context(), m.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
				out := m.Logits(hidden)
				want = append(want, out.Data...)
				dev.Free(out)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			rows, err := all.Rows(t.Context(), i, 7, 9)
			if err != nil {
				t.Fatal(err)
			}
			var top Prediction
			for r := range rows {
				logits := want[(7+r)*288:][:270]
				if !slices.Equal(rows[r].Logits, logits) {
					t.Fatalf("row %d of sequence %d is not what the model gives", r, i)
				}
			}
			rows, err = few.Rows(t.Context(), i, 7, 9)
			if err != nil {
				t.Fatal(err)
			}
			for r := range rows {
				Top(want[(7+r)*288:][:270], 2, 5, &top)
				if !slices.Equal(rows[r].IDs, top.IDs) || !slices.Equal(rows[r].LogProbs, top.LogProbs) {
					t.Fatalf("the likeliest tokens of row %d of sequence %d are others", r, i)
				}
			}
		}
	}
}

// TestNewStudent makes students of all shapes and looks at what they are made of.
func TestNewStudent(t *testing.T) {
	w := tinyWeights(t, tinySpec)
	for _, s := range []Shape{{}, {Layers: 1}, {Layers: 3}, {Hidden: 16}, {Heads: 2}, {FFN: 24}, {Layers: 2, Hidden: 16, Heads: 2, FFN: 8}} {
		student, err := NewStudent(w, s)
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		c := &student.Config
		or := func(n, whole int) int {
			if n == 0 {
				return whole
			}
			return n
		}
		if c.Blocks != or(s.Layers, 4) || c.Hidden != or(s.Hidden, 32) || c.Heads != or(s.Heads, 4) || c.FFN != or(s.FFN, 48) {
			t.Errorf("%+v became %d layers, hidden %d, %d heads, feed-forward %d", s, c.Blocks, c.Hidden, c.Heads, c.FFN)
		}
		tinyModel(t, device(t), student)
		Randomize(student, 7)
		first, _ := student.Matrix(model.ID{Role: model.Q, Block: 0})
		again := slices.Clone(kernels.Float32s(first))
		Randomize(student, 7)
		if first, _ = student.Matrix(model.ID{Role: model.Q, Block: 0}); !slices.Equal(again, kernels.Float32s(first)) {
			t.Error("random weights are not a function of the seed")
		}
	}
	mixture := tinySpec
	mixture.Family = "qwen3moe"
	student, err := NewStudent(tinyWeights(t, mixture), Shape{FFN: 8, Layers: 2})
	if err != nil || student.Config.Experts.Width != 8 {
		t.Errorf("a mixture became one of %d neurons an expert: %v", student.Config.Experts.Width, err)
	}
	tinyModel(t, device(t), student)
	for _, s := range []Shape{{Layers: 5}, {Hidden: 33}, {Heads: 3}, {FFN: -1}} {
		if _, err := NewStudent(w, s); err == nil {
			t.Errorf("%+v is made of a smaller model", s)
		}
	}
	if got := spread(4, 10); !slices.Equal(got, []int{0, 3, 6, 9}) {
		t.Errorf("4 of 10 layers are %v", got)
	}
	if got := Match(3, 9); !slices.Equal(got, []int{2, 5, 8}) {
		t.Errorf("3 blocks match %v of 9", got)
	}
}

// TestLargestNeurons: what is left of a feed-forward layer with zeros in it is
// the rest.
func TestLargestNeurons(t *testing.T) {
	w := tinyWeights(t, tinySpec)
	id := model.ID{Role: model.Down, Block: 1}
	m, _ := w.Matrix(id)
	v := slices.Clone(kernels.Float32s(m))
	for r := range 32 {
		for _, c := range []int{0, 5, 17} {
			v[r*48+c] = 0
		}
	}
	w.Replace(id, kernels.FromFloat32s(32, 48, v))
	got, err := largestNeurons(w, 1, model.NoExpert, 45)
	if err != nil || len(got) != 45 || slices.Contains(got, 0) || slices.Contains(got, 5) || slices.Contains(got, 17) {
		t.Errorf("of 48 neurons, 3 of which write nothing, %v stay: %v", got, err)
	}
}

// network is a student of a tiny model, ready to train.
func network(t *testing.T, dev *kernels.CPU, w *model.Weights) *train.Network {
	t.Helper()
	net, err := train.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// TestHidden compares the gradients of hidden states and of projections with
// central differences.
func TestHidden(t *testing.T) {
	dev := device(t)
	w := tinyWeights(t, tinySpec)
	student, err := NewStudent(w, Shape{Layers: 2, Hidden: 16})
	if err != nil {
		t.Fatal(err)
	}
	matches := Match(2, 4)
	live := NewLive(tinyModel(t, dev, w), LiveOptions{Vocab: 288, Keep: matches})
	windows := tinyWindows(1, 6)
	if err := live.Prepare(t.Context(), nil, windows); err != nil {
		t.Fatal(err)
	}
	net := network(t, dev, student)
	p, err := NewPredictions(net, Loss{Kind: KL, Temperature: 1, Alpha: 1}, live, 1)
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHidden(dev, net, p, live, matches, 16, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	const scale = 0.5
	hidden, grad := dev.NewTensor(6, 16), dev.NewTensor(6, 16)
	_, x := logits(rand.New(rand.NewPCG(1, 1)), len(hidden.Data), 1)
	copy(hidden.Data, x)
	v := h.vars[1]
	loss := func() float64 {
		h.scale, h.sum = scale, 0
		clear(grad.Data)
		clear(v.Grad)
		h.compare(1, 0, hidden, grad)
		return h.sum
	}
	loss()
	for name, pair := range map[string][2][]float32{"hidden": {hidden.Data, slices.Clone(grad.Data)}, "projection": {v.Value, slices.Clone(v.Grad)}} {
		for i, at := range pair[0] {
			const step = 1.0 / 64
			pair[0][i] = at + step
			up := loss()
			pair[0][i] = at - step
			down := loss()
			pair[0][i] = at
			if want := scale * (up - down) / (2 * step); math.Abs(float64(pair[1][i])-want) > 1e-3*(1+math.Abs(want)) {
				t.Fatalf("%s gradient %d is %v, want %v", name, i, pair[1][i], want)
			}
		}
	}
}

func trainTiny(t *testing.T, net Network, form Form, goal Goal, sample *OnPolicy) *Trainer {
	t.Helper()
	o := Options{
		Optimizer: DefaultAdamW, Schedule: Schedule{Rate: 3e-3, Steps: 12, Final: 1}, Clip: 1, Batch: 2, Threads: 2,
	}
	if sample != nil {
		o.Sample = sample.Sample
	}
	tr, err := NewTrainer(net, form, &Data{Train: tinyWindows(2, 13)}, goal, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestLayerwise: blocks that are the teacher's own have nothing to learn, others
// do learn.
func TestLayerwise(t *testing.T) {
	dev := device(t)
	w := tinyWeights(t, tinySpec)
	for _, layers := range []int{4, 2} {
		student, err := NewStudent(w, Shape{Layers: layers})
		if err != nil {
			t.Fatal(err)
		}
		ends := Match(layers, 4)
		live := NewLive(tinyModel(t, dev, w), LiveOptions{Vocab: 288, Keep: LayerwiseKeep(ends)})
		net := network(t, dev, student)
		goal, err := NewLayerwise(dev, net, live, ends, 32)
		if err != nil {
			t.Fatal(err)
		}
		tr := trainTiny(t, net, NewFull(net.Params(), true), goal, nil)
		first, last := tr.Curve[0].Loss, tr.Curve[11].Loss
		if layers == 4 && first > 1e-9 || layers == 2 && !(first > 1e-3 && last < 0.7*first) {
			t.Errorf("with %d layers the loss went from %v to %v", layers, first, last)
		}
		if _, err := NewLayerwise(dev, net, live, ends, 16); err == nil {
			t.Error("hidden states of another width are compared")
		}
	}
}

// TestOnPolicy: sequences keep their beginning and go on as the student wants.
func TestOnPolicy(t *testing.T) {
	dev := device(t)
	w := tinyWeights(t, tinySpec)
	net := network(t, dev, w)
	o := &OnPolicy{Fraction: 1, Seed: 3, Vocab: 256, Device: dev, Params: net.Params(), Weights: w}
	windows := tinyWindows(3, 16)
	var first [][]int32
	for range 2 {
		index, seqs := []int{0, 1, 2}, slices.Clone(windows)
		if err := o.Sample(t.Context(), 5, index, seqs); err != nil {
			t.Fatal(err)
		}
		for i, s := range seqs {
			if !slices.Equal(s[:4], windows[i][:4]) || slices.Equal(s, windows[i]) || index[i] != -1 || len(s) > 16 {
				t.Errorf("sequence %d became %v, window %d", i, s, index[i])
			}
		}
		if first != nil && !slices.EqualFunc(first, seqs, slices.Equal) {
			t.Error("what the student writes is not a function of the seed")
		}
		first = seqs
	}
	live := NewLive(tinyModel(t, dev, tinyWeights(t, tinySpec)), LiveOptions{Vocab: 288})
	p, err := NewPredictions(net, Loss{Kind: ReverseKL, Temperature: 1, Alpha: 1}, live, 2)
	if err != nil {
		t.Fatal(err)
	}
	o.Fraction = 0.5
	trainTiny(t, net, NewFull(net.Params(), true), p, o)
	if err := (&OnPolicy{Fraction: 1.5}).Check(); err == nil {
		t.Error("a fraction above 1 is accepted")
	}
}
