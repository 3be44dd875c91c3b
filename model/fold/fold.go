// Package fold moves scales from the input channels of linears into what the
// channels come from: dividing a norm's weights, or the rows of the linear
// before, and multiplying the columns that read them leaves the model what it
// was, but its weights easier to round (AWQ, arXiv 2306.00978, section 3.2) or
// its activations (SmoothQuant, arXiv 2211.10438, section 4).
//
// [Groups] lists where that can be done in a block, [Group.Apply] does it.
package fold

import (
	"fmt"
	"math"
	"slices"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Group is linears of a block that share an input, and what makes the input.
type Group struct {
	Block   int
	Linears []model.ID // that share the input
	// From makes the channels of the input: a norm; or v, whose channels
	// attention mixes over positions but not with each other; or up, which is
	// multiplied with the activation of gate.
	From     model.ID
	Channels int // of From
	Inputs   int // of the linears: as many, or more where query heads share those of v

	headDim, queries int // with Inputs > Channels: elements of a head, query heads that share one
}

// Groups lists the groups of a block in the order of [model.Config.Inputs]. The
// experts of a mixture share the norm before them with its router, so that they
// are one group.
func Groups(c *model.Config, block int) []Group {
	var groups []Group
	for _, in := range c.Inputs() {
		id := func(r model.Role) model.ID { return model.ID{Role: r, Block: block, Expert: in.Expert} }
		g := Group{Block: block}
		for _, r := range in.Roles {
			g.Linears = append(g.Linears, id(r))
		}
		switch in.Roles[0] {
		case model.Q:
			g.From = id(model.AttnNorm)
		case model.O:
			g.From = id(model.V)
			g.headDim, g.queries = c.HeadDim, c.Heads/c.KVHeads
		case model.Gate:
			if in.Expert != model.NoExpert {
				continue // with the router
			}
			g.From = id(model.FFNNorm)
		case model.Router:
			g.From = id(model.FFNNorm)
			for e := range c.Experts.Count {
				for _, r := range []model.Role{model.Gate, model.Up} {
					g.Linears = append(g.Linears, model.ID{Role: r, Block: block, Expert: model.ExpertAt(e)})
				}
			}
		case model.Down:
			g.From = id(model.Up)
		}
		g.Inputs = c.Shape(g.Linears[0])[1]
		g.Channels = c.Shape(g.From)[0]
		groups = append(groups, g)
	}
	return groups
}

// Matrices lists the weights that Apply changes: those of the linears, and
// From where that is one.
func (g *Group) Matrices() []model.ID {
	if g.From.Role.IsMatrix() {
		return append(slices.Clone(g.Linears), g.From)
	}
	return g.Linears
}

// Channel is the channel of From that an input of the linears comes from.
func (g *Group) Channel(input int) int {
	if g.Inputs == g.Channels {
		return input
	}
	head := input / g.headDim
	return head/g.queries*g.headDim + input%g.headDim
}

// Spread returns for each input what values [Channels] has for its channel.
func (g *Group) Spread(values []float32) []float32 {
	all := make([]float32, g.Inputs)
	for i := range all {
		all[i] = values[g.Channel(i)]
	}
	return all
}

// Apply divides the channels of From by scale [Channels] and multiplies the
// columns of the linears by it. Norm weights and biases are rounded to 8
// significant bits, so that every number format of an output holds them, and
// the scales become what divides them exactly: the model stays the same but for
// the rounding of float32. Channels for which that cannot be done keep a scale
// of 1. Apply returns the scales that were applied, by input [Inputs].
//
// The matrices it leaves are views of those that were there, but for routers,
// which become F32.
func (g *Group) Apply(w *model.Weights, scale []float32) ([]float32, error) {
	if len(scale) != g.Channels {
		return nil, fmt.Errorf("%d scales for %d channels of %s", len(scale), g.Channels, g.From)
	}
	for c, s := range scale {
		if !(s > 0) || math.IsInf(float64(s), 1) {
			return nil, fault.Invalid("the scale of channel %d of %s is %v, allowed is more than 0", c, g.From, s)
		}
	}
	matrices := map[model.ID]kernels.Matrix{}
	for _, id := range g.Matrices() {
		m, err := w.Matrix(id)
		if err != nil {
			return nil, err
		}
		matrices[id] = m
	}
	scale, err := g.divideVector(w, scale)
	if err != nil {
		return nil, err
	}
	if g.From.Role.IsMatrix() {
		inverse := make([]float32, len(scale))
		for c, s := range scale {
			inverse[c] = 1 / s
		}
		w.Replace(g.From, view(matrices[g.From], inverse, nil))
	}
	columns := g.Spread(scale)
	for _, id := range g.Linears {
		scaled := view(matrices[id], nil, columns)
		if id.Role.IsRouter() { // it is not rounded any more
			rows, cols := scaled.Shape()
			scaled = kernels.FromFloat32s(rows, cols, kernels.Float32s(scaled))
		}
		w.Replace(id, scaled)
	}
	return columns, nil
}

// divideVector divides From's norm weights or bias, if it has any, and returns
// the scales that this makes of those wanted.
func (g *Group) divideVector(w *model.Weights, scale []float32) ([]float32, error) {
	id := g.From
	stored := float32(0) // what a file leaves out
	if g.From.Role.IsMatrix() {
		id.Bias = true
		if !slices.Contains(w.Config.IDs(), id) {
			return scale, nil
		}
	} else if w.Config.Family.NormPlusOne {
		stored = 1
	}
	v, err := w.Vector(id)
	if err != nil {
		return nil, err
	}
	settled := make([]float32, len(scale))
	for c, s := range scale {
		settled[c] = s
		if v[c] == 0 {
			continue
		}
		short := shorten(v[c]/s-stored) + stored
		s = v[c] / short
		if !(s > settled[c]/2 && s < settled[c]*2) { // NaN and infinities are not, either
			settled[c] = 1
			continue
		}
		v[c], settled[c] = short, s
	}
	w.ReplaceVector(id, v)
	return settled, nil
}

// The numbers that F16 holds with all bits of BF16.
const (
	smallest = 1.0 / (1 << 14)
	largest  = 1 << 15
)

// shorten rounds to the 8 significant bits of BF16; what F16 cannot hold then
// is 0 or NaN.
func shorten(x float32) float32 {
	x = dtype.BF16ToF32(dtype.F32ToBF16(x))
	switch {
	case x > -smallest && x < smallest:
		return 0
	case x < -largest || x > largest:
		return float32(math.NaN())
	}
	return x
}

// scaled is a matrix with factors for its rows and its columns.
type scaled struct {
	kernels.Matrix
	rows, cols []float32 // nil for none
}

// view multiplies rows and columns of a matrix, without a copy.
func view(m kernels.Matrix, rows, cols []float32) kernels.Matrix {
	if s, ok := m.(*scaled); ok {
		return &scaled{s.Matrix, product(s.rows, rows), product(s.cols, cols)}
	}
	return &scaled{m, rows, cols}
}

// WithoutRows returns a matrix as it was before Apply divided its rows, where
// they are what an input comes from.
func WithoutRows(m kernels.Matrix) kernels.Matrix {
	s, ok := m.(*scaled)
	switch {
	case !ok || s.rows == nil:
		return m
	case s.cols == nil:
		return s.Matrix
	}
	return &scaled{s.Matrix, nil, s.cols}
}

// Rows returns by what Apply has multiplied the rows of a matrix, nil if it has
// not.
func Rows(m kernels.Matrix) []float32 {
	if s, ok := m.(*scaled); ok {
		return s.rows
	}
	return nil
}

func product(a, b []float32) []float32 {
	if a == nil || b == nil {
		return append(a, b...)
	}
	p := make([]float32, len(a))
	for i := range p {
		p[i] = a[i] * b[i]
	}
	return p
}

// Row implements kernels.Matrix.
func (s *scaled) Row(dst []float32, r int) {
	s.Matrix.Row(dst, r)
	factor := float32(1)
	if s.rows != nil {
		factor = s.rows[r]
	}
	if s.cols == nil {
		for i := range dst {
			dst[i] *= factor
		}
		return
	}
	for i, c := range s.cols {
		dst[i] *= factor * c
	}
}
