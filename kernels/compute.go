package kernels

import "llmc/internal/fault"

// Compute is how a device multiplies with packed weights.
type Compute uint8

const (
	// Exact computes with float32 activations and exactly dequantized weights.
	Exact Compute = iota
	// Fast rounds activations to 8 bits in blocks of 32 and multiplies integers
	// where the weights are of a packed type; other products are as in Exact.
	Fast
)

// ParseCompute reads what [Compute.String] writes.
func ParseCompute(name string) (Compute, error) {
	for c := Exact; c <= Fast; c++ {
		if c.String() == name {
			return c, nil
		}
	}
	return Exact, fault.Usage("%q is no way to compute, allowed are exact and fast", name)
}

// String is "exact" or "fast".
func (c Compute) String() string {
	if c == Fast {
		return "fast"
	}
	return "exact"
}

// Describe says what c means, for reports.
func (c Compute) Describe() string {
	if c == Fast {
		return "fast: 8-bit activations and integer products with packed weights, float32 otherwise"
	}
	return "exact: float32 activations, exactly dequantized weights"
}
