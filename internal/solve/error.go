package solve

import (
	"context"

	"llmc/internal/parallel"
	"llmc/kernels"
)

// OutputErrors returns the squared norms of the rows of (W-Q)X, and that of WX,
// for matrices of one shape [out, in] from the Hessian X Xᵀ [in, in] of the
// inputs. They do not depend on the number of threads.
func OutputErrors(w, q kernels.Matrix, hessian []float32, threads int) (errors []float64, whole float64) {
	rows, cols := w.Shape()
	out := NewOutputs(hessian, cols, threads)
	defer out.Close()
	x := out.CPU.NewTensor(rows, cols)
	for r := range rows {
		w.Row(x.Data[r*cols:][:cols], r)
	}
	whole = out.Energy(x)
	rounded := make([]float32, cols)
	for r := range rows {
		q.Row(rounded, r)
		out.CPU.AddScaled(x.Data[r*cols:][:cols], rounded, -1)
	}
	return out.Energies(x), whole
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
	// Nothing ends it early, so that it does not fail.
	_ = parallel.Rows(context.Background(), o.threads, x.Rows, n, func() func(int) error {
		return func(r int) error {
			y, sum := product.Data[r*n:][:n], 0.0
			for i, v := range x.Data[r*n:][:n] {
				sum += float64(v) * (2*float64(y[i]) - o.diagonal[i]*float64(v))
			}
			sums[r] = max(sum, 0)
			return nil
		}
	})
	return sums
}

// Energy is the sum of Energies.
func (o *Outputs) Energy(x *kernels.Tensor) float64 {
	sum := 0.0
	for _, e := range o.Energies(x) {
		sum += e
	}
	return sum
}
