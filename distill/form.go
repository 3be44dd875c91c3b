package distill

import (
	"context"

	"llmc/model"
	"llmc/model/train"
)

// Form says what of a network is trained and how its weights follow.
type Form interface {
	// Variables are what the optimizer changes, always the same.
	Variables() []*Variable
	// Gather sets the variables' gradients from the network's.
	Gather()
	// Refresh sets what the network multiplies by from the variables.
	Refresh(ctx context.Context) error
}

// Full trains all weights as they are.
type Full struct{ vars []*Variable }

// NewFull returns the form in which all weights are trained. Weights of linears
// that are 0 stay so when keepZeros is set.
func NewFull(params []*train.Param, keepZeros bool) *Full {
	f := &Full{}
	for _, p := range params {
		f.vars = append(f.vars, variableOf(p, keepZeros))
	}
	return f
}

// variableOf is the variable that is a parameter itself. Norms and biases do not
// decay.
func variableOf(p *train.Param, keepZeros bool) *Variable {
	v := NewVariable(p.ID.String(), p.Value, p.Grad)
	v.Decay = isMatrix(p.ID)
	v.KeepZeros = keepZeros && isMatrix(p.ID) && p.ID.Role.IsLinear()
	return v
}

func isMatrix(id model.ID) bool { return id.Role.IsMatrix() && !id.Bias }

// Variables implements Form.
func (f *Full) Variables() []*Variable { return f.vars }

// Gather implements Form: the gradients are the network's own.
func (f *Full) Gather() {}

// Refresh implements Form: so are the values.
func (f *Full) Refresh(context.Context) error { return nil }
