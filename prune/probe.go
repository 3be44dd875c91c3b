package prune

import (
	"context"
	"fmt"

	"llmc/kernels"
	"llmc/model"
)

// The text that a probe predicts: so many tokens at most, and so many logits of
// the unchanged model that are kept, 128 MiB.
const (
	probeTokens    = 1024
	maxProbeLogits = 1 << 25
)

// probe measures how far predictions move when one linear is another, by running
// some windows from its block to the end.
type probe struct {
	dev    kernels.Device
	model  *model.Model
	state  *model.State
	hidden []*kernels.Tensor // by window, the input of block
	block  int
	every  int       // of so many positions one counts
	base   []float32 // [positions, vocab] logits of the unchanged model
	sums   []kernels.Distribution
}

func newProbe(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32) (*probe, error) {
	m, err := model.New(dev, w)
	if err != nil {
		return nil, err
	}
	p := &probe{dev: dev, model: m, state: m.NewState()}
	tokens := 0
	for _, ids := range windows {
		ids = ids[:min(len(ids), probeTokens-tokens)]
		if len(ids) == 0 {
			break
		}
		if err := m.CheckIDs(ids); err != nil {
			p.free()
			return nil, err
		}
		tokens += len(ids)
		p.hidden = append(p.hidden, m.Embed(ids))
	}
	p.every = max(1, (tokens*w.Config.Vocab+maxProbeLogits-1)/maxProbeLogits)
	err = p.predict(ctx, func(logits []float32, d kernels.Distribution) {
		p.base, p.sums = append(p.base, logits...), append(p.sums, d)
	})
	if err != nil {
		p.free()
		return nil, err
	}
	return p, nil
}

func (p *probe) free() {
	for _, x := range p.hidden {
		p.dev.Free(x)
	}
}

// advance takes the windows to the input of a block.
func (p *probe) advance(ctx context.Context, block int) error {
	for ; p.block < block; p.block++ {
		for _, x := range p.hidden {
			if err := p.run(ctx, x, p.block, p.block+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// run takes a window through the blocks from to to-1.
func (p *probe) run(ctx context.Context, x *kernels.Tensor, from, to int) error {
	for b := from; b < to; b++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.state.Truncate(0)
		p.model.Block(b, x, p.state)
	}
	return nil
}

// divergence returns the mean divergence from the unchanged model's predictions
// with w in the place of a linear of the block that the windows stand before.
func (p *probe) divergence(ctx context.Context, id model.ID, w, original kernels.Matrix) (float64, error) {
	p.model.SetWeight(id, w)
	defer p.model.SetWeight(id, original)
	sum, n, vocab := 0.0, 0, p.model.Config().Vocab
	err := p.predict(ctx, func(logits []float32, d kernels.Distribution) {
		sum += max(kernels.Divergence(p.base[n*vocab:][:vocab], logits, p.sums[n], d), 0)
		n++
	})
	return sum / float64(max(n, 1)), err
}

// predict calls each with the logits of the positions that count.
func (p *probe) predict(ctx context.Context, each func(logits []float32, d kernels.Distribution)) error {
	for _, from := range p.hidden {
		x := p.dev.NewTensor(from.Rows, from.Cols)
		values := make([]float32, from.Rows*from.Cols)
		p.dev.Read(values, from)
		p.dev.Write(x, values)
		err := p.run(ctx, x, p.block, p.model.Config().Blocks)
		p.dev.Read(values, x)
		p.dev.Free(x)
		if err != nil {
			return err
		}
		if err := p.logits(values, from.Cols, each); err != nil {
			return err
		}
	}
	return nil
}

// logits calls each with those of the positions that count of values
// [rows, cols], what the last block puts out.
func (p *probe) logits(values []float32, cols int, each func(logits []float32, d kernels.Distribution)) error {
	rows := (len(values)/cols + p.every - 1) / p.every
	for i := range rows {
		copy(values[i*cols:][:cols], values[i*p.every*cols:][:cols])
	}
	x := p.dev.NewTensor(rows, cols)
	defer p.dev.Free(x)
	p.dev.Write(x, values[:rows*cols])
	p.model.Norm(x)
	out := p.model.Logits(x)
	defer p.dev.Free(out)
	all := make([]float32, out.Rows*out.Cols)
	p.dev.Read(all, out)
	for i := range rows {
		row := all[i*out.Cols:][:out.Cols]
		d, ok := kernels.Summarize(row)
		if !ok {
			return fmt.Errorf("the model's logits are not finite")
		}
		each(row, d)
	}
	return nil
}
