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
func (c *CPU) sumParts(dst []float32, rows int, part func(worker int, sums []float32, from, to int)) {
	n, parts := len(dst), ceilDiv(rows, gradientRows)
	all := floats(&c.sums, n*parts)
	clear(all)
	c.pool.run(parts, each(func(worker, i int) {
		part(worker, all[i*n:][:n], i*gradientRows, min(rows, (i+1)*gradientRows))
	}))
	for i := range parts {
		c.ops.add(dst, all[i*n:][:n])
	}
}

// AddRowSums adds the sum of all rows of x to dst [x.Cols]: the gradient of a
// bias that was added to every row.
func (c *CPU) AddRowSums(dst []float32, x *Tensor) {
	mustEqual("AddRowSums", len(dst), x.Cols)
	c.sumParts(dst, x.Rows, func(_ int, sums []float32, from, to int) {
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
	o, n := c.ops, weight.Cols
	c.sumParts(dweight, x.Rows, func(worker int, sums []float32, from, to int) {
		buf := floats(&c.scratch[worker].row, 2*n)
		product, scaled := buf[:n], buf[n:]
		for i := from; i < to; i++ {
			for at := 0; at < x.Cols; at += n {
				v, g, d := x.row(i)[at:][:n], dy.row(i)[at:][:n], dx.row(i)[at:][:n]
				inverse := 1 / math.Sqrt(o.sumSquares(v)/float64(n)+float64(eps))
				o.normalize(product, v, g, float32(inverse)) // dy x/r
				o.add(sums, product)
				along := float64(o.dot(product, weight.Data)) * inverse * inverse / float64(n)
				o.normalize(scaled, g, weight.Data, float32(inverse)) // w dy/r
				o.addScaled(scaled, v, float32(-along))
				if replace {
					copy(d, scaled)
				} else {
					o.add(d, scaled)
				}
			}
		}
	})
}

// GateGrad is the backward pass of [Device.Gate]: it sets dgate and dup to the
// gradients with respect to gate and up. dgate may be gate, and dup may be up or
// dy.
func (c *CPU) GateGrad(dgate, dup, gate, up, dy *Tensor, act Activation) {
	for _, t := range []*Tensor{dgate, dup, up, dy} {
		mustEqual("GateGrad", len(t.Data), len(gate.Data))
	}
	c.pool.run(ceilDiv(len(gate.Data), partElements), each(func(_, part int) {
		from, to := part*partElements, min((part+1)*partElements, len(gate.Data))
		c.ops.gateGrad[act](dgate.Data[from:to], dup.Data[from:to], dy.Data[from:to], gate.Data[from:to], up.Data[from:to])
	}))
}

// siluGradPortable uses that the activation is x*s, s = 1/(1+exp(-x)), and that
// s' = s(1-s).
func siluGradPortable(dg, dup, dy, g, up []float32) {
	for i, x := range g {
		s := 1 / (1 + exp32(-x))
		d, u, value := dy[i], up[i], x*s
		dup[i], dg[i] = d*value, d*u*(s+value*(1-s))
	}
}

// geluTanhGradPortable is the same with the exponent of geluTanhPortable.
func geluTanhGradPortable(dg, dup, dy, g, up []float32) {
	for i, x := range g {
		s := 1 / (1 + exp32(-x*(geluLinear+geluCubic*x*x)))
		d, u, value := dy[i], up[i], x*s
		dup[i], dg[i] = d*value, d*u*(s+value*(1-s)*(geluLinear+3*geluCubic*x*x))
	}
}

// geluGradPortable uses that the derivative of x*Phi(x) is Phi(x) + x*phi(x).
func geluGradPortable(dg, dup, dy, g, up []float32) {
	for i, v := range g {
		x := float64(v)
		phi := 0.5 * math.Erfc(-x/math.Sqrt2)
		d, u := dy[i], up[i]
		dup[i], dg[i] = d*float32(x*phi), d*u*float32(phi+x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi))
	}
}

func reluGradPortable(dg, dup, dy, g, up []float32) {
	for i, x := range g {
		d, u := dy[i], up[i]
		if dup[i], dg[i] = 0, 0; x > 0 {
			dup[i], dg[i] = d*x, d*u
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
