package quantize

import (
	"context"
	"math/bits"
	"slices"

	"llmc/dtype"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/kernels/blocks"
	"llmc/model"
)

// Zeros is which zeros of a weight stay zero where errors are spread over the
// columns behind. Rounding to nearest keeps all of them in formats that have a
// zero.
type Zeros uint8

// The zeros that stay.
const (
	ZerosOfPruned Zeros = iota // those of linears that look pruned: a fifth or more is zero
	ZerosAll
	ZerosNone
)

// String names what stays, for reports.
func (z Zeros) String() string {
	return [...]string{"of pruned linears", "all", "none"}[z]
}

// Pruner chooses zeros for weights that are about to be rounded.
type Pruner interface {
	// Name is what a command line calls it.
	Name() string
	// Mask chooses the zeros of w [rows, cols], whose columns stand in the order
	// of the factor.
	Mask(id model.ID, w []float32, rows, cols int, f *solve.Factor) (solve.Mask, error)
	// First reports whether zeros are chosen, and what stays may be changed, by
	// Drop before anything is rounded.
	First() bool
	// Drop sets zeros in w [rows, cols] before it is rounded, and where there is
	// no factor.
	Drop(ctx context.Context, id model.ID, w []float32, rows, cols int, in *Inputs) error
}

// countZeros counts the zeros of a matrix.
func countZeros(m kernels.Matrix) (n int) {
	rows, cols := m.Shape()
	row := make([]float32, cols)
	for r := range rows {
		m.Row(row, r)
		for _, v := range row {
			if v == 0 {
				n++
			}
		}
	}
	return n
}

// keepsZeros reports whether the zeros of a weight stay.
func (z Zeros) keepsZeros(w kernels.Matrix) bool {
	if z != ZerosOfPruned {
		return z == ZerosAll
	}
	rows, cols := w.Shape()
	return solve.LooksPruned(countZeros(w), rows*cols)
}

// Spreads reports whether errors are spread when weights become numbers of the
// scheme: codes in groups, and the block types whose numbers are known apart.
func (s Scheme) Spreads() bool {
	_, ok := blocks.LayoutOf(s.Type)
	return ok || s.IsInteger()
}

// CodeBits is how many bits a weight takes, without scales.
func (s Scheme) CodeBits() int {
	if s.IsInteger() {
		return s.Bits
	}
	if layout, ok := blocks.LayoutOf(s.Type); ok {
		return bits.Len(uint(len(layout.Levels) - 1))
	}
	return 8 * s.Type.BlockBytes() / s.Type.BlockSize()
}

// mask returns what becomes zero of w [rows, cols], columns in the order of the
// factor: what a Pruner chooses, or zeros that stay; nil for nothing.
func (m GPTQSolver) mask(l Layer, w []float32, rows, cols int, f *solve.Factor) (solve.Mask, error) {
	switch {
	case m.prunes(l):
		return m.Pruner.Mask(l.ID, w, rows, cols, f)
	case !m.Zeros.keepsZeros(l.Weight):
		return nil, nil
	}
	fixed := &solve.FixedMask{Zero: make([]bool, len(w)), Cols: cols}
	for i, v := range w {
		fixed.Zero[i] = v == 0
	}
	return fixed, nil
}

// HoldsZeros reports whether numbers of the scheme can be zero wherever a weight
// is: not in types with minima, nor those of nonlinear levels.
func (s Scheme) HoldsZeros() bool {
	if s.IsInteger() || !s.Type.IsBlock() {
		return true
	}
	if layout, ok := blocks.LayoutOf(s.Type); ok {
		_, ok = layout.Zero()
		return ok
	}
	return s.Type == dtype.MXFP4
}

// prunes reports whether a Pruner chooses zeros of a layer: a linear of a block.
func (m GPTQSolver) prunes(l Layer) bool { return m.Pruner != nil && l.ID.Block >= 0 }

// quantizePruned rounds a layer whose zeros are chosen first. What is fitted to
// them makes the least error that they allow, to which rounding adds its own.
func (m GPTQSolver) quantizePruned(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error) {
	pruned, err := m.prunedLayer(ctx, l)
	if err != nil {
		return nil, err
	}
	rest := m
	rest.Pruner, rest.Zeros = nil, ZerosAll
	q, err := rest.Quantize(ctx, pruned, s)
	if err != nil {
		return nil, err
	}
	l.note(func(s *Solution) { s.RTNOutputError = nil }) // of what it was pruned to
	return q, l.compare(ctx, q, RTN{Clip: m.Clip, Threads: m.Threads}, s)
}

// prunedLayer is a layer whose zeros are chosen without a factor.
func (m GPTQSolver) prunedLayer(ctx context.Context, l Layer) (Layer, error) {
	if !m.prunes(l) {
		return l, nil
	}
	rows, cols := l.Weight.Shape()
	w := slices.Clone(kernels.Float32s(l.Weight))
	err := m.Pruner.Drop(ctx, l.ID, w, rows, cols, l.Inputs)
	l.Weight = kernels.FromFloat32s(rows, cols, w)
	return l, err
}

// groupOf is the group of a mask, which may be nil.
func groupOf(mask solve.Mask) int {
	if mask == nil {
		return 1
	}
	return mask.Group()
}

// clearChosen makes zero what a mask, which may be nil, has chosen of the
// positions of row r that x holds, from is the first of them.
func clearChosen(x []float32, mask solve.Mask, r, from int) {
	if mask == nil {
		return
	}
	for i := range x {
		if mask.Chosen(r, from+i) {
			x[i] = 0
		}
	}
}
