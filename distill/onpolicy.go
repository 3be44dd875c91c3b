package distill

import (
	"context"
	"math/rand/v2"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/train"
)

// OnPolicy replaces some of the sequences of a step by what the student itself
// writes after their beginning, so that it learns from the teacher where it goes
// and not only where the text does (arXiv 2306.13649, algorithm 1).
type OnPolicy struct {
	Fraction float64 // of the sequences, 0 to 1
	Seed     uint64
	Vocab    int // ids from there on end a sequence: the teacher does not know them

	Device  *kernels.CPU
	Params  []*train.Param
	Weights *model.Weights // the student's; changed to those of the network
}

// Check refuses a fraction that is none.
func (o *OnPolicy) Check() error {
	if !(o.Fraction >= 0 && o.Fraction <= 1) {
		return fault.Usage("the fraction of the student's own text is %g, allowed are 0 to 1", o.Fraction)
	}
	return nil
}

// Sample is for [Options].
func (o *OnPolicy) Sample(ctx context.Context, step int, windows []int, seqs [][]int32) error {
	rng := rand.New(rand.NewPCG(o.Seed, 0x6f6e706f6c696379+uint64(step)))
	var m *model.Model
	for i, s := range seqs {
		if rng.Float64() >= o.Fraction {
			continue
		}
		if m == nil {
			StoreWeights(o.Weights, o.Params, true)
			var err error
			if m, err = model.New(o.Device, o.Weights); err != nil {
				return err
			}
		}
		prompt := max(1, len(s)/4)
		text := append([]int32(nil), s[:prompt]...)
		sampling := model.Sampling{Temperature: 1, TopP: 1, Seed: rng.Uint64()}
		err := model.Generate(ctx, m, s[:prompt], len(s)-prompt, sampling, nil, func(id int32) bool {
			if int(id) >= o.Vocab {
				return false
			}
			text = append(text, id)
			return true
		})
		if err != nil {
			return err
		}
		if len(text) > 1 {
			windows[i], seqs[i] = -1, text
		}
	}
	return nil
}

// StoreWeights puts a network's numbers into the weights that it was made of,
// whose memory they share: those that it multiplies by if effective is set, else
// those behind them.
func StoreWeights(w *model.Weights, params []*train.Param, effective bool) {
	for _, p := range params {
		values := p.Value
		if effective && p.Effective != nil {
			values = p.Effective
		}
		if isMatrix(p.ID) {
			w.Replace(p.ID, kernels.FromFloat32s(p.Rows, p.Cols, values))
		} else {
			w.ReplaceVector(p.ID, values)
		}
	}
}
