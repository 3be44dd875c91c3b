package train

import (
	"fmt"

	"llmc/kernels"
	"llmc/model"
)

// activations are what the backward pass of a block needs of its forward pass.
// What a norm, or the product of the gated feed-forward, makes of them is cheap
// and computed again.
type activations struct {
	rawQ, rawK *kernels.Tensor // [rows, heads*headDim] before they are normalized; families that do so
	q, k, v    *kernels.Tensor // [rows, heads*headDim], rotated
	mixed      *kernels.Tensor // [rows, heads*headDim] what o multiplies
	attnOut    *kernels.Tensor // [rows, hidden] what o gives, in families that normalize it
	middle     *kernels.Tensor // [rows, hidden] the residual stream between attention and feed-forward
	ffn        gatedLayer      // for all rows
	experts    experts
	ffnOut     *kernels.Tensor // [rows, hidden] what the feed-forward layer gives, in families that normalize it
}

// perRow is the number of float32 numbers that activations take for each row.
func perRow(c *model.Config) int {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	n := 2*q + 2*kv + c.Hidden + 2*ffnWidth(c) + c.Experts.Count
	if c.Family.QKNorm {
		n += q + kv
	}
	if c.Family.PostNorms {
		n += 2 * c.Hidden
	}
	return n
}

// MemoryOf is about how many bytes Step needs for so many rows in all, besides
// weights and gradients.
func (n *Network) MemoryOf(rows, context int) int64 {
	c := &n.cfg
	blocks := c.Blocks
	if n.checkpointing {
		blocks = 1
	}
	logits := min(max(maxLogits/c.Vocab, 32), min(512, context)) * c.Vocab
	// Streams, activations, and as much again for the gradients of a block.
	perRow := (c.Blocks+1)*c.Hidden + blocks*perRow(c) + perRow(c) + 4*c.Hidden + 2*ffnWidth(c)
	return 4 * (int64(rows)*int64(perRow) + 2*int64(logits))
}

// BlockStep is Step for block i alone: x [rows, hidden] are its inputs, the rows
// of sequences of the given lengths. loss turns the block's output in place into
// the gradient with respect to it. The result is the gradient with respect to x;
// the caller frees it.
func (n *Network) BlockStep(i int, x *kernels.Tensor, lengths []int, loss func(out *kernels.Tensor) error) (dx *kernels.Tensor, err error) {
	total := 0
	for _, l := range lengths {
		total += l
	}
	if i < 0 || i >= n.cfg.Blocks || x.Cols != n.cfg.Hidden || total != x.Rows {
		return nil, fmt.Errorf("block %d of %d cannot take %d rows of %d channels in sequences of %d rows", i, n.cfg.Blocks, x.Rows, x.Cols, total)
	}
	out := n.dev.NewTensor(x.Rows, x.Cols)
	n.blockForward(i, &n.scratch, lengths, x, out)
	if err := loss(out); err != nil {
		n.dev.Free(out)
		return nil, err
	}
	n.blockBackward(i, &n.scratch, lengths, x, out)
	return out, nil
}

// blockForward sets out to what block i makes of x [rows, hidden]; they may be
// the same.
func (n *Network) blockForward(i int, s *activations, lengths []int, x, out *kernels.Tensor) {
	n.attend(i, s, lengths, x)
	in := n.normed(i, model.FFNNorm, s.middle)
	y := n.feedForward(i, s, in)
	n.dev.Free(in)
	n.addTo(out, s.middle, y, &s.ffnOut, i, model.PostFFNNorm)
}

// attend fills all activations up to the stream after attention.
func (n *Network) attend(i int, s *activations, lengths []int, x *kernels.Tensor) {
	c, d := &n.cfg, n.dev
	wide, narrow := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	q, k := resize(&s.q, x.Rows, wide), resize(&s.k, x.Rows, narrow)
	in := n.normed(i, model.AttnNorm, x)
	if c.Family.QKNorm {
		n.linear(resize(&s.rawQ, x.Rows, wide), model.ID{Role: model.Q, Block: i}, in)
		n.linear(resize(&s.rawK, x.Rows, narrow), model.ID{Role: model.K, Block: i}, in)
		n.normTo(q, i, model.QNorm, s.rawQ)
		n.normTo(k, i, model.KNorm, s.rawK)
	} else {
		n.linear(q, model.ID{Role: model.Q, Block: i}, in)
		n.linear(k, model.ID{Role: model.K, Block: i}, in)
	}
	v := resize(&s.v, x.Rows, narrow)
	n.linear(v, model.ID{Role: model.V, Block: i}, in)
	d.Free(in)
	n.rotate(q, lengths, n.ropes[i])
	n.rotate(k, lengths, n.ropes[i])
	mixed := resize(&s.mixed, x.Rows, wide)
	from := 0
	for _, l := range lengths {
		to := from + l
		n.cache.Truncate(0)
		d.Attention(rows(mixed, from, to), rows(q, from, to), rows(k, from, to), rows(v, from, to), n.cache, n.attention(i))
		from = to
	}
	y := n.output(model.ID{Role: model.O, Block: i}, mixed)
	n.addTo(resize(&s.middle, x.Rows, c.Hidden), x, y, &s.attnOut, i, model.PostAttnNorm)
}

// attention is the shape of a block's attention.
func (n *Network) attention(i int) kernels.AttentionSpec {
	c := &n.cfg
	return kernels.AttentionSpec{
		Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim,
		Scale: float32(c.AttnScale), Window: c.WindowOf(i),
	}
}

// rotate turns the heads of every sequence, each from position 0 on.
func (n *Network) rotate(x *kernels.Tensor, lengths []int, rope *kernels.Rope) {
	from := 0
	for _, l := range lengths {
		n.dev.Rotate(rows(x, from, from+l), n.cfg.HeadDim, rope, 0)
		from += l
	}
}

// normed returns x normalized; the caller frees it.
func (n *Network) normed(i int, r model.Role, x *kernels.Tensor) *kernels.Tensor {
	y := n.dev.NewResult(x.Rows, x.Cols)
	n.normTo(y, i, r, x)
	return y
}

func (n *Network) normTo(dst *kernels.Tensor, i int, r model.Role, x *kernels.Tensor) {
	n.dev.RMSNorm(dst, x, n.block(i, r).vector(), float32(n.cfg.NormEps))
}

// linear sets dst to what a linear makes of x, bias added.
func (n *Network) linear(dst *kernels.Tensor, id model.ID, x *kernels.Tensor) {
	p := n.byID[id]
	n.dev.MatMul(dst, x, n.dev.Load(kernels.FromFloat32s(p.Rows, p.Cols, p.used())))
	if bias := n.bias(id); bias != nil {
		n.dev.Add(dst, bias.vector())
	}
}

// output returns what a linear makes of x; the caller frees it.
func (n *Network) output(id model.ID, x *kernels.Tensor) *kernels.Tensor {
	y := n.dev.NewResult(x.Rows, n.byID[id].Rows)
	n.linear(y, id, x)
	return y
}

// addTo sets out to base plus y, normalized first in families that do so: then
// raw keeps what was normalized. It frees y.
func (n *Network) addTo(out, base, y *kernels.Tensor, raw **kernels.Tensor, i int, post model.Role) {
	if n.cfg.Family.PostNorms {
		copy(resize(raw, y.Rows, y.Cols).Data, y.Data)
		n.normTo(y, i, post, y)
	}
	if out != base {
		copy(out.Data, base.Data)
	}
	n.dev.Add(out, y)
	n.dev.Free(y)
}

// blockBackward turns grad, the gradient with respect to the output of block i,
// into that with respect to its input x, and adds those of its weights.
func (n *Network) blockBackward(i int, s *activations, lengths []int, x, grad *kernels.Tensor) {
	c, d := &n.cfg, n.dev

	// Feed-forward: out = middle + [norm] feedForward(norm(middle)).
	in := n.normed(i, model.FFNNorm, s.middle)
	din := d.NewTensor(x.Rows, c.Hidden)
	n.addToBackward(i, model.PostFFNNorm, s.ffnOut, grad, func(dy *kernels.Tensor) {
		n.feedForwardBackward(i, s, in, dy, din)
	})
	n.normBackward(i, model.FFNNorm, grad, s.middle, din)

	// Attention: middle = x + [norm] o(attention(q, k, v)).
	dmixed := d.NewTensor(s.mixed.Rows, s.mixed.Cols)
	n.addToBackward(i, model.PostAttnNorm, s.attnOut, grad, func(dy *kernels.Tensor) {
		n.linearOf(model.ID{Role: model.O, Block: i}, s.mixed, dy, dmixed)
	})
	dq, dk, dv := d.NewResult(s.q.Rows, s.q.Cols), d.NewResult(s.k.Rows, s.k.Cols), d.NewResult(s.v.Rows, s.v.Cols)
	d.AttentionGrad(dq, dk, dv, s.q, s.k, s.v, dmixed, lengths, n.attention(i))
	d.Free(dmixed)
	n.rotate(dq, lengths, n.back[i])
	n.rotate(dk, lengths, n.back[i])
	if c.Family.QKNorm {
		n.normBackward(i, model.QNorm, dq, s.rawQ, dq)
		n.normBackward(i, model.KNorm, dk, s.rawK, dk)
	}
	n.normTo(in, i, model.AttnNorm, x)
	clear(din.Data)
	n.linearOf(model.ID{Role: model.Q, Block: i}, in, dq, din)
	n.linearOf(model.ID{Role: model.K, Block: i}, in, dk, din)
	n.linearOf(model.ID{Role: model.V, Block: i}, in, dv, din)
	n.normBackward(i, model.AttnNorm, grad, x, din)
	for _, t := range []*kernels.Tensor{in, din, dq, dk, dv} {
		d.Free(t)
	}
}

// addToBackward is the backward pass of addTo but for what goes on in the stream:
// it calls through with the gradient with respect to y, given grad, which stays
// as it is.
func (n *Network) addToBackward(i int, post model.Role, raw, grad *kernels.Tensor, through func(dy *kernels.Tensor)) {
	if !n.cfg.Family.PostNorms {
		through(grad)
		return
	}
	dy := n.dev.NewTensor(grad.Rows, grad.Cols)
	n.normBackward(i, post, dy, raw, grad)
	through(dy)
	n.dev.Free(dy)
}

// normBackward adds the gradient with respect to a norm's input x to dx, or sets
// dx to it where that is dy.
func (n *Network) normBackward(i int, r model.Role, dx, x, dy *kernels.Tensor) {
	p := n.block(i, r)
	n.dev.RMSNormGrad(dx, p.Grad, x, p.vector(), dy, float32(n.cfg.NormEps))
}

// linearOf is linearBackward for a linear of a block.
func (n *Network) linearOf(id model.ID, x, dy, dx *kernels.Tensor) {
	n.linearBackward(n.byID[id], n.bias(id), x, dy, dx)
}

// linearBackward adds the gradients of y = x wᵀ + bias: with respect to x to dx,
// to w, or what is trained in its place, and the bias to theirs.
func (n *Network) linearBackward(w, bias *Param, x, dy, dx *kernels.Tensor) {
	block := func(t *kernels.Tensor) kernels.Block { return kernels.NewBlock(t.Data, t.Rows, t.Cols) }
	switch {
	case w.Low != nil:
		w.Low.AddGrad(n.dev, x, dy)
	case !w.Frozen:
		n.dev.Update(kernels.Update{Dst: kernels.NewBlock(w.Grad, w.Rows, w.Cols), Alpha: 1, A: block(dy), TransA: true, B: block(x)})
	}
	n.dev.Update(kernels.Update{Dst: block(dx), Alpha: 1, A: block(dy), B: w.matrix()})
	if bias != nil {
		n.dev.AddRowSums(bias.Grad, dy)
	}
}
