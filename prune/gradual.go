package prune

import (
	"context"
	"math"
	"slices"

	"llmc/internal/solve"
)

// Gradual prunes in several steps, each sparser than the one before, and after
// each fits the weights that are left to the outputs of the layer as it was, by
// least squares. The share of zeros grows as S(1-(1-t/n)³) (section 3 of arXiv
// 1710.01878), N:M patterns by whole weights of a group.
type Gradual struct {
	Method         // chooses what goes in each step
	Steps  int     // 1 and more
	Damp   float64 // share of the mean diagonal added to the Hessian's, solve.DefaultDamp when 0
}

// Needs returns NeedsHessian.
func (Gradual) Needs() Needs { return NeedsHessian }

// Prune drops weights of l and fits the others; see [Method].
func (m Gradual) Prune(ctx context.Context, l Layer, p Pattern) error {
	if err := l.calibrated(); err != nil {
		return err
	}
	target := slices.Clone(l.Weight)
	for _, part := range p.steps(m.Steps) {
		if err := m.Method.Prune(ctx, l, part); err != nil {
			return err
		}
		l.KeepZeros = true
		if err := solve.FitMasked(ctx, l.Inputs.Hessian, l.Cols, m.Damp, target, l.Weight, l.Rows, l.Threads); err != nil {
			return err
		}
	}
	return nil
}

// steps are the patterns on the way to p in n steps, those left out that are the
// same as the one before.
func (p Pattern) steps(n int) (list []Pattern) {
	for t := 1; t <= n; t++ {
		part := p
		done := 1 - math.Pow(1-float64(t)/float64(n), 3)
		if !p.structured() {
			part.Sparsity *= done
		} else {
			part.Keep = p.Of - int(math.Round(done*float64(p.Of-p.Keep)))
			part.Sparsity = 1 - float64(part.Keep)/float64(p.Of)
		}
		if part.Keep == p.Of && p.structured() || len(list) > 0 && list[len(list)-1] == part {
			continue
		}
		list = append(list, part)
	}
	return list
}
