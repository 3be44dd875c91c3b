package quantize

import "llmc/calibrate"

// Coster is a [Method] that knows what it takes for one layer.
type Coster interface {
	Cost(rows, cols int) calibrate.Cost
}

// CalibrationOptions is what a walk has to gather and to plan for the run's
// method.
func (r *Run) CalibrationOptions() calibrate.Options {
	o := calibrate.Options{Hessian: r.method.Needs()&NeedsHessian != 0}
	if m, ok := r.method.(Coster); ok {
		o.Solve = m.Cost
	}
	return o
}

// Cost adds up a layer [rows, cols]: first the Hessian in the order of the
// columns, its factor in float64, and U; then U, the weights, and four products
// of their size to compare the result with round-to-nearest's.
func (m GPTQSolver) Cost(rows, cols int) calibrate.Cost {
	r, n := int64(rows), int64(cols)
	flops := 4*float64(n*n)*float64(n) + 9*float64(r*n)*float64(n) + 64*gptqBlock*float64(r*n)
	return calibrate.Cost{Bytes: max(16*n*n, 4*n*n+18*r*n), Flops: flops}
}
