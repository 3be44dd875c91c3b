package prune

import (
	"context"

	"llmc/calibrate"
	"llmc/internal/solve"
	"llmc/model"
)

// Joint chooses the mask of [SparseGPT] for a method that rounds what stays in
// the same pass, so that later weights make up for the errors of both (section
// 3.5 of arXiv 2301.00774).
type Joint struct {
	Pattern func(id model.ID) Pattern
	Threads int // 0 means one per core
	// Solver is what chooses; damping and order are those of the method that rounds,
	// but with Steps.
	Solver SparseGPT

	// Steps, when not 0, chooses the zeros as [Gradual] does with SparseGPT, and
	// fits what stays, before anything is rounded.
	Steps int
}

// Name returns "sparsegpt".
func (Joint) Name() string { return "sparsegpt" }

// First reports whether zeros are chosen before anything is rounded, by Drop.
func (j Joint) First() bool { return j.Steps > 0 }

// Mask returns the mask of a weight w [rows, cols] whose columns stand in the
// order of the factor; it is asked for 128 columns at a time, about. An N:M mask
// needs them in the order of the file.
func (j Joint) Mask(id model.ID, w []float32, rows, cols int, f *solve.Factor) (solve.Mask, error) {
	p := j.Pattern(id)
	if err := p.Fits(id.String(), cols); err != nil {
		return nil, err
	}
	l := Layer{Rows: rows, Cols: cols, Weight: w, Threads: j.Threads}
	keep := j.Solver.KeepZeros || solve.LooksPruned(l.zeros(context.Background()), len(w))
	return newMask(p, w, rows, cols, f, keep), nil
}

// Drop prunes w [rows, cols] in place: gradually with steps, and else where there
// is no factor, as [Wanda] does it.
func (j Joint) Drop(ctx context.Context, id model.ID, w []float32, rows, cols int, in *calibrate.Inputs) error {
	l := Layer{Name: id.String(), ID: id, Rows: rows, Cols: cols, Weight: w, Inputs: in, Threads: j.Threads, Solution: &Solution{}}
	if j.Steps > 0 && in != nil && in.Hessian != nil {
		m := Gradual{Method: j.Solver, Steps: j.Steps, Damp: j.Solver.Damp}
		return m.Prune(ctx, l, j.Pattern(id))
	}
	return Wanda{}.Prune(ctx, l, j.Pattern(id))
}
