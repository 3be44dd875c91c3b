package distill

import (
	"context"
	"slices"

	"llmc/internal/fault"
	"llmc/internal/parallel"
	"llmc/kernels"
	"llmc/model"
	"llmc/tokenizer"
)

// Teacher predicts what follows in windows of the training text.
type Teacher interface {
	// Prepare is told what the next calls of Rows are about: sequences of tokens
	// that are predicted from, and which window of the text each is, -1 for none.
	Prepare(ctx context.Context, windows []int, seqs [][]int32) error
	// Rows returns the predictions after positions first to first+n-1 of one of
	// the sequences. They are valid until the next call of a method.
	Rows(ctx context.Context, seq, first, n int) ([]Prediction, error)
}

// Live is a teacher that is run alongside.
type Live struct {
	model       *model.Model
	dev         kernels.Device
	vocab       int // of what teacher and student share
	top         int
	temperature float64
	threads     int
	keep        []int

	seqs   []sequence
	logits *kernels.Tensor
	rows   []Prediction
}

// sequence is what a teacher makes of one: its normalized hidden states, and
// what came out of the blocks that are asked for.
type sequence struct {
	hidden []*kernels.Tensor       // by batch of rows
	blocks map[int]*kernels.Tensor // what came out of blocks that are kept; -1 is what went into the first
}

// LiveOptions say what a live teacher tells.
type LiveOptions struct {
	Vocab       int     // the student's: tokens from there on do not count
	Top         int     // tell only of this many likeliest tokens; 0 for all
	Temperature float64 // of Top
	Threads     int     // 0 means one per core
	// Keep are the blocks whose outputs are kept, -1 for the input of the first;
	// they are what hidden states are compared with.
	Keep []int
}

// NewLive returns a teacher that runs a model.
func NewLive(m *model.Model, o LiveOptions) *Live {
	return &Live{
		model: m, dev: m.Device(), vocab: min(o.Vocab, m.Config().Vocab),
		top: o.Top, temperature: o.Temperature, threads: o.Threads, keep: o.Keep,
	}
}

// Prepare runs the model over the sequences and keeps the hidden states, a
// fraction of what logits would take.
func (l *Live) Prepare(ctx context.Context, _ []int, seqs [][]int32) error {
	l.free()
	for _, ids := range seqs {
		if len(l.keep) > 0 {
			if err := l.blocks(ctx, ids); err != nil {
				return err
			}
			continue
		}
		var s sequence
		err := l.model.Forward(ctx, l.model.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
			kept := l.dev.NewTensor(hidden.Rows, hidden.Cols)
			copy(kept.Data, hidden.Data)
			s.hidden = append(s.hidden, kept)
			return nil
		})
		l.seqs = append(l.seqs, s)
		if err != nil {
			return err
		}
	}
	return nil
}

// blocks runs the model over one sequence, block by block.
func (l *Live) blocks(ctx context.Context, ids []int32) error {
	if err := l.model.CheckIDs(ids); err != nil {
		return err
	}
	x := l.model.Embed(ids)
	s := sequence{blocks: map[int]*kernels.Tensor{}}
	keep := func(block int) {
		if slices.Contains(l.keep, block) {
			kept := l.dev.NewTensor(x.Rows, x.Cols)
			copy(kept.Data, x.Data)
			s.blocks[block] = kept
		}
	}
	keep(-1)
	state := l.model.NewState()
	for i := range l.model.Config().Blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.model.Block(i, x, state)
		keep(i)
	}
	l.model.Norm(x)
	s.hidden = []*kernels.Tensor{x}
	l.seqs = append(l.seqs, s)
	return nil
}

// free lets go of what was prepared.
func (l *Live) free() {
	for _, s := range l.seqs {
		for _, t := range s.hidden {
			l.dev.Free(t)
		}
		for _, t := range s.blocks {
			l.dev.Free(t)
		}
	}
	l.seqs = l.seqs[:0]
	if l.logits != nil {
		l.dev.Free(l.logits)
		l.logits = nil
	}
}

// Rows computes the logits of some rows, or their likeliest tokens.
func (l *Live) Rows(ctx context.Context, seq, first, n int) ([]Prediction, error) {
	if l.logits != nil {
		l.dev.Free(l.logits)
	}
	hidden := l.dev.NewTensor(n, l.model.Config().Hidden)
	at := 0
	for _, part := range l.seqs[seq].hidden {
		from, to := max(first, at), min(first+n, at+part.Rows)
		if from < to {
			copy(hidden.Data[(from-first)*hidden.Cols:], part.Data[(from-at)*part.Cols:(to-at)*part.Cols])
		}
		at += part.Rows
	}
	l.logits = l.model.Logits(hidden)
	l.dev.Free(hidden)
	for len(l.rows) < n {
		l.rows = append(l.rows, Prediction{})
	}
	err := parallel.Rows(ctx, l.threads, n, l.logits.Cols, func() func(int) error {
		return func(i int) error {
			row := l.logits.Data[i*l.logits.Cols:][:l.vocab]
			if l.top == 0 {
				l.rows[i] = Prediction{Logits: row}
				return nil
			}
			if !Top(row, l.temperature, l.top, &l.rows[i]) {
				return fault.Invalid("the teacher's prediction after token %d of a window is not finite", first+i)
			}
			return nil
		}
	})
	return l.rows[:n], err
}

// Aligned returns an error unless two tokenizers mean the same by all token ids
// that both have. What only the longer one has are no tokens of the text.
func Aligned(teacher, student *tokenizer.Tokenizer) error {
	for id := range int32(min(teacher.Size(), student.Size())) {
		if a, b := teacher.Piece(id), student.Piece(id); a != b {
			return fault.Hint(fault.Invalid("teacher and student do not share a tokenizer: token %d is %q to the teacher and %q to the student", id, a, b),
				"a student learns from a teacher of its own model family")
		}
	}
	return nil
}
