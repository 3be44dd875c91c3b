package solve

import (
	"cmp"
	"errors"
	"slices"
)

// DefaultDamp is the share of the Hessian's mean diagonal that is added to its
// diagonal, section 3.3 of arXiv 2210.17323.
const DefaultDamp = 0.01

// What keeps a Hessian from being factored.
var (
	ErrZero       = errors.New("all inputs are zero")
	ErrIndefinite = errors.New("the Hessian is not positive definite")
)

// Factor is a damped Hessian, ready for [Feedback].
type Factor struct {
	Order   []int     // [n] the column at each position
	Upper   []float32 // [n, n] U of H⁻¹ = Uᵀ U, by position
	Damping float64   // the share of the mean diagonal that was added
	Dead    int       // columns whose inputs are all zero
	Idle    []bool    // [n] whether that is so, by position

	mean float64 // of the diagonal without them
}

// ByInput returns the columns of a Hessian [n, n], those with the largest
// inputs first, equal ones as they stand: GPTQ's act-order.
func ByInput(hessian []float32, n int) []int {
	order := natural(n)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(hessian[b*n+b], hessian[a*n+a]) })
	return order
}

func natural(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

// FactorHessian factors the Hessian X Xᵀ [n, n] with its columns in an order;
// nil leaves them as they stand. damp (DefaultDamp when 0) is doubled until the
// damped Hessian is positive definite, at most to 1: then, and when the Hessian
// is zero, the error is ErrIndefinite or ErrZero. A column without inputs is
// tied to no other: its error moves nothing. threads 0 means one per core.
func FactorHessian(hessian []float32, n int, order []int, damp float64, threads int) (*Factor, error) {
	if order == nil {
		order = natural(n)
	}
	f := &Factor{Order: order}
	sum := 0.0
	for c := range n {
		d := hessian[c*n+c]
		sum += float64(d)
		if d == 0 {
			f.Dead++
		}
	}
	if sum == 0 {
		return nil, ErrZero
	}
	mean := sum / float64(n-f.Dead)
	f.mean = mean
	h := make([]float32, n*n)
	f.Idle = make([]bool, n)
	for i, from := range order {
		for j, to := range order {
			h[i*n+j] = hessian[from*n+to]
		}
		if h[i*n+i] == 0 {
			h[i*n+i], f.Idle[i] = float32(mean), true
		}
	}
	for damp = cmp.Or(damp, DefaultDamp); ; damp = min(2*damp, 1) {
		var ok bool
		if f.Upper, ok = InverseFactor(h, n, damp*mean, threads); ok {
			f.Damping = damp
			return f, nil
		}
		if damp >= 1 {
			return nil, ErrIndefinite
		}
	}
}
