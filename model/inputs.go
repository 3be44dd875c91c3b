package model

import (
	"llmc/internal/fault"
	"llmc/kernels"
)

// Inputs returns how the activations that a linear multiplies are rounded: as
// the checkpoint's configuration says, unless RoundInputs or KeepInputs changed
// that.
func (w *Weights) Inputs(id ID) (kernels.Rounding, error) {
	if r, ok := w.inputs[id]; ok {
		return r, nil
	}
	if w.exactInputs || !w.packed(id) {
		return kernels.Rounding{}, nil
	}
	r, err := w.Quantization.Inputs(w.module(id), w.stored[id])
	if err != nil {
		return r, fault.Invalid("%s: %w", w.module(id), err)
	}
	return r, nil
}

// RoundInputs makes models of the weights round what a linear multiplies.
func (w *Weights) RoundInputs(id ID, r kernels.Rounding) {
	if w.inputs == nil {
		w.inputs = map[ID]kernels.Rounding{}
	}
	w.inputs[id] = r
}

// KeepInputs makes models of the weights compute with activations as they are,
// whatever the checkpoint says.
func (w *Weights) KeepInputs() {
	w.exactInputs = true
	clear(w.inputs)
}

// InputsOfMost returns how most linears round their activations.
func (w *Weights) InputsOfMost() (kernels.Rounding, error) {
	counts := map[kernels.Rounding]int{}
	var most kernels.Rounding
	for _, id := range w.Config.IDs() {
		if id.Bias || !id.Role.IsMatrix() || id.Role == Embed {
			continue
		}
		r, err := w.Inputs(id)
		if err != nil {
			return r, err
		}
		r.Scale, r.Zero = 0, 0 // which differ from linear to linear
		if counts[r]++; counts[r] > counts[most] {
			most = r
		}
	}
	return most, nil
}
