package quantize

import (
	"context"
	"fmt"
	"slices"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/internal/parallel"
	"llmc/kernels"
	"llmc/kernels/blocks"
)

// RTN rounds every weight to the nearest number of its group's grid, or of its
// block's as ggml's reference quantizer chooses it. It needs no calibration;
// when there is one, errors are weighed by the mean square of their input.
type RTN struct {
	Clip    Clip // how the range of a group of integer codes is chosen
	Threads int  // 0 means one per core
}

// Name returns "rtn".
func (RTN) Name() string { return "rtn" }

// Needs returns NeedsNothing.
func (RTN) Needs() Needs { return NeedsNothing }

// Quantize rounds l.Weight; see [Method].
func (m RTN) Quantize(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	rows, cols := l.Weight.Shape()
	if s.GroupSize > 0 && s.GroupSize > cols && s.IsInteger() {
		s.GroupSize = cols
	}
	var importance []float32
	if l.Inputs != nil {
		importance = l.Inputs.MeanSquare
	}
	if importance != nil && len(importance) != cols {
		return nil, fault.Invalid("%s has %d columns, its calibration saw %d", l.Name, cols, len(importance))
	}
	if !slices.ContainsFunc(importance, func(v float32) bool { return v != 0 }) {
		importance = nil // nothing says that one column matters more than another
	}
	var result kernels.Matrix
	var err error
	switch {
	case !s.IsInteger():
		result, err = m.convert(ctx, l.Weight, rows, cols, s.Type, importance)
	case s.GroupSize == PerTensor:
		result, err = m.roundTensor(ctx, l.Weight, rows, cols, s, importance)
	default:
		result, err = m.roundGroups(ctx, l.Weight, rows, cols, s, importance)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	return s.finish(result), nil
}

// roundGroups gives every group of columns of every row a grid of its own.
func (m RTN) roundGroups(ctx context.Context, w kernels.Matrix, rows, cols int, s Scheme, importance []float32) (*kernels.Groups, error) {
	out := newGroups(rows, cols, s)
	groups := s.groups(cols)
	err := eachRow(ctx, m.Threads, rows, cols, func(r int, x []float32, codes []uint8) error {
		w.Row(x, r)
		for g := range groups {
			lo, hi := g*out.GroupSize, min((g+1)*out.GroupSize, cols)
			var weights []float32
			if importance != nil {
				weights = importance[lo:hi]
			}
			grid, err := FitGrid(s, m.Clip, x[lo:hi], weights)
			if err != nil {
				return fault.Invalid("row %d %w", r, err)
			}
			out.Scales[r*groups+g] = grid.Scale
			if out.Zeros != nil {
				out.Zeros[r*groups+g] = grid.Zero
			}
			for i, v := range x[lo:hi] {
				codes[lo+i] = grid.Code(v)
			}
		}
		out.SetRow(r, codes)
		return nil
	})
	return out, err
}

// roundTensor gives the whole tensor one grid, repeated for every row.
func (m RTN) roundTensor(ctx context.Context, w kernels.Matrix, rows, cols int, s Scheme, importance []float32) (*kernels.Groups, error) {
	all := make([]float32, rows*cols)
	err := eachRow(ctx, m.Threads, rows, cols, func(r int, _ []float32, _ []uint8) error {
		w.Row(all[r*cols:][:cols], r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var weights []float32
	if importance != nil && m.Clip != ClipNone {
		weights = make([]float32, 0, rows*cols)
		for range rows {
			weights = append(weights, importance...)
		}
	}
	grid, err := FitGrid(s, m.Clip, all, weights)
	if err != nil {
		return nil, fault.Invalid("%w", err)
	}
	out := newGroups(rows, cols, s)
	for r := range rows {
		out.Scales[r] = grid.Scale
		if out.Zeros != nil {
			out.Zeros[r] = grid.Zero
		}
	}
	err = eachRow(ctx, m.Threads, rows, cols, func(r int, _ []float32, codes []uint8) error {
		for i, v := range all[r*cols:][:cols] {
			codes[i] = grid.Code(v)
		}
		out.SetRow(r, codes)
		return nil
	})
	return out, err
}

// convert writes the rows as a scalar or block type. A matrix that is already
// stored so is returned as it is.
func (m RTN) convert(ctx context.Context, w kernels.Matrix, rows, cols int, t dtype.Type, importance []float32) (*kernels.Dense, error) {
	if d, ok := w.(*kernels.Dense); ok && d.Type == t {
		return d, nil
	}
	if t.IsBlock() && !blocks.CanQuantize(t) {
		return nil, fault.Usage("type %s can be read but not written", t)
	}
	rowBytes, ok := t.RowBytes(cols)
	if !ok {
		return nil, fault.Usage("rows of %d are not divisible into blocks of %d, which %s needs", cols, t.BlockSize(), t)
	}
	data := make([]byte, rows*rowBytes)
	err := eachRow(ctx, m.Threads, rows, cols, func(r int, x []float32, _ []uint8) error {
		w.Row(x, r)
		dst := data[r*rowBytes:][:rowBytes]
		if !t.IsBlock() {
			if !kernels.Finite(x) {
				return fault.Invalid("row %d %w", r, errNotFinite)
			}
			return kernels.Encode(dst, x, t)
		}
		err := blocks.Quantize(t, dst, x, cols, importance)
		if err != nil && !kernels.Finite(x) {
			return fault.Invalid("row %d %w", r, errNotFinite)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return kernels.NewDense(rows, cols, t, data)
}

// newGroups allocates the codes, scales and zero points of a scheme.
func newGroups(rows, cols int, s Scheme) *kernels.Groups {
	g := &kernels.Groups{Rows: rows, Cols: cols, Bits: s.Bits, GroupSize: s.GroupSize}
	if s.GroupSize <= 0 {
		g.GroupSize = cols
	}
	g.Codes = make([]byte, rows*g.CodeBytes())
	g.Scales = make([]float32, rows*s.groups(cols))
	if !s.Symmetric {
		g.Zeros = make([]uint8, rows*s.groups(cols))
	}
	return g
}

// finish turns codes of 8 bits into the floats that they are in schemes of
// those.
func (s Scheme) finish(m kernels.Matrix) kernels.Matrix {
	g, ok := m.(*kernels.Groups)
	if !ok || !s.Float {
		return m
	}
	f := &kernels.Float8{Rows: g.Rows, Cols: g.Cols, Type: dtype.F8E4M3, Codes: g.Codes, High: 1, Wide: g.GroupSize, Scales: g.Scales}
	if s.GroupSize == PerTensor {
		f.High, f.Scales = f.Rows, f.Scales[:1]
	}
	return f
}

// eachRow calls f for every row, several rows at a time, with scratch of cols
// elements that belongs to the call. Rows must not depend on each other.
func eachRow(ctx context.Context, threads, rows, cols int, f func(r int, x []float32, codes []uint8) error) error {
	return parallel.Rows(ctx, threads, rows, cols, func() func(int) error {
		x, codes := make([]float32, cols), make([]uint8, cols)
		return func(r int) error { return f(r, x, codes) }
	})
}
