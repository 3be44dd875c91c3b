package kernels

// Descent is coordinate descent on (w-q) H (w-q)ᵀ for rows q of numbers from
// grids, several rows side by side.
type Descent struct {
	h       Block     // [n, n], symmetric
	inverse []float32 // [n] of its diagonal
	levels  GridLevels
	bounds  [2]float32 // of the levels
}

// GridLevels is what a grid's scale is multiplied with: the integers from Low to
// High, or what Nearest makes of a number.
type GridLevels struct {
	Low, High float32
	Nearest   func(float32) float32 // nil for integers
}

// DescentRows are the rows of a strip at work. Column i of the strips is one
// of the columns of H; see [Descent.Move].
type DescentRows struct {
	Values   *Strip // q: Scale times a level, less Minimum
	Levels   *Strip // those levels
	Gradient *Strip // (w-q) H
	Keep     *Strip // not zero where a value stays; nil if none has to

	// [StripRows] of the columns that are moved: the grid, and by how much the
	// error has grown, which Move adds to.
	Scale, Minimum, Growth []float32
}

// moveColumnsFunc is what the levels' loops of Move are called with.
type moveColumnsFunc func(q, gradient, level, h, inverse *float32, moves, n, stride, diagonal, at int, scale, minimum, growth, bounds *float32)

// NewDescent returns a descent for a Hessian [n, n] with a diagonal above zero.
func NewDescent(h Block, levels GridLevels) *Descent {
	d := &Descent{h: h, inverse: make([]float32, h.Rows), levels: levels, bounds: [2]float32{levels.Low, levels.High}}
	for i := range d.inverse {
		d.inverse[i] = 1 / h.Row(i)[i]
	}
	return d
}

// Move gives columns first to last-1 of the rows, from left to right, each the
// value of its grid that is best for all the others as they are. The strips'
// columns from 0 to n-1 are those of H from the column from on; the gradients of
// all n follow. Every row is computed as if it were alone, with the same bits on
// every machine.
func (d *Descent) Move(r *DescentRows, from, n, first, last int) {
	o, width := r.Values.ops, r.Values.width
	if n == 0 || first >= last {
		return
	}
	h := d.h.Slice(from, from+n, from, from+n)
	if o.moveColumns == nil || d.levels.Nearest != nil || r.Keep != nil {
		d.movePortable(r, h, d.inverse[from:], first, last)
		return
	}
	o.moveColumns(&r.Values.Col(first)[0], &r.Gradient.Col(0)[0], &r.Levels.Col(first)[0], &h.Row(first)[0], &d.inverse[from+first],
		last-first, n, 4*h.Stride, 4*first, 4*first*width, &r.Scale[:width][0], &r.Minimum[:width][0], &r.Growth[:width][0], &d.bounds[0])
}

// movePortable is the definition of Move.
func (d *Descent) movePortable(r *DescentRows, h Block, inverse []float32, first, last int) {
	for lane := range r.Values.width {
		scale, low, growth := r.Scale[lane], r.Minimum[lane], r.Growth[lane]
		up := 1 / scale
		for k := first; k < last; k++ {
			if r.Keep != nil && r.Keep.Col(k)[lane] != 0 {
				continue
			}
			q, gradient := &r.Values.Col(k)[lane], r.Gradient.Col(k)[lane]
			x := float32(float32(float32(gradient*inverse[k])+*q)+low) * up
			level := d.levels.nearest(x)
			v := float32(scale*level) - low
			delta := v - *q
			growth += float32(delta * (float32(delta*h.Row(k)[k]) - (gradient + gradient)))
			*q, r.Levels.Col(k)[lane] = v, level
			if delta == 0 {
				continue
			}
			for j, v := range h.Row(k) {
				g := &r.Gradient.Col(j)[lane]
				*g -= float32(v * delta) // the conversion forbids fusing
			}
		}
		r.Growth[lane] = growth
	}
}

// nearest returns the level nearest to x, the lowest one to NaN.
func (l *GridLevels) nearest(x float32) float32 {
	if l.Nearest != nil {
		return l.Nearest(x)
	}
	// Adding and taking away 1.5*2^23 leaves a float32 rounded to an integer.
	const magic = 3 << 22
	if !(x > l.Low) {
		x = l.Low
	}
	return min(x, l.High) + magic - magic
}
