package quantize

import (
	"math"

	"llmc/kernels"
)

// Solution is what a calibrated method says of one layer, besides its codes.
type Solution struct {
	Damping  float64 `json:"damping,omitempty"`       // share of the mean diagonal added to the Hessian's
	Dead     int     `json:"dead_channels,omitempty"` // input channels that were always zero
	Fallback string  `json:"rounded_to_nearest_because,omitempty"`
	Unscaled string  `json:"unscaled_because,omitempty"`

	// SearchedRows counts the rows of a block type that are as the search for
	// scales leaves them, since spreading errors made their output worse.
	SearchedRows int `json:"searched_rows,omitempty"`

	// OutputError is ‖(W-Q)X‖ / ‖WX‖ (Frobenius norms) over the calibration
	// inputs X, RTNOutputError the same of round-to-nearest in the same scheme, for block
	// types with the inputs' importance.
	OutputError    *float64 `json:"output_error,omitempty"`
	RTNOutputError *float64 `json:"rtn_output_error,omitempty"`
}

// OutputError returns ‖(W-Q)X‖ / ‖WX‖ of matrices of one shape [out, in], from
// the Hessian X Xᵀ [in, in] of the inputs; 0 when the output is zero. It does
// not depend on the number of threads.
func OutputError(w, q kernels.Matrix, hessian []float32, threads int) float64 {
	rows, whole := outputErrors(w, q, hessian, threads)
	sum := 0.0
	for _, e := range rows {
		sum += e
	}
	return *relativeError(sum, whole)
}

// relativeError is the root of a squared error over the square of the whole.
func relativeError(squared, whole float64) *float64 {
	relative := 0.0
	if whole > 0 {
		relative = math.Sqrt(squared / whole)
	}
	return &relative
}

// outputErrors returns the squared norms of the rows of (W-Q)X, and that of WX.
func outputErrors(w, q kernels.Matrix, hessian []float32, threads int) (errors []float64, whole float64) {
	rows, cols := w.Shape()
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	x, product := cpu.NewTensor(rows, cols), cpu.NewTensor(rows, cols)
	h := cpu.Load(kernels.FromFloat32s(cols, cols, hessian))
	energies := func() []float64 { // of the rows of x: the diagonal of x H xᵀ
		cpu.MatMul(product, x, h)
		sums := make([]float64, rows)
		for r := range sums {
			y := product.Data[r*cols:][:cols]
			for i, v := range x.Data[r*cols:][:cols] {
				sums[r] += float64(v) * float64(y[i])
			}
			sums[r] = max(sums[r], 0)
		}
		return sums
	}
	for r := range rows {
		w.Row(x.Data[r*cols:][:cols], r)
	}
	for _, e := range energies() {
		whole += e
	}
	rounded := make([]float32, cols)
	for r := range rows {
		q.Row(rounded, r)
		for c, v := range rounded {
			x.Data[r*cols+c] -= v
		}
	}
	return energies(), whole
}
