// Package prune sets weights to zero.
//
// Start with [NewMethod] and [NewRun]: a run takes calibration text through the
// model with [Run.Calibrate], or without any prunes what it is asked for with
// [Run.Replace]. A new method is a new file with a type that implements Method.
package prune

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"llmc/calibrate"
	"llmc/internal/fault"
	"llmc/model"
)

// Pattern is how many weights go, and from where. The zero of Keep and Of means
// unstructured: a share of all, wherever they are.
type Pattern struct {
	Sparsity float64 // share of the weights that become zero, 0 to 1
	Keep, Of int     // of every Of neighbours in a row at most Keep stay
}

// ParsePattern reads "unstructured", with a sparsity, or N:M, which stands for
// the sparsity 1-N/M; sparsity is then 0 or the same.
func ParsePattern(text string, sparsity float64) (Pattern, error) {
	if !(sparsity >= 0 && sparsity < 1) {
		return Pattern{}, fault.Usage("sparsity is %g, allowed is 0 up to but not including 1", sparsity)
	}
	if text == "" || text == "unstructured" {
		return Pattern{Sparsity: sparsity}, nil
	}
	n, m, found := strings.Cut(text, ":")
	keep, err1 := strconv.Atoi(n)
	of, err2 := strconv.Atoi(m)
	if !found || err1 != nil || err2 != nil || keep < 1 || of <= keep || of > maxOf {
		return Pattern{}, fault.Usage("pattern is %q, allowed are unstructured and N:M with N below M, M up to %d, such as 2:4", text, maxOf)
	}
	p := Pattern{Sparsity: 1 - float64(keep)/float64(of), Keep: keep, Of: of}
	if sparsity != 0 && math.Abs(sparsity-p.Sparsity) > 1e-9 {
		return Pattern{}, fault.Hint(fault.Usage("pattern %s has sparsity %g, and %g is asked for", text, p.Sparsity, sparsity), "leave one of them out")
	}
	return p, nil
}

// maxOf bounds the neighbours of a pattern, so that its groups lie within the
// blocks of columns that SparseGPT fixes at a time.
const maxOf = 64

// structured reports whether the pattern is N:M.
func (p Pattern) structured() bool { return p.Of > 0 }

// String is what ParsePattern reads, with the sparsity if it does not say it.
func (p Pattern) String() string {
	if p.structured() {
		return fmt.Sprintf("%d:%d", p.Keep, p.Of)
	}
	return fmt.Sprintf("unstructured %g%%", 100*p.Sparsity)
}

// Fits refuses rows that the pattern does not divide.
func (p Pattern) Fits(name string, cols int) error {
	if p.structured() && cols%p.Of != 0 {
		return fault.Hint(fault.Usage("%s has rows of %d, which %s does not divide", name, cols, p), "leave it out with --ignore, or use another pattern")
	}
	return nil
}

// Layer is one weight to be pruned.
type Layer struct {
	Name       string // as the source calls it, for errors
	ID         model.ID
	Rows, Cols int
	Weight     []float32         // [Rows, Cols], changed in place
	Inputs     *calibrate.Inputs // what calibration saw; nil when it did not run
	Threads    int               // 0 means one per core
	// KeepZeros says that zeros of the weight are a mask that stays. Those of a
	// weight of which a fifth is zero always are.
	KeepZeros bool

	// Solution receives what the method has to say of the layer.
	Solution *Solution
}

// Solution is what a method says of one layer.
type Solution struct {
	Damping  float64 `json:"damping,omitempty"`       // share of the mean diagonal added to the Hessian's
	Dead     int     `json:"dead_channels,omitempty"` // input channels that were always zero
	Fallback string  `json:"pruned_by_wanda_because,omitempty"`
	// Routed is how many tokens the router sent to an expert. Uncovered says why
	// all tokens were run through it instead, if they were.
	Routed    *int   `json:"tokens_routed,omitempty"`
	Uncovered string `json:"calibrated_on_all_tokens_because,omitempty"`
}

// Needs is what a method must know of a layer's inputs.
type Needs = calibrate.Needs

// What a method can ask calibration for.
const (
	NeedsNothing    = calibrate.NeedsNothing
	NeedsMeanSquare = calibrate.NeedsMeanSquare
	NeedsHessian    = calibrate.NeedsHessian
)

// Method sets weights of one layer to zero. Zeros that are a mask stay; see
// Layer.KeepZeros. A method keeps no state between layers, and its result does
// not depend on the number of threads.
type Method interface {
	// Name is what --method calls it.
	Name() string
	// Needs says which fields of Layer.Inputs must be there.
	Needs() Needs
	// Prune changes l.Weight. Errors name the layer.
	Prune(ctx context.Context, l Layer, p Pattern) error
}

// methods are the methods. A new one is a line here.
var methods = []Method{Magnitude{}, Wanda{}, SparseGPT{}}

// NewMethod returns the method of a name. solver is what SparseGPT is like, if
// that is the one.
func NewMethod(name string, solver SparseGPT) (Method, error) {
	var known []string
	for _, m := range methods {
		if m.Name() == name {
			if _, ok := m.(SparseGPT); ok {
				return solver, nil
			}
			return m, nil
		}
		known = append(known, m.Name())
	}
	return nil, fault.Usage("method %q is not known, allowed are %s", name, strings.Join(known, ", "))
}
