package calibrate

import (
	"context"

	"llmc/kernels"
	"llmc/model"
)

// sequence lets the visitor at a block's linears in the order in which the model
// runs them, each with the inputs that those before it give as the visitor left
// them, and takes the hidden states through the block on the way.
func (w *walk) sequence(ctx context.Context, i int, visit Visitor) error {
	if err := w.model.LoadBlock(w.weights, i); err != nil {
		return err
	}
	for at, half := range w.model.Halves(i) {
		h := halfWalk{walk: w, Half: half, block: i, flops: w.schedule.halves[at]}
		if err := h.run(ctx, visit); err != nil {
			return err
		}
	}
	return w.keep(i)
}

// halfWalk takes all windows through half a block.
type halfWalk struct {
	*walk
	model.Half
	block int
	flops halfFlops
}

func (h *halfWalk) run(ctx context.Context, visit Visitor) error {
	inputs := func(_ int, x *kernels.Tensor) (*kernels.Tensor, error) { return h.Input(x), nil }
	if err := h.solve(ctx, h.First, 0, inputs, visit); err != nil {
		return err
	}
	inner := func(window int, x *kernels.Tensor) (*kernels.Tensor, error) {
		in := h.middle(x)
		if h.inner == nil {
			return in, nil
		}
		return in, h.inner.save(window, read(h.dev, in))
	}
	if err := h.solve(ctx, h.Last, h.flops.first, inner, visit); err != nil {
		return err
	}
	if h.block >= h.walk.last && h.Last[0] == model.Down {
		h.advance(h.flops.end(h.schedule.KeepInner))
		return nil // nobody sees what comes out
	}
	return h.each(ctx, h.flops.end(h.schedule.KeepInner), func(window int, x *kernels.Tensor) error {
		in := h.recall(window, x)
		h.Add(x, in)
		h.dev.Free(in)
		return h.save(window, x)
	})
}

// middle returns what the last linear multiplies.
func (h *halfWalk) middle(x *kernels.Tensor) *kernels.Tensor {
	in := h.Input(x)
	defer h.dev.Free(in)
	h.state.Truncate(0)
	return h.Inner(in, h.state)
}

// recall is middle, from memory if it is there.
func (h *halfWalk) recall(window int, x *kernels.Tensor) *kernels.Tensor {
	if h.inner == nil {
		return h.middle(x)
	}
	values := h.inner[window]
	in := h.dev.NewResult(x.Rows, len(values)/x.Rows)
	h.dev.Write(in, values)
	return in
}

// solve gathers the input of some linears over all windows, lets the visitor
// at it, and loads what it made of them. flops are those of a walk to the input.
func (h *halfWalk) solve(ctx context.Context, roles []model.Role, flops float64, of func(window int, x *kernels.Tensor) (*kernels.Tensor, error), visit Visitor) error {
	in := h.schedule.input(roles[0])
	g := h.gatherer(in)
	err := h.each(ctx, flops+in.gather, func(window int, x *kernels.Tensor) error {
		t, err := of(window, x)
		g.add(t)
		h.dev.Free(t)
		return err
	})
	if err != nil {
		return err
	}
	h.trim()
	if err := h.show(ctx, h.block, g, visit); err != nil {
		return err
	}
	h.advance(in.solve.Flops)
	for _, role := range roles {
		if err := h.walk.model.LoadLinear(h.weights, model.ID{Role: role, Block: h.block}); err != nil {
			return err
		}
	}
	return nil
}
