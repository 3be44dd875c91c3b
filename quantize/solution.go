package quantize

import (
	"context"
	"math"
	"slices"

	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model/fold"
)

// Solution is what a calibrated method says of one layer, besides its codes.
type Solution struct {
	Damping  float64 `json:"damping,omitempty"`       // share of the mean diagonal added to the Hessian's
	Dead     int     `json:"dead_channels,omitempty"` // input channels that were always zero
	Fallback string  `json:"rounded_to_nearest_because,omitempty"`

	// Routed is how many tokens the router sent to an expert. Uncovered says why
	// all tokens were run through it instead, if they were.
	Routed    *int   `json:"tokens_routed,omitempty"`
	Uncovered string `json:"calibrated_on_all_tokens_because,omitempty"`

	// Alpha is the share of the inputs' size in the scales of AWQ.
	Alpha    *float64 `json:"awq_alpha,omitempty"`
	Unscaled string   `json:"unscaled_because,omitempty"`
	// InputScale is the static scale of the activations, if they have one.
	InputScale float32 `json:"input_scale,omitempty"`

	// SearchedRows counts the rows of a block type that are as the search for
	// scales leaves them, since spreading errors made their output worse.
	SearchedRows int `json:"searched_rows,omitempty"`

	// OutputError is ‖(W-Q)X‖ / ‖WX‖ (Frobenius norms) over the calibration
	// inputs X, RTNOutputError the same of round-to-nearest in the same scheme, for block
	// types with the inputs' importance.
	OutputError    *float64 `json:"output_error,omitempty"`
	RTNOutputError *float64 `json:"rtn_output_error,omitempty"`
}

// note changes what is said of a layer, if anything is.
func (l *Layer) note(change func(*Solution)) {
	if l.Solution != nil {
		change(l.Solution)
	}
}

// compare notes what a layer's output lost by becoming q, and what it would
// have lost had it been rounded to nearest, unless that is known.
func (l *Layer) compare(ctx context.Context, q kernels.Matrix, rtn RTN, s Scheme) error {
	if l.Solution == nil {
		return nil
	}
	compared := []kernels.Matrix{q}
	if l.Solution.RTNOutputError == nil {
		plain := Layer{Name: l.Name, Weight: l.Weight}
		if !s.IsInteger() {
			plain.Inputs = l.Inputs
		}
		nearest, err := rtn.Quantize(ctx, plain, s)
		if err != nil {
			return err
		}
		compared = append(compared, nearest)
	}
	errors := relativeErrors(l.Weight, l.Inputs.Hessian, rtn.Threads, compared...)
	l.Solution.OutputError = &errors[0]
	if len(errors) > 1 {
		l.Solution.RTNOutputError = &errors[1]
	}
	return nil
}

// OutputError returns ‖(W-Q)X‖ / ‖WX‖ of matrices of one shape [out, in], from
// the Hessian X Xᵀ [in, in] of the inputs; 0 when the output is zero. It does
// not depend on the number of threads.
func OutputError(w, q kernels.Matrix, hessian []float32, threads int) float64 {
	return relativeErrors(w, hessian, threads, q)[0]
}

// relativeErrors returns the OutputError of each q.
func relativeErrors(w kernels.Matrix, hessian []float32, threads int, qs ...kernels.Matrix) (list []float64) {
	errors, whole := outputErrors(w, hessian, threads, qs...)
	for _, rows := range errors {
		sum := 0.0
		for _, e := range rows {
			sum += e
		}
		list = append(list, *relativeError(sum, whole))
	}
	return list
}

// outputErrors is [solve.OutputErrors] in the units of the source, where rows
// of w have been divided for the sake of the linear behind.
func outputErrors(w kernels.Matrix, hessian []float32, threads int, qs ...kernels.Matrix) (errors [][]float64, whole float64) {
	if factors := rowFactors(w); factors != nil {
		w, qs = undivided{w, factors}, slices.Clone(qs)
		for i, q := range qs {
			qs[i] = undivided{q, factors}
		}
	}
	return solve.OutputErrors(w, hessian, threads, qs...)
}

// undivided is a matrix without the factors of its rows.
type undivided struct {
	kernels.Matrix
	factors []float32
}

// Row implements kernels.Matrix.
func (m undivided) Row(dst []float32, r int) {
	m.Matrix.Row(dst, r)
	for i := range dst {
		dst[i] /= m.factors[r]
	}
}

// rowFactors returns by what the rows of a matrix were multiplied, nil if they
// were not.
func rowFactors(m kernels.Matrix) []float32 {
	part, ok := m.(rowsOf)
	if !ok {
		return fold.Rows(m)
	}
	if all := fold.Rows(part.Matrix); all != nil {
		return all[part.from:][:part.rows]
	}
	return nil
}

// relativeError is the root of a squared error over the square of the whole.
func relativeError(squared, whole float64) *float64 {
	relative := 0.0
	if whole > 0 {
		relative = math.Sqrt(squared / whole)
	}
	return &relative
}
