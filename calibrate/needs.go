package calibrate

// Needs is what a method must know of a linear's inputs.
type Needs uint8

// What a method can ask for.
const (
	NeedsNothing    Needs = 0
	NeedsMeanSquare Needs = 1
	NeedsHessian    Needs = 2
)
