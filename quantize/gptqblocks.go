package quantize

import (
	"context"
	"fmt"
	"math"

	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/kernels/blocks"
)

// blockSlab is how many weights of a block type are solved at a time, whole
// rows: a head has more than memory should hold several copies of.
const blockSlab = 1 << 24

// quantizeBlocks rounds l.Weight to a block type: errors are spread over the
// columns behind, then a descent refines all numbers. Rows that the search for
// scales alone leaves with a smaller output error are taken from it.
func (m GPTQSolver) quantizeBlocks(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error) {
	search, err := RTN{Threads: m.Threads}.Quantize(ctx, l, s)
	if err != nil || !s.Type.IsBlock() {
		return search, err
	}
	out, ok := search.(*kernels.Dense)
	if !ok || kernels.Matrix(out) == l.Weight {
		return search, nil // of this type already
	}
	solution := l.Solution
	if solution == nil {
		solution = &Solution{}
	}
	layout, ok := blocks.LayoutOf(s.Type)
	if !ok {
		solution.Fallback = "errors are not spread through " + s.Type.String()
	} else if err := m.improve(ctx, l, layout, out, blockSlab, solution); err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	return out, nil
}

// improve replaces the rows of out, which the search for scales has found, by
// better ones, slab weights at a time.
func (m GPTQSolver) improve(ctx context.Context, l Layer, layout *blocks.Layout, out *kernels.Dense, slab int, solution *Solution) error {
	rows, cols := l.Weight.Shape()
	factor, err := l.Inputs.Factor(nil, m.Damp, m.Threads)
	if err != nil {
		solution.Fallback = err.Error()
		return m.searchPruned(ctx, l, layout, out)
	}
	solution.Damping, solution.Dead = factor.Damping, factor.Dead
	damped := dampedHessian(l.Inputs.Hessian, cols, factor)
	var errors, searchErrors, whole float64
	step := max(1, slab/cols)
	for from := 0; from < rows; from += step {
		n := min(step, rows-from)
		w := rowsOf{l.Weight, from, n}
		g := newBlockLayer(layout, n, cols, l.Inputs.MeanSquare, m.Threads)
		values := kernels.Float32s(w)
		q := append([]float32(nil), values...)
		if _, ok := layout.Zero(); ok {
			if g.mask, err = m.mask(l, q, n, cols, factor); err != nil {
				return err
			}
		}
		if err := solve.Feedback(ctx, q, n, cols, factor.Upper, blockPanel, m.Threads, g); err != nil {
			return err
		}
		d := &descent{layer: g, hessian: damped, w: values, q: q}
		if err := d.refine(ctx); err != nil {
			return err
		}
		solved, err := g.pack()
		if err != nil {
			return err
		}
		rows, part := outputErrors(w, l.Inputs.Hessian, m.Threads, solved, rowsOf{out, from, n})
		own, searched := rows[0], rows[1]
		for _, e := range searched {
			searchErrors += e
		}
		if m.prunes(l) { // and the search has not
			for r := range searched {
				searched[r] = math.Inf(1)
			}
		}
		kept := takeBetterRows(out, solved, from, own, searched)
		solution.SearchedRows += kept
		whole += part
		for r := range own {
			errors += min(own[r], searched[r])
		}
	}
	solution.OutputError = relativeError(errors, whole)
	if solution.RTNOutputError == nil {
		solution.RTNOutputError = relativeError(searchErrors, whole)
	}
	return nil
}

// searchPruned replaces out by what the search for scales makes of the layer
// once a Pruner, if there is one, has set zeros.
func (m GPTQSolver) searchPruned(ctx context.Context, l Layer, layout *blocks.Layout, out *kernels.Dense) error {
	if !m.prunes(l) {
		return nil
	}
	l, err := m.prunedLayer(ctx, l)
	if err != nil {
		return err
	}
	q, err := RTN{Threads: m.Threads}.Quantize(ctx, l, TypeScheme(layout.Type))
	if err != nil {
		return err
	}
	copy(out.Data, q.(*kernels.Dense).Data)
	return nil
}

// takeBetterRows puts the rows of solved in the place of those of out from a
// row on, where their errors are not larger, and counts the rows that stay.
func takeBetterRows(out, solved *kernels.Dense, from int, errors, outErrors []float64) (stay int) {
	rowBytes := len(solved.Data) / len(errors)
	for r, e := range errors {
		if outErrors[r] < e {
			stay++
			continue
		}
		copy(out.Data[(from+r)*rowBytes:], solved.Data[r*rowBytes:][:rowBytes])
	}
	return stay
}

// dampedHessian is the Hessian that a factor is of, in the order of the
// columns.
func dampedHessian(hessian []float32, n int, f *solve.Factor) []float32 {
	damped := append([]float32(nil), hessian...)
	sum := 0.0
	for c := range n {
		sum += float64(hessian[c*n+c])
	}
	mean := sum / float64(n-f.Dead)
	for c := range n {
		damped[c*n+c] += float32(f.Damping * mean)
	}
	return damped
}

// rowsOf is some rows of a matrix.
type rowsOf struct {
	kernels.Matrix
	from, rows int
}

// Shape returns the number of rows and columns.
func (m rowsOf) Shape() (rows, cols int) {
	_, cols = m.Matrix.Shape()
	return m.rows, cols
}

// Row sets dst to a row's values.
func (m rowsOf) Row(dst []float32, r int) { m.Matrix.Row(dst, m.from+r) }
