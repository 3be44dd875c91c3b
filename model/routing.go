package model

import (
	"math"

	"llmc/kernels"
)

// mixture returns what the experts of a block make of in [rows, hidden]: each
// row is the sum, over the experts that the router chose for it, of the expert's
// output times its weight. The rows of an expert go through it together, and sums
// are taken in the order of the experts, so that the number of threads does not
// matter.
func (m *Model) mixture(i int, in *kernels.Tensor) *kernels.Tensor {
	m.see(i, NoExpert, m.cfg.routed(), in)
	out := m.dev.NewTensor(in.Rows, m.cfg.Hidden)
	if m.cfg.Experts.Shared > 0 {
		m.shared(i, out, in)
	}
	for index, to := range m.route(i, in) {
		e, hook := ExpertAt(index), m.hook
		if hook != nil && m.all != nil && m.all(e) {
			m.showAll(i, e, in)
			m.hook = nil
		}
		if len(to.Rows) > 0 {
			m.expert(i, e, out, in, to)
		}
		m.hook = hook
	}
	return out
}

// expert adds to out what an expert makes of its rows of in.
func (m *Model) expert(i int, e Expert, out, in *kernels.Tensor, to Routed) {
	x := m.dev.NewResult(len(to.Rows), in.Cols)
	m.dev.Select(x, in, to.Rows)
	m.see(i, e, ffnIn, x)
	y := m.gated(i, e, x)
	m.dev.Free(x)
	m.dev.AddRows(out, y, to.Rows, to.Weights)
	m.dev.Free(y)
}

// showAll shows what an expert would be given if all rows went through it.
func (m *Model) showAll(i int, e Expert, in *kernels.Tensor) {
	m.see(i, e, ffnIn, in)
	inner := m.inner(i, e, in)
	m.see(i, e, ffnOut, inner)
	m.dev.Free(inner)
}

// shared adds to out what the expert for every row makes of in, times the sigmoid
// of its gate.
func (m *Model) shared(i int, out, in *kernels.Tensor) {
	gate := m.linear(i, ID{Role: SharedGate}, in)
	gates := make([]float32, in.Rows)
	m.dev.Read(gates, gate)
	m.dev.Free(gate)
	to := RouteShared(gates)
	y := m.gated(i, NoExpert, in)
	m.dev.AddRows(out, y, to.Rows, to.Weights)
	m.dev.Free(y)
}

// RouteShared returns all rows, and how much the output of the expert that they
// all go through counts by its gate's scores [rows]: their sigmoid.
func RouteShared(gates []float32) Routed {
	to := Routed{make([]int32, len(gates)), make([]float32, len(gates))}
	for r, v := range gates {
		to.Rows[r], to.Weights[r] = int32(r), float32(1/(1+math.Exp(-float64(v))))
	}
	return to
}

// route returns the rows of each expert of block i.
func (m *Model) route(i int, in *kernels.Tensor) []Routed {
	scores := m.linear(i, ID{Role: Router}, in)
	all := make([]float32, scores.Rows*scores.Cols)
	m.dev.Read(all, scores)
	m.dev.Free(scores)
	return m.cfg.Experts.Route(all)
}

// Routed are the rows that go through an expert, ascending, and how much its
// output counts for each.
type Routed struct {
	Rows    []int32
	Weights []float32
}

// Route returns, for each expert, the rows that a router's scores [rows, Count]
// send through it.
func (x *Experts) Route(scores []float32) []Routed {
	experts := make([]Routed, x.Count)
	chosen := make([]choice, x.Used)
	for r := range len(scores) / x.Count {
		for _, c := range choose(chosen, scores[r*x.Count:][:x.Count], x.Normed) {
			to := &experts[c.expert]
			to.Rows = append(to.Rows, int32(r))
			to.Weights = append(to.Weights, float32(c.weight))
		}
	}
	return experts
}

// choice is an expert that a token goes through.
type choice struct {
	expert int
	weight float64 // of its output
}

// choose picks the len(chosen) experts with the highest scores, of equal ones
// the first. Their weights are the softmax of all scores, scaled to sum to 1
// with normed. Scores that are not numbers choose the first experts, with weights
// that are none either, so that what comes out shows it.
func choose(chosen []choice, scores []float32, normed bool) []choice {
	chosen = chosen[:0]
	highest := math.Inf(-1)
	for e, s := range scores {
		v := float64(s)
		highest = max(highest, v)
		at := len(chosen)
		for at > 0 && v > chosen[at-1].weight {
			at--
		}
		switch {
		case len(chosen) < cap(chosen):
			chosen = append(chosen, choice{})
		case at == len(chosen):
			continue
		}
		copy(chosen[at+1:], chosen[at:])
		chosen[at] = choice{e, v}
	}
	total := 0.0
	for _, s := range scores {
		total += math.Exp(float64(s) - highest)
	}
	if normed {
		total = 0
		for _, x := range chosen {
			total += math.Exp(x.weight - highest)
		}
	}
	for i := range chosen {
		chosen[i].weight = math.Exp(chosen[i].weight-highest) / total
	}
	return chosen
}
