package model

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"llmc/internal/fault"
	"llmc/kernels"
)

// Sampling is how the next token is chosen from the logits.
type Sampling struct {
	Temperature float64 // 0 takes the most likely token
	TopK        int     // sample among the k most likely; 0 means all
	TopP        float64 // sample among the most likely that together have this probability; 0 or 1 means all
	Seed        uint64
}

// Check refuses settings that make no sense.
func (s Sampling) Check() error {
	switch {
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0):
		return fault.Usage("temperature is %g, allowed is 0 (the most likely token) and more", s.Temperature)
	case s.TopK < 0:
		return fault.Usage("top-k is %d, allowed is 0 (all) and more", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return fault.Usage("top-p is %g, allowed is 0 to 1", s.TopP)
	}
	return nil
}

// Sampler chooses tokens. The same settings choose the same tokens.
type Sampler struct {
	settings Sampling
	rng      *rand.Rand
	order    []candidate
}

// candidate is a token that may be chosen.
type candidate struct {
	id     int32
	logit  float32
	weight float64
}

// NewSampler returns a sampler for one sequence.
func NewSampler(s Sampling) *Sampler {
	return &Sampler{settings: s, rng: rand.New(rand.NewPCG(s.Seed, 0))}
}

// Next chooses a token from logits [vocab]. Logits that are not numbers are an
// error.
func (s *Sampler) Next(logits []float32) (int32, error) {
	best := 0
	for i, v := range logits {
		if v != v {
			return 0, fmt.Errorf("the logit of token %d is not a number", i)
		}
		if v > logits[best] {
			best = i
		}
	}
	if s.settings.Temperature == 0 || s.settings.TopK == 1 {
		return int32(best), nil
	}
	return s.draw(logits, logits[best]), nil
}

// draw samples from the softmax of the logits over the temperature, cut to the
// most likely tokens. The order is by logit, then by id, so that it is the
// same everywhere.
func (s *Sampler) draw(logits []float32, highest float32) int32 {
	s.order = s.order[:0]
	for i, v := range logits {
		weight := math.Exp(float64(v-highest) / s.settings.Temperature)
		if weight > 0 {
			s.order = append(s.order, candidate{int32(i), v, weight})
		}
	}
	slices.SortFunc(s.order, func(a, b candidate) int {
		switch {
		case a.logit > b.logit:
			return -1
		case a.logit < b.logit:
			return 1
		}
		return int(a.id - b.id)
	})
	kept := s.order
	if k := s.settings.TopK; k > 0 && k < len(kept) {
		kept = kept[:k]
	}
	kept, total := nucleus(kept, s.settings.TopP)
	at := s.rng.Float64() * total
	for _, c := range kept {
		if at -= c.weight; at < 0 {
			return c.id
		}
	}
	return kept[len(kept)-1].id // rounding left a little over
}

// nucleus cuts candidates, most likely first, to the fewest that have the
// share p of all weight (arXiv 1904.09751), and returns their weight.
func nucleus(all []candidate, p float64) (kept []candidate, total float64) {
	for _, c := range all {
		total += c.weight
	}
	if p == 0 || p == 1 {
		return all, total
	}
	sum := 0.0
	for i, c := range all {
		if sum += c.weight; sum >= p*total {
			return all[:i+1], sum
		}
	}
	return all, total
}

// Generate continues prompt with up to count tokens and calls emit with each
// as it is chosen. It ends early, without an error, when a token in stop has
// been chosen (which is not emitted) or emit returns false.
func Generate(ctx context.Context, m *Model, prompt []int32, count int, sampling Sampling, stop []int, emit func(id int32) bool) error {
	if len(prompt) == 0 {
		return fault.Usage("there is no token to continue from: the prompt is empty and the tokenizer adds no begin token")
	}
	state, sampler := m.NewState(), NewSampler(sampling)
	ids := prompt
	for range count {
		next, err := m.next(ctx, state, ids, sampler)
		if err != nil {
			return err
		}
		if slices.Contains(stop, int(next)) || !emit(next) {
			return nil
		}
		ids = []int32{next}
	}
	return nil
}

// next runs ids and chooses the token that follows the last.
func (m *Model) next(ctx context.Context, state *State, ids []int32, sampler *Sampler) (int32, error) {
	var chosen int32
	err := m.Forward(ctx, state, ids, func(first int, hidden *kernels.Tensor) error {
		if first+hidden.Rows < len(ids) {
			return nil
		}
		last := m.dev.NewTensor(1, hidden.Cols)
		defer m.dev.Free(last)
		m.lastRow(last, hidden)
		logits := m.Logits(last)
		defer m.dev.Free(logits)
		row := make([]float32, logits.Cols)
		m.dev.Read(row, logits)
		var err error
		chosen, err = sampler.Next(row)
		return err
	})
	return chosen, err
}

// lastRow copies the last row of x to dst, through the host: it is one row.
func (m *Model) lastRow(dst, x *kernels.Tensor) {
	all := make([]float32, x.Rows*x.Cols)
	m.dev.Read(all, x)
	m.dev.Write(dst, all[len(all)-x.Cols:])
}
