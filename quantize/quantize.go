// Package quantize chooses how each tensor of a model is stored and rounds it.
//
// Start with [NewPlan], which turns names and shapes into a [Plan] without
// reading a weight, and with [RTN], the [Method] that needs no calibration. A
// new method is a new file with a type that implements Method.
package quantize

import (
	"context"

	"llmc/calibrate"
	"llmc/kernels"
	"llmc/model"
)

// Layer is one weight to be quantized.
type Layer struct {
	Name   string // as the source calls it, for errors and reports
	ID     model.ID
	Weight kernels.Matrix // [out, in]
	Inputs *Inputs        // what calibration saw; nil when it did not run
	// Solution, when not nil, receives what the method has to say of the layer.
	Solution *Solution
}

// Inputs is what calibration knows of the activations that a linear multiplies.
type Inputs = calibrate.Inputs

// Needs is what a method must know of a layer's inputs.
type Needs = calibrate.Needs

// What a method can ask calibration for.
const (
	NeedsNothing    = calibrate.NeedsNothing
	NeedsMeanSquare = calibrate.NeedsMeanSquare
	NeedsHessian    = calibrate.NeedsHessian
)

// Method turns the weight of one layer into codes. A method keeps no state
// between layers, so that layers can be solved in any order, and its result
// does not depend on the number of threads.
type Method interface {
	// Name is what --method calls it.
	Name() string
	// Needs says which fields of Layer.Inputs must be there.
	Needs() Needs
	// Quantize returns a matrix of l.Weight's shape: a *kernels.Groups for an
	// integer scheme, a *kernels.Dense for a scheme that names a type. Errors
	// name the layer.
	Quantize(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error)
}
