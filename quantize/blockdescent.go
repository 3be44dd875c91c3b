package quantize

import (
	"context"

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
// (w-q) H (w-q)ᵀ, some rows side by side. Codes move to the best value under their scale;
// scales and minima to their neighbours and the factors to the best for the
// codes, where the codes that follow make the error smaller. It never grows.
type descent struct {
	layer   *blockLayer
	hessian []float32 // [cols, cols], damped
	w, q    []float32 // [rows, cols] weights and their rounded values

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
	changed := cpu.NewTensor(g.rows, width)
	defer cpu.Free(changed)
	// Together, since rows of the whole lie too far apart for the caches.
	h := kernels.NewBlock(make([]float32, width*width), width, width)
	for i := range width {
		copy(h.Row(i), d.hessian[(from+i)*g.cols+from:])
	}
	move := kernels.NewDescent(h, gridLevels(g.layout))
	lanes, all := cpu.StripRows(), kernels.NewBlock(changed.Data, g.rows, width)
	err := parallel.Rows(ctx, g.threads, (g.rows+lanes-1)/lanes, lanes*g.cols, func() func(int) error {
		s := newStripDescent(cpu, d, move, h, from)
		return func(i int) error {
			first, last := i*lanes, min((i+1)*lanes, g.rows)
			s.run(first, last, all.Slice(first, last, 0, width))
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

// gridLevels are the levels of a block type.
func gridLevels(l *blocks.Layout) kernels.GridLevels {
	levels := kernels.GridLevels{Low: l.Levels[0], High: l.Levels[len(l.Levels)-1]}
	if !l.Linear() {
		levels.Nearest = l.Nearest
	}
	return levels
}

// stripDescent refines one panel of some rows at a time, side by side. Indices
// of columns are those of the panel.
type stripDescent struct {
	d    *descent
	from int           // the panel's first column
	h    kernels.Block // [n, n] of the Hessian
	move *kernels.Descent
	rows kernels.DescentRows // what is reached
	size int                 // rows that there are, the strip's first

	trial  kernels.DescentRows // what a trial makes of the first columns
	delta  *kernels.Strip      // [block] by how much less values are now
	v1, v2 *kernels.Strip      // [block] what a block's factors are multiplied with
	p1, p2 *kernels.Strip      // [block] the Hessian times those

	factors, minFactors []float32   // [lanes] of the block
	scales, mins        [][]float32 // [sub-blocks][lanes] multiples of them
	best                [3][]float32
	bestFactor, bestMin []float32 // [lanes]
	sums                [5][]float64
}

func newStripDescent(cpu *kernels.CPU, d *descent, move *kernels.Descent, h kernels.Block, from int) *stripDescent {
	l, n, lanes := d.layer.layout, h.Rows, cpu.StripRows()
	s := &stripDescent{d: d, from: from, h: h, move: move}
	s.rows = kernels.DescentRows{Values: cpu.NewStrip(n), Levels: cpu.NewStrip(n), Gradient: cpu.NewStrip(n)}
	s.trial = kernels.DescentRows{Values: cpu.NewStrip(l.Size), Levels: cpu.NewStrip(l.Size), Gradient: cpu.NewStrip(l.Size)}
	if d.layer.mask != nil {
		s.rows.Keep, s.trial.Keep = cpu.NewStrip(n), cpu.NewStrip(l.Size)
	}
	for _, p := range []**kernels.Strip{&s.delta, &s.v1, &s.v2, &s.p1, &s.p2} {
		*p = cpu.NewStrip(l.Size)
	}
	list := func() []float32 { return make([]float32, lanes) }
	for range l.Size / l.Sub {
		s.scales, s.mins = append(s.scales, list()), append(s.mins, list())
	}
	for _, p := range []*[]float32{&s.trial.Scale, &s.trial.Minimum, &s.trial.Growth, &s.factors, &s.minFactors,
		&s.bestFactor, &s.bestMin, &s.best[0], &s.best[1], &s.best[2]} {
		*p = list()
	}
	for i := range s.sums {
		s.sums[i] = make([]float64, lanes)
	}
	return s
}

// run refines the rows from first to last-1 and sets changed [rows, n] to what
// that adds to their values.
func (s *stripDescent) run(first, last int, changed kernels.Block) {
	layer := s.d.layer
	n, block := s.h.Rows, kernels.NewBlock(s.d.q, layer.rows, layer.cols)
	values := block.Slice(first, last, s.from, s.from+n)
	gradient := kernels.NewBlock(s.d.gradient, layer.rows, layer.cols).Slice(first, last, s.from, s.from+n)
	s.size = last - first
	s.rows.Values.Load(values)
	s.rows.Gradient.Load(gradient)
	for r := range values.Rows {
		copy(changed.Row(r), values.Row(r))
	}
	for lo := 0; lo < n; lo += layer.layout.Size {
		s.load(first, lo)
		s.refineBlock(lo)
		s.store(first, lo)
	}
	s.rows.Values.Store(values)
	for r := range values.Rows {
		to := changed.Row(r)
		for i, v := range values.Row(r) {
			to[i] = v - to[i]
		}
	}
}

// load takes in the blocks that begin at lo of the rows from first on.
func (s *stripDescent) load(first, lo int) {
	layer, l := s.d.layer, s.d.layer.layout
	var b blocks.Block
	for lane := range s.size {
		layer.view(&b, first+lane, s.from+lo)
		s.factors[lane], s.minFactors[lane] = b.Factor, b.MinFactor
		for sub := range b.Scales {
			s.scales[sub][lane], s.mins[sub][lane] = float32(b.Scales[sub]), float32(b.Mins[sub])
		}
		if layer.mask == nil {
			continue
		}
		for k, code := range b.Codes { // what stays is not set later
			keep := float32(0)
			if layer.mask.Chosen(first+lane, s.from+lo+k) {
				keep = 1
			}
			s.rows.Keep.Col(lo + k)[lane], s.rows.Levels.Col(lo + k)[lane] = keep, l.Levels[code]
		}
	}
}

// store puts them back.
func (s *stripDescent) store(first, lo int) {
	layer, l := s.d.layer, s.d.layer.layout
	var b blocks.Block
	for lane := range s.size {
		layer.view(&b, first+lane, s.from+lo)
		b.Factor, b.MinFactor = s.factors[lane], s.minFactors[lane]
		for sub := range b.Scales {
			b.Scales[sub], b.Mins[sub] = int8(s.scales[sub][lane]), int8(s.mins[sub][lane])
		}
		for k := range b.Codes {
			b.Codes[k] = l.Code(s.rows.Levels.Col(lo + k)[lane], 1, 0)
		}
		layer.keep(&b, first+lane, s.from+lo)
	}
}

// refineBlock refines the blocks that begin at lo.
func (s *stripDescent) refineBlock(lo int) {
	l := s.d.layer.layout
	for sub := range l.Size / l.Sub {
		at := lo + sub*l.Sub
		s.begin(at, l.Sub)
		s.tryGrid(at, s.scales[sub], s.mins[sub], 1)
		s.accept(lo, at, l.Sub)
		if !l.Scales.Fixed() {
			s.moveScale(lo, sub)
		}
	}
	s.moveFactors(lo)
}

// begin makes the trial one of n columns as they are.
func (s *stripDescent) begin(at, n int) {
	s.trial.Values.Copy(s.rows.Values, at, n)
	s.trial.Levels.Copy(s.rows.Levels, at, n)
	s.trial.Gradient.Copy(s.rows.Gradient, at, n)
	if s.trial.Keep != nil {
		s.trial.Keep.Copy(s.rows.Keep, at, n)
	}
	clear(s.trial.Growth)
}

// tryGrid rounds the values of the sub-block at a column anew, each to the best
// for the others, some times.
func (s *stripDescent) tryGrid(at int, scales, mins []float32, rounds int) {
	s.grid(scales, mins)
	for range rounds {
		s.move.Move(&s.trial, at, s.d.layer.layout.Sub, 0, s.d.layer.layout.Sub)
	}
}

// grid sets the trial's grid.
func (s *stripDescent) grid(scales, mins []float32) {
	for lane, factor := range s.factors {
		s.trial.Scale[lane], s.trial.Minimum[lane] = factor*scales[lane], s.minFactors[lane]*mins[lane]
	}
}

// accept takes over the trial of n columns from at on, and takes what it changed
// off the gradient of those from lo on.
func (s *stripDescent) accept(lo, at, n int) {
	for k := range n {
		delta, was := s.delta.Col(k), s.rows.Values.Col(at+k)
		for lane, v := range s.trial.Values.Col(k) {
			delta[lane] = was[lane] - v
		}
	}
	s.rows.Values.Put(at, s.trial.Values, n)
	s.rows.Levels.Put(at, s.trial.Levels, n)
	s.rows.Gradient.AddProducts(lo, s.delta, s.h.Slice(lo, s.h.Rows, at, at+n))
}

// scaleRounds is how often a trial goes over the columns whose grids it changes.
const scaleRounds = 2

// moveScale tries the neighbours of a sub-block's scales and minima.
func (s *stripDescent) moveScale(lo, sub int) {
	l := s.d.layer.layout
	at, scales, mins := lo+sub*l.Sub, s.scales[sub], s.mins[sub]
	best, bestScale, bestMin := s.best[0], s.best[1], s.best[2]
	clear(best)
	copy(bestScale, scales)
	copy(bestMin, mins)
	toScale, toMin := s.bestFactor, s.bestMin
	for step := range 9 {
		up, upMin := float32(step/3-1), float32(step%3-1)
		if step == 4 || upMin != 0 && l.Mins.Fixed() {
			continue
		}
		for lane, scale := range scales {
			toScale[lane] = min(max(scale+up, float32(l.Scales.Low)), float32(l.Scales.High))
			toMin[lane] = min(max(mins[lane]+upMin, float32(l.Mins.Low)), float32(l.Mins.High))
		}
		s.begin(at, l.Sub)
		s.tryGrid(at, toScale, toMin, scaleRounds)
		for lane, e := range s.trial.Growth {
			if e < best[lane] {
				best[lane], bestScale[lane], bestMin[lane] = e, toScale[lane], toMin[lane]
			}
		}
	}
	copy(scales, bestScale)
	copy(mins, bestMin)
	// It never makes the error larger, also where the grid stays.
	s.begin(at, l.Sub)
	s.tryGrid(at, scales, mins, scaleRounds)
	s.accept(lo, at, l.Sub)
}

// moveFactors tries the best factors for the codes.
func (s *stripDescent) moveFactors(lo int) {
	l := s.d.layer.layout
	s.bestFactors(lo)
	s.factors, s.bestFactor = s.bestFactor, s.factors // those before
	s.minFactors, s.bestMin = s.bestMin, s.minFactors
	s.begin(lo, l.Size)
	for range scaleRounds {
		for sub := range s.scales {
			s.grid(s.scales[sub], s.mins[sub])
			s.move.Move(&s.trial, lo, l.Size, sub*l.Sub, (sub+1)*l.Sub)
		}
	}
	for lane, e := range s.trial.Growth {
		if e < 0 {
			continue
		}
		s.factors[lane], s.minFactors[lane] = s.bestFactor[lane], s.bestMin[lane]
		for k := range l.Size {
			s.trial.Values.Col(k)[lane], s.trial.Levels.Col(k)[lane] = s.rows.Values.Col(lo + k)[lane], s.rows.Levels.Col(lo + k)[lane]
		}
	}
	s.accept(lo, lo, l.Size)
}

// bestFactors sets bestFactor and bestMin to the factors with the least error
// for the codes, scales and minima as they are, in half precision.
func (s *stripDescent) bestFactors(lo int) {
	l := s.d.layer.layout
	// The values are factor*v1 + minFactor*v2.
	for k := range l.Size {
		v1, v2, levels := s.v1.Col(k), s.v2.Col(k), s.rows.Levels.Col(lo+k)
		scales, mins := s.scales[k/l.Sub], s.mins[k/l.Sub]
		for lane, level := range levels {
			v1[lane], v2[lane] = scales[lane]*level, -mins[lane]
		}
	}
	h := s.h.Slice(lo, lo+l.Size, lo, lo+l.Size)
	s.p1.Clear()
	s.p1.AddProducts(0, s.v1, h)
	for i := range s.sums {
		clear(s.sums[i])
	}
	a11, a12, a22, b1, b2 := s.sums[0], s.sums[1], s.sums[2], s.sums[3], s.sums[4]
	for k := range l.Size {
		v1, p1, gradient := s.v1.Col(k), s.p1.Col(k), s.rows.Gradient.Col(lo+k)
		for lane, x := range v1 {
			a11[lane] += float64(x) * float64(p1[lane])
			b1[lane] += float64(x) * float64(gradient[lane])
		}
	}
	if l.Mins.High > 0 {
		s.p2.Clear()
		s.p2.AddProducts(0, s.v2, h)
		for k := range l.Size {
			v1, v2, p2, gradient := s.v1.Col(k), s.v2.Col(k), s.p2.Col(k), s.rows.Gradient.Col(lo+k)
			for lane, x := range v2 {
				a12[lane] += float64(v1[lane]) * float64(p2[lane])
				a22[lane] += float64(x) * float64(p2[lane])
				b2[lane] += float64(x) * float64(gradient[lane])
			}
		}
	}
	copy(s.bestFactor, s.factors)
	copy(s.bestMin, s.minFactors)
	for i := range s.size {
		if det := a11[i]*a22[i] - a12[i]*a12[i]; det > 1e-9*a11[i]*a22[i] {
			s.bestFactor[i] = moved(s.factors[i], (b1[i]*a22[i]-b2[i]*a12[i])/det)
			s.bestMin[i] = moved(s.minFactors[i], (b2[i]*a11[i]-b1[i]*a12[i])/det)
		} else if a11[i] > 0 {
			s.bestFactor[i] = moved(s.factors[i], b1[i]/a11[i])
		}
	}
}

// moved returns v+step in half precision, or v where that has no such number.
func moved(v float32, step float64) float32 {
	to := dtype.F16ToF32(dtype.F32ToF16(float32(float64(v) + step)))
	if to-to != 0 {
		return v
	}
	return to
}
