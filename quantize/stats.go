package quantize

import (
	"context"
	"math"

	"llmc/kernels"
)

// Stats is what rounding did to one tensor.
type Stats struct {
	MSE           float64 `json:"mse"`            // mean of (w - q)²
	RelativeError float64 `json:"relative_error"` // ‖W - Q‖ / ‖W‖ (Frobenius); 0 for a tensor of zeros
	MaxError      float64 `json:"max_error"`      // largest |w - q|
	ZerosBefore   int     `json:"zeros_before"`
	Zeros         int     `json:"zeros"`
}

// Compare measures how far q is from w, which has the same shape. Sums are
// taken in float64 per row, then over the rows in order, so that the result
// does not depend on the number of threads.
func Compare(ctx context.Context, w, q kernels.Matrix, threads int) (Stats, error) {
	rows, cols := w.Shape()
	perRow := make([]kernels.Difference, rows)
	err := eachRow(ctx, threads, rows, 2*cols, func(r int, x []float32, _ []uint8) error {
		a, b := x[:cols], x[cols:]
		w.Row(a, r)
		q.Row(b, r)
		perRow[r].Add(a, b)
		return nil
	})
	if err != nil {
		return Stats{}, err
	}
	var total kernels.Difference
	for _, d := range perRow {
		total.Merge(d)
	}
	stats := Stats{MaxError: total.Max, ZerosBefore: total.ZerosX, Zeros: total.ZerosY}
	if n := rows * cols; n > 0 {
		stats.MSE = total.Error / float64(n)
	}
	if total.Square > 0 {
		stats.RelativeError = math.Sqrt(total.Error / total.Square)
	}
	return stats, nil
}
