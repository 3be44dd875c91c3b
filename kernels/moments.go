package kernels

import "math"

// Moments are what is known of the columns of rows that came one by one.
type Moments struct {
	Squares []float64 // [cols] sum of x²
	Sums    []float64 // [cols] sum of |x|
	Largest []float32 // [cols] largest |x|
}

// NewMoments returns the moments of no row.
func NewMoments(cols int) *Moments {
	return &Moments{make([]float64, cols), make([]float64, cols), make([]float32, cols)}
}

// Add adds a row [cols]. A square is finite unless a number of its column was
// not; then the other moments of the column mean nothing.
func (m *Moments) Add(x []float32) { defaultOps().moments(m, x[:len(m.Largest)]) }

// from are the moments from a column on.
func (m *Moments) from(col int) Moments {
	return Moments{m.Squares[col:], m.Sums[col:], m.Largest[col:]}
}

func momentsPortable(m *Moments, x []float32) {
	for c, v := range x {
		m.Squares[c] += float64(v) * float64(v)
		m.Sums[c] += math.Abs(float64(v))
		m.Largest[c] = max(m.Largest[c], v, -v)
	}
}
