package train

import (
	"math"
	"slices"

	"llmc/kernels"
	"llmc/model"
)

// gatedLayer is what is kept of a gated feed-forward layer, down(act(gate) * up).
type gatedLayer struct {
	gate, up *kernels.Tensor // [rows, width]
}

// experts is what is kept of a mixture.
type experts struct {
	scores      *kernels.Tensor // [rows, experts] the router's
	routed      []model.Routed  // by expert
	layer       gatedLayer      // [rows * experts used, width], expert after expert
	toShared    model.Routed    // all rows
	sharedLayer gatedLayer
}

// ffnWidth is how many neurons a row goes through in a block.
func ffnWidth(c *model.Config) int {
	if c.Experts.Count > 0 {
		return c.Experts.Used*c.Experts.Width + c.Experts.Shared
	}
	return c.FFN
}

// resize gives the layer a shape; what is in it is not defined.
func (l *gatedLayer) resize(rows, width int) gatedLayer {
	resize(&l.gate, rows, width)
	resize(&l.up, rows, width)
	return *l
}

// part returns the rows that an expert has of a mixture's, from one on.
func (l *gatedLayer) part(from, count int) gatedLayer {
	return gatedLayer{rows(l.gate, from, from+count), rows(l.up, from, from+count)}
}

// feedForward returns what the feed-forward layer of block i makes of in
// [rows, hidden], or its mixture of them. The caller frees it.
func (n *Network) feedForward(i int, s *activations, in *kernels.Tensor) *kernels.Tensor {
	if n.cfg.Experts.Count > 0 {
		return n.mixture(i, &s.experts, in)
	}
	return n.gated(i, model.NoExpert, s.ffn.resize(in.Rows, n.cfg.FFN), in)
}

// gated returns what an expert makes of in, or the layer of all rows, and fills
// l. The caller frees it.
func (n *Network) gated(i int, e model.Expert, l gatedLayer, in *kernels.Tensor) *kernels.Tensor {
	n.linear(l.gate, model.ID{Role: model.Gate, Block: i, Expert: e}, in)
	n.linear(l.up, model.ID{Role: model.Up, Block: i, Expert: e}, in)
	inner := n.inner(l)
	y := n.output(model.ID{Role: model.Down, Block: i, Expert: e}, inner)
	n.dev.Free(inner)
	return y
}

// inner returns what down multiplies; the caller frees it.
func (n *Network) inner(l gatedLayer) *kernels.Tensor {
	inner := n.dev.NewResult(l.gate.Rows, l.gate.Cols)
	n.dev.Gate(inner, l.gate, l.up, n.cfg.Activation)
	return inner
}

// feedForwardBackward adds to din, given the gradient dy with respect to what
// feedForward returned, that with respect to in, and those of the weights.
func (n *Network) feedForwardBackward(i int, s *activations, in, dy, din *kernels.Tensor) {
	if n.cfg.Experts.Count > 0 {
		n.mixtureBackward(i, &s.experts, in, dy, din)
		return
	}
	n.gatedBackward(i, model.NoExpert, s.ffn, in, dy, din)
}

// gatedBackward is the backward pass of gated. It returns the products of the
// rows [rows] of dy with those of what gated returned.
func (n *Network) gatedBackward(i int, e model.Expert, l gatedLayer, in, dy, din *kernels.Tensor) []float32 {
	d := n.dev
	inner := n.inner(l)
	dinner := d.NewTensor(inner.Rows, inner.Cols)
	n.linearOf(model.ID{Role: model.Down, Block: i, Expert: e}, inner, dy, dinner)
	var products []float32
	if n.cfg.Experts.Count > 0 {
		products = rowProducts(inner, dinner) // dy · down inner = downᵀ dy · inner
	}
	dgate := inner
	d.GateGrad(dgate, dinner, l.gate, l.up, dinner, n.cfg.Activation)
	n.linearOf(model.ID{Role: model.Gate, Block: i, Expert: e}, in, dgate, din)
	n.linearOf(model.ID{Role: model.Up, Block: i, Expert: e}, in, dinner, din)
	d.Free(dgate)
	d.Free(dinner)
	return products
}

// rowProducts returns the products of the rows of x with those of y.
func rowProducts(x, y *kernels.Tensor) []float32 {
	products := make([]float32, x.Rows)
	for r := range products {
		sum := 0.0
		for c, v := range x.Data[r*x.Cols:][:x.Cols] {
			sum += float64(v) * float64(y.Data[r*x.Cols+c])
		}
		products[r] = float32(sum)
	}
	return products
}

// mixture returns the sum over the experts that the router chose for a row of
// what they make of it, times their weights, and over the one for all rows.
func (n *Network) mixture(i int, x *experts, in *kernels.Tensor) *kernels.Tensor {
	c, d := &n.cfg.Experts, n.dev
	n.linear(resize(&x.scores, in.Rows, c.Count), model.ID{Role: model.Router, Block: i}, in)
	x.routed = c.Route(x.scores.Data)
	x.layer.resize(in.Rows*c.Used, c.Width)
	out := d.NewTensor(in.Rows, in.Cols)
	if c.Shared > 0 {
		gate := n.output(model.ID{Role: model.SharedGate, Block: i}, in)
		x.toShared = model.RouteShared(gate.Data)
		d.Free(gate)
		y := n.gated(i, model.NoExpert, x.sharedLayer.resize(in.Rows, c.Shared), in)
		d.AddRows(out, y, x.toShared.Rows, x.toShared.Weights)
		d.Free(y)
	}
	n.eachExpert(x, in, func(e model.Expert, to model.Routed, l gatedLayer, part *kernels.Tensor) {
		y := n.gated(i, e, l, part)
		d.AddRows(out, y, to.Rows, to.Weights)
		d.Free(y)
	})
	return out
}

// eachExpert visits the experts that have rows, with their part of what is kept
// and of in.
func (n *Network) eachExpert(x *experts, in *kernels.Tensor, visit func(e model.Expert, to model.Routed, l gatedLayer, part *kernels.Tensor)) {
	from := 0
	for index, to := range x.routed {
		count := len(to.Rows)
		if count == 0 {
			continue
		}
		part := n.dev.NewResult(count, in.Cols)
		n.dev.Select(part, in, to.Rows)
		visit(model.ExpertAt(index), to, x.layer.part(from, count), part)
		n.dev.Free(part)
		from += count
	}
}

// mixtureBackward is the backward pass of mixture.
func (n *Network) mixtureBackward(i int, x *experts, in, dy, din *kernels.Tensor) {
	c, d := &n.cfg.Experts, n.dev
	// What the losses gain from a larger weight of an expert, times that weight.
	gains := d.NewTensor(in.Rows, c.Count)
	n.eachExpert(x, in, func(e model.Expert, to model.Routed, l gatedLayer, part *kernels.Tensor) {
		scaled, dpart := n.scaled(dy, to), d.NewTensor(part.Rows, part.Cols)
		for k, gain := range n.gatedBackward(i, e, l, part, scaled, dpart) {
			gains.Data[int(to.Rows[k])*c.Count+e.Index()] = gain
		}
		d.AddRows(din, dpart, to.Rows, slices.Repeat([]float32{1}, part.Rows))
		d.Free(dpart)
		d.Free(scaled)
	})
	x.routeBackward(gains, c.Normed)
	n.linearOf(model.ID{Role: model.Router, Block: i}, in, gains, din)
	d.Free(gains)
	if c.Shared == 0 {
		return
	}
	scaled, dgate := n.scaled(dy, x.toShared), d.NewTensor(dy.Rows, 1)
	for r, gain := range n.gatedBackward(i, model.NoExpert, x.sharedLayer, in, scaled, din) {
		dgate.Data[r] = gain * (1 - x.toShared.Weights[r])
	}
	n.linearOf(model.ID{Role: model.SharedGate, Block: i}, in, dgate, din)
	d.Free(scaled)
	d.Free(dgate)
}

// scaled returns the rows of dy that go through an expert, each times its weight;
// the caller frees it.
func (n *Network) scaled(dy *kernels.Tensor, to model.Routed) *kernels.Tensor {
	part := n.dev.NewResult(len(to.Rows), dy.Cols)
	n.dev.Select(part, dy, to.Rows)
	for k, w := range to.Weights {
		n.dev.Scale(rows(part, k, k+1), w)
	}
	return part
}

// routeBackward turns gains [rows, experts], the gradient with respect to the
// weight w of each expert that a row goes through times w, into that with respect
// to the router's scores: with w = softmax(scores), over all experts or the row's
// own,
//
//	dscore = gain - w Σ gain
func (x *experts) routeBackward(gains *kernels.Tensor, normed bool) {
	used := make([]bool, len(gains.Data))
	for e, to := range x.routed {
		for _, r := range to.Rows {
			used[int(r)*gains.Cols+e] = true
		}
	}
	for r := range gains.Rows {
		scores, row, used := x.scores.Data[r*gains.Cols:][:gains.Cols], gains.Data[r*gains.Cols:][:gains.Cols], used[r*gains.Cols:][:gains.Cols]
		highest, gain := math.Inf(-1), 0.0
		for e, s := range scores {
			highest = max(highest, float64(s))
			gain += float64(row[e])
		}
		weight := func(e int) float64 {
			if normed && !used[e] {
				return 0
			}
			return math.Exp(float64(scores[e]) - highest)
		}
		total := 0.0
		for e := range scores {
			total += weight(e)
		}
		for e := range row {
			row[e] -= float32(weight(e) / total * gain)
		}
	}
}
