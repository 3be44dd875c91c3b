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

// AddMoments adds the rows of x to m. A square is finite unless a number of its
// column was not; then the other moments of the column mean nothing.
func (c *CPU) AddMoments(m *Moments, x *Tensor) {
	mustEqual("AddMoments", x.Cols, len(m.Largest))
	c.jobs.moments = momentsTask{c.ops, m, x}
	c.pool.run(ceilDiv(x.Cols, momentsCols), &c.jobs.moments)
	c.jobs.moments = momentsTask{}
}

// momentsCols is how many columns a part of momentsTask has.
const momentsCols = 128

// momentsTask adds some columns of all rows, in the order of the rows.
type momentsTask struct {
	ops *ops
	m   *Moments
	x   *Tensor
}

func (t *momentsTask) run(_, part int) {
	from := part * momentsCols
	to := min(from+momentsCols, t.x.Cols)
	m := t.m.from(from)
	for r := range t.x.Rows {
		t.ops.moments(&m, t.x.row(r)[from:to])
	}
}

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
