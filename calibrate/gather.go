package calibrate

import (
	"math"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// gatherer sums what Inputs needs over the windows.
type gatherer struct {
	dev     kernels.Device
	roles   []model.Role
	tokens  int
	squares []float64 // [in]
	abs     []float64 // [in]
	hessian []float32 // [in, in] or nil
	part    []float32 // [in, in], the last window's X Xᵀ
	bad     error     // the first number that is not finite
}

// gatherBytes is the memory of a gatherer of an input [rows, in].
func gatherBytes(in int, hessian bool) int64 {
	n := int64(in)
	if !hessian {
		return 16 * n
	}
	return 16*n + 4*n*n + 4*n*n // the sum and one window's part of it
}

// addBytes is what adding a window of so many rows takes besides: a copy of it,
// transposed where a Hessian is gathered, and the product.
func addBytes(rows, in int, hessian bool) int64 {
	r, n := int64(rows), int64(in)
	if !hessian {
		return 4 * r * n
	}
	return 4*4*r*n + 4*n*n
}

func newGatherer(dev kernels.Device, roles []model.Role, in int, hessian bool) *gatherer {
	g := &gatherer{dev: dev, roles: roles, squares: make([]float64, in), abs: make([]float64, in)}
	if hessian {
		g.hessian = make([]float32, in*in)
	}
	return g
}

// add takes in the rows of x [rows, in].
func (g *gatherer) add(x *kernels.Tensor) {
	if g.bad != nil {
		return
	}
	values := make([]float32, x.Rows*x.Cols)
	g.dev.Read(values, x)
	for r := range x.Rows {
		for c, v := range values[r*x.Cols:][:x.Cols] {
			if v-v != 0 {
				g.bad = fault.Invalid("the activation of token %d, channel %d is %v, where a finite number is needed", g.tokens+r, c, v)
				return
			}
			g.squares[c] += float64(v) * float64(v)
			g.abs[c] += math.Abs(float64(v))
		}
	}
	g.tokens += x.Rows
	if g.hessian != nil {
		g.addHessian(values, x.Rows, x.Cols)
	}
}

// addHessian adds XᵀX of row-major values, the paper's X Xᵀ. Every window is
// one matrix product, whose sums do not depend on the number of threads.
func (g *gatherer) addHessian(values []float32, rows, in int) {
	columns := transpose(values, rows, in)
	x := g.dev.NewTensor(in, rows)
	g.dev.Write(x, columns)
	product := g.dev.NewTensor(in, in)
	g.dev.MatMul(product, x, g.dev.Load(kernels.FromFloat32s(in, rows, columns)))
	if g.part == nil {
		g.part = make([]float32, in*in)
	}
	g.dev.Read(g.part, product)
	g.dev.Free(product)
	g.dev.Free(x)
	for i, v := range g.part {
		g.hessian[i] += v
	}
}

// transpose returns values [rows, cols] as [cols, rows], tile by tile so that
// both sides stay in the cache.
func transpose(values []float32, rows, cols int) []float32 {
	const tile = 32
	out := make([]float32, len(values))
	for r0 := 0; r0 < rows; r0 += tile {
		for c0 := 0; c0 < cols; c0 += tile {
			for r := r0; r < min(r0+tile, rows); r++ {
				for c := c0; c < min(c0+tile, cols); c++ {
					out[c*rows+r] = values[r*cols+c]
				}
			}
		}
	}
	return out
}

// inputs closes the sums and lets go of them.
func (g *gatherer) inputs() (*Inputs, error) {
	if g.bad != nil {
		return nil, g.bad
	}
	n := len(g.squares)
	in := &Inputs{Tokens: g.tokens, MeanSquare: make([]float32, n), MeanAbs: make([]float32, n), Hessian: g.hessian}
	for c, sum := range g.squares {
		if sum > math.MaxFloat32 {
			return nil, fault.Invalid("the activations of channel %d are too large to be squared", c)
		}
		in.MeanSquare[c] = float32(sum / float64(g.tokens))
		in.MeanAbs[c] = float32(g.abs[c] / float64(g.tokens))
	}
	if g.hessian != nil {
		// The two halves are summed alike; what rounding differs is dropped.
		for r := range n {
			for c := range r {
				g.hessian[r*n+c] = g.hessian[c*n+r]
			}
		}
	}
	g.hessian, g.part = nil, nil
	return in, nil
}

// Divide makes in what it would be had every channel been divided by its scale
// [in].
func (in *Inputs) Divide(scale []float32) {
	n := len(scale)
	for i, s := range scale {
		in.MeanAbs[i] /= s
		in.MeanSquare[i] = in.MeanSquare[i] / s / s
	}
	if in.Hessian == nil {
		return
	}
	for i, s := range scale {
		row := in.Hessian[i*n:][:n]
		for j := range row {
			row[j] = row[j] / s / scale[j]
		}
	}
}
