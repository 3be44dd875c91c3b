package kernels

import "math"

// Difference sums up how far numbers y are from numbers x, in float64.
type Difference struct {
	Square         float64 // sum of x²
	Error          float64 // sum of (x-y)²
	Max            float64 // largest |x-y|
	ZerosX, ZerosY int     // how many x and y are zero
}

// Add adds the numbers of two rows, which have the same length.
func (d *Difference) Add(x, y []float32) { defaultOps().difference(d, x, y) }

// Merge adds what other has summed up.
func (d *Difference) Merge(other Difference) {
	d.Square += other.Square
	d.Error += other.Error
	d.Max = max(d.Max, other.Max)
	d.ZerosX += other.ZerosX
	d.ZerosY += other.ZerosY
}

func differencePortable(d *Difference, x, y []float32) {
	for i, v := range x {
		e := math.Abs(float64(v) - float64(y[i]))
		d.Square += float64(v) * float64(v)
		d.Error += e * e
		d.Max = max(d.Max, e)
		if v == 0 {
			d.ZerosX++
		}
		if y[i] == 0 {
			d.ZerosY++
		}
	}
}
