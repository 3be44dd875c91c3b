package quantize

import (
	"context"
	"fmt"
	"math"
	"slices"

	"llmc/calibrate"
	"llmc/internal/fault"
	"llmc/internal/parallel"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model/fold"
)

// AWQScaler scales up the input channels that matter most before it rounds, so that
// their weights lose least (arXiv 2306.00978). The scales of all linears that
// share an input are x̄^α / w̄^(1-α), of the channels' mean absolute inputs x̄ and
// mean relative weights w̄, as the authors' code has it; the α of a grid is taken
// whose rounded outputs on the calibration text are off least, none if scaling
// does not help. What the input comes from is divided by the scales, so any
// engine runs the result.
type AWQScaler struct {
	Clip    Clip   // how the range of a group is chosen after scaling
	Threads int    // 0 means one per core
	Rounder Method // what rounds the scaled weights; nil for to nearest
	// FirstToken is [calibrate.Options.FirstToken] of the Hessian that scales and
	// ranges are chosen by.
	FirstToken float64
}

// awqGrid is how many α from 0 on are tried, in steps of its inverse.
const awqGrid = 20

// Name returns "awq", or "awq+gptq" with another Rounder.
func (m AWQScaler) Name() string {
	if m.Rounder != nil {
		return "awq+" + m.Rounder.Name()
	}
	return "awq"
}

// Needs returns NeedsHessian.
func (AWQScaler) Needs() Needs { return NeedsHessian }

// Scale chooses the scales of a group; see [Scaler].
func (m AWQScaler) Scale(ctx context.Context, g *fold.Group, layers []Layer, schemes []Scheme) ([]float32, error) {
	for _, l := range layers {
		if err := checkHessian(l); err != nil {
			return nil, err
		}
	}
	scales, err := m.candidates(ctx, g, layers, schemes)
	if err != nil {
		return nil, err
	}
	outputs := solve.NewOutputs(layers[0].Inputs.Hessian, g.Inputs, m.Threads)
	defer outputs.Close()
	losses := make([]float64, len(scales))
	for i, l := range layers {
		if err := m.addLosses(ctx, g, l, schemes[i], scales, outputs, losses); err != nil {
			return nil, err
		}
	}
	best := 0
	for i, loss := range losses {
		if loss < losses[best] {
			best = i
		}
	}
	for _, l := range layers {
		l.note(func(s *Solution) {
			if best == 0 {
				s.Unscaled = "no scale lowers the output error"
				return
			}
			alpha := float64(best-1) / awqGrid
			s.Alpha = &alpha
		})
	}
	return scales[best], nil
}

// candidates returns the scales [g.Channels] to try, the first nil.
func (m AWQScaler) candidates(ctx context.Context, g *fold.Group, layers []Layer, schemes []Scheme) ([][]float32, error) {
	x, w := make([]float64, g.Channels), make([]float64, g.Channels)
	for i, v := range layers[0].Inputs.MeanAbs {
		x[g.Channel(i)] += float64(v) * float64(g.Channels) / float64(g.Inputs)
	}
	rows := 0
	for i, l := range layers {
		sums, err := relativeWeights(ctx, l, schemes[i], m.Threads)
		if err != nil {
			return nil, err
		}
		for i, v := range sums {
			w[g.Channel(i)] += v * float64(g.Channels) / float64(g.Inputs)
		}
		n, _ := l.Weight.Shape()
		rows += n
	}
	for c := range w {
		w[c] /= float64(rows)
	}
	scales := [][]float32{nil}
	for i := range awqGrid {
		scales = append(scales, awqScale(x, w, float64(i)/awqGrid))
	}
	return scales, nil
}

// relativeWeights sums for every column the magnitudes of its weights relative
// to the largest of their groups.
func relativeWeights(ctx context.Context, l Layer, s Scheme, threads int) ([]float64, error) {
	rows, cols := l.Weight.Shape()
	size := s.columns(cols)
	all := make([]float32, rows*cols)
	err := eachRow(ctx, threads, rows, cols, func(r int, _ []float32, _ []uint8) error {
		row := all[r*cols:][:cols]
		l.Weight.Row(row, r)
		for at := 0; at < cols; at += size {
			group := row[at:min(at+size, cols)]
			largest := float32(0)
			for i, v := range group {
				group[i] = max(v, -v)
				largest = max(largest, group[i])
			}
			for i := range group {
				group[i] /= largest + 1e-6
			}
		}
		return nil
	})
	sums := make([]float64, cols)
	for r := range rows {
		for c, v := range all[r*cols:][:cols] {
			sums[c] += float64(v)
		}
	}
	return sums, err
}

// awqScale is x^alpha / w^(1-alpha), with the geometric mean of the smallest and
// the largest at 1. Channels without inputs are left alone.
func awqScale(x, w []float64, alpha float64) []float32 {
	scale := make([]float64, len(x))
	least, most := math.Inf(1), 0.0
	for c := range scale {
		if x[c] == 0 {
			continue
		}
		scale[c] = max(math.Pow(x[c], alpha)/(math.Pow(w[c], 1-alpha)+1e-4), 1e-4)
		least, most = min(least, scale[c]), max(most, scale[c])
	}
	middle := math.Sqrt(least) * math.Sqrt(most)
	out := make([]float32, len(x))
	for c, s := range scale {
		if out[c] = float32(s / middle); !(out[c] > 0) || math.IsInf(float64(out[c]), 0) {
			out[c] = 1
		}
	}
	return out
}

// awqRows is how many rows of a layer are enough to compare scales, which act
// on all rows alike.
const awqRows = 1024

// addLosses adds ‖(Q(WS)S⁻¹ - W)X‖² of a layer for each of the scales, and
// notes the first, which is round-to-nearest's. Of a layer with many rows only
// some are looked at.
func (m AWQScaler) addLosses(ctx context.Context, g *fold.Group, l Layer, s Scheme, scales [][]float32, outputs *solve.Outputs, losses []float64) error {
	all, cols := l.Weight.Shape()
	rows := min(all, awqRows)
	weights, scaled := outputs.CPU.NewTensor(rows, cols), outputs.CPU.NewTensor(rows, cols)
	defer outputs.CPU.Free(weights)
	defer outputs.CPU.Free(scaled)
	for r := range rows {
		l.Weight.Row(weights.Data[r*cols:][:cols], r*all/rows)
	}
	whole := outputs.Energy(weights)
	for i, scale := range scales {
		columns := slices.Repeat([]float32{1}, cols)
		if scale != nil {
			columns = g.Spread(scale)
		}
		if err := m.roundScaled(ctx, l, s, weights.Data, scaled.Data, columns); err != nil {
			return err
		}
		loss := outputs.Energy(scaled) * float64(all) / float64(rows)
		if losses[i] += loss; i == 0 && whole > 0 {
			rtn := math.Sqrt(loss / whole * float64(rows) / float64(all))
			l.note(func(s *Solution) { s.RTNOutputError = &rtn })
		}
	}
	return nil
}

// roundScaled sets out to the errors that weights have when they are rounded
// with their columns scaled.
func (m AWQScaler) roundScaled(ctx context.Context, l Layer, s Scheme, weights, out, columns []float32) error {
	cols := len(columns)
	rows := len(weights) / cols
	each := func(visit func(row, weights []float32, r int)) error {
		return parallel.Rows(ctx, m.Threads, rows, cols, func() func(int) error {
			return func(r int) error {
				visit(out[r*cols:][:cols], weights[r*cols:][:cols], r)
				return nil
			}
		})
	}
	err := each(func(row, weights []float32, _ int) {
		for c, scale := range columns {
			row[c] = weights[c] * scale
		}
	})
	if err != nil {
		return err
	}
	trial := Layer{Name: l.Name, Weight: kernels.FromFloat32s(rows, cols, out)}
	if !s.IsInteger() {
		trial.Inputs = &Inputs{MeanSquare: make([]float32, cols)}
		for c, scale := range columns {
			trial.Inputs.MeanSquare[c] = l.Inputs.MeanSquare[c] / scale / scale
		}
	}
	q, err := RTN{Threads: m.Threads}.Quantize(ctx, trial, s)
	if err != nil {
		return err
	}
	return each(func(row, weights []float32, r int) {
		q.Row(row, r)
		for c, scale := range columns {
			row[c] = row[c]/scale - weights[c]
		}
	})
}

// Cost adds up a layer [rows, cols]: the products that compare the scales, on
// some of its rows, and those that compare ranges; its weights, their errors and
// what becomes of them.
func (m AWQScaler) Cost(rows, cols int) calibrate.Cost {
	r, n := int64(rows), int64(cols)
	tried := float64(min(rows, awqRows)) * float64(n) * (awqGrid + 1)
	cost := calibrate.Cost{Bytes: 14 * r * n, Flops: tried*(2*float64(n)+64) + float64(r*n)*(4*float64(n)+outputClipTrials*300)}
	if rounder, ok := m.Rounder.(Coster); ok {
		then := rounder.Cost(rows, cols)
		cost.Bytes = max(cost.Bytes, then.Bytes)
		cost.Flops += then.Flops
	}
	return cost
}

// Walking sets what q, k and v's Hessian weighs the first token by, see [Walker],
// and what the Rounder asks for, but that scales move from a linear to the one
// before it, which must not be rounded yet.
func (m AWQScaler) Walking(o *calibrate.Options) {
	if rounder, ok := m.Rounder.(Walker); ok {
		rounder.Walking(o)
	}
	o.FirstToken = m.FirstToken
	o.Sequential = false
}

// Quantize rounds l.Weight, scaled already; see [Method].
func (m AWQScaler) Quantize(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if m.Rounder != nil {
		return m.Rounder.Quantize(ctx, l, s)
	}
	rtn := RTN{Clip: m.Clip, Threads: m.Threads}
	if l.Inputs == nil {
		l.note(func(s *Solution) { s.Fallback = "not calibrated" })
		return rtn.Quantize(ctx, l, s)
	}
	if err := checkHessian(l); err != nil {
		return nil, err
	}
	var q kernels.Matrix
	var err error
	if m.Clip == ClipOutput && s.IsInteger() && !s.Float && s.GroupSize != PerTensor {
		if q, err = clipOutput(ctx, l, s, m.Threads); err != nil {
			err = fmt.Errorf("%s: %w", l.Name, err)
		}
	} else {
		q, err = rtn.Quantize(ctx, l, s)
	}
	if err != nil {
		return nil, err
	}
	return q, l.compare(ctx, q, RTN{Threads: m.Threads}, s)
}

// checkHessian refuses a layer that was calibrated with other inputs.
func checkHessian(l Layer) error {
	if _, cols := l.Weight.Shape(); l.Inputs == nil || len(l.Inputs.Hessian) != cols*cols {
		return fault.Invalid("%s has %d columns, for which there is no Hessian", l.Name, cols)
	}
	return nil
}
