package quantize

import (
	"context"
	"fmt"
	"slices"

	"llmc/kernels"
	"llmc/model"
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

// scaleInput lets the method scale the layers of an input. The experts of a
// mixture share theirs, but for which tokens of it they see, with the router,
// whose turn comes before theirs: then all are scaled.
func (r *Run) scaleInput(ctx context.Context, m Scaler, block int, first model.Role, layers []Layer, schemes []Scheme, in *Inputs) error {
	switch {
	case first == model.Router:
		return r.scaleExperts(ctx, m, block, layers, schemes, in)
	case first == model.Gate && in.Expert != model.NoExpert:
		return r.takeScaled(ctx, layers, schemes, in)
	case len(layers) == 0:
		return nil
	}
	_, err := r.scale(ctx, m, block, layers, schemes)
	return err
}

// scale lets the method scale the layers of a group, if all that this changes
// is rounded afterwards: what is kept would lose precision by it, other than a
// router, which becomes F32. It returns by what the inputs were divided, nil if
// they were not.
func (r *Run) scale(ctx context.Context, m Scaler, block int, layers []Layer, schemes []Scheme) ([]float32, error) {
	groups := fold.Groups(&r.weights.Config, block)
	at := slices.IndexFunc(groups, func(g fold.Group) bool { return slices.Contains(g.Linears, layers[0].ID) })
	g := &groups[at]
	for _, id := range g.Matrices() {
		if e := r.entries[id]; !id.Role.IsRouter() && (e == nil || !e.Rounds()) {
			for _, l := range layers {
				l.note(func(s *Solution) { s.Unscaled = fmt.Sprintf("%s is kept as it is", id.Role) })
			}
			return nil, nil
		}
	}
	seen := slices.Clone(layers)
	for i := range seen {
		seen[i].Weight = fold.WithoutRows(layers[i].Weight)
	}
	scale, err := m.Scale(ctx, g, seen, schemes)
	if err != nil || scale == nil {
		return nil, err
	}
	applied, err := g.Apply(r.weights, scale)
	if err != nil {
		return nil, err
	}
	layers[0].Inputs.Divide(applied)
	for i := range layers {
		if layers[i].Weight, err = r.weights.Matrix(layers[i].ID); err != nil {
			return nil, err
		}
	}
	return applied, nil
}

// expertLayer is what a gate or up of an expert was before it was scaled with the
// others, and what scaling says of it.
type expertLayer struct {
	weight   kernels.Matrix
	solution *Solution
}

// scaleExperts scales the layers that all tokens go through and the experts'
// gates and ups together, by what all tokens are like.
func (r *Run) scaleExperts(ctx context.Context, m Scaler, block int, layers []Layer, schemes []Scheme, in *Inputs) error {
	r.experts, r.divided = map[model.ID]expertLayer{}, nil
	all, to := slices.Clone(layers), slices.Clone(schemes)
	for _, id := range r.weights.Config.IDs() {
		e := r.entries[id]
		if id.Block != block || id.Expert == model.NoExpert || id.Role == model.Down || e == nil || !e.Rounds() {
			continue
		}
		w, err := r.weights.Matrix(id)
		if err != nil {
			return err
		}
		l := r.layer(e, w, in)
		r.experts[id] = expertLayer{w, l.Solution}
		all, to = append(all, l), append(to, e.To)
	}
	if len(all) == 0 {
		return nil
	}
	var err error
	r.divided, err = r.scale(ctx, m, block, all, to)
	copy(layers, all)
	return err
}

// takeScaled goes on with an expert's layers, which were scaled with those of all
// experts. What round-to-nearest would have lost is measured on the expert's own
// tokens.
func (r *Run) takeScaled(ctx context.Context, layers []Layer, schemes []Scheme, in *Inputs) error {
	for i := range layers {
		l := &layers[i]
		was := r.experts[l.ID]
		if own := l.Solution; was.solution != nil && own != nil {
			was.solution.Routed, was.solution.Uncovered = own.Routed, own.Uncovered
		}
		l.Solution = was.solution
		if l.Solution == nil || l.Solution.RTNOutputError == nil || in.Hessian == nil {
			continue
		}
		plain := Layer{Name: l.Name, Weight: fold.WithoutRows(was.weight)}
		if !schemes[i].IsInteger() {
			plain.Inputs = in
		}
		nearest, err := RTN{Threads: r.threads}.Quantize(ctx, plain, schemes[i])
		if err != nil {
			return err
		}
		lost := OutputError(plain.Weight, nearest, in.Hessian, r.threads)
		l.Solution.RTNOutputError = &lost
	}
	if r.divided != nil {
		in.Divide(r.divided)
	}
	return nil
}
