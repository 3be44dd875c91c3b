package kernels

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// nearestThird returns the nearest of the multiples of 3 from -9 to 9.
func nearestThird(x float32) float32 {
	if !(x > -9) {
		return -9
	}
	return float32(math.Round(float64(min(x, 9))/3) * 3)
}

// TestDescent moves columns and compares the growth with the quadratic form in
// float64, the gradient with its definition, and all levels with portable Go,
// bit for bit. One lane has no scale, another no weight.
func TestDescent(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const size, from, n, first, last = 40, 5, 32, 8, 27
	x := make([]float32, size*size)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	hessian := NewBlock(make([]float32, size*size), size, size)
	for i := range size {
		for j := range size {
			for k := range size {
				hessian.Row(i)[j] += x[k*size+i] * x[k*size+j]
			}
		}
	}
	h := func(i, j int) float64 { return float64(hessian.Row(from + i)[from+j]) }
	for _, o := range levels() {
		cpu := newCPU(1, o)
		lanes := cpu.StripRows()
		for _, levels := range []GridLevels{{Low: 0, High: 3}, {Low: -8, High: 7}, {Nearest: nearestThird}} {
			var weights [][]float64
			start := func(keep bool) *DescentRows {
				rng := rand.New(rand.NewPCG(9, 9))
				r := &DescentRows{Values: cpu.NewStrip(n), Levels: cpu.NewStrip(n), Gradient: cpu.NewStrip(n)}
				weights = nil
				for i := range n {
					w := make([]float64, lanes)
					for lane := range lanes {
						if lane != 1 {
							w[lane] = rng.NormFloat64()
						}
						r.Values.Col(i)[lane] = float32(math.Round(w[lane]*2) / 2)
					}
					weights = append(weights, w)
				}
				for lane := range lanes {
					for i := range n {
						sum := 0.0
						for j := range n {
							sum += h(i, j) * (weights[j][lane] - float64(r.Values.Col(j)[lane]))
						}
						r.Gradient.Col(i)[lane] = float32(sum)
					}
					r.Scale = append(r.Scale, 0.2+rng.Float32())
					r.Minimum = append(r.Minimum, rng.Float32())
					r.Growth = append(r.Growth, float32(lane))
				}
				r.Scale[0] = 0
				if keep {
					r.Keep = cpu.NewStrip(n)
					for lane := range lanes {
						r.Keep.Col(first + 1 + lane%3)[lane] = 1
					}
				}
				return r
			}
			form := func(r *DescentRows, lane int) (sum float64) {
				for i := range n {
					for j := range n {
						sum += h(i, j) * (weights[i][lane] - float64(r.Values.Col(i)[lane])) * (weights[j][lane] - float64(r.Values.Col(j)[lane]))
					}
				}
				return sum
			}
			d := NewDescent(hessian, levels)
			for _, keep := range []bool{false, true} {
				before, got, portable := start(keep), start(keep), start(keep)
				d.Move(got, from, n, first, last)
				d.movePortable(portable, hessian.Slice(from, from+n, from, from+n), d.inverse[from:], first, last)
				if !slices.Equal(got.Values.data, portable.Values.data) || !slices.Equal(got.Gradient.data, portable.Gradient.data) ||
					!slices.Equal(got.Growth, portable.Growth) {
					t.Fatalf("%s: other bits than portable Go", o.level)
				}
				for lane := range lanes {
					want := form(got, lane) - form(before, lane)
					if growth := float64(got.Growth[lane]) - float64(lane); math.Abs(growth-want) > 1e-3*(1+math.Abs(want)+form(before, lane)) {
						t.Fatalf("%s: the error grew by %g, said is %g", o.level, want, growth)
					}
					for i := range n {
						q, was := got.Values.Col(i)[lane], before.Values.Col(i)[lane]
						if keep && got.Keep.Col(i)[lane] != 0 || i < first || i >= last {
							if q != was {
								t.Fatalf("%s: column %d has moved", o.level, i)
							}
						} else if level := got.Levels.Col(i)[lane]; q != float32(got.Scale[lane]*level)-got.Minimum[lane] ||
							levels.Nearest == nil && (level < levels.Low || level > levels.High || level != float32(int(level))) {
							t.Fatalf("%s: level %g is no value %g", o.level, level, q)
						}
						sum, size := 0.0, 0.0
						for j := range n {
							part := h(i, j) * (weights[j][lane] - float64(got.Values.Col(j)[lane]))
							sum, size = sum+part, size+math.Abs(part)
						}
						if math.Abs(sum-float64(got.Gradient.Col(i)[lane])) > 1e-4*(1+size) {
							t.Fatalf("%s: the gradient is %g, want %g", o.level, got.Gradient.Col(i)[lane], sum)
						}
					}
				}
			}
		}
		cpu.Close()
	}
}
