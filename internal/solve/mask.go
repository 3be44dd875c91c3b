package solve

import "context"

// Mask says which numbers of a weight become zero while [Feedback] goes over
// it. Its methods are called like those of a [Fixer], by the Fixer that gives
// the others their numbers.
type Mask interface {
	// Block is called before the positions from to to-1 are fixed; see Fixer.
	Block(ctx context.Context, from, to int, w []float32) error
	// Group is how many positions are chosen at once; see Fixer.
	Group() int
	// Choose chooses what becomes zero at position p of the rows of x, if that is
	// not known yet. Rows are visited in parallel, each from left to right.
	Choose(p int, x Lanes)
	// Chosen reports whether it is known by now that position p of row r becomes
	// zero.
	Chosen(r, p int) bool
}

// prunedShare is the share of zeros from which a linear looks pruned. Weights
// that were rounded to 4 bits before have up to a tenth or so.
const prunedShare = 0.2

// LooksPruned reports whether so many zeros are too many to be chance: then they
// are a mask that is to stay.
func LooksPruned(zeros, weights int) bool {
	return zeros > 0 && float64(zeros) >= prunedShare*float64(weights)
}

// FixedMask is a Mask that is known from the beginning.
type FixedMask struct {
	Zero []bool // [rows, cols] by position
	Cols int
}

// Block does nothing.
func (m *FixedMask) Block(context.Context, int, int, []float32) error { return nil }

// Group is 1.
func (m *FixedMask) Group() int { return 1 }

// Choose does nothing.
func (m *FixedMask) Choose(int, Lanes) {}

// Chosen implements Mask.
func (m *FixedMask) Chosen(r, p int) bool { return m.Zero[r*m.Cols+p] }
