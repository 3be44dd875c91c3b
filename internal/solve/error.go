package solve

import "llmc/kernels"

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
		for c, v := range rounded {
			x.Data[r*cols+c] -= v
		}
	}
	return out.Energies(x), whole
}

// Outputs measures what weights make of the inputs behind a Hessian.
type Outputs struct {
	CPU     *kernels.CPU // that owns the tensors
	hessian kernels.Weight
}

// NewOutputs takes X Xᵀ [cols, cols]; the caller closes it.
func NewOutputs(hessian []float32, cols, threads int) *Outputs {
	cpu := kernels.NewCPU(threads)
	return &Outputs{cpu, cpu.Load(kernels.FromFloat32s(cols, cols, hessian))}
}

// Close lets go of the threads.
func (o *Outputs) Close() { o.CPU.Close() }

// Energies returns ‖wX‖² of every row w of x [rows, cols]: the diagonal of
// x H xᵀ.
func (o *Outputs) Energies(x *kernels.Tensor) []float64 {
	product := o.CPU.NewTensor(x.Rows, x.Cols)
	defer o.CPU.Free(product)
	o.CPU.MatMul(product, x, o.hessian)
	sums := make([]float64, x.Rows)
	for r := range sums {
		y := product.Data[r*x.Cols:][:x.Cols]
		for i, v := range x.Data[r*x.Cols:][:x.Cols] {
			sums[r] += float64(v) * float64(y[i])
		}
		sums[r] = max(sums[r], 0)
	}
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
