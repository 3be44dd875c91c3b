package calibrate

import (
	"context"
	"fmt"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// maxProbeLogits bounds the unchanged model's logits that a probe keeps: 128 MiB.
const maxProbeLogits = 1 << 25

// ErrLogits is what is wrong with a model before anything is changed.
var ErrLogits = fault.Invalid("the model's logits are not finite")

// ProbeOptions are what a probe can be told.
type ProbeOptions struct {
	// MaxMemory, when not 0, makes the probe load blocks as they are used if the
	// weights take more than half of so many bytes.
	MaxMemory int64
	// Block and Head, when not nil, are told of work that is done: of tokens that
	// went through a block, of positions that were predicted from.
	Block, Head func(n int)
}

// Probe measures how far predictions move when one matrix of a model is another,
// by running windows with it from its block to the end, or when all of them are.
// Linears are tried in the order of their blocks.
type Probe struct {
	o       ProbeOptions
	lean    bool // blocks are loaded as they are used
	windows [][]int32
	tokens  int
	dev     kernels.Device
	weights *model.Weights
	model   *model.Model
	state   *model.State
	block   int
	hidden  []*kernels.Tensor // by window, the input of block
	every   int               // of every so many positions the prediction counts
	base    []float32         // [positions, vocab] the unchanged model's logits
	sums    []kernels.Distribution

	change Change // of the blocks' linears, nil while all are as they were
}

// Change returns what stands in the place of a matrix, nil if nothing does, and
// the matrix itself.
type Change func(id model.ID) (changed, original kernels.Matrix, err error)

// NewProbe runs the windows through the unchanged model. ErrLogits says that its
// predictions are not finite. The caller frees the probe.
func NewProbe(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, o ProbeOptions) (*Probe, error) {
	if len(windows) == 0 {
		return nil, fmt.Errorf("there are no windows to probe with")
	}
	open, lean := model.New, o.MaxMemory > 0 && w.AllBytes() > o.MaxMemory/2
	if lean {
		open = model.NewOutline
	}
	m, err := open(dev, w)
	if err != nil {
		return nil, err
	}
	p := &Probe{o: o, lean: lean, windows: windows, dev: dev, weights: w, model: m, state: m.NewState()}
	for _, ids := range windows {
		if err := m.CheckIDs(ids); err != nil {
			return nil, err
		}
		p.tokens += len(ids)
	}
	p.every = max(1, p.tokens*w.Config.Vocab/maxProbeLogits)
	p.embed(m)
	err = p.through(ctx, m, func(logits []float32) error {
		d, ok := kernels.Summarize(logits)
		if !ok {
			return ErrLogits
		}
		p.base, p.sums = append(p.base, logits...), append(p.sums, d)
		return nil
	})
	if err != nil {
		p.Free()
		return nil, err
	}
	return p, nil
}

// Positions is of how many positions the predictions count.
func (p *Probe) Positions() int { return p.tokens / p.every }

// Lean reports whether blocks are loaded as they are used.
func (p *Probe) Lean() bool { return p.lean }

// Bytes is the memory of the unchanged model's predictions.
func (p *Probe) Bytes() int64 { return 4 * int64(len(p.base)) }

// Free lets go of the windows' hidden states.
func (p *Probe) Free() {
	p.release(p.hidden)
	p.hidden = nil
}

// embed starts all windows anew.
func (p *Probe) embed(m *model.Model) {
	p.Free()
	for _, ids := range p.windows {
		p.hidden = append(p.hidden, m.Embed(ids))
	}
	p.block = 0
}

// Advance takes the windows to the input of a block.
func (p *Probe) Advance(ctx context.Context, block int) error {
	for ; p.block < block; p.block++ {
		if err := p.step(ctx, p.block, p.hidden); err != nil {
			return err
		}
	}
	return nil
}

// Linear returns the mean divergence, in nats, from the unchanged model's
// predictions with changed in the place of original, a linear of the block that
// the windows stand before.
func (p *Probe) Linear(ctx context.Context, id model.ID, changed, original kernels.Matrix) (float64, error) {
	p.change = only(id, changed, original)
	defer func() { p.change = nil }()
	return p.divergence(ctx, p.model)
}

// Ends is Linear for the embedding or the head. The windows stand before the
// first block after it.
func (p *Probe) Ends(ctx context.Context, id model.ID, changed kernels.Matrix) (float64, error) {
	return p.Whole(ctx, only(id, changed, nil))
}

// only changes one matrix.
func only(one model.ID, changed, original kernels.Matrix) Change {
	return func(id model.ID) (kernels.Matrix, kernels.Matrix, error) {
		if id != one {
			return nil, nil, nil
		}
		return changed, original, nil
	}
}

// Whole is Linear for all matrices at once, which change is asked for block after
// block. The windows stand before the first block after it.
func (p *Probe) Whole(ctx context.Context, change Change) (float64, error) {
	for _, role := range []model.Role{model.Embed, model.Head} {
		id := model.ID{Role: role, Block: -1}
		if role == model.Head && p.weights.Config.Tied {
			continue
		}
		changed, _, err := change(id)
		if err != nil {
			return 0, err
		}
		if changed != nil {
			p.weights.Replace(id, changed)
			defer p.weights.Replace(id, nil)
		}
	}
	m, err := model.NewOutline(p.dev, p.weights)
	if err != nil {
		return 0, err
	}
	p.embed(m)
	p.change = change
	defer func() { p.change = nil }()
	return p.divergence(ctx, m)
}

// step takes windows through a block, with the changed linear if it is there.
func (p *Probe) step(ctx context.Context, block int, windows []*kernels.Tensor) error {
	if p.lean {
		if err := p.model.LoadBlock(p.weights, block); err != nil {
			return err
		}
		defer p.drop(block)
	}
	if p.change != nil {
		restore, err := p.exchange(block)
		defer restore()
		if err != nil {
			return err
		}
	}
	for _, x := range windows {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.state.Truncate(0)
		p.model.Block(block, x, p.state)
	}
	if p.o.Block != nil {
		p.o.Block(p.tokens)
	}
	return nil
}

// exchange puts what is changed in the place of a block's linears. restore, never
// nil, puts them back.
func (p *Probe) exchange(block int) (restore func(), err error) {
	originals := map[model.ID]kernels.Matrix{}
	restore = func() {
		for id, m := range originals {
			p.model.SetWeight(id, m)
		}
	}
	for _, id := range p.weights.Config.IDs() {
		if id.Block != block || !id.Role.IsMatrix() || id.Bias {
			continue
		}
		changed, original, err := p.change(id)
		if err != nil {
			return restore, err
		}
		if changed != nil {
			p.model.SetWeight(id, changed)
			originals[id] = original
		}
	}
	return restore, nil
}

// drop lets go of a block's weights.
func (p *Probe) drop(block int) {
	p.model.DropBlock(block)
	for _, id := range p.weights.Config.IDs() {
		if id.Block == block {
			p.weights.Release(id)
		}
	}
}

// through runs windows from where they stand to the end, without changing hidden,
// and calls each with the logits of the positions that count. ends is the model
// that has the last norm and the head.
func (p *Probe) through(ctx context.Context, ends *model.Model, each func(logits []float32) error) error {
	var windows []*kernels.Tensor
	defer func() { p.release(windows) }()
	for _, h := range p.hidden {
		values := make([]float32, h.Rows*h.Cols)
		p.dev.Read(values, h)
		x := p.dev.NewTensor(h.Rows, h.Cols)
		p.dev.Write(x, values)
		windows = append(windows, x)
	}
	for b := p.block; b < p.model.Config().Blocks; b++ {
		if err := p.step(ctx, b, windows); err != nil {
			return err
		}
	}
	for _, x := range windows {
		values := make([]float32, x.Rows*x.Cols)
		p.dev.Read(values, x)
		if err := p.predict(values, x.Cols, ends, each); err != nil {
			return err
		}
	}
	if p.o.Head != nil {
		p.o.Head(p.Positions())
	}
	return nil
}

func (p *Probe) release(list []*kernels.Tensor) {
	for _, x := range list {
		p.dev.Free(x)
	}
}

// predict calls each with the logits of the positions that count of values
// [rows, cols], the last block's output.
func (p *Probe) predict(values []float32, cols int, ends *model.Model, each func(logits []float32) error) error {
	rows := (len(values)/cols + p.every - 1) / p.every
	for i := range rows {
		copy(values[i*cols:][:cols], values[i*p.every*cols:][:cols])
	}
	x := p.dev.NewTensor(rows, cols)
	defer p.dev.Free(x)
	p.dev.Write(x, values[:rows*cols])
	ends.Norm(x)
	out := ends.Logits(x)
	defer p.dev.Free(out)
	logits := make([]float32, out.Rows*out.Cols)
	p.dev.Read(logits, out)
	for i := range rows {
		if err := each(logits[i*out.Cols:][:out.Cols]); err != nil {
			return err
		}
	}
	return nil
}

// divergence returns the mean divergence from the unchanged model's predictions.
func (p *Probe) divergence(ctx context.Context, ends *model.Model) (float64, error) {
	sum, n, vocab := 0.0, 0, p.model.Config().Vocab
	err := p.through(ctx, ends, func(logits []float32) error {
		d, ok := kernels.Summarize(logits)
		if !ok {
			return fmt.Errorf("the changed model's logits are not finite")
		}
		sum += max(kernels.Divergence(p.base[n*vocab:][:vocab], logits, p.sums[n], d), 0)
		n++
		return nil
	})
	return sum / float64(max(n, 1)), err
}
