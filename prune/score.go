package prune

import (
	"context"
	"math"

	"llmc/internal/parallel"
)

// Magnitude drops the smallest weights of the whole layer, or of every group
// of an N:M pattern.
type Magnitude struct{}

// Name returns "magnitude".
func (Magnitude) Name() string { return "magnitude" }

// Needs returns NeedsNothing.
func (Magnitude) Needs() Needs { return NeedsNothing }

// Prune drops weights of l; see [Method].
func (Magnitude) Prune(ctx context.Context, l Layer, p Pattern) error {
	if err := p.Fits(l.Name, l.Cols); err != nil {
		return err
	}
	if p.structured() {
		return eachRow(ctx, l, func(_ int, row, scores []float32) {
			for i, v := range row {
				scores[i] = abs(v)
			}
			dropGroups(row, scores, p)
		})
	}
	scores := make([]float32, len(l.Weight))
	for i, v := range l.Weight {
		scores[i] = abs(v)
	}
	smallest(scores, int(p.Sparsity*float64(len(scores))), func(i int) { l.Weight[i] = 0 })
	return ctx.Err()
}

// Wanda drops, in every row, the weights with the smallest product of their
// size and that of their input channel, |W| ‖X‖₂ (section 3 of arXiv 2306.11695).
type Wanda struct{}

// Name returns "wanda".
func (Wanda) Name() string { return "wanda" }

// Needs returns NeedsMeanSquare.
func (Wanda) Needs() Needs { return NeedsMeanSquare }

// Prune drops weights of l; see [Method].
func (Wanda) Prune(ctx context.Context, l Layer, p Pattern) error {
	if err := l.calibrated(); err != nil {
		return err
	}
	if err := p.Fits(l.Name, l.Cols); err != nil {
		return err
	}
	norms := inputNorms(l.Inputs)
	return eachRow(ctx, l, func(r int, row, scores []float32) {
		for i, v := range row {
			scores[i] = abs(v) * norms[i]
		}
		if p.structured() {
			dropGroups(row, scores, p)
			return
		}
		smallest(scores, p.ofRow(r, len(row)), func(i int) { row[i] = 0 })
	})
}

// ofRow is how many weights of row r go, so that what a row cannot have of a
// weight, another has.
func (p Pattern) ofRow(r, cols int) int {
	share := p.Sparsity * float64(cols)
	return int(share*float64(r+1)) - int(share*float64(r))
}

// eachRow calls f with every row and scratch of the same length.
func eachRow(ctx context.Context, l Layer, f func(r int, row, scores []float32)) error {
	return parallel.Rows(ctx, l.Threads, l.Rows, l.Cols, func() func(int) error {
		scores := make([]float32, l.Cols)
		return func(r int) error {
			f(r, l.Weight[r*l.Cols:][:l.Cols], scores)
			return nil
		}
	})
}

// dropGroups drops from every group of an N:M pattern the weights with the
// smallest scores.
func dropGroups(row, scores []float32, p Pattern) {
	var keys [maxOf]uint32
	var dropped [maxOf]bool
	for from := 0; from < len(row); from += p.Of {
		for i, v := range scores[from : from+p.Of] {
			keys[i] = ordered(v)
		}
		dropLowest(dropped[:p.Of], keys[:p.Of], p.Of-p.Keep)
		for i, drop := range dropped[:p.Of] {
			if drop {
				row[from+i] = 0
			}
		}
	}
}

// dropLowest sets in dropped which are the k lowest of a few keys, of equal ones the
// first. It counts for each how many go before it, without a branch: which they
// are is anyone's guess.
func dropLowest(dropped []bool, keys []uint32, k int) {
	for i, key := range keys {
		before := uint64(0)
		for _, other := range keys[:i] {
			before += uint64(int64(other)-int64(key)-1) >> 63 // other <= key
		}
		for _, other := range keys[i+1:] {
			before += uint64(int64(other)-int64(key)) >> 63 // other < key
		}
		dropped[i] = before < uint64(k)
	}
}

// smallest calls mark with the index of the k smallest of scores, of equal ones
// the first. No score is NaN. k is at most their number.
func smallest(scores []float32, k int, mark func(i int)) {
	if k <= 0 {
		return
	}
	limit, ties := kthSmallest(scores, k)
	for i, v := range scores {
		switch {
		case v < limit:
			mark(i)
		case v == limit && ties > 0:
			mark(i)
			ties--
		}
	}
}

// kthSmallest returns the k-th smallest of scores, k from 1 on, and how many of
// the k smallest are equal to it.
func kthSmallest(scores []float32, k int) (limit float32, ties int) {
	// Digit by digit, the first one first: numbers that begin otherwise than the
	// one looked for do not count any more.
	const digit, digits = 8, 1 << 8
	var known, prefix uint32
	for shift := 32 - digit; shift >= 0; shift -= digit {
		var counts [digits]int
		for _, v := range scores {
			if u := ordered(v); u&known == prefix {
				counts[u>>shift%digits]++
			}
		}
		d := 0
		for ; k > counts[d]; d++ {
			k -= counts[d]
		}
		prefix |= uint32(d) << shift
		known |= (digits - 1) << shift
	}
	if prefix>>31 == 1 {
		return math.Float32frombits(prefix &^ (1 << 31)), k
	}
	return math.Float32frombits(^prefix), k
}

// ordered returns bits that are ordered as the numbers are, those of -0 as 0's.
func ordered(v float32) uint32 {
	u := math.Float32bits(v + 0)
	if u>>31 == 1 {
		return ^u
	}
	return u | 1<<31
}

func abs(v float32) float32 { return float32(math.Abs(float64(v))) }
