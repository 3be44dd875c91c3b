package quantize

import (
	"context"

	"gonum.org/v1/gonum/blas/blas32"

	"llmc/dtype"
	"llmc/internal/parallel"
	"llmc/kernels"
	"llmc/kernels/blocks"
)

// descentRounds is how often a descent goes over all columns. Many more lower
// the output error by less than 1%, and prose-6m's divergence at 2 to 4 bits by
// nothing that can be told from chance.
const descentRounds = 2

// descent lowers a layer's output error further than [solve.Feedback] can, one
// number of its blocks after the other: coordinate descent on
// (w-q) H (w-q)ᵀ, row by row. Codes move to the best value under their scale;
// scales and minima to their neighbours and the factors to the best for the
// codes, where the codes that follow make the error smaller. It never grows.
type descent struct {
	layer   *blockLayer
	hessian []float32 // [cols, cols], damped
	w, q    []float32 // [rows, cols] weights and their rounded values

	panel    []float32 // [width, width] of the Hessian
	gradient []float32 // [rows, cols] (w-q) H
}

// refine runs all rounds, panel by panel.
func (d *descent) refine(ctx context.Context) error {
	g := d.layer
	cpu := kernels.NewCPU(g.threads)
	defer cpu.Close()
	residual, product := cpu.NewTensor(g.rows, g.cols), cpu.NewTensor(g.rows, g.cols)
	defer cpu.Free(residual)
	defer cpu.Free(product)
	d.gradient = product.Data
	whole := cpu.Load(kernels.FromFloat32s(g.cols, g.cols, d.hessian))
	for range descentRounds {
		for i, v := range d.w {
			residual.Data[i] = v - d.q[i]
		}
		cpu.MatMul(product, residual, whole)
		for from := 0; from < g.cols; from += blockPanel {
			if err := d.refinePanel(ctx, cpu, from, min(from+blockPanel, g.cols)); err != nil {
				return err
			}
		}
	}
	return nil
}

// refinePanel refines the columns from to to-1 and takes what that changes off
// the gradient of those behind.
func (d *descent) refinePanel(ctx context.Context, cpu *kernels.CPU, from, to int) error {
	g, width := d.layer, to-from
	d.panel = make([]float32, width*width)
	for i := range width {
		copy(d.panel[i*width:][:width], d.hessian[(from+i)*g.cols+from:])
	}
	changed := cpu.NewTensor(g.rows, width)
	defer cpu.Free(changed)
	err := parallel.Rows(ctx, g.threads, g.rows, g.cols, func() func(int) error {
		s := newRowDescent(d, from, to)
		return func(r int) error {
			s.run(r, changed.Data[r*width:][:width])
			return nil
		}
	})
	if err != nil || to == g.cols {
		return err
	}
	behind := g.cols - to
	rest := make([]float32, behind*width)
	for c := range behind {
		copy(rest[c*width:][:width], d.hessian[(to+c)*g.cols+from:])
	}
	product := cpu.NewTensor(g.rows, behind)
	cpu.MatMul(product, changed, cpu.Load(kernels.FromFloat32s(behind, width, rest)))
	for r := range g.rows {
		gradient := d.gradient[r*g.cols+to:][:behind]
		for i, v := range product.Data[r*behind:][:behind] {
			gradient[i] -= v
		}
	}
	cpu.Free(product)
	return nil
}

// rowDescent refines one panel of one row after the other. Indices are those of
// the panel.
type rowDescent struct {
	d    *descent
	from int       // the panel's first column
	n    int       // its width
	h    []float32 // [n, n]

	gradient, q []float32 // [n] of the row
	zero        []bool    // [n] what stays zero
	block       blocks.Block

	trialGradient, trial []float32 // [n] what a trial makes of gradient and q
	trialCodes           []uint8   // [n]
	multiples            [2][]float32
}

func newRowDescent(d *descent, from, to int) *rowDescent {
	n := to - from
	return &rowDescent{
		d: d, from: from, n: n, h: d.panel,
		zero: make([]bool, n), trialGradient: make([]float32, n), trial: make([]float32, n), trialCodes: make([]uint8, n),
		multiples: [2][]float32{make([]float32, n), make([]float32, n)},
	}
}

// run refines a row and sets changed [n] to what that adds to its values.
func (s *rowDescent) run(r int, changed []float32) {
	layer := s.d.layer
	at := r*layer.cols + s.from
	s.gradient, s.q = s.d.gradient[at:][:s.n], s.d.q[at:][:s.n]
	copy(changed, s.q)
	if layer.mask != nil {
		for i := range s.zero {
			s.zero[i] = layer.mask.Chosen(r, s.from+i)
		}
	}
	for lo := 0; lo < s.n; lo += layer.layout.Size {
		layer.view(&s.block, r, s.from+lo)
		s.refineBlock(lo)
		layer.keep(&s.block, r, s.from+lo)
	}
	for i, v := range s.q {
		changed[i] = v - changed[i]
	}
}

// refineBlock refines the block that begins at lo.
func (s *rowDescent) refineBlock(lo int) {
	l := s.d.layer.layout
	for sub := range l.Size / l.Sub {
		s.moveCodes(lo, sub)
		if !l.Scales.Fixed() {
			s.moveScale(lo, sub)
		}
	}
	s.moveFactors(lo)
}

// moveCodes gives each value of a sub-block the best code.
func (s *rowDescent) moveCodes(lo, sub int) {
	l := s.d.layer.layout
	scale, low := l.Grid(&s.block, sub)
	for k := sub * l.Sub; k < (sub+1)*l.Sub; k++ {
		i := lo + k
		if s.zero[i] {
			continue
		}
		code := l.Code(s.q[i]+s.gradient[i]/s.h[i*s.n+i], scale, low)
		if code != s.block.Codes[k] {
			s.block.Codes[k] = code
			s.set(i, l.Value(code, scale, low))
		}
	}
}

// set changes a value, and takes that off the gradient.
func (s *rowDescent) set(i int, v float32) {
	delta := v - s.q[i]
	s.q[i] = v
	if delta != 0 {
		subtract(s.gradient, s.h[i*s.n:][:s.n], delta)
	}
}

// subtract takes factor*x off y, which is as long.
func subtract(y, x []float32, factor float32) {
	if len(x) > maxPlain {
		blas32.Axpy(-factor, vector(x), vector(y))
		return
	}
	y = y[:len(x)]
	for i, v := range x {
		y[i] -= factor * v
	}
}

// maxPlain is the length up to which a plain loop is faster than a call.
const maxPlain = 32

func vector(x []float32) blas32.Vector { return blas32.Vector{N: len(x), Data: x, Inc: 1} }

// try rounds the values of the sub-blocks from first to last-1 of the block at
// lo anew, under the block's grids, each to the best for the others, twice. It
// returns by how much the error grows; the result is kept for accept.
func (s *rowDescent) try(lo, first, last int) float64 {
	l := s.d.layer.layout
	a, b := lo+first*l.Sub, lo+last*l.Sub
	gradient, q := s.trialGradient[a:b], s.trial[a:b]
	copy(gradient, s.gradient[a:b])
	copy(q, s.q[a:b])
	total := 0.0
	for range 2 {
		for k := range q {
			if s.zero[a+k] {
				s.trialCodes[a+k] = s.block.Codes[first*l.Sub+k]
				continue
			}
			scale, low := l.Grid(&s.block, first+k/l.Sub)
			h := s.h[(a+k)*s.n+a : (a+k)*s.n+b]
			code := l.Code(q[k]+gradient[k]/h[k], scale, low)
			v := l.Value(code, scale, low)
			s.trialCodes[a+k] = code
			if delta := v - q[k]; delta != 0 {
				total += float64(delta) * (float64(delta)*float64(h[k]) - 2*float64(gradient[k]))
				q[k] = v
				subtract(gradient, h, delta)
			}
		}
	}
	return total
}

// accept takes over what the last try of these sub-blocks made.
func (s *rowDescent) accept(lo, first, last int) {
	l := s.d.layer.layout
	for k := first * l.Sub; k < last*l.Sub; k++ {
		s.block.Codes[k] = s.trialCodes[lo+k]
		s.set(lo+k, s.trial[lo+k])
	}
}

// moveScale tries the neighbours of a sub-block's scale and minimum.
func (s *rowDescent) moveScale(lo, sub int) {
	l := s.d.layer.layout
	scale, low := &s.block.Scales[sub], &s.block.Mins[sub]
	scale0, low0 := *scale, *low
	best, bestScale, bestLow := 0.0, scale0, low0
	for step := range 9 {
		to, lowTo := int(scale0)+step/3-1, int(low0)+step%3-1
		if step == 4 || to < l.Scales.Low || to > l.Scales.High || lowTo < l.Mins.Low || lowTo > l.Mins.High {
			continue
		}
		*scale, *low = int8(to), int8(lowTo)
		if e := s.try(lo, sub, sub+1); e < best {
			best, bestScale, bestLow = e, *scale, *low
		}
	}
	*scale, *low = bestScale, bestLow
	if best < 0 {
		s.try(lo, sub, sub+1)
		s.accept(lo, sub, sub+1)
	}
}

// moveFactors tries the best factors for the codes.
func (s *rowDescent) moveFactors(lo int) {
	l, b := s.d.layer.layout, &s.block
	factor0, minFactor0 := b.Factor, b.MinFactor
	b.Factor, b.MinFactor = s.bestFactors(lo)
	if b.Factor == factor0 && b.MinFactor == minFactor0 {
		return
	}
	if subs := l.Size / l.Sub; s.try(lo, 0, subs) < 0 {
		s.accept(lo, 0, subs)
	} else {
		b.Factor, b.MinFactor = factor0, minFactor0
	}
}

// bestFactors returns the factors with the least error for the codes, scales
// and minima as they are, in half precision.
func (s *rowDescent) bestFactors(lo int) (factor, minFactor float32) {
	l, b := s.d.layer.layout, &s.block
	// The values are factor*v1 + minFactor*v2.
	v1, v2 := s.multiples[0][:l.Size], s.multiples[1][:l.Size]
	for k, code := range b.Codes {
		v1[k] = float32(b.Scales[k/l.Sub]) * l.Levels[code]
		v2[k] = -float32(b.Mins[k/l.Sub])
	}
	var a11, a12, a22, b1, b2 float64
	for k := range l.Size {
		h := vector(s.h[(lo+k)*s.n+lo:][:l.Size])
		x1, x2, g := float64(v1[k]), float64(v2[k]), float64(s.gradient[lo+k])
		a11 += x1 * float64(blas32.Dot(h, vector(v1)))
		b1 += x1 * g
		if l.Mins.High > 0 {
			h2 := float64(blas32.Dot(h, vector(v2)))
			a12 += x1 * h2
			a22 += x2 * h2
			b2 += x2 * g
		}
	}
	factor, minFactor = b.Factor, b.MinFactor
	if det := a11*a22 - a12*a12; det > 1e-9*a11*a22 {
		factor = moved(factor, (b1*a22-b2*a12)/det)
		minFactor = moved(minFactor, (b2*a11-b1*a12)/det)
	} else if a11 > 0 {
		factor = moved(factor, b1/a11)
	}
	return factor, minFactor
}

// moved returns v+step in half precision, or v where that has no such number.
func moved(v float32, step float64) float32 {
	to := dtype.F16ToF32(dtype.F32ToF16(float32(float64(v) + step)))
	if to-to != 0 {
		return v
	}
	return to
}
