package distill

import (
	"context"
	"sync"

	"llmc/internal/fault"
	"llmc/internal/parallel"
	"llmc/kernels"
)

// Predictions is the goal that the student's predictions cost little by a loss.
type Predictions struct {
	net     Network
	loss    Loss
	teacher Teacher
	threads int
	scratch sync.Pool // of *Scratch
}

// NewPredictions returns the goal of a loss. The teacher may be nil when the
// loss does not look at it; threads 0 means one per core.
func NewPredictions(net Network, loss Loss, teacher Teacher, threads int) (*Predictions, error) {
	if err := loss.Check(); err != nil {
		return nil, err
	}
	if loss.Teaches() && teacher == nil {
		return nil, fault.Usage("the loss %s needs a teacher", loss.Kind)
	}
	return &Predictions{net: net, loss: loss, teacher: teacher, threads: threads, scratch: sync.Pool{New: func() any { return new(Scratch) }}}, nil
}

// Variables implements [Goal].
func (p *Predictions) Variables() []*Variable { return nil }

// Gradients implements [Goal].
func (p *Predictions) Gradients(ctx context.Context, windows []int, seqs [][]int32, scale float64) (Value, error) {
	inputs := predictors(seqs)
	teaches := p.loss.Teaches()
	if teaches {
		if err := p.teacher.Prepare(ctx, windows, inputs); err != nil {
			return Value{}, err
		}
	}
	var sum Value
	err := p.net.Step(ctx, inputs, func(seq, first int, logits *kernels.Tensor) error {
		var predictions []Prediction
		if teaches {
			var err error
			if predictions, err = p.teacher.Rows(ctx, seq, first, logits.Rows); err != nil {
				return err
			}
		}
		values := make([]Value, logits.Rows)
		err := parallel.Rows(ctx, p.threads, logits.Rows, logits.Cols, func() func(int) error {
			return func(i int) error {
				s := p.scratch.Get().(*Scratch)
				defer p.scratch.Put(s)
				var said *Prediction
				if teaches {
					said = &predictions[i]
				}
				row := logits.Data[i*logits.Cols:][:logits.Cols]
				values[i] = p.loss.Row(row, said, seqs[seq][first+i+1], scale, s)
				return nil
			}
		})
		for _, v := range values {
			sum.add(v)
		}
		return err
	})
	return sum, err
}

// predictors are the tokens of sequences that are predicted from: all but the
// last.
func predictors(seqs [][]int32) [][]int32 {
	inputs := make([][]int32, len(seqs))
	for i, s := range seqs {
		inputs[i] = s[:len(s)-1]
	}
	return inputs
}
