package structured

import (
	"context"
	"math"

	"llmc/calibrate"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/train"
)

// byTaylor scores the units of any axis by the gradients of every window's mean
// cross-entropy.
func (r *Ranking) byTaylor(ctx context.Context, w *model.Weights, windows [][]int32, o RankOptions, walk calibrate.Options) error {
	c := &w.Config
	if need := 8 * c.Parameters(); walk.MaxMemory > 0 && need > walk.MaxMemory {
		return fault.Hint(fault.Usage("gradients of all weights take %d MB, more than the memory that is allowed", need/1e6),
			"rank by %s", r.Axis.Importances()[0])
	}
	dev := kernels.NewCPU(o.Threads)
	defer dev.Close()
	n, err := train.New(dev, w)
	if err != nil {
		return err
	}
	n.SetCheckpointing(true)
	r.Scores = r.Axis.zeros(c)
	for i, ids := range windows {
		if walk.Progress != nil {
			walk.Progress(int64(i), int64(len(windows)))
		}
		n.ZeroGrad()
		err := n.Step(ctx, [][]int32{ids}, func(_, first int, logits *kernels.Tensor) error {
			return crossEntropyGradient(logits, ids[first:])
		})
		if err != nil {
			return err
		}
		r.addTaylor(c, n.Params(), len(windows))
	}
	return nil
}

// crossEntropyGradient turns the logits [rows, vocab] that follow each of ids into
// the gradient of the sum of -log p of what does follow; the last of a window has
// nothing that follows.
func crossEntropyGradient(logits *kernels.Tensor, ids []int32) error {
	for r := range logits.Rows {
		z := logits.Data[r*logits.Cols:][:logits.Cols]
		if r+1 >= len(ids) {
			clear(z)
			continue
		}
		d, ok := kernels.Summarize(z)
		if !ok {
			return fault.Invalid("the logits of a calibration sample are not finite")
		}
		next := ids[r+1]
		surprise := d.LogSum - float64(z[next])
		kernels.Softmax(z, d)
		z[next] = float32(math.Expm1(-surprise)) // p-1, without cancellation when p is almost 1
	}
	return nil
}

// addTaylor adds the square of what one window says of each unit.
func (r *Ranking) addTaylor(c *model.Config, params []*train.Param, windows int) {
	sums := make([][]float64, len(r.Scores))
	for i := range sums {
		sums[i] = make([]float64, len(r.Scores[i]))
	}
	for _, p := range params {
		if list, unit := r.taylorUnits(c, p, sums); list != nil {
			for at, v := range p.Value {
				list[unit(at/p.Cols, at%p.Cols)] += float64(v) * float64(p.Grad[at])
			}
		}
	}
	for i, list := range sums {
		for u, v := range list {
			r.Scores[i][u] += v * v / float64(windows)
		}
	}
}

// taylorUnits says which list of sums a weight belongs to, and which unit each of
// its elements; nil for none.
func (r *Ranking) taylorUnits(c *model.Config, p *train.Param, sums [][]float64) ([]float64, func(row, col int) int) {
	id := p.ID
	writes := (id.Role == model.O || id.Role == model.Down) && !id.Bias
	switch {
	case r.Axis == Hidden && id.Role == model.Embed:
		return sums[0], func(_, col int) int { return col }
	case !writes:
		return nil, nil
	case r.Axis == Hidden:
		return sums[0], func(row, _ int) int { return row }
	case r.Axis == Layers:
		return sums[0], func(_, _ int) int { return id.Block }
	case id.Role == r.Axis.multiplier() && !shared(c, id):
		size := p.Cols / r.Axis.Units(c)
		return sums[r.Axis.list(c, id)], func(_, col int) int { return col / size }
	}
	return nil, nil
}
