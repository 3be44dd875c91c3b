package model

import (
	"math"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
	"llmc/kernels"
)

// refCuts takes away a part of each kind from a reference, differently in each
// block, and all kinds at once.
func refCuts(m *reference) map[string]*Cut {
	per := m.heads / m.kvHeads
	heads := make([][]int, refBlocks)
	width, lists := refFFN, 1
	if m.moe != nil {
		width, lists = m.moe.width, m.moe.experts
	}
	neurons := make([][]int, refBlocks*lists)
	for b := range refBlocks {
		if m.kvHeads == 1 {
			heads[b] = []int{b % 2, 2} // query heads of the only group
		} else {
			group := b % m.kvHeads
			for h := range m.heads {
				if h/per != group {
					heads[b] = append(heads[b], h)
				}
			}
		}
	}
	for i := range neurons {
		for j := range width {
			if (j+i)%3 != 0 || j+i == 0 {
				neurons[i] = append(neurons[i], j)
			}
		}
		neurons[i] = neurons[i][:width/2]
	}
	hidden := []int{0, 1, 3, 4, 7, 8, 10, 11}
	cuts := map[string]*Cut{
		"nothing": {},
		"blocks":  {Blocks: []int{0, 2}},
		"heads":   {Heads: heads},
		"neurons": {Neurons: neurons},
		"hidden":  {Hidden: hidden},
		"all":     {Blocks: []int{1, 2, 3}, Heads: heads, Neurons: neurons, Hidden: hidden},
	}
	if m.moe != nil && m.moe.wideNorm {
		delete(cuts, "heads") // refused
		cuts["all"].Heads = nil
	}
	return cuts
}

// TestCut compares the logits of cut models of every family, from both kinds of
// file, with the whole reference in which what is cut is zero or skipped.
func TestCut(t *testing.T) {
	for _, ref := range references() {
		// With next to no epsilon the width of the residual stream does not matter.
		ref.eps, ref.config["rms_norm_eps"] = 1e-12, 1e-12
		for name, cut := range refCuts(ref) {
			ref.gone = cut
			want := slices.Concat(ref.logits(tokens)...)
			t.Run(ref.name+"/"+name, func(t *testing.T) {
				w, err := Open(ref.open(t))
				if err != nil {
					t.Fatal(err)
				}
				compareCut(t, w, cut, want)
				if w.Config.Window > 0 && ref.name != "gemma3" || name == "nothing" {
					return // GGUF, as llama.cpp reads it, has no window there
				}
				meta, err := w.Config.GGUF()
				if err != nil {
					t.Fatal(err)
				}
				var factors []float32
				if w.Config.Rope.Type == RopeLlama3 {
					for _, f := range w.Config.Rope.Llama3Factors() {
						factors = append(factors, float32(f))
					}
				}
				if w, err = Open(ref.openGGUF(t, meta, factors)); err != nil {
					t.Fatal(err)
				}
				compareCut(t, w, cut, want)
			})
		}
	}
}

func compareCut(t *testing.T, w *Weights, cut *Cut, want []float64) {
	t.Helper()
	w, err := w.Cut(cut)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range w.need() {
		for part, stored := range w.Stored(id) {
			if id.Role.IsMatrix() && !id.Bias {
				m, err := w.Matrix(id)
				if err != nil {
					t.Fatal(err)
				}
				if m.Bytes() != w.Bytes(id) {
					t.Errorf("%s has %d bytes, %d are expected", id, m.Bytes(), w.Bytes(id))
				}
			}
			if name := w.Config.Family.TensorName(w.Kind, id); stored.Name != name || !strings.HasSuffix(name, part) {
				t.Errorf("%s is called %s, want %s", id, stored.Name, name)
			}
		}
	}
	m, err := New(kernels.NewCPU(1), w)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "the cut model", run(t, m, m.NewState(), tokens), want, 1e-5)
}

// TestCutNothing: the same logits, bit by bit, and of a cut of a cut, too.
func TestCutNothing(t *testing.T) {
	for _, ref := range references() {
		w, err := Open(ref.open(t))
		if err != nil {
			t.Fatal(err)
		}
		if ref.moe != nil {
			if _, err := w.Cut(refCuts(referenceOf(t, "mixtral"))["heads"]); ref.moe.wideNorm && (err == nil || !strings.Contains(err.Error(), "over all heads together")) {
				t.Errorf("%s: got %v, want a refusal", ref.name, err)
			}
			continue
		}
		all := make([][]int, refBlocks)
		for b := range all {
			all[b] = upTo(refFFN)
		}
		first, err := w.Cut(&Cut{Neurons: all, Hidden: upTo(refHidden)})
		if err != nil {
			t.Fatal(err)
		}
		second, err := first.Cut(&Cut{Blocks: upTo(refBlocks)})
		if err != nil {
			t.Fatal(err)
		}
		want := load(t, ref.open(t), 1)
		got, err := New(kernels.NewCPU(1), second)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(run(t, want, want.NewState(), tokens), run(t, got, got.NewState(), tokens)) {
			t.Errorf("%s: logits differ", ref.name)
		}
	}
}

func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// TestCutReplaced cuts weights that were replaced: the new numbers count.
func TestCutReplaced(t *testing.T) {
	ref := references()[3]
	w, err := Open(ref.open(t))
	if err != nil {
		t.Fatal(err)
	}
	down, norm := ID{Role: Down, Block: 1}, ID{Role: FFNNorm, Block: 1}
	values, weights := make([]float32, refHidden*refFFN), make([]float32, refHidden)
	for i := range values {
		values[i] = float32(i)
	}
	for i := range weights {
		weights[i] = float32(i) / 7
	}
	w.Replace(down, kernels.FromFloat32s(refHidden, refFFN, values))
	w.ReplaceVector(norm, weights)
	cut, err := w.Cut(&Cut{Blocks: []int{1}, Hidden: []int{2, 5}, Neurons: [][]int{{0}, {3}, {0}, {0}}})
	if err != nil {
		t.Fatal(err)
	}
	down.Block, norm.Block = 0, 0
	m, err := cut.Matrix(down)
	if err != nil {
		t.Fatal(err)
	}
	v, err := cut.Vector(norm)
	if err != nil {
		t.Fatal(err)
	}
	if got := kernels.Float32s(m); !slices.Equal(got, []float32{2*refFFN + 3, 5*refFFN + 3}) || !cut.Replaced(down) {
		t.Errorf("down is %v", got)
	}
	if !slices.Equal(v, []float32{2. / 7, 5. / 7}) || !cut.Replaced(norm) {
		t.Errorf("the norm is %v", v)
	}
}

// TestCutRefuses checks what is said of cuts that make no model.
func TestCutRefuses(t *testing.T) {
	ref := references()[2] // 6 heads, 3 of keys and values
	ref.tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = tinyTensor{[]int{1}, []float32{1}}
	w, err := Open(ref.open(t))
	if err != nil {
		t.Fatal(err)
	}
	each := func(list ...int) [][]int { return [][]int{list, list, list, list} }
	for want, cut := range map[string]*Cut{
		"keeps none of the 4 blocks":                              {Blocks: []int{}},
		"lists 4 after [1] of the 4 blocks":                       {Blocks: []int{1, 4}},
		"lists 1 after [1] of the 4 blocks":                       {Blocks: []int{1, 1}},
		"lists -1 after [] of the 12 hidden channels":             {Hidden: []int{-1}},
		"lists the heads of 1 blocks, the model has 4":            {Heads: [][]int{{0}}},
		"does not list the heads of block 1":                      {Heads: [][]int{{0}, nil, {0}, {0}}},
		"keeps 1 heads of block 0 and 2 of block 2":               {Heads: [][]int{{0}, {1}, {0, 1}, {0}}},
		"keeps none of the 20 feed-forward neurons of block 0":    {Neurons: each([]int{}...)},
		"keeps 2 query heads of key and value head 0 and 1 of 1":  {Heads: each(0, 1, 2)},
		"keeps 2 key and value heads of block 0 and 1 of block 1": {Heads: [][]int{{0, 2}, {0, 1}, {0, 2}, {0, 2}}},
		"which may depend on the hidden channels":                 {Hidden: []int{0}},
	} {
		if cut.Neurons != nil {
			cut.Neurons = [][]int{{}, {}, {}, {}}
		}
		if _, err := w.Cut(cut); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", cut, err, want)
		}
	}
	// Its own blocks' unused tensors go with blocks.
	cut, err := w.Cut(&Cut{Blocks: []int{0, 1, 3}})
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Extra) != 1 || len(cut.Extra) != 0 {
		t.Errorf("unused are %v, and %v when cut", w.Extra, cut.Extra)
	}
	if got, want := cut.Config.Windowed, []bool{false, false, true}; !slices.Equal(got, want) {
		t.Errorf("windows are in %v, want %v", got, want)
	}
}

// TestCutEmbedScale checks that Gemma's embeddings, which are multiplied by the
// root of the width, get norms that fit.
func TestCutEmbedScale(t *testing.T) {
	ref := references()[4]
	w, err := Open(ref.open(t))
	if err != nil {
		t.Fatal(err)
	}
	cut, err := w.Cut(&Cut{Hidden: []int{0, 4, 8}})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []Role{AttnNorm, PostAttnNorm, FFNNorm, PostFFNNorm} {
		before, err := w.Vector(ID{Role: role, Block: 2})
		if err != nil {
			t.Fatal(err)
		}
		after, err := cut.Vector(ID{Role: role, Block: 2})
		if err != nil {
			t.Fatal(err)
		}
		want := 1.0
		if role == PostAttnNorm || role == PostFFNNorm {
			want = 0.5 // sqrt(3/12)
		}
		for i, v := range after {
			if got := float64(v / before[4*i]); math.Abs(got-want) > 1e-6 {
				t.Errorf("%s is %g of what it was, want %g", role, got, want)
			}
		}
	}
}

// TestCutQuantized: blocks of codes do not come apart.
func TestCutQuantized(t *testing.T) {
	tensors := tinymodel.Tensors(tinymodel.Spec{Hidden: 64, FFN: 64, Layers: 1, Heads: 2, KVHeads: 1})
	files := tinymodel.Files(tinymodel.Spec{Hidden: 64, FFN: 64, Layers: 1, Heads: 2, KVHeads: 1})
	c, err := formats.FromMemory(files)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := w.Config.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	var list []raw.Tensor
	for _, x := range tensors {
		id, _ := w.Config.Family.ParseName(formats.HuggingFace, x.Name)
		stored := raw.Tensor{Name: w.Config.Family.TensorName(formats.GGUF, id), Type: dtype.BF16, Shape: x.Shape, Data: x.Data}
		if id.Role == Up {
			stored.Type, stored.Data = dtype.Q8_0, make([]byte, 64*2*34)
		}
		list = append(list, stored)
	}
	if w, err = Open(openGGUF(t, meta, list)); err != nil {
		t.Fatal(err)
	}
	_, err = w.Cut(&Cut{Hidden: upTo(32)})
	if want := "block 0 up is quantized (Q8_0)"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if fault.KindOf(err) != fault.InvalidFile || !strings.Contains(fault.HintOf(err), "then quantize it") {
		t.Errorf("kind %d, hint %s", fault.KindOf(err), fault.HintOf(err))
	}
}
