package model

import "llmc/kernels"

// Half is half of a dense block, step by step, for those who put other linears
// in their places between the steps: attention, with q, k and v first and o
// last, or the gated feed-forward layer, with gate and up first and down last.
// Input, Inner and Add after one another are what [Model.Attention] or
// [Model.FeedForward] does.
type Half struct {
	First, Last []Role // the linears of Inner and of Add

	model *Model
	block int
	ffn   bool
}

// Halves returns the halves of block i of a model without experts, which must
// be loaded.
func (m *Model) Halves(i int) [2]Half {
	m.mustBeLoaded(i)
	return [2]Half{{attnIn, attnOut, m, i, false}, {ffnIn, ffnOut, m, i, true}}
}

// Input returns what the first linears multiply, [rows, hidden], for the
// residual stream x [rows, hidden]. The caller frees it.
func (h Half) Input(x *kernels.Tensor) *kernels.Tensor {
	if h.ffn {
		return h.model.feedForwardInput(h.block, x)
	}
	return h.model.attentionInput(h.block, x)
}

// Inner returns what the last linear multiplies, [rows, in], after the
// positions that s holds. The caller frees it.
func (h Half) Inner(in *kernels.Tensor, s *State) *kernels.Tensor {
	if h.ffn {
		return h.model.inner(h.block, NoExpert, in)
	}
	return h.model.mix(h.block, in, s.caches[h.block])
}

// Add adds to x [rows, hidden] what the last linear makes of inner.
func (h Half) Add(x, inner *kernels.Tensor) {
	if h.ffn {
		h.model.addTo(h.block, x, h.model.linear(h.block, ID{Role: Down}, inner), PostFFNNorm)
		return
	}
	h.model.addAttention(h.block, x, inner)
}
