package solve

import "context"

// Mask says which numbers of a weight become zero while [Feedback] goes over
// it. Its methods are called like those of a [Fixer], by the Fixer that gives
// the others their numbers.
type Mask interface {
	// Block is called before the positions from to to-1 are fixed; see Fixer.
	Block(ctx context.Context, from, to int, w []float32) error
	// Choose reports whether position p of row r becomes zero. row [cols] is
	// that row as it stands. Rows are visited in parallel, each from left to right.
	Choose(r, p int, row []float32) bool
	// Chosen reports whether it is known by now that it becomes zero.
	Chosen(r, p int) bool
}

// FixedMask is a Mask that is known from the beginning.
type FixedMask struct {
	Zero []bool // [rows, cols] by position
	Cols int
}

// Block does nothing.
func (m *FixedMask) Block(context.Context, int, int, []float32) error { return nil }

// Choose is Chosen.
func (m *FixedMask) Choose(r, p int, _ []float32) bool { return m.Zero[r*m.Cols+p] }

// Chosen implements Mask.
func (m *FixedMask) Chosen(r, p int) bool { return m.Zero[r*m.Cols+p] }
