package structured

import (
	"slices"
	"strings"
	"testing"

	"llmc/formats"
	"llmc/model"
)

func llama() *model.Config {
	return &model.Config{
		Family: model.Families[0], Vocab: 32, Hidden: 72, FFN: 160, Blocks: 5, Heads: 9, KVHeads: 3, HeadDim: 8, Context: 64,
		AttnScale: 0.35355339, Rope: model.Rope{Type: model.RopeDefault, Theta: 1e4, Dims: 8}, LocalRope: model.Rope{Type: model.RopeDefault, Theta: 1e4, Dims: 8},
	}
}

func TestWidths(t *testing.T) {
	one := llama()
	one.Heads, one.KVHeads = 4, 1
	qwen := llama()
	qwen.Family = model.Families[2]
	single := llama()
	single.Blocks = 1
	for _, c := range []struct {
		name     string
		config   *model.Config
		axis     Axis
		multiple int
		kind     formats.Kind
		want     []int
		err      string
	}{
		{"groups", llama(), Heads, 32, formats.HuggingFace, []int{1, 2}, ""},
		{"query heads that divide the width", one, Heads, 32, formats.HuggingFace, []int{1, 2, 3}, ""},
		{"neurons", llama(), FFN, 32, formats.GGUF, []int{32, 64, 96, 128}, ""},
		{"channels for transformers", llama(), Hidden, 6, formats.HuggingFace, []int{18, 36, 54}, ""},
		{"channels for llama.cpp", llama(), Hidden, 24, formats.GGUF, []int{24, 48}, ""},
		{"layers", llama(), Layers, 32, formats.GGUF, []int{1, 2, 3, 4}, ""},
		{"a multiple that is too large", llama(), FFN, 256, formats.GGUF, nil, "the model has 160 feed-forward neurons, of which multiples of 256 can be left"},
		{"no width", llama(), Hidden, 32, formats.HuggingFace, nil, "no number of hidden channels below 72 is allowed: a hidden width of 64 is not a multiple of 9 heads"},
		{"square o", qwen, Heads, 32, formats.GGUF, nil, "beside a hidden width of 72, which GGUF's qwen2 architecture cannot hold"},
		{"one layer", single, Layers, 1, formats.GGUF, nil, "the model has 1 layers, none of which can go"},
	} {
		got, err := Widths(c.config, c.axis, c.multiple, c.kind)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: got %v, want %s", c.name, err, c.err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestChoices(t *testing.T) {
	c := llama()
	groups, neurons := []int{1, 2}, []int{32, 64, 96, 128}
	for _, x := range []struct {
		axis   Axis
		widths []int
		share  float64
		want   int
		err    string
	}{
		{Heads, groups, 0.75, 2, ""},
		{Heads, groups, 0.5, 2, ""}, // of 1 and 2, the larger
		{Heads, groups, 0.9, 0, "leaving 90% of 3 key and value heads removes none"},
		{Heads, groups, 0.1, 0, "leaving 10% of 3 key and value heads removes all"},
		{FFN, neurons, 0.5, 96, ""},
		{FFN, neurons, 0.49, 64, ""},
		{FFN, neurons, 1, 0, "removes none"},
		{FFN, neurons, 0, 0, "removes all"},
	} {
		got, err := Nearest(c, x.axis, x.widths, x.share)
		if got != x.want || (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
			t.Errorf("%s %g: got %d, %v, want %d %s", x.axis, x.share, got, err, x.want, x.err)
		}
	}
	if n, err := Largest(c, FFN, neurons, func(n int) bool { return n <= 100 }); n != 96 || err != nil {
		t.Errorf("the largest is %d, %v", n, err)
	}
	if _, err := Largest(c, FFN, neurons, func(int) bool { return false }); err == nil || !strings.Contains(err.Error(), "with 32 of 160 feed-forward neurons is still too large") {
		t.Errorf("got %v", err)
	}
	if _, err := Largest(c, FFN, neurons, func(n int) bool { return n <= 160 }); err == nil || !strings.Contains(err.Error(), "the whole model with its 160 feed-forward neurons is small enough") {
		t.Errorf("got %v", err)
	}
	if n, err := Without(c, Layers, []int{1, 2, 3, 4}, 3); n != 2 || err != nil {
		t.Errorf("without 3 layers: %d, %v", n, err)
	}
	for _, removed := range []int{0, -1, 5, 6} {
		if _, err := Without(c, Layers, []int{1, 2, 3, 4}, removed); err == nil || !strings.Contains(err.Error(), "of 5 layers cannot be removed") {
			t.Errorf("without %d layers: %v", removed, err)
		}
	}
}

// TestCutsAreNested: what a smaller model has, a larger one has too.
func TestCutsAreNested(t *testing.T) {
	c := llama()
	r := Ranking{Axis: FFN, Scores: make([][]float64, c.Blocks)}
	for b := range r.Scores {
		for j := range c.FFN {
			r.Scores[b] = append(r.Scores[b], float64((j*37+b*11)%c.FFN/2))
		}
	}
	r.sort()
	small, large := r.Cut(c, 32), r.Cut(c, 64)
	for b := range small.Neurons {
		if len(small.Neurons[b]) != 32 || !slices.IsSorted(small.Neurons[b]) {
			t.Fatalf("block %d keeps %v", b, small.Neurons[b])
		}
		for _, j := range small.Neurons[b] {
			if !slices.Contains(large.Neurons[b], j) {
				t.Errorf("block %d: %d is in the smaller model alone", b, j)
			}
		}
	}
	groups := Ranking{Axis: Heads, Scores: [][]float64{{1, 3, 2}, {3, 1, 2}, {1, 2, 3}, {2, 3, 1}, {0, 0, 0}}}
	groups.sort()
	cut := groups.Cut(c, 1)
	if want := []int{3, 4, 5}; !slices.Equal(cut.Heads[0], want) || !slices.Equal(cut.Heads[4], []int{0, 1, 2}) {
		t.Errorf("heads %v", cut.Heads)
	}
}
