package distill

import (
	"context"

	"llmc/internal/fault"
	"llmc/kernels"
)

// BlockNetwork is a network whose blocks can be run one at a time;
// [train.Network] is one.
type BlockNetwork interface {
	Network
	BlockStep(i int, x *kernels.Tensor, lengths []int, loss func(out *kernels.Tensor) error) (dx *kernels.Tensor, err error)
}

// Layerwise is the goal that every block of the student makes of what goes into
// the teacher's what comes out of it (LKD, section 4.2 of arXiv 2206.01861). No
// block waits for another, so all learn at once. Embeddings and head are left
// alone.
type Layerwise struct {
	net  BlockNetwork
	dev  *kernels.CPU
	live *Live
	ends []int // by the student's block: the teacher's that it ends with
}

// NewLayerwise returns the goal; live keeps what went into and came out of the
// blocks, by [LayerwiseKeep], and has hidden states as wide as the student's.
func NewLayerwise(dev *kernels.CPU, net BlockNetwork, live *Live, ends []int, hidden int) (*Layerwise, error) {
	if theirs := live.model.Config().Hidden; theirs != hidden {
		return nil, fault.Usage("layer by layer, teacher and student need hidden states of one width, and theirs are %d and %d", theirs, hidden)
	}
	return &Layerwise{net: net, dev: dev, live: live, ends: ends}, nil
}

// LayerwiseKeep is what a live teacher has to keep.
func LayerwiseKeep(ends []int) []int { return append([]int{-1}, ends...) }

// Variables implements [Goal].
func (l *Layerwise) Variables() []*Variable { return nil }

// Gradients implements [Goal]. The loss is the mean over the blocks of the
// relative squared difference.
func (l *Layerwise) Gradients(ctx context.Context, windows []int, seqs [][]int32, scale float64) (Value, error) {
	inputs, lengths, rows := predictors(seqs), make([]int, len(seqs)), 0
	for i, s := range inputs {
		lengths[i] = len(s)
		rows += lengths[i]
	}
	if err := l.live.Prepare(ctx, windows, inputs); err != nil {
		return Value{}, err
	}
	x, want := l.dev.NewTensor(rows, l.live.model.Config().Hidden), l.dev.NewTensor(rows, l.live.model.Config().Hidden)
	defer l.dev.Free(x)
	defer l.dev.Free(want)
	sum, from := 0.0, -1
	for i, to := range l.ends {
		l.gather(x, from)
		l.gather(want, to)
		dx, err := l.net.BlockStep(i, x, lengths, func(out *kernels.Tensor) error {
			sum += difference(out.Data, want.Data, out.Cols, scale/float64(len(l.ends)))
			return ctx.Err()
		})
		if dx != nil {
			l.dev.Free(dx)
		}
		if err != nil {
			return Value{}, err
		}
		from = to
	}
	return Value{Loss: sum / float64(len(l.ends))}, nil
}

// gather joins what came out of a block of the teacher for all sequences.
func (l *Layerwise) gather(dst *kernels.Tensor, block int) {
	at := 0
	for _, s := range l.live.seqs {
		at += copy(dst.Data[at:], s.blocks[block].Data)
	}
}
