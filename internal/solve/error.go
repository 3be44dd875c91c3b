package solve

import (
	"context"

	"llmc/internal/parallel"
	"llmc/kernels"
)

// OutputErrors returns the squared norms of the rows of (W-Q)X for each Q, and
// that of WX, for matrices of one shape [out, in] from the Hessian X Xᵀ [in, in]
// of the inputs. They do not depend on the number of threads.
func OutputErrors(w kernels.Matrix, hessian []float32, threads int, qs ...kernels.Matrix) (errors [][]float64, whole float64) {
	rows, cols := w.Shape()
	out := NewOutputs(hessian, cols, threads)
	defer out.Close()
	x, d := out.CPU.NewResult(rows, cols), out.CPU.NewResult(rows, cols)
	out.each(rows, cols, func(r int) { w.Row(x.Data[r*cols:][:cols], r) })
	whole = out.Energy(x)
	for _, q := range qs {
		out.each(rows, cols, func(r int) {
			row := d.Data[r*cols:][:cols]
			q.Row(row, r)
			out.CPU.AddScaled(row, x.Data[r*cols:][:cols], -1)
		})
		errors = append(errors, out.Energies(d))
	}
	return errors, whole
}

// Outputs measures what weights make of the inputs behind a Hessian.
type Outputs struct {
	CPU      *kernels.CPU // that owns the tensors
	hessian  kernels.Block
	diagonal []float64 // of the Hessian
	threads  int
}

// NewOutputs takes X Xᵀ [cols, cols]; the caller closes it.
func NewOutputs(hessian []float32, cols, threads int) *Outputs {
	diagonal := make([]float64, cols)
	for i := range diagonal {
		diagonal[i] = float64(hessian[i*cols+i])
	}
	return &Outputs{kernels.NewCPU(threads), kernels.NewBlock(hessian, cols, cols), diagonal, threads}
}

// Close lets go of the threads.
func (o *Outputs) Close() { o.CPU.Close() }

// Energies returns ‖wX‖² of every row w of x [rows, cols]: the diagonal of
// x H xᵀ.
func (o *Outputs) Energies(x *kernels.Tensor) []float64 {
	n := x.Cols
	product := o.CPU.NewTensor(x.Rows, n)
	defer o.CPU.Free(product)
	// H is symmetric: x H xᵀ is twice x U xᵀ less x D xᵀ, U what is on and above
	// the diagonal and D the diagonal, for half of the operations.
	o.CPU.Update(kernels.Update{
		Dst: kernels.NewBlock(product.Data, x.Rows, n), Alpha: 1,
		A: kernels.NewBlock(x.Data, x.Rows, n), B: o.hessian, UpperB: true,
	})
	sums := make([]float64, x.Rows)
	o.each(x.Rows, n, func(r int) {
		y, sum := product.Data[r*n:][:n], 0.0
		for i, v := range x.Data[r*n:][:n] {
			sum += float64(v) * (2*float64(y[i]) - o.diagonal[i]*float64(v))
		}
		sums[r] = max(sum, 0)
	})
	return sums
}

// each visits rows of so many columns, some at a time.
func (o *Outputs) each(rows, cols int, visit func(r int)) {
	// Nothing ends it early, so that it does not fail.
	_ = parallel.Rows(context.Background(), o.threads, rows, cols, func() func(int) error {
		return func(r int) error {
			visit(r)
			return nil
		}
	})
}

// Energy is the sum of Energies.
func (o *Outputs) Energy(x *kernels.Tensor) float64 {
	sum := 0.0
	for _, e := range o.Energies(x) {
		sum += e
	}
	return sum
}
