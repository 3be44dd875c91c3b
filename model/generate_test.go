package model

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"llmc/internal/fault"
)

// TestSamplerKeeps checks which tokens can be drawn at all.
func TestSamplerKeeps(t *testing.T) {
	// Probabilities 0.1, 0.4, 0.2, 0.3.
	logits := []float32{lg(0.1), lg(0.4), lg(0.2), lg(0.3)}
	for _, tt := range []struct {
		settings Sampling
		want     []int32
	}{
		{Sampling{}, []int32{1}},
		{Sampling{Temperature: 1, TopK: 1}, []int32{1}},
		{Sampling{Temperature: 1}, []int32{0, 1, 2, 3}},
		{Sampling{Temperature: 1, TopK: 2}, []int32{1, 3}},
		{Sampling{Temperature: 1, TopK: 9}, []int32{0, 1, 2, 3}},
		{Sampling{Temperature: 1, TopP: 0.39}, []int32{1}},
		{Sampling{Temperature: 1, TopP: 0.65}, []int32{1, 3}},
		{Sampling{Temperature: 1, TopP: 0.75}, []int32{1, 2, 3}},
		{Sampling{Temperature: 1, TopP: 1}, []int32{0, 1, 2, 3}},
		{Sampling{Temperature: 1, TopK: 3, TopP: 0.5}, []int32{1, 3}}, // 0.4 of the 0.9 left is not half
		{Sampling{Temperature: 1e-9}, []int32{1}},
	} {
		var drawn []int32
		s := NewSampler(tt.settings)
		for range 500 {
			id, err := s.Next(logits)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(drawn, id) {
				drawn = append(drawn, id)
			}
		}
		slices.Sort(drawn)
		if !slices.Equal(drawn, tt.want) {
			t.Errorf("%+v draws %v, want %v", tt.settings, drawn, tt.want)
		}
	}
}

func lg(p float64) float32 { return float32(math.Log(p)) }

// TestSamplerShares checks how often tokens are drawn: at temperature 2,
// probabilities are those of the square roots.
func TestSamplerShares(t *testing.T) {
	logits := []float32{lg(0.81), lg(0.09), lg(0.01), float32(math.Inf(-1))}
	s := NewSampler(Sampling{Temperature: 2, Seed: 7})
	const n = 20000
	var counts [4]int
	for range n {
		id, err := s.Next(logits)
		if err != nil {
			t.Fatal(err)
		}
		counts[id]++
	}
	for id, want := range []float64{0.9 / 1.3, 0.3 / 1.3, 0.1 / 1.3, 0} {
		if got := float64(counts[id]) / n; math.Abs(got-want) > 0.01 {
			t.Errorf("token %d is drawn %.3f of the time, want %.3f", id, got, want)
		}
	}
}

func TestSamplerRefuses(t *testing.T) {
	if _, err := NewSampler(Sampling{}).Next([]float32{0, float32(math.NaN())}); err == nil || !strings.Contains(err.Error(), "token 1 is not a number") {
		t.Errorf("got %v, want an error that names the token", err)
	}
	for _, s := range []Sampling{{Temperature: -1}, {Temperature: math.NaN()}, {TopK: -1}, {TopP: 1.1}, {TopP: math.NaN()}} {
		if err := s.Check(); err == nil || fault.KindOf(err) != fault.UsageError {
			t.Errorf("%+v: got %v, want a usage error", s, err)
		}
	}
	if err := (Sampling{Temperature: 0.7, TopK: 40, TopP: 0.9}).Check(); err != nil {
		t.Error(err)
	}
}

// TestGenerate follows the reference's most likely tokens, and stops where it
// is told to.
func TestGenerate(t *testing.T) {
	ref := references()[4]
	m := load(t, ref.open(t), 0)
	ids := slices.Clone(tokens[:3])
	for range 8 {
		last := ref.logits(ids)[len(ids)-1]
		ids = append(ids, int32(slices.Index(last, slices.Max(last))))
	}
	want := ids[3:]
	generate := func(count int, s Sampling, stop []int, most int) []int32 {
		t.Helper()
		var got []int32
		err := Generate(context.Background(), m, tokens[:3], count, s, stop, func(id int32) bool {
			got = append(got, id)
			return len(got) < most
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := generate(8, Sampling{}, nil, 99); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	stop := slices.Index(want, want[5])
	if got := generate(8, Sampling{}, []int{-1, int(want[5])}, 99); !slices.Equal(got, want[:stop]) {
		t.Errorf("got %v up to token %d, want %v", got, want[5], want[:stop])
	}
	if got := generate(8, Sampling{}, nil, 2); !slices.Equal(got, want[:2]) {
		t.Errorf("got %v from a caller who takes 2, want %v", got, want[:2])
	}
	warm := Sampling{Temperature: 3, Seed: 5}
	a, b := generate(12, warm, nil, 99), generate(12, warm, nil, 99)
	warm.Seed++
	if c := generate(12, warm, nil, 99); !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Errorf("seed 5 gives %v and %v, seed 6 %v", a, b, c)
	}
}

func TestGenerateRefuses(t *testing.T) {
	m := load(t, references()[0].open(t), 1)
	emit := func(int32) bool { return true }
	if err := Generate(context.Background(), m, nil, 1, Sampling{}, nil, emit); err == nil || !strings.Contains(err.Error(), "the prompt is empty") {
		t.Errorf("got %v, want an error about the prompt", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Generate(ctx, m, tokens, 1, Sampling{}, nil, emit); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
}
