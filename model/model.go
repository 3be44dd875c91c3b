// Package model is a transformer: what it is made of, where its weights are in
// a checkpoint, and its forward pass.
//
// [ReadConfig] says what a checkpoint is, [Open] finds its weights, [New] puts
// them on a device. Then [Model.Forward] runs token ids through it and
// [Model.Logits] turns what comes out into predictions; [Generate] does both
// in a loop. [Model.Embed], [Model.Block] and [Model.Norm] are the steps of
// Forward for those who work block by block.
package model

import (
	"context"
	"fmt"

	"llmc/formats"
	"llmc/internal/fault"
	"llmc/kernels"
)

// Model is a transformer on a device. It is for one goroutine at a time.
type Model struct {
	cfg  Config
	dev  kernels.Device
	hook Hook
	all  func(Expert) bool // see ShowAll

	embed, head kernels.Weight
	headInputs  kernels.Rounding
	norm        *kernels.Tensor
	blocks      []block
	ropes       []*kernels.Rope // by block; blocks that rotate alike share one
	batch       int
}

// block holds one layer's weights; absent ones are nil.
type block struct {
	weights map[ID]kernels.Weight   // their Block is 0
	inputs  map[ID]kernels.Rounding // of those linears that round what they multiply
	vectors map[ID]*kernels.Tensor
}

// Hook sees the input [rows, in] of linears of a block before they use it. The
// tensor is only valid during the call.
type Hook func(block int, to Input, x *kernels.Tensor)

// Input says which linears of a block share an input.
type Input struct {
	Expert Expert // whose linears they are, and whose tokens
	Roles  []Role // q, k and v; o; gate and up; down; in mixtures the router
}

// The linears of a block, by the input they share.
var (
	attnIn   = []Role{Q, K, V}
	attnOut  = []Role{O}
	ffnIn    = []Role{Gate, Up}
	ffnOut   = []Role{Down}
	routerIn = []Role{Router}
	sharedIn = []Role{Router, SharedGate, Gate, Up} // with an expert for every token
)

// Inputs lists the linears of a block by the input they share, each after those
// that its input depends on. The router of a mixture stands after the linears of
// the experts that have the same rows, so that who goes from the last to the
// first knows all of them before some.
func (c *Config) Inputs() []Input {
	list := []Input{{Roles: attnIn}, {Roles: attnOut}}
	if c.Experts.Count == 0 {
		return append(list, Input{Roles: ffnIn}, Input{Roles: ffnOut})
	}
	for e := range c.Experts.Count {
		list = append(list, Input{ExpertAt(e), ffnIn})
	}
	list = append(list, Input{Roles: c.routed()})
	if c.Experts.Shared > 0 {
		list = append(list, Input{Roles: ffnOut})
	}
	for e := range c.Experts.Count {
		list = append(list, Input{ExpertAt(e), ffnOut})
	}
	return list
}

// routed lists the linears that all rows of a mixture's input go to.
func (c *Config) routed() []Role {
	if c.Experts.Shared > 0 {
		return sharedIn
	}
	return routerIn
}

// New loads the weights onto a device.
func New(dev kernels.Device, w *Weights) (*Model, error) {
	m, err := NewOutline(dev, w)
	if err != nil {
		return nil, err
	}
	for i := range m.blocks {
		if err := m.LoadBlock(w, i); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// NewOutline loads all but the blocks, for those who load them one at a time
// with LoadBlock and let go of them with DropBlock, so that a model of any
// size can be walked through.
func NewOutline(dev kernels.Device, w *Weights) (*Model, error) {
	m := &Model{cfg: w.Config, dev: dev, blocks: make([]block, w.Config.Blocks)}
	embed, err := w.Matrix(ID{Role: Embed, Block: -1})
	if err != nil {
		return nil, err
	}
	m.embed = dev.LoadTable(embed)
	if m.cfg.Tied {
		m.head = m.load(w, ID{Role: Embed, Block: -1}, embed)
	} else {
		id := ID{Role: Head, Block: -1}
		head, err := w.Matrix(id)
		if err != nil {
			return nil, err
		}
		m.head = m.load(w, id, head)
		if m.headInputs, err = w.Inputs(id); err != nil {
			return nil, err
		}
	}
	if m.norm, err = m.vector(w, ID{Role: FinalNorm, Block: -1}); err != nil {
		return nil, err
	}
	if m.ropes, err = w.Ropes(); err != nil {
		return nil, err
	}
	m.batch = min(max(maxLogits/m.cfg.Vocab, 32), 512)
	return m, nil
}

// maxLogits bounds the logits of one batch: 128 MiB of float32.
const maxLogits = 1 << 25

// Ropes returns each block's rotation; blocks that rotate alike share one.
func (w *Weights) Ropes() ([]*kernels.Rope, error) {
	var factors []float32
	if id := (ID{Role: RopeFreqs, Block: -1}); len(w.stored[id]) > 0 {
		var err error
		if factors, err = w.Vector(id); err != nil {
			return nil, err
		}
		for i, f := range factors {
			if !(f > 0) {
				return nil, fault.Invalid("the tensor %s holds %v at %d, allowed is more than 0", w.Config.Family.TensorName(w.Kind, id), f, i)
			}
		}
	}
	shared := map[Rope]*kernels.Rope{}
	var ropes []*kernels.Rope
	for i := range w.Config.Blocks {
		r := w.Config.RopeOf(i)
		if shared[r] == nil {
			shared[r] = r.kernel(w.Interleaved(), factors)
		}
		ropes = append(ropes, shared[r])
	}
	return ropes, nil
}

// Interleaved reports whether the rows of q and k stand in the order that
// rotates neighbours, as GGUF files of the llama family have it.
func (w *Weights) Interleaved() bool {
	return w.Kind == formats.GGUF && w.Config.Family.PermutedQK
}

// LoadBlock loads a block's weights onto the device, in place of those it had.
func (m *Model) LoadBlock(w *Weights, i int) error {
	b := block{weights: map[ID]kernels.Weight{}, inputs: map[ID]kernels.Rounding{}, vectors: map[ID]*kernels.Tensor{}}
	var linears []ID
	for _, id := range m.cfg.IDs() {
		if id.Block != i {
			continue
		}
		if id.Role.IsMatrix() && !id.Bias {
			linears = append(linears, id)
			var err error
			if b.inputs[inBlock(id)], err = w.Inputs(id); err != nil {
				return err
			}
			continue
		}
		v, err := m.vector(w, id)
		if err != nil {
			return err
		}
		b.vectors[inBlock(id)] = v
	}
	matrices, err := w.matrices(linears)
	if err != nil {
		return err
	}
	for j, id := range linears {
		b.weights[inBlock(id)] = m.load(w, id, matrices[j])
		matrices[j] = nil
	}
	m.DropBlock(i)
	m.blocks[i] = b
	return nil
}

// LoadLinear loads a linear of a block that is loaded again, after its weight or
// the rounding of its inputs was replaced.
func (m *Model) LoadLinear(w *Weights, id ID) error {
	m.mustBeLoaded(id.Block)
	mat, err := w.Matrix(id)
	if err != nil {
		return err
	}
	b := &m.blocks[id.Block]
	b.weights[inBlock(id)] = m.load(w, id, mat)
	b.inputs[inBlock(id)], err = w.Inputs(id)
	return err
}

// inBlock is how a loaded block knows one of its tensors.
func inBlock(id ID) ID {
	id.Block = 0
	return id
}

// load loads a matrix, and lets go of the file's memory where there is a copy.
func (m *Model) load(w *Weights, id ID, mat kernels.Matrix) kernels.Weight {
	weight := m.dev.Load(mat)
	if weight.Copied() || w.packed(id) {
		w.Release(id)
	}
	return weight
}

// DropBlock lets go of a block's weights.
func (m *Model) DropBlock(i int) {
	for _, v := range m.blocks[i].vectors {
		m.dev.Free(v)
	}
	m.blocks[i] = block{}
}

// SetWeight puts another weight in the place of a block's linear, whose
// activations stay as rounded as they were.
func (m *Model) SetWeight(id ID, mat kernels.Matrix) {
	m.blocks[id.Block].weights[inBlock(id)] = m.dev.Load(mat)
}

func (m *Model) vector(w *Weights, id ID) (*kernels.Tensor, error) {
	v, err := w.Vector(id)
	if err != nil {
		return nil, err
	}
	t := m.dev.NewTensor(1, len(v))
	m.dev.Write(t, v)
	return t, nil
}

// Config returns what the model is.
func (m *Model) Config() *Config { return &m.cfg }

// Device returns what the model runs on.
func (m *Model) Device() kernels.Device { return m.dev }

// SetHook makes Block call h with the inputs of its linears; nil ends it.
func (m *Model) SetHook(h Hook) { m.hook = h }

// ShowAll makes hooks see, of the experts for which chosen is true, what they
// would be given if all rows went through them, in place of the rows that the
// router sends. What comes out of blocks stays the same. nil ends it.
func (m *Model) ShowAll(chosen func(e Expert) bool) { m.all = chosen }

// BatchRows is how many positions Forward runs at a time: enough to keep the
// matrix kernels busy, few enough to bound the memory of their logits.
func (m *Model) BatchRows() int { return m.batch }

// SetBatchRows changes BatchRows.
func (m *Model) SetBatchRows(n int) { m.batch = max(n, 1) }

// State is one sequence on its way through the model: the keys and values of
// the positions it has seen.
type State struct {
	caches []kernels.Cache
}

// NewState returns the state of an empty sequence.
func (m *Model) NewState() *State { return m.NewStateOf(0) }

// NewStateOf is NewState with keys and values rounded to bits.
func (m *Model) NewStateOf(bits kernels.CacheBits) *State {
	s := &State{}
	for range m.blocks {
		s.caches = append(s.caches, m.dev.NewCache(m.cfg.KVHeads, m.cfg.HeadDim, bits))
	}
	return s
}

// Len is the number of positions seen.
func (s *State) Len() int {
	if len(s.caches) == 0 {
		return 0
	}
	return s.caches[0].Len()
}

// Truncate forgets all positions from n on.
func (s *State) Truncate(n int) {
	for _, c := range s.caches {
		c.Truncate(n)
	}
}

// CheckIDs returns an error when a token id is outside the vocabulary.
func (m *Model) CheckIDs(ids []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= m.cfg.Vocab {
			return fault.Invalid("token %d has id %d, the model's vocabulary is 0 to %d", i, id, m.cfg.Vocab-1)
		}
	}
	return nil
}

// Forward runs ids through the model after the positions that s holds, at most
// BatchRows at a time, and calls each with the normalized hidden states
// [rows, hidden] of one batch after the other; first is the index in ids of
// its first row. The tensor is only valid during the call.
func (m *Model) Forward(ctx context.Context, s *State, ids []int32, each func(first int, hidden *kernels.Tensor) error) error {
	if err := m.CheckIDs(ids); err != nil {
		return err
	}
	for first := 0; first < len(ids); first += m.batch {
		x := m.Embed(ids[first:min(first+m.batch, len(ids))])
		err := m.through(ctx, s, x)
		if err == nil {
			m.Norm(x)
			err = each(first, x)
		}
		m.dev.Free(x)
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) through(ctx context.Context, s *State, x *kernels.Tensor) error {
	for i := range m.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.Block(i, x, s)
	}
	return nil
}

// Embed returns the embeddings [len(ids), hidden] that the first block takes.
// Ids must be within the vocabulary; the caller frees the tensor.
func (m *Model) Embed(ids []int32) *kernels.Tensor {
	x := m.dev.NewResult(len(ids), m.cfg.Hidden)
	m.dev.Embed(x, m.embed, ids)
	if m.cfg.EmbedScale != 1 {
		m.dev.Scale(x, float32(m.cfg.EmbedScale))
	}
	return x
}

// Norm applies the final norm to x [rows, hidden], in place.
func (m *Model) Norm(x *kernels.Tensor) {
	m.dev.RMSNorm(x, x, m.norm, float32(m.cfg.NormEps))
}

// Logits returns the predictions [rows, vocab] of normalized hidden states
// [rows, hidden]. The caller frees the tensor.
func (m *Model) Logits(hidden *kernels.Tensor) *kernels.Tensor {
	out := m.dev.NewResult(hidden.Rows, m.cfg.Vocab)
	m.multiply(out, hidden, m.head, m.headInputs)
	if m.cfg.LogitCap > 0 {
		m.dev.SoftCap(out, float32(m.cfg.LogitCap))
	}
	return out
}

// Block runs block i over x [rows, hidden], in place, after the positions that
// s holds for that block: Attention, then FeedForward.
func (m *Model) Block(i int, x *kernels.Tensor, s *State) {
	m.Attention(i, x, s)
	m.FeedForward(i, x)
}

// Attention runs the first half of block i over x [rows, hidden], in place.
func (m *Model) Attention(i int, x *kernels.Tensor, s *State) {
	m.mustBeLoaded(i)
	m.attention(i, x, s.caches[i])
}

// FeedForward runs the second half of block i over x [rows, hidden], in place.
func (m *Model) FeedForward(i int, x *kernels.Tensor) {
	m.mustBeLoaded(i)
	m.feedForward(i, x)
}

// Linear returns the output of a linear of a block that is loaded, bias added,
// for in [rows, in]. The caller frees it.
func (m *Model) Linear(id ID, in *kernels.Tensor) *kernels.Tensor {
	m.mustBeLoaded(id.Block)
	return m.linear(id.Block, inBlock(id), in)
}

func (m *Model) mustBeLoaded(i int) {
	if m.blocks[i].weights == nil {
		panic(fmt.Sprintf("model: block %d is not loaded", i))
	}
}

// attention adds the block's self-attention to x.
func (m *Model) attention(i int, x *kernels.Tensor, cache kernels.Cache) {
	in := m.attentionInput(i, x)
	m.see(i, NoExpert, attnIn, in)
	mixed := m.mix(i, in, cache)
	m.dev.Free(in)
	m.see(i, NoExpert, attnOut, mixed)
	m.addAttention(i, x, mixed)
	m.dev.Free(mixed)
}

// attentionInput returns what q, k and v multiply.
func (m *Model) attentionInput(i int, x *kernels.Tensor) *kernels.Tensor {
	in := m.dev.NewResult(x.Rows, m.cfg.Hidden)
	m.normTo(i, AttnNorm, in, x)
	return in
}

// mix returns what the heads make of in, side by side.
func (m *Model) mix(i int, in *kernels.Tensor, cache kernels.Cache) *kernels.Tensor {
	c, d := &m.cfg, m.dev
	q := m.linear(i, ID{Role: Q}, in)
	k := m.linear(i, ID{Role: K}, in)
	v := m.linear(i, ID{Role: V}, in)
	if c.Family.QKNorm {
		m.normTo(i, QNorm, q, q)
		m.normTo(i, KNorm, k, k)
	}
	start := cache.Len()
	d.Rotate(q, c.HeadDim, m.ropes[i], start)
	d.Rotate(k, c.HeadDim, m.ropes[i], start)
	mixed := d.NewResult(in.Rows, c.Heads*c.HeadDim)
	d.Attention(mixed, q, k, v, cache, kernels.AttentionSpec{
		Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim,
		Scale: float32(c.AttnScale), Window: c.WindowOf(i),
	})
	d.Free(q)
	d.Free(k)
	d.Free(v)
	return mixed
}

// addAttention adds to x what o makes of mixed.
func (m *Model) addAttention(i int, x, mixed *kernels.Tensor) {
	m.addTo(i, x, m.linear(i, ID{Role: O}, mixed), PostAttnNorm)
}

// feedForward adds the block's feed-forward layer to x, or its mixture of them.
func (m *Model) feedForward(i int, x *kernels.Tensor) {
	in := m.feedForwardInput(i, x)
	var y *kernels.Tensor
	if m.cfg.Experts.Count > 0 {
		y = m.mixture(i, in)
	} else {
		m.see(i, NoExpert, ffnIn, in)
		y = m.gated(i, NoExpert, in)
	}
	m.dev.Free(in)
	m.addTo(i, x, y, PostFFNNorm)
}

// feedForwardInput returns what gate and up multiply.
func (m *Model) feedForwardInput(i int, x *kernels.Tensor) *kernels.Tensor {
	in := m.dev.NewResult(x.Rows, m.cfg.Hidden)
	m.normTo(i, FFNNorm, in, x)
	return in
}

// gated returns what a gated feed-forward layer makes of in [rows, hidden].
func (m *Model) gated(i int, e Expert, in *kernels.Tensor) *kernels.Tensor {
	inner := m.inner(i, e, in)
	m.see(i, e, ffnOut, inner)
	out := m.linear(i, ID{Role: Down, Expert: e}, inner)
	m.dev.Free(inner)
	return out
}

// inner returns what a gated feed-forward layer's second linear multiplies.
func (m *Model) inner(i int, e Expert, in *kernels.Tensor) *kernels.Tensor {
	gate, up := m.linear(i, ID{Role: Gate, Expert: e}, in), m.linear(i, ID{Role: Up, Expert: e}, in)
	m.dev.Gate(gate, gate, up, m.cfg.Activation)
	m.dev.Free(up)
	return gate
}

// linear returns the output of one linear of block i, bias added.
func (m *Model) linear(i int, id ID, in *kernels.Tensor) *kernels.Tensor {
	w := m.blocks[i].weights[id]
	rows, _ := w.Shape()
	out := m.dev.NewResult(in.Rows, rows)
	m.multiply(out, in, w, m.blocks[i].inputs[id])
	if bias := m.blocks[i].vectors[ID{Role: id.Role, Expert: id.Expert, Bias: true}]; bias != nil {
		m.dev.Add(out, bias)
	}
	return out
}

// multiply sets dst to the product of a linear whose input is rounded.
func (m *Model) multiply(dst, in *kernels.Tensor, w kernels.Weight, r kernels.Rounding) {
	if r.Bits == 0 {
		m.dev.MatMul(dst, in, w)
		return
	}
	rounded := m.dev.NewResult(in.Rows, in.Cols)
	m.dev.Round(rounded, in, r)
	m.dev.MatMul(dst, rounded, w)
	m.dev.Free(rounded)
}

// addTo adds y to x, normalized first in families that do so, and frees y.
func (m *Model) addTo(i int, x, y *kernels.Tensor, post Role) {
	if m.cfg.Family.PostNorms {
		m.normTo(i, post, y, y)
	}
	m.dev.Add(x, y)
	m.dev.Free(y)
}

func (m *Model) normTo(i int, r Role, dst, x *kernels.Tensor) {
	m.dev.RMSNorm(dst, x, m.blocks[i].vectors[ID{Role: r}], float32(m.cfg.NormEps))
}

func (m *Model) see(i int, e Expert, roles []Role, in *kernels.Tensor) {
	if m.hook != nil {
		m.hook(i, Input{e, roles}, in)
	}
}
