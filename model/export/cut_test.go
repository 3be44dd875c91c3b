package export

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
)

// cuts takes away a part of each kind from a model of tinyConfig.
func cuts(c *model.Config) map[string]*model.Cut {
	heads, neurons := make([][]int, c.Blocks), make([][]int, c.Blocks)
	for b := range c.Blocks {
		heads[b] = [][]int{{0, 1}, {2, 3}}[b%2]
		for j := range 64 {
			neurons[b] = append(neurons[b], j+b)
		}
	}
	var hidden []int
	for i := range 32 {
		hidden = append(hidden, 2*i+i%2)
	}
	return map[string]*model.Cut{
		"blocks": {Blocks: []int{0, 2}}, "heads": {Heads: heads}, "neurons": {Neurons: neurons}, "hidden": {Hidden: hidden},
		"all": {Blocks: []int{1, 2}, Heads: heads, Neurons: neurons, Hidden: hidden},
	}
}

// TestCut writes cut models of every family from either kind to either. What is
// read back has the configuration of the cut and gives the same logits.
func TestCut(t *testing.T) {
	for _, f := range model.Families {
		if f.Mixture != nil {
			continue
		}
		cfg := tinyConfig(t, f.Name)
		folder := fromMemory(t, randomFiles(t, &cfg, dtype.BF16))
		file := write(t, folder, formats.GGUF, dtype.Invalid, filepath.Join(t.TempDir(), "model.gguf"), 1)
		for name, cut := range cuts(&cfg) {
			for _, from := range []*formats.Checkpoint{folder, file} {
				for _, to := range []formats.Kind{formats.HuggingFace, formats.GGUF} {
					t.Run(f.Name+"/"+name+"/"+from.Kind.String()+" to "+to.String(), func(t *testing.T) {
						writeCut(t, from, to, cut)
					})
				}
			}
		}
	}
}

func writeCut(t *testing.T, from *formats.Checkpoint, to formats.Kind, cut *model.Cut) {
	whole, err := model.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	w, err := whole.Cut(cut)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "out")
	if to == formats.GGUF {
		path += ".gguf"
		if w.Config.Family.SquareO && (cut.Heads != nil) != (cut.Hidden != nil) {
			refusesSquareO(t, from, w)
			return
		}
	}
	back, err := model.Open(writeWeights(t, from, w, to, dtype.Invalid, path, 1))
	if err != nil {
		t.Fatal(err)
	}
	a, b := w.Config, back.Config
	b.Family, b.Architecture, b.TrainedType = a.Family, a.Architecture, a.TrainedType // several share a GGUF name
	if x, y := describe(a), describe(b); x != y && from.Kind == to {
		t.Errorf("the configuration is\n%s\nwant\n%s", y, x)
	}
	want, got := logits(t, w), logits(t, back)
	for i, v := range want {
		if d := math.Abs(float64(v - got[i])); !(d <= 1e-5) {
			t.Fatalf("logit %d is %g, want %g", i, got[i], v)
		}
	}
	if to == formats.GGUF || from.Kind == formats.GGUF {
		return
	}
	for _, id := range w.Config.IDs() { // types are kept, but for norms that need more
		was, is := w.Stored(id), back.Stored(id)
		for part := range was {
			if was[part].Type != is[part].Type && !w.Replaced(id) {
				t.Errorf("%s was stored as %s and is as %s", id, was[part].Type, is[part].Type)
			}
		}
	}
}

// refusesSquareO: llama.cpp takes Qwen 2's heads to be as wide as the model.
func refusesSquareO(t *testing.T, from *formats.Checkpoint, w *model.Weights) {
	items, err := Plain(w, formats.GGUF, dtype.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(from, w, Spec{Kind: formats.GGUF, Items: items})
	if err == nil || !strings.Contains(err.Error(), "beside a hidden width of") {
		t.Errorf("got %v", err)
	}
}

func logits(t *testing.T, w *model.Weights) []float32 {
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	ids := []int32{3, 200, 17, 99, 256, 5, 5, 42}
	var all []float32
	err = m.Forward(context.Background(), m.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
		all = append(all, m.Logits(hidden).Data...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
