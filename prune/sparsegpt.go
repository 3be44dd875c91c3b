package prune

import (
	"context"
	"fmt"

	"llmc/internal/fault"
	"llmc/internal/solve"
)

// sparseBlock is how many columns have their mask chosen at a time, over all
// rows: Bs of section 3.4 of arXiv 2301.00774.
const sparseBlock = 128

// SparseGPT drops the weights whose loss costs the layer's output least, column
// after column, and spreads each error over the weights that are still free
// (arXiv 2301.00774). An unstructured mask is chosen for 128 columns of all rows
// at a time, an N:M mask for every M columns of a row, from weights that carry
// the errors so far. A layer whose Hessian cannot be factored is pruned as
// [Wanda] does it; Layer.Solution says so.
type SparseGPT struct {
	Damp float64 // share of the mean diagonal added to it, solve.DefaultDamp when 0
}

// Name returns "sparsegpt".
func (SparseGPT) Name() string { return "sparsegpt" }

// Needs returns NeedsHessian.
func (SparseGPT) Needs() Needs { return NeedsHessian }

// Prune drops weights of l; see [Method].
func (m SparseGPT) Prune(ctx context.Context, l Layer, p Pattern) error {
	if err := l.calibrated(); err != nil {
		return err
	}
	if err := p.fits(l.Name, l.Cols); err != nil {
		return err
	}
	if len(l.Inputs.Hessian) != l.Cols*l.Cols {
		return fault.Invalid("%s has %d columns, its Hessian %d numbers, not %d", l.Name, l.Cols, len(l.Inputs.Hessian), l.Cols*l.Cols)
	}
	factor, err := solve.FactorHessian(l.Inputs.Hessian, l.Cols, nil, m.Damp, l.Threads)
	if err != nil {
		l.Solution.Fallback = err.Error()
		return Wanda{}.Prune(ctx, l, p)
	}
	l.Solution.Damping, l.Solution.Dead = factor.Damping, factor.Dead
	s := &sparse{pattern: p, rows: l.Rows, cols: l.Cols, dropped: make([]bool, len(l.Weight)), zero: make([]bool, len(l.Weight)), block: sparseBlock}
	if p.structured() {
		s.block = sparseBlock / p.Of * p.Of // groups lie within a block
	}
	for c := range l.Cols {
		s.diagonal = append(s.diagonal, factor.Upper[c*l.Cols+c])
	}
	for i, v := range l.Weight {
		s.zero[i] = v == 0 || l.Inputs.Hessian[i%l.Cols*(l.Cols+1)] == 0
	}
	if err := solve.Feedback(ctx, l.Weight, l.Rows, l.Cols, factor.Upper, s.block, l.Threads, s); err != nil {
		return fmt.Errorf("%s: %w", l.Name, err)
	}
	return nil
}

// sparse is one layer on its way, the [solve.Fixer] that drops weights.
type sparse struct {
	pattern    Pattern
	rows, cols int
	block      int
	diagonal   []float32 // [cols] of U
	zero       []bool    // [rows, cols] zeros of the source, and dead channels: they stay or become zero
	dropped    []bool    // [rows, cols]
}

// score is the error that dropping a weight costs, w²/U², and below any other
// for what is zero in any case.
func (s *sparse) score(r, p int, w float32) float32 {
	if s.zero[r*s.cols+p] {
		return -1
	}
	e := w / s.diagonal[p]
	return e * e
}

// Block chooses an unstructured mask.
func (s *sparse) Block(_ context.Context, from, to int, w []float32) error {
	if s.pattern.structured() {
		return nil
	}
	width := to - from
	scores := make([]float32, s.rows*width)
	for r := range s.rows {
		for p := from; p < to; p++ {
			scores[r*width+p-from] = s.score(r, p, w[r*s.cols+p])
		}
	}
	smallest(scores, int(s.pattern.Sparsity*float64(len(scores))), func(i int) {
		s.dropped[i/width*s.cols+from+i%width] = true
	})
	return nil
}

// Fix drops a weight or leaves it as it stands.
func (s *sparse) Fix(r, p int, row []float32) float32 {
	if of := s.pattern.Of; of > 0 && p%of == 0 {
		var scores [maxOf]float32
		for i := range of {
			scores[i] = s.score(r, p+i, row[p+i])
		}
		smallest(scores[:of], of-s.pattern.Keep, func(i int) { s.dropped[r*s.cols+p+i] = true })
	}
	if i := r*s.cols + p; s.dropped[i] || s.zero[i] {
		return 0
	}
	return row[p]
}
