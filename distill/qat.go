package distill

import (
	"context"

	"llmc/model"
	"llmc/model/train"
)

// Rounder says how weights are stored.
type Rounder interface {
	// Rounds reports whether a tensor is rounded at all.
	Rounds(id model.ID) bool
	// Round sets dst to the numbers that the format holds for a weight
	// [rows, cols].
	Round(ctx context.Context, id model.ID, rows, cols int, weight, dst []float32) error
}

// Quantized trains weights so that they are good once they are rounded: the
// network multiplies by rounded weights, and what would change these changes the
// weights behind them, as if rounding were not there (the straight-through
// estimator, arXiv 1308.3432, section 4). It is quantization-aware training; the
// rounded weights that are stored in the end are exactly those that were trained.
type Quantized struct {
	*Full
	params  []*train.Param
	rounder Rounder
}

// NewQuantized returns the form in which weights are rounded by r.
func NewQuantized(params []*train.Param, keepZeros bool, r Rounder) *Quantized {
	q := &Quantized{Full: NewFull(params, keepZeros), rounder: r}
	for _, p := range params {
		if isMatrix(p.ID) && r.Rounds(p.ID) {
			p.Effective = make([]float32, len(p.Value))
			q.params = append(q.params, p)
		}
	}
	return q
}

// Refresh implements Form: it rounds.
func (q *Quantized) Refresh(ctx context.Context) error {
	for _, p := range q.params {
		if err := q.rounder.Round(ctx, p.ID, p.Rows, p.Cols, p.Value, p.Effective); err != nil {
			return err
		}
	}
	return nil
}
