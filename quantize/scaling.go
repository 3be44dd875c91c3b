package quantize

import (
	"context"
	"fmt"
	"slices"

	"llmc/model/fold"
)

// Scaler is a [Method] that scales the input channels of linears before they
// are rounded, and undoes it in what the inputs come from; see
// [llmc/model/fold].
type Scaler interface {
	Method
	// Scale returns by what the columns of layers are multiplied and their
	// inputs divided, for each of g.Channels; nil leaves them as they are.
	// layers share an input, so their Inputs are the same; Quantize will be asked
	// to round them, scaled, to schemes. Rows that were divided for the sake of
	// a linear behind are shown as they were: rounding does not mind, and sums of
	// errors over rows would.
	Scale(ctx context.Context, g *fold.Group, layers []Layer, schemes []Scheme) ([]float32, error)
}

// scale lets the method scale the layers of a group, if all that this changes
// is rounded afterwards: what is kept would lose precision by it.
func (r *Run) scale(ctx context.Context, m Scaler, block int, layers []Layer, schemes []Scheme) error {
	groups := fold.Groups(&r.weights.Config, block)
	at := slices.IndexFunc(groups, func(g fold.Group) bool { return slices.Contains(g.Linears, layers[0].ID) })
	g := &groups[at]
	for _, id := range g.Matrices() {
		if e := r.entries[id]; e == nil || !e.Rounds() {
			for _, l := range layers {
				l.note(func(s *Solution) { s.Unscaled = fmt.Sprintf("%s is kept as it is", id.Role) })
			}
			return nil
		}
	}
	seen := slices.Clone(layers)
	for i := range seen {
		seen[i].Weight = fold.WithoutRows(layers[i].Weight)
	}
	scale, err := m.Scale(ctx, g, seen, schemes)
	if err != nil || scale == nil {
		return err
	}
	applied, err := g.Apply(r.weights, scale)
	if err != nil {
		return err
	}
	layers[0].Inputs.Divide(applied)
	for i := range layers {
		if layers[i].Weight, err = r.weights.Matrix(layers[i].ID); err != nil {
			return err
		}
	}
	return nil
}
