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
	type sums struct {
		square, error, max float64
		before, zeros      int
	}
	perRow := make([]sums, rows)
	err := eachRow(ctx, threads, rows, 2*cols, func(r int, x []float32, _ []uint8) error {
		a, b := x[:cols], x[cols:]
		w.Row(a, r)
		q.Row(b, r)
		var s sums
		for i, v := range a {
			d := math.Abs(float64(v) - float64(b[i]))
			s.square += float64(v) * float64(v)
			s.error += d * d
			s.max = max(s.max, d)
			if v == 0 {
				s.before++
			}
			if b[i] == 0 {
				s.zeros++
			}
		}
		perRow[r] = s
		return nil
	})
	if err != nil {
		return Stats{}, err
	}
	var total sums
	for _, s := range perRow {
		total.square += s.square
		total.error += s.error
		total.max = max(total.max, s.max)
		total.before += s.before
		total.zeros += s.zeros
	}
	stats := Stats{MaxError: total.max, ZerosBefore: total.before, Zeros: total.zeros}
	if n := rows * cols; n > 0 {
		stats.MSE = total.error / float64(n)
	}
	if total.square > 0 {
		stats.RelativeError = math.Sqrt(total.error / total.square)
	}
	return stats, nil
}
