package kernels

import (
	"math"
	"os"
	"slices"
	"sync"
)

// defaultOps is the level for functions that belong to no device.
var defaultOps = sync.OnceValue(func() *ops { return chooseLevel(os.Getenv("LLMC_CPU")) })

// Distribution is what is needed of one row of logits to get probabilities:
// the log-probability of element i is row[i] - LogSum.
type Distribution struct {
	LogSum float64 // the logarithm of the sum of the exponentials
	Top    int     // the first of the largest elements
}

// Finite reports whether no number of row is infinite or NaN.
func Finite(row []float32) bool { return finite(defaultOps(), row) }

// finite looks at the sum of squares, which in float64 is finite exactly when
// the numbers are.
func finite(o *ops, row []float32) bool {
	squares := o.sumSquares(row)
	return !math.IsInf(squares, 0) && !math.IsNaN(squares)
}

// Within reports whether all magnitudes of row are below limit.
func Within(row []float32, limit float32) bool {
	if defaultOps().sumSquares(row) < float64(limit)*float64(limit)/2 {
		return true // half, for what the sum has been rounded by
	}
	for _, v := range row {
		if !(v < limit && v > -limit) {
			return false
		}
	}
	return true
}

// Summarize reads a row of logits. ok is false when the row is empty or an
// element is NaN or infinite; the result is then not defined. Exponentials are
// float32, within 2 units of the last place; their sum is float64.
func Summarize(row []float32) (d Distribution, ok bool) {
	return summarize(defaultOps(), row)
}

func summarize(o *ops, row []float32) (d Distribution, ok bool) {
	if len(row) == 0 || !finite(o, row) {
		return d, false
	}
	top, largest := topOf(o, row)
	sum := o.sumExp(row, 1, largest)
	return Distribution{LogSum: float64(largest) + math.Log(sum), Top: top}, true
}

// topOf returns the first of the largest elements of a row.
func topOf(o *ops, row []float32) (int, float32) {
	const step = 1024
	largest, chunk := float32(math.Inf(-1)), 0
	for from := 0; from < len(row); from += step {
		if m := o.largest(row[from:min(from+step, len(row))]); m > largest {
			largest, chunk = m, from
		}
	}
	return chunk + max(0, slices.Index(row[chunk:], largest)), largest
}

// LogSumExp returns the logarithm of the sum of the exponentials of row, and
// NaN when an element is NaN or infinite or there is none.
func LogSumExp(row []float32) float64 {
	d, ok := Summarize(row)
	if !ok {
		return math.NaN()
	}
	return d.LogSum
}

// LogSoftmax replaces the logits of row by log-probabilities.
func LogSoftmax(row []float32) {
	sum := LogSumExp(row)
	for i, v := range row {
		row[i] = float32(float64(v) - sum)
	}
}

// Divergence returns the Kullback-Leibler divergence KL(base||variant) in nats
// of the distributions that two rows of logits, of one length, stand for; b
// and v are their summaries. Each term is taken relative to the difference of
// the sums, so that little is lost when the two are close.
func Divergence(base, variant []float32, b, v Distribution) float64 {
	return divergence(defaultOps(), base, variant, b, v)
}

func divergence(o *ops, base, variant []float32, b, v Distribution) float64 {
	// Rounding LogSum to float32 scales every probability alike.
	logSum := float32(b.LogSum)
	sum := o.divergence(base, variant, logSum, b.LogSum-v.LogSum)
	return sum * math.Exp(float64(logSum)-b.LogSum)
}

// Softmax replaces a row of logits by probabilities, exp(row - d.LogSum); d is
// its summary. Exponentials are float32, within 2 units of the last place of
// LogSum and of theirs.
func Softmax(row []float32, d Distribution) { softmax(defaultOps(), row, d) }

func softmax(o *ops, row []float32, d Distribution) { o.expSum(row, 1, float32(d.LogSum)) }
