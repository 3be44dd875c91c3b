package kernels

import "math"

// The operations below are the backward passes of those of [Device]: given the
// gradient of a loss with respect to an operation's result, they give those with
// respect to its operands. Linears need none of their own: with y = x wᵀ, dx is
// dy w and dw is dyᵀ x, both an [Update].

// each is a task whose parts are calls of a function.
type each func(worker, part int)

func (f each) run(worker, part int) { f(worker, part) }

// gradientRows is how many rows one part of a reduction over rows takes. Each
// part sums its rows by itself and the sums are added in order, so that the
// result does not depend on the number of threads.
const gradientRows = 64

// sumParts calls part for runs of gradientRows rows, each with sums [n] of its
// own that begin at zero, and adds all sums to dst [n].
func (c *CPU) sumParts(dst []float32, rows int, part func(sums []float32, from, to int)) {
	n, parts := len(dst), ceilDiv(rows, gradientRows)
	all := floats(&c.sums, n*parts)
	clear(all)
	c.pool.run(parts, each(func(_, i int) {
		part(all[i*n:][:n], i*gradientRows, min(rows, (i+1)*gradientRows))
	}))
	for i := range parts {
		c.ops.add(dst, all[i*n:][:n])
	}
}

// AddRowSums adds the sum of all rows of x to dst [x.Cols]: the gradient of a
// bias that was added to every row.
func (c *CPU) AddRowSums(dst []float32, x *Tensor) {
	mustEqual("AddRowSums", len(dst), x.Cols)
	c.sumParts(dst, x.Rows, func(sums []float32, from, to int) {
		for i := from; i < to; i++ {
			c.ops.add(sums, x.row(i))
		}
	})
}

// RMSNormGrad is the backward pass of [Device.RMSNorm]: it adds the gradient
// with respect to x to dx, and that with respect to weight to dweight [n]. With
// y = w x/r, r the root mean square of n elements,
//
//	dx = (w dy - x mean(w dy x)/r²)/r    dw = Σ dy x/r
//
// dx may be dy, whose content is then replaced and not added to.
func (c *CPU) RMSNormGrad(dx *Tensor, dweight []float32, x, weight, dy *Tensor, eps float32) {
	mustEqual("RMSNormGrad", dx.Rows, x.Rows)
	mustEqual("RMSNormGrad", dx.Cols, x.Cols)
	mustEqual("RMSNormGrad", dy.Cols, x.Cols)
	mustEqual("RMSNormGrad", len(dweight), weight.Cols)
	replace := dx == dy
	c.sumParts(dweight, x.Rows, func(sums []float32, from, to int) {
		w, n := weight.Data, weight.Cols
		for i := from; i < to; i++ {
			for at := 0; at < x.Cols; at += n {
				v, g, d := x.row(i)[at:][:n], dy.row(i)[at:][:n], dx.row(i)[at:][:n]
				inverse := 1 / math.Sqrt(c.ops.sumSquares(v)/float64(n)+float64(eps))
				dot := 0.0
				for j, w := range w {
					dot += float64(w * g[j] * v[j])
				}
				normGrad(d, sums, v, w, g, float32(inverse), float32(dot*inverse*inverse*inverse/float64(n)), replace)
			}
		}
	})
}

// normGrad adds w*g*inverse - v*along to d, or sets it to that, and g*v*inverse
// to sums.
func normGrad(d, sums, v, w, g []float32, inverse, along float32, replace bool) {
	n := len(v)
	d, sums, w, g = d[:n], sums[:n], w[:n], g[:n]
	for j, x := range v {
		scaled := g[j] * inverse
		sums[j] += scaled * x
		step := scaled*w[j] - x*along
		if replace {
			d[j] = step
		} else {
			d[j] += step
		}
	}
}

// GateGrad is the backward pass of [Device.Gate]: it sets dgate and dup to the
// gradients with respect to gate and up. dgate may be gate and dup may be up, or
// either dy.
func (c *CPU) GateGrad(dgate, dup, gate, up, dy *Tensor, act Activation) {
	for _, t := range []*Tensor{dgate, dup, up, dy} {
		mustEqual("GateGrad", len(t.Data), len(gate.Data))
	}
	step := max(1, partElements/max(1, gate.Cols))
	c.pool.run(ceilDiv(gate.Rows, step), each(func(worker, part int) {
		s := &c.scratch[worker]
		values, slopes := floats(&s.row, gate.Cols), floats(&s.tile, gate.Cols)
		for i := part * step; i < min(gate.Rows, (part+1)*step); i++ {
			c.slopes(act, values, slopes, gate.row(i))
			a, b, u, g := dgate.row(i), dup.row(i), up.row(i), dy.row(i)
			for j, y := range g {
				a[j], b[j] = y*u[j]*slopes[j], y*values[j]
			}
		}
	}))
}

// slopes sets values to act(x) and slopes to its derivative.
func (c *CPU) slopes(act Activation, values, slopes, x []float32) {
	switch act {
	case SiLU: // x*s with s = 1/(1+exp(-x)), s' = s(1-s)
		copy(slopes, x)
		c.ops.expSum(slopes, -1, 0)
		for i, v := range x {
			s := 1 / (1 + slopes[i])
			values[i] = v * s
			slopes[i] = s + v*s*(1-s)
		}
	case GELUTanh: // x*s with s = 1/(1+exp(-u)), u as in geluTanhPortable
		for i, v := range x {
			slopes[i] = v * (geluLinear + geluCubic*v*v)
		}
		c.ops.expSum(slopes, -1, 0)
		for i, v := range x {
			s := 1 / (1 + slopes[i])
			values[i] = v * s
			slopes[i] = s + v*s*(1-s)*(geluLinear+3*geluCubic*v*v)
		}
	case GELU: // x*Phi(x), whose derivative is Phi(x) + x*phi(x)
		for i, v := range x {
			x := float64(v)
			phi := 0.5 * (1 + math.Erf(x/math.Sqrt2))
			values[i] = float32(x * phi)
			slopes[i] = float32(phi + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi))
		}
	case ReLU:
		for i, v := range x {
			values[i], slopes[i] = max(v, 0), 0
			if v > 0 {
				slopes[i] = 1
			}
		}
	}
}

// SoftCapGrad multiplies dy by the derivative of [Device.SoftCap], given its
// result y: 1 - (y/limit)².
func (c *CPU) SoftCapGrad(dy, y *Tensor, limit float32) {
	mustEqual("SoftCapGrad", len(dy.Data), len(y.Data))
	c.forRows(dy.Rows, dy.Cols, rowTask{dst: dy, x: y, s: limit, op: func(t *rowTask, i int) {
		d, y := t.dst.row(i), t.x.row(i)
		for j, v := range y {
			r := v / t.s
			d[j] *= 1 - r*r
		}
	}})
}

// AddEmbedGrad is the backward pass of [Device.Embed]: it adds row i of dx, times
// scale, to row ids[i] of dtable [vocab, dx.Cols].
func (c *CPU) AddEmbedGrad(dtable []float32, dx *Tensor, ids []int32, scale float32) {
	mustEqual("AddEmbedGrad", dx.Rows, len(ids))
	for i, id := range ids {
		c.ops.addScaled(dtable[int(id)*dx.Cols:][:dx.Cols], dx.row(i), scale)
	}
}

// Reverse returns the rotation that undoes r but for its scale: the backward
// pass of [Device.Rotate] is to rotate the gradient by it.
func (r *Rope) Reverse() *Rope {
	back := &Rope{Scale: r.Scale, Interleaved: r.Interleaved}
	for _, f := range r.InvFreq {
		back.InvFreq = append(back.InvFreq, -f)
	}
	return back
}
