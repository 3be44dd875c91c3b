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
//
// Unlike in the paper, the groups of an N:M pattern are fixed in the order of
// their inputs, the largest first, as GPTQ's act-order takes columns: more is left
// to make up for the errors that matter. An unstructured mask is better off in
// the order of the file, where large inputs and small ones share 128 columns.
type SparseGPT struct {
	Damp      float64 // share of the mean diagonal added to it, solve.DefaultDamp when 0
	FileOrder bool    // fixes the groups of an N:M pattern in the order of the file, as the paper does
	KeepZeros bool    // zeros of a weight stay, however few; see Layer.KeepZeros
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
	if err := p.Fits(l.Name, l.Cols); err != nil {
		return err
	}
	if len(l.Inputs.Hessian) != l.Cols*l.Cols {
		return fault.Invalid("%s has %d columns, its Hessian %d numbers, not %d", l.Name, l.Cols, len(l.Inputs.Hessian), l.Cols*l.Cols)
	}
	var order []int // in which columns are fixed, nil for that of the file
	if p.structured() && !m.FileOrder {
		order = solve.ByInput(l.Inputs.Hessian, l.Cols, p.Of)
	}
	factor, err := l.Inputs.Factor(order, m.Damp, l.Threads)
	if err != nil {
		l.Solution.Fallback = err.Error()
		return Wanda{}.Prune(ctx, l, p)
	}
	l.Solution.Damping, l.Solution.Dead = factor.Damping, factor.Dead
	keep := m.KeepZeros || l.KeepZeros || solve.LooksPruned(l.zeros(ctx), len(l.Weight))
	w, err := l.inOrder(ctx, order)
	if err != nil {
		return err
	}
	mask := newMask(p, w, l.Rows, l.Cols, factor, keep)
	block := sparseBlock
	if p.structured() {
		block = sparseBlock / p.Of * p.Of // groups lie within a block
	}
	if err := solve.Feedback(ctx, w, l.Rows, l.Cols, factor.Upper, block, l.Threads, dropper{mask}); err != nil {
		return fmt.Errorf("%s: %w", l.Name, err)
	}
	return l.takeBack(ctx, w, order)
}

// inOrder returns the weight with its columns in an order, itself for nil.
func (l *Layer) inOrder(ctx context.Context, order []int) ([]float32, error) {
	if order == nil {
		return l.Weight, nil
	}
	w := make([]float32, len(l.Weight))
	return w, eachRow(ctx, *l, func(r int, row, _ []float32) {
		moved := w[r*l.Cols:][:l.Cols]
		for i, c := range order {
			moved[i] = row[c]
		}
	})
}

// takeBack sets the weight to one whose columns are in an order.
func (l *Layer) takeBack(ctx context.Context, w []float32, order []int) error {
	if order == nil {
		return nil
	}
	return eachRow(ctx, *l, func(r int, row, _ []float32) {
		for i, v := range w[r*l.Cols:][:l.Cols] {
			row[order[i]] = v
		}
	})
}

// dropper is the [solve.Fixer] that leaves what a mask does not drop as it
// stands.
type dropper struct{ *mask }

// Fix drops weights or leaves them.
func (d dropper) Fix(p int, x solve.Lanes) {
	d.Choose(p, x)
	for i, at := 0, x.At(0); i < len(at); i++ {
		if d.Chosen(x.First+i, p) {
			at[i] = 0
		}
	}
}

// mask is the [solve.Mask] of one layer on its way.
type mask struct {
	pattern    Pattern
	rows, cols int
	diagonal   []float32 // [cols] of U
	zero       []bool    // [rows, cols] zeros that stay, and dead channels: they become zero
	dropped    []bool    // [rows, cols]
}

// newMask returns the mask of w [rows, cols], columns in the factor's order.
// keepZeros says that its zeros are of an earlier mask. Otherwise they are
// weights like any others, the first to go, and take up errors if they are not
// needed for that: a weight that was rounded before has such.
func newMask(p Pattern, w []float32, rows, cols int, f *solve.Factor, keepZeros bool) *mask {
	m := &mask{pattern: p, rows: rows, cols: cols, dropped: make([]bool, len(w)), zero: make([]bool, len(w))}
	for c := range cols {
		m.diagonal = append(m.diagonal, f.Upper[c*cols+c])
	}
	for r := range rows {
		zero := m.zero[r*cols:][:cols]
		for c, v := range w[r*cols:][:cols] {
			zero[c] = keepZeros && v == 0 || f.Idle[c]
		}
	}
	return m
}

// score is the error that dropping a weight costs, w²/U², and below any other
// for what is zero in any case.
func (m *mask) score(r, p int, w float32) float32 {
	if m.zero[r*m.cols+p] {
		return -1
	}
	e := w / m.diagonal[p]
	return e * e
}

// Block chooses an unstructured mask for the positions from to to-1.
func (m *mask) Block(_ context.Context, from, to int, w []float32) error {
	if m.pattern.structured() {
		return nil
	}
	width := to - from
	scores := make([]float32, m.rows*width)
	for r := range m.rows {
		for p := from; p < to; p++ {
			scores[r*width+p-from] = m.score(r, p, w[r*m.cols+p])
		}
	}
	smallest(scores, int(m.pattern.Sparsity*float64(len(scores))), func(i int) {
		m.dropped[i/width*m.cols+from+i%width] = true
	})
	return nil
}

// Group is M of an N:M mask.
func (m *mask) Group() int { return max(m.pattern.Of, 1) }

// Choose chooses an N:M mask at the first position of each group.
func (m *mask) Choose(p int, x solve.Lanes) {
	of := m.pattern.Of
	if of == 0 || p%of != 0 {
		return
	}
	var columns [maxOf][]float32
	for i := range of {
		columns[i] = x.At(i)
	}
	var keys [maxOf]uint32
	for r := range x.Rows {
		for i, column := range columns[:of] {
			keys[i] = ordered(m.score(x.First+r, p+i, column[r]))
		}
		dropLowest(m.dropped[(x.First+r)*m.cols+p:][:of], keys[:of], of-m.pattern.Keep)
	}
}

// Chosen reports whether a weight is known to be dropped.
func (m *mask) Chosen(r, p int) bool {
	i := r*m.cols + p
	return m.dropped[i] || m.zero[i]
}
