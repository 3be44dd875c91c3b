package distill

import (
	"context"
	"math"

	"llmc/internal/fault"
	"llmc/internal/parallel"
	"llmc/kernels"
)

// AdamW is the optimizer: Adam with decoupled weight decay (arXiv 1711.05101,
// algorithm 2), in the form that is customary since, in which the decay is
// multiplied by the learning rate:
//
//	m = β1 m + (1-β1) g         v = β2 v + (1-β2) g²
//	x = x - rate*decay*x - rate * m/(1-β1^t) / (sqrt(v/(1-β2^t)) + ε)
type AdamW struct {
	Beta1, Beta2 float64
	Epsilon      float64
	Decay        float64 // of matrices; norms and biases do not decay
}

// DefaultAdamW is what most language models are trained with.
var DefaultAdamW = AdamW{Beta1: 0.9, Beta2: 0.95, Epsilon: 1e-8, Decay: 0.01}

// Check refuses numbers with which there is no step.
func (a *AdamW) Check() error {
	switch {
	case !(a.Beta1 >= 0 && a.Beta1 < 1), !(a.Beta2 >= 0 && a.Beta2 < 1):
		return fault.Usage("the decay rates of the moments are %g and %g, allowed are 0 up to but not including 1", a.Beta1, a.Beta2)
	case !(a.Epsilon > 0):
		return fault.Usage("epsilon is %g, allowed is more than 0", a.Epsilon)
	case !(a.Decay >= 0) || math.IsInf(a.Decay, 0):
		return fault.Usage("the weight decay is %g, allowed is 0 and more", a.Decay)
	}
	return nil
}

// Variable is a tensor that is trained.
type Variable struct {
	Name        string
	Value, Grad []float32
	M, V        []float32 // mean and mean square of the gradients
	Decay       bool      // whether weight decay applies
	KeepZeros   bool      // a number that is 0 stays 0, as pruning has left it
}

// NewVariable returns a variable whose moments are zero.
func NewVariable(name string, value, grad []float32) *Variable {
	return &Variable{Name: name, Value: value, Grad: grad, M: make([]float32, len(value)), V: make([]float32, len(value))}
}

// chunk is how many numbers of a variable are one part of the work, on however
// many threads: sums are of chunks.
const chunk = 1 << 14

// chunks calls f for every chunk of every variable, in parallel, with the number
// of the chunk and its range of the variable.
func chunks(threads int, vars []*Variable, f func(i int, v *Variable, from, to int)) int {
	type part struct {
		v    *Variable
		from int
	}
	var parts []part
	for _, v := range vars {
		for from := 0; from < len(v.Value); from += chunk {
			parts = append(parts, part{v, from})
		}
	}
	// Errors there are none: f returns none, and nobody cancels.
	_ = parallel.Rows(context.Background(), threads, len(parts), chunk, func() func(int) error {
		return func(i int) error {
			p := parts[i]
			f(i, p.v, p.from, min(p.from+chunk, len(p.v.Value)))
			return nil
		}
	})
	return len(parts)
}

// Norm returns the square root of the sum of the squares of all gradients, in
// float64; NaN or infinite when one of them is.
func Norm(threads int, vars []*Variable) float64 {
	n := 0
	for _, v := range vars {
		n += (len(v.Value) + chunk - 1) / chunk
	}
	sums := make([]float64, n)
	chunks(threads, vars, func(i int, v *Variable, from, to int) {
		sums[i] = kernels.SumSquares(v.Grad[from:to])
	})
	total := 0.0
	for _, s := range sums {
		total += s
	}
	return math.Sqrt(total)
}

// Step changes all values by their gradients times scale, as the step of number
// t, from 1. The result does not depend on the number of threads.
func (a *AdamW) Step(threads int, vars []*Variable, t int, rate, scale float64) {
	step := kernels.AdamStep{
		Beta1: float32(a.Beta1), Rest1: float32(1 - a.Beta1), Beta2: float32(a.Beta2), Rest2: float32(1 - a.Beta2),
		GradScale: float32(scale), Epsilon: float32(a.Epsilon),
		Size: float32(rate / (1 - math.Pow(a.Beta1, float64(t)))),
		Root: float32(1 / math.Sqrt(1-math.Pow(a.Beta2, float64(t)))),
	}
	chunks(threads, vars, func(_ int, v *Variable, from, to int) {
		own := step
		own.Keep, own.KeepZeros = 1, v.KeepZeros
		if v.Decay {
			own.Keep = float32(1 - rate*a.Decay)
		}
		own.Apply(v.Value[from:to], v.Grad[from:to], v.M[from:to], v.V[from:to])
	})
}

// Schedule is the learning rate by the step: it rises over the warm-up in equal
// steps to Rate, and falls along half a cosine to Final times that at the last
// step (arXiv 1608.03983, equation 5, without restarts).
type Schedule struct {
	Rate   float64
	Steps  int
	Warmup int
	Final  float64 // 0 to 1
}

// Check refuses numbers that make no schedule.
func (s *Schedule) Check() error {
	switch {
	case !(s.Rate > 0) || math.IsInf(s.Rate, 0):
		return fault.Usage("the learning rate is %g, allowed is more than 0", s.Rate)
	case s.Steps < 1:
		return fault.Usage("the number of steps is %d, allowed is 1 and more", s.Steps)
	case s.Warmup < 0 || s.Warmup > s.Steps:
		return fault.Usage("the warm-up takes %d steps, allowed are 0 to the %d steps of training", s.Warmup, s.Steps)
	case !(s.Final >= 0 && s.Final <= 1):
		return fault.Usage("the learning rate ends at %g of its largest, allowed are 0 to 1", s.Final)
	}
	return nil
}

// At returns the rate of step t, from 1.
func (s *Schedule) At(t int) float64 {
	if t <= s.Warmup {
		return s.Rate * float64(t) / float64(s.Warmup)
	}
	through := float64(t-s.Warmup) / float64(max(s.Steps-s.Warmup, 1))
	return s.Rate * (s.Final + (1-s.Final)*(1+math.Cos(math.Pi*through))/2)
}
