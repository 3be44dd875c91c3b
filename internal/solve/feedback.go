package solve

import (
	"context"

	"llmc/internal/parallel"
	"llmc/kernels"
)

// Fixer decides what the columns of a weight become: numbers of a grid, or
// zeros. [Feedback] calls it for positions from left to right; positions are
// columns in whatever order the caller put them.
type Fixer interface {
	// Block is called once before the positions from to to-1 are fixed, with
	// the whole weight w [rows, cols]: what is before from is final, what
	// follows carries the errors of all positions before from. It must not
	// change w. Here belong choices that need all rows or a whole block.
	Block(ctx context.Context, from, to int, w []float32) error
	// Fix returns what position p of row r becomes. row [cols] is that row with
	// the errors of the positions before p; from p on it may still change, and
	// Fix must not change it. Rows are fixed in parallel, each from left to right.
	Fix(r, p int, row []float32) float32
}

// Feedback fixes w [rows, cols] in place, position after position, and spreads
// each error over the positions that are still free, so that the product with
// the inputs behind upper changes least (section 3.2 of arXiv 2210.17323;
// SparseGPT, arXiv 2301.00774, is the same walk). upper [cols, cols] is U of
// [InverseFactor]. Errors reach the positions behind their block of length
// block only at its end, in one matrix product. threads 0 means one per core;
// the result does not depend on it.
func Feedback(ctx context.Context, w []float32, rows, cols int, upper []float32, block, threads int, f Fixer) error {
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	all := make([]float32, rows*min(block, cols))
	for from := 0; from < cols; from += block {
		to := min(from+block, cols)
		if err := f.Block(ctx, from, to, w); err != nil {
			return err
		}
		width := to - from
		errors := kernels.NewBlock(all[:rows*width], rows, width)
		err := parallel.Rows(ctx, threads, rows, cols, func() func(int) error {
			return func(r int) error {
				fixRow(cpu, f, r, from, to, w[r*cols:][:cols], upper, errors.Row(r))
				return nil
			}
		})
		if err != nil {
			return err
		}
		cpu.Update(kernels.Update{
			Dst:   kernels.NewBlock(w, rows, cols).Slice(0, rows, to, cols),
			Alpha: -1, A: errors, B: kernels.NewBlock(upper, cols, cols).Slice(from, to, to, cols),
		})
	}
	return nil
}

// fixRow fixes the positions from to to-1 of a row, one after the other, and
// spreads each error over those after it up to to. errors [to-from] receives
// the errors divided by U's diagonal.
func fixRow(cpu *kernels.CPU, f Fixer, r, from, to int, row, upper, errors []float32) {
	// Spreading begins at whole vectors. Left of the diagonal U is zero, and
	// what happens to the position itself is overwritten.
	const vector = 16
	cols := len(row)
	for p := from; p < to; p++ {
		q := f.Fix(r, p, row)
		e := (row[p] - q) / upper[p*cols+p]
		if e != 0 {
			start := p - (p-from)%vector
			cpu.AddScaled(row[start:to], upper[p*cols+start:p*cols+to], -e)
		}
		row[p], errors[p-from] = q, e
	}
}
