package calibrate

import (
	"math"

	"llmc/internal/fault"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model"
)

// gatherer sums what Inputs needs over the windows.
type gatherer struct {
	dev     kernels.Device
	to      model.Input
	routed  int // tokens that the router sent to the expert, if all were taken instead
	tokens  int
	moments *kernels.Moments
	hessian *kernels.Tensor // [in, in], on and above the diagonal; or nil
	first   float64         // Options.FirstToken, where it applies
	bad     error           // the first number that is not finite
}

// gatherBytes is the memory of a gatherer of an input [rows, in].
func gatherBytes(in int, hessian bool) int64 {
	n := int64(in)
	if !hessian {
		return 20 * n
	}
	return 20*n + 4*n*n
}

// addBytes is what adding a window of so many rows takes besides.
func addBytes(rows, in int, hessian bool) int64 {
	if !hessian {
		return 0
	}
	return kernels.GramBytes(rows, in)
}

func newGatherer(dev kernels.Device, to model.Input, in int, hessian bool) *gatherer {
	g := &gatherer{dev: dev, to: to, routed: -1, moments: kernels.NewMoments(in)}
	if hessian {
		g.hessian = dev.NewTensor(in, in)
	}
	return g
}

// add takes in the rows of x [rows, in].
func (g *gatherer) add(x *kernels.Tensor) {
	if g.bad != nil {
		return
	}
	values := read(g.dev, x)
	g.dev.AddMoments(g.moments, x)
	for _, sum := range g.moments.Squares {
		if sum-sum != 0 {
			g.bad = notFinite(values, x.Cols, g.tokens)
			return
		}
	}
	g.tokens += x.Rows
	if g.hessian != nil {
		g.dev.AddGram(g.hessian, x)
		g.addFirst(values[:x.Cols], x.Rows)
	}
}

// notFinite is the error of the first number of some rows that is not finite;
// token is that of the first row.
func notFinite(values []float32, cols, token int) error {
	for i, v := range values {
		if v-v != 0 {
			return fault.Invalid("the activation of token %d, channel %d is %v, where a finite number is needed", token+i/cols, i%cols, v)
		}
	}
	return nil
}

// addFirst makes the first of a window's rows count as a share of them more.
func (g *gatherer) addFirst(row []float32, rows int) {
	if g.first == 0 {
		return
	}
	scale := float32(math.Sqrt(g.first * float64(rows)))
	scaled := make([]float32, len(row))
	for c, v := range row {
		scaled[c] = scale * v
	}
	x := g.dev.NewTensor(1, len(row))
	g.dev.Write(x, scaled)
	g.dev.AddGram(g.hessian, x)
	g.dev.Free(x)
}

// read returns what is in a tensor, where it lies if that is this machine's
// memory.
func read(dev kernels.Device, t *kernels.Tensor) []float32 {
	if t.Data != nil {
		return t.Data
	}
	values := make([]float32, t.Rows*t.Cols)
	dev.Read(values, t)
	return values
}

// inputs closes the sums and lets go of them.
func (g *gatherer) inputs() (*Inputs, error) {
	if g.bad != nil {
		return nil, g.bad
	}
	n := len(g.moments.Squares)
	in := &Inputs{Expert: g.to.Expert, Routed: g.tokens, Tokens: g.tokens, MeanSquare: make([]float32, n), MeanAbs: make([]float32, n), MaxAbs: g.moments.Largest}
	if g.routed >= 0 {
		in.Routed = g.routed
	}
	for c, sum := range g.moments.Squares {
		if sum > math.MaxFloat32 {
			return nil, fault.Invalid("the activations of channel %d are too large to be squared", c)
		}
		in.MeanSquare[c] = float32(sum / float64(g.tokens))
		in.MeanAbs[c] = float32(g.moments.Sums[c] / float64(g.tokens))
	}
	if h := g.hessian; h != nil {
		g.hessian = nil
		in.Hessian = read(g.dev, h)
		if h.Data == nil {
			g.dev.Free(h)
		} // else in keeps its memory
		kernels.Mirror(kernels.NewBlock(in.Hessian, h.Rows, h.Cols))
	}
	return in, nil
}

// Factor is [solve.FactorHessian] of the Hessian. Linears that share an input
// share its factor: it is made again only for another order or damp.
func (in *Inputs) Factor(order []int, damp float64, threads int) (*solve.Factor, error) {
	same := in.factor != nil && len(in.factored) == len(in.Hessian) && &in.factored[0] == &in.Hessian[0]
	if same && in.damp == damp && in.factor.Ordered(order) {
		return in.factor, nil
	}
	f, err := solve.FactorHessian(in.Hessian, int(math.Sqrt(float64(len(in.Hessian)))), order, damp, threads)
	in.factor, in.factored, in.damp = f, in.Hessian, damp
	return f, err
}

// Divide makes in what it would be had every channel been divided by its scale
// [in].
func (in *Inputs) Divide(scale []float32) {
	n := len(scale)
	for i, s := range scale {
		in.MeanAbs[i] /= s
		in.MaxAbs[i] /= s
		in.MeanSquare[i] = in.MeanSquare[i] / s / s
	}
	if in.Hessian == nil {
		return
	}
	in.factor = nil
	for i, s := range scale {
		row := in.Hessian[i*n:][:n]
		for j := range row {
			row[j] = row[j] / s / scale[j]
		}
	}
}
