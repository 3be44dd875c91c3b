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

	// OutputError is ‖(W-Q)X‖ / ‖WX‖ (Frobenius norms) over the calibration
	// inputs X, RTNOutputError the same of round-to-nearest in the same scheme.
	OutputError    *float64 `json:"output_error,omitempty"`
	RTNOutputError *float64 `json:"rtn_output_error,omitempty"`
}

// OutputError returns ‖(W-Q)X‖ / ‖WX‖ of matrices of one shape [out, in], from
// the Hessian X Xᵀ [in, in] of the inputs; 0 when the output is zero. It does
// not depend on the number of threads.
func OutputError(w, q kernels.Matrix, hessian []float32, threads int) float64 {
	rows, cols := w.Shape()
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	x, product := cpu.NewTensor(rows, cols), cpu.NewTensor(rows, cols)
	h := cpu.Load(kernels.FromFloat32s(cols, cols, hessian))
	energy := func() float64 { // of x: trace(x H xᵀ)
		cpu.MatMul(product, x, h)
		sum := 0.0
		for i, v := range x.Data {
			sum += float64(v) * float64(product.Data[i])
		}
		return max(sum, 0)
	}
	for r := range rows {
		w.Row(x.Data[r*cols:][:cols], r)
	}
	whole := energy()
	if whole == 0 {
		return 0
	}
	rounded := make([]float32, cols)
	for r := range rows {
		q.Row(rounded, r)
		for c, v := range rounded {
			x.Data[r*cols+c] -= v
		}
	}
	return math.Sqrt(energy() / whole)
}
