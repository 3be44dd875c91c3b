// Package train is a model whose weights are float32 and have gradients.
//
// [New] reads the weights of any checkpoint. [Network.Step] takes sequences
// through the model, lets the caller turn logits into their gradient, and adds
// the gradients of all weights to [Param.Grad]; an optimizer then changes
// [Param.Value]. [Network.Store] hands the weights to whoever measures or writes
// them. [Network.Forward] only predicts.
//
// The backward pass is written out by hand, operation after operation in reverse
// order: see block.go. Results do not depend on the number of threads.
package train

import (
	"context"
	"fmt"
	"slices"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Param is one weight of a network.
type Param struct {
	ID         model.ID
	Rows, Cols int // a vector has one row
	// Value [Rows*Cols] is what an optimizer changes, Grad [Rows*Cols] the
	// gradient of the losses since ZeroGrad.
	Value, Grad []float32
	// Effective, when not nil, is what forward and backward pass multiply by in
	// place of Value: rounded or masked weights, or those with an adapter added.
	// Grad is then the gradient with respect to Effective.
	Effective []float32

	// Frozen matrices get no gradient, and Grad may be nil. Low, when not nil, is
	// what is trained in place of one.
	Frozen bool
	Low    *LowRank
}

// used are the numbers that the model multiplies by.
func (p *Param) used() []float32 {
	if p.Effective != nil {
		return p.Effective
	}
	return p.Value
}

// matrix is the weight as the second matrix of a product.
func (p *Param) matrix() kernels.Block { return kernels.NewBlock(p.used(), p.Rows, p.Cols) }

// vector is the weight of a norm, or a bias.
func (p *Param) vector() *kernels.Tensor {
	return &kernels.Tensor{Rows: p.Rows, Cols: p.Cols, Data: p.used()}
}

// Network is a model that can be trained. It is for one goroutine at a time.
type Network struct {
	cfg    model.Config
	dev    *kernels.CPU
	params []*Param
	byID   map[model.ID]*Param
	ropes  []*kernels.Rope // by block
	back   []*kernels.Rope // their reverses
	cache  kernels.Cache   // for one sequence in one block

	checkpointing bool
	hidden        func(block, seq int, hidden, grad *kernels.Tensor)
	watched       []int // blocks whose outputs hidden sees

	saved   []*activations // by block, reused
	streams []*kernels.Tensor
	scratch activations // of a block that is not kept
}

// New reads the weights of a checkpoint. In a mixture of experts the router
// learns by the experts that it chose; nothing keeps the load even but what the
// losses ask for.
func New(dev *kernels.CPU, w *model.Weights) (*Network, error) {
	n := &Network{cfg: w.Config, dev: dev, byID: map[model.ID]*Param{}, saved: make([]*activations, w.Config.Blocks)}
	for _, id := range w.Config.IDs() {
		if id.Role == model.Head && w.Config.Tied {
			continue
		}
		p, err := newParam(w, id)
		if err != nil {
			return nil, err
		}
		n.params = append(n.params, p)
		n.byID[id] = p
	}
	ropes, err := w.Ropes()
	if err != nil {
		return nil, err
	}
	n.cache = dev.NewCache(n.cfg.KVHeads, n.cfg.HeadDim, 0)
	reverse := map[*kernels.Rope]*kernels.Rope{}
	for _, r := range ropes {
		if reverse[r] == nil {
			reverse[r] = r.Reverse()
		}
		n.ropes, n.back = append(n.ropes, r), append(n.back, reverse[r])
	}
	return n, nil
}

// newParam reads one weight.
func newParam(w *model.Weights, id model.ID) (*Param, error) {
	p := &Param{ID: id}
	if id.Role.IsMatrix() && !id.Bias {
		m, err := w.Matrix(id)
		if err != nil {
			return nil, err
		}
		p.Rows, p.Cols = m.Shape()
		p.Value = slices.Clone(kernels.Float32s(m))
	} else {
		v, err := w.Vector(id)
		if err != nil {
			return nil, err
		}
		p.Rows, p.Cols, p.Value = 1, len(v), v
	}
	p.Grad = make([]float32, len(p.Value))
	return p, nil
}

// Config returns what the model is.
func (n *Network) Config() *model.Config { return &n.cfg }

// Params returns all weights, in the order of the model. A head that is the
// embedding is not there a second time.
func (n *Network) Params() []*Param { return n.params }

// ZeroGrad sets all gradients to zero.
func (n *Network) ZeroGrad() {
	for _, p := range n.params {
		clear(p.Grad)
		if p.Low != nil {
			clear(p.Low.GradA)
			clear(p.Low.GradB)
		}
	}
}

// SetCheckpointing decides whether Step keeps of every block only its input and
// computes the rest again in the backward pass: a third more work, a fraction
// of the memory (arXiv 1604.06174). The gradients are the same.
func (n *Network) SetCheckpointing(on bool) {
	n.checkpointing = on
	if on {
		clear(n.saved)
	}
}

// SetHiddenLoss makes Step call f in the backward pass with the output [rows,
// hidden] of blocks for each sequence, so that f can add to the gradient with
// respect to it. nil ends it.
func (n *Network) SetHiddenLoss(blocks []int, f func(block, seq int, hidden, grad *kernels.Tensor)) {
	n.watched, n.hidden = blocks, f
}

// Store puts copies of the weights that the model multiplies by into w, which
// must be of the same shape.
func (n *Network) Store(w *model.Weights) {
	for _, p := range n.params {
		values := slices.Clone(p.used())
		if p.ID.Role.IsMatrix() && !p.ID.Bias {
			w.Replace(p.ID, kernels.FromFloat32s(p.Rows, p.Cols, values))
		} else {
			w.ReplaceVector(p.ID, values)
		}
	}
}

// block returns a weight of a block that is no expert's.
func (n *Network) block(i int, r model.Role) *Param { return n.byID[model.ID{Role: r, Block: i}] }

// bias returns that of a linear, nil if it has none.
func (n *Network) bias(of model.ID) *Param {
	of.Bias = true
	return n.byID[of]
}

// outer returns a weight that belongs to no block.
func (n *Network) outer(r model.Role) *Param { return n.byID[model.ID{Role: r, Block: -1}] }

// head is the output projection.
func (n *Network) head() *Param {
	if n.cfg.Tied {
		return n.outer(model.Embed)
	}
	return n.outer(model.Head)
}

// batch is what one call takes through the model: the rows of all sequences, one
// after the other.
type batch struct {
	ids     []int32
	lengths []int
	starts  []int // the first row of each sequence
}

// newBatch checks the ids of sequences.
func (n *Network) newBatch(seqs [][]int32) (*batch, error) {
	b := &batch{}
	for s, ids := range seqs {
		if len(ids) == 0 {
			return nil, fmt.Errorf("sequence %d has no tokens", s)
		}
		for i, id := range ids {
			if id < 0 || int(id) >= n.cfg.Vocab {
				return nil, fault.Invalid("token %d of sequence %d has id %d, the model's vocabulary is 0 to %d", i, s, id, n.cfg.Vocab-1)
			}
		}
		b.starts = append(b.starts, len(b.ids))
		b.lengths = append(b.lengths, len(ids))
		b.ids = append(b.ids, ids...)
	}
	return b, nil
}

// rows returns some rows of t, in its memory.
func rows(t *kernels.Tensor, from, to int) *kernels.Tensor {
	return &kernels.Tensor{Rows: to - from, Cols: t.Cols, Data: t.Data[from*t.Cols : to*t.Cols : to*t.Cols]}
}

// resize gives a tensor that is used again and again a shape. What is in it is
// not defined.
func resize(t **kernels.Tensor, rows, cols int) *kernels.Tensor {
	if *t == nil || cap((*t).Data) < rows*cols {
		*t = &kernels.Tensor{Data: make([]float32, rows*cols)}
	}
	(*t).Rows, (*t).Cols, (*t).Data = rows, cols, (*t).Data[:rows*cols]
	return *t
}

// Forward takes sequences through the model, each from position 0, and calls
// each with the logits [rows, vocab] of rows first and on of sequence seq. The
// tensor is only valid during the call.
func (n *Network) Forward(ctx context.Context, seqs [][]int32, each func(seq, first int, logits *kernels.Tensor) error) error {
	b, err := n.newBatch(seqs)
	if err != nil {
		return err
	}
	x := n.embed(b)
	defer n.dev.Free(x)
	for i := range n.cfg.Blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		n.blockForward(i, &n.scratch, b.lengths, x, x)
	}
	n.dev.RMSNorm(x, x, n.outer(model.FinalNorm).vector(), float32(n.cfg.NormEps))
	return n.predict(ctx, b, x, func(seq, first, _ int, hidden, logits *kernels.Tensor) error {
		return each(seq, first, logits)
	})
}

// Step takes sequences through the model, each from position 0, and calls loss
// with the logits [rows, vocab] of rows first and on of sequence seq. loss turns
// them in place into the gradient of the loss with respect to them. Then the
// gradients with respect to all weights are added to Param.Grad.
func (n *Network) Step(ctx context.Context, seqs [][]int32, loss func(seq, first int, logits *kernels.Tensor) error) error {
	b, err := n.newBatch(seqs)
	if err != nil {
		return err
	}
	if err := n.forward(ctx, b); err != nil {
		return err
	}
	last := n.streams[n.cfg.Blocks]
	grad := n.dev.NewTensor(last.Rows, last.Cols)
	defer n.dev.Free(grad)
	if err := n.lossGrad(ctx, b, last, grad, loss); err != nil {
		return err
	}
	for i := n.cfg.Blocks - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		n.addHiddenLoss(i, b, grad)
		s := n.saved[i]
		if n.checkpointing {
			s = &n.scratch
			out := n.dev.NewTensor(grad.Rows, grad.Cols)
			n.blockForward(i, s, b.lengths, n.streams[i], out)
			n.dev.Free(out)
		}
		n.blockBackward(i, s, b.lengths, n.streams[i], grad)
	}
	if table := n.outer(model.Embed); !table.Frozen {
		n.dev.AddEmbedGrad(table.Grad, grad, b.ids, float32(n.cfg.EmbedScale))
	}
	return nil
}

// forward takes a batch through all blocks and keeps what the backward pass
// needs: the input of every block and the last one's output, and unless they are
// computed again the activations within.
func (n *Network) forward(ctx context.Context, b *batch) error {
	if len(n.streams) == 0 {
		n.streams = make([]*kernels.Tensor, n.cfg.Blocks+1)
	}
	x := n.embed(b)
	resize(&n.streams[0], x.Rows, x.Cols)
	copy(n.streams[0].Data, x.Data)
	n.dev.Free(x)
	for i := range n.cfg.Blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := &n.scratch
		if !n.checkpointing {
			if n.saved[i] == nil {
				n.saved[i] = &activations{}
			}
			s = n.saved[i]
		}
		in := n.streams[i]
		n.blockForward(i, s, b.lengths, in, resize(&n.streams[i+1], in.Rows, in.Cols))
	}
	return nil
}

// embed returns the embeddings of a batch [rows, hidden]. The caller frees them.
func (n *Network) embed(b *batch) *kernels.Tensor {
	table := n.outer(model.Embed)
	x := n.dev.NewTensor(len(b.ids), n.cfg.Hidden)
	n.dev.Embed(x, n.dev.LoadTable(kernels.FromFloat32s(table.Rows, table.Cols, table.used())), b.ids)
	if n.cfg.EmbedScale != 1 {
		n.dev.Scale(x, float32(n.cfg.EmbedScale))
	}
	return x
}

// addHiddenLoss lets the caller add to the gradient with respect to the output
// of block i.
func (n *Network) addHiddenLoss(i int, b *batch, grad *kernels.Tensor) {
	if n.hidden == nil || !slices.Contains(n.watched, i) {
		return
	}
	out := n.streams[i+1]
	for seq, from := range b.starts {
		to := from + b.lengths[seq]
		n.hidden(i, seq, rows(out, from, to), rows(grad, from, to))
	}
}

// maxLogits bounds the logits that are held at a time: 64 MiB of float32.
const maxLogits = 1 << 24

// predict calls each with the logits of some rows at a time, those from row on
// of the batch, and the hidden states [rows, hidden] that they come from.
func (n *Network) predict(ctx context.Context, b *batch, hidden *kernels.Tensor, each func(seq, first, row int, hidden, logits *kernels.Tensor) error) error {
	head := n.head()
	weight := n.dev.Load(kernels.FromFloat32s(head.Rows, head.Cols, head.used()))
	most := min(max(maxLogits/n.cfg.Vocab, 32), 512)
	for seq, start := range b.starts {
		for first := 0; first < b.lengths[seq]; first += most {
			if err := ctx.Err(); err != nil {
				return err
			}
			from, to := start+first, start+min(first+most, b.lengths[seq])
			part := rows(hidden, from, to)
			logits := n.dev.NewResult(part.Rows, n.cfg.Vocab)
			n.dev.MatMul(logits, part, weight)
			if n.cfg.LogitCap > 0 {
				n.dev.SoftCap(logits, float32(n.cfg.LogitCap))
			}
			err := each(seq, first, from, part, logits)
			n.dev.Free(logits)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// lossGrad sets grad to the gradient of the loss with respect to last, the output
// of the last block.
func (n *Network) lossGrad(ctx context.Context, b *batch, last, grad *kernels.Tensor, loss func(seq, first int, logits *kernels.Tensor) error) error {
	norm, head := n.outer(model.FinalNorm), n.head()
	normed := n.dev.NewResult(last.Rows, last.Cols)
	defer n.dev.Free(normed)
	n.dev.RMSNorm(normed, last, norm.vector(), float32(n.cfg.NormEps))
	err := n.predict(ctx, b, normed, func(seq, first, row int, hidden, logits *kernels.Tensor) error {
		var capped *kernels.Tensor
		if n.cfg.LogitCap > 0 {
			capped = n.dev.NewResult(logits.Rows, logits.Cols)
			copy(capped.Data, logits.Data)
			defer n.dev.Free(capped)
		}
		if err := loss(seq, first, logits); err != nil {
			return err
		}
		if capped != nil {
			n.dev.SoftCapGrad(logits, capped, float32(n.cfg.LogitCap))
		}
		n.linearBackward(head, nil, hidden, logits, rows(grad, row, row+hidden.Rows))
		return nil
	})
	if err != nil {
		return err
	}
	n.dev.RMSNormGrad(grad, norm.Grad, last, norm.vector(), grad, float32(n.cfg.NormEps))
	return nil
}
