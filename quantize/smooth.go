package quantize

import (
	"context"
	"math"

	"llmc/calibrate"
	"llmc/kernels"
	"llmc/model/fold"
)

// Smooth is SmoothQuant before another method (arXiv 2211.10438): every input
// channel j of linears that share one is divided, and their columns are
// multiplied, by
//
//	s_j = max|X_j|^Alpha / max|W_j|^(1-Alpha)
//
// (equation 4), so that channels with large activations do not take the range
// of the others when activations are rounded. max|X_j| is what calibration saw,
// max|W_j| is over all the linears.
type Smooth struct {
	Method
	Alpha float64 // how much of the range moves to the weights: 0 to 1, 0.5 in most cases
}

// smallestSmooth is the smallest scale, as llm-compressor has it.
const smallestSmooth = 1e-5

// Needs adds the largest activations to what the method needs.
func (m Smooth) Needs() Needs { return m.Method.Needs() | NeedsMeanSquare }

// Cost is the method's.
func (m Smooth) Cost(rows, cols int) calibrate.Cost {
	if c, ok := m.Method.(Coster); ok {
		return c.Cost(rows, cols)
	}
	return calibrate.Cost{}
}

// Scale returns the scales of a group's channels. Channels that calibration
// saw no activation of, or that no weight reads, keep 1.
func (m Smooth) Scale(_ context.Context, g *fold.Group, layers []Layer, _ []Scheme) ([]float32, error) {
	activations, weights := make([]float32, g.Channels), make([]float32, g.Channels)
	for i, v := range layers[0].Inputs.MaxAbs {
		c := g.Channel(i)
		activations[c] = max(activations[c], v)
	}
	for _, l := range layers {
		for i, v := range columnMaxima(l.Weight) {
			c := g.Channel(i)
			weights[c] = max(weights[c], v)
		}
	}
	scale := make([]float32, g.Channels)
	for c := range scale {
		scale[c] = 1
		if activations[c] > 0 && weights[c] > 0 {
			s := math.Pow(float64(activations[c]), m.Alpha) / math.Pow(float64(weights[c]), 1-m.Alpha)
			scale[c] = float32(max(s, smallestSmooth))
		}
	}
	return scale, nil
}

// columnMaxima returns the largest magnitude of each column.
func columnMaxima(w kernels.Matrix) []float32 {
	rows, cols := w.Shape()
	largest, row := make([]float32, cols), make([]float32, cols)
	for r := range rows {
		w.Row(row, r)
		for i, v := range row {
			largest[i] = max(largest[i], v, -v)
		}
	}
	return largest
}
