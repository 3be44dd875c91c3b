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
	// Group is how many positions a choice at the first of them looks at, 1 for
	// itself alone: groups begin at its multiples.
	Group() int
	// Fix sets x.At(0), position p of some rows, to what it becomes. Rows are
	// fixed in parallel, each from left to right.
	Fix(p int, x Lanes)
}

// Lanes are the rows First to First+Rows-1 of a weight at the position that is
// being fixed, and what follows.
type Lanes struct {
	First, Rows int

	strip *kernels.Strip
	col   int
}

// At returns the numbers [Rows] at the position i after that being fixed, with
// the errors of all positions before it when it is of the same group.
func (l Lanes) At(i int) []float32 { return l.strip.Col(l.col + i)[:l.Rows] }

// stepSize is about how many positions are fixed before their errors reach the
// others of a block, in one product.
const stepSize = 12

// Feedback fixes w [rows, cols] in place, position after position, and spreads
// each error over the positions that are still free, so that the product with
// the inputs behind upper changes least (section 3.2 of arXiv 2210.17323;
// SparseGPT, arXiv 2301.00774, is the same walk). upper [cols, cols] is U of
// [InvertFactor]. Errors reach the positions behind their block of length
// block only at its end, in one matrix product. threads 0 means one per core;
// the result does not depend on it.
func Feedback(ctx context.Context, w []float32, rows, cols int, upper []float32, block, threads int, f Fixer) error {
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	weight, factor := kernels.NewBlock(w, rows, cols), kernels.NewBlock(upper, cols, cols)
	all := make([]float32, rows*min(block, cols))
	for from := 0; from < cols; from += block {
		to := min(from+block, cols)
		if err := f.Block(ctx, from, to, w); err != nil {
			return err
		}
		errors := kernels.NewBlock(all[:rows*(to-from)], rows, to-from)
		s := &spreader{cpu, f, from, to, negated(factor.Slice(from, to, from, to))}
		lanes := cpu.StripRows()
		strips := (rows + lanes - 1) / lanes
		err := parallel.Rows(ctx, threads, strips, lanes*cols, func() func(int) error {
			// What a choice looks at may lie behind the block.
			x, e := cpu.NewStrip(min(to+f.Group()-1, cols)-from), cpu.NewStrip(to-from)
			return func(i int) error {
				first, last := i*lanes, min((i+1)*lanes, rows)
				s.fix(weight.Slice(first, last, 0, cols), errors.Slice(first, last, 0, to-from), first, x, e)
				return nil
			}
		})
		if err != nil {
			return err
		}
		cpu.Update(kernels.Update{
			Dst:   weight.Slice(0, rows, to, cols),
			Alpha: -1, A: errors, B: factor.Slice(from, to, to, cols),
		})
	}
	return nil
}

// negated returns -bᵀ.
func negated(b kernels.Block) kernels.Block {
	t := kernels.NewBlock(make([]float32, b.Rows*b.Cols), b.Cols, b.Rows)
	for i := range b.Rows {
		for j, v := range b.Row(i) {
			t.Data[j*t.Stride+i] = -v
		}
	}
	return t
}

// spreader fixes the positions from to to-1 of strips.
type spreader struct {
	cpu      *kernels.CPU
	f        Fixer
	from, to int
	// factors is -Uᵀ of these positions: in row p what the errors before p are
	// multiplied with when they reach p.
	factors kernels.Block
}

// fix fixes the rows w [n, cols] of the weight from first on. errors
// [n, to-from] receives the errors divided by U's diagonal; x and e are scratch.
func (s *spreader) fix(w, errors kernels.Block, first int, x, e *kernels.Strip) {
	lanes := Lanes{First: first, Rows: w.Rows, strip: x}
	x.Load(w.Slice(0, w.Rows, s.from, min(s.to+s.f.Group()-1, w.Cols)))
	step := s.f.Group() * max(1, stepSize/s.f.Group())
	for p := s.from; p < s.to; {
		end := min((p/step+1)*step, s.to)
		x.AddProducts(p-s.from, e, s.factors.Slice(p-s.from, end-s.from, 0, p-s.from))
		for ; p < end; p++ {
			lanes.col = p - s.from
			now, was := x.Col(lanes.col), e.Col(lanes.col)
			copy(was, now)
			s.f.Fix(p, lanes)
			diagonal := -s.factors.Row(lanes.col)[lanes.col]
			for i, v := range now {
				was[i] = (was[i] - v) / diagonal
			}
			for next := lanes.col + 1; next < end-s.from; next++ {
				s.cpu.AddScaled(x.Col(next), was, s.factors.Row(next)[lanes.col])
			}
		}
	}
	x.Store(w.Slice(0, w.Rows, s.from, s.to))
	e.Store(errors)
}
