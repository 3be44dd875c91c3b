package eval

import (
	"math"
	"slices"
)

// mean gathers the mean of a series and the standard error of that mean.
type mean struct {
	n          int64
	sum, sumSq float64
}

func (m *mean) add(x float64) {
	m.n++
	m.sum += x
	m.sumSq += x * x
}

func (m *mean) value() float64 { return m.sum / float64(m.n) }

// stderr is the standard error of the mean: the population variance over
// n-1, as llama-perplexity computes it. 0 for fewer than two values.
func (m *mean) stderr() float64 {
	if m.n < 2 {
		return 0
	}
	mu := m.value()
	variance := m.sumSq/float64(m.n) - mu*mu
	return math.Sqrt(max(0, variance) / float64(m.n-1))
}

// quantiles keeps a series of non-negative numbers for its percentiles:
// exactly while it is short, then as counts of buckets that are 2^-12 wide
// relative to their values, so that a text of any size fits in memory.
type quantiles struct {
	limit  int // how many values are kept exactly
	values []float32
	counts []int64 // by the upper bits of the value; nil while exact
	n      int64
}

const (
	exactQuantiles = 1 << 24
	bucketShift    = 23 - 12 // the mantissa bits of a float32 that buckets forget
)

func newQuantiles() *quantiles { return &quantiles{limit: exactQuantiles} }

func (q *quantiles) add(x float64) {
	q.n++
	v := float32(max(0, x))
	if q.counts == nil {
		q.values = append(q.values, v)
		if len(q.values) <= q.limit {
			return
		}
		// The bits of non-negative floats order as the floats do.
		q.counts = make([]int64, 1<<(31-bucketShift))
		for _, v := range q.values {
			q.counts[math.Float32bits(v)>>bucketShift]++
		}
		q.values = nil
		return
	}
	q.counts[math.Float32bits(v)>>bucketShift]++
}

// at returns the value below which a fraction p of the series lies,
// interpolated between neighbours when exact. The series must not be empty.
func (q *quantiles) at(p float64) float64 {
	rank := p * float64(q.n-1)
	if q.counts == nil {
		slices.Sort(q.values)
		i := min(int(rank), len(q.values)-1)
		j := min(i+1, len(q.values)-1)
		return float64(q.values[i]) + (rank-float64(i))*(float64(q.values[j])-float64(q.values[i]))
	}
	seen := int64(0)
	for bucket, count := range q.counts {
		seen += count
		if float64(seen) > rank {
			middle := uint32(bucket)<<bucketShift | 1<<(bucketShift-1)
			return float64(math.Float32frombits(middle))
		}
	}
	return math.Inf(1)
}
