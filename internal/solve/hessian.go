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
// inputs by their mean square first, equal ones as they stand. Groups of so many
// neighbours, which divide n, stay together and go by the sum of theirs.
func ByInput(hessian []float32, n, group int) []int {
	sizes := make([]float64, n/group)
	for c := range n {
		sizes[c/group] += float64(hessian[c*n+c])
	}
	order := make([]int, 0, n)
	for _, g := range Descending(sizes) {
		for i := range group {
			order = append(order, g*group+i)
		}
	}
	return order
}

// Descending returns the indices of values, those of the largest first, of equal
// ones as they stand.
func Descending[T cmp.Ordered](values []T) []int {
	order := natural(len(values))
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(values[b], values[a]) })
	return order
}

func natural(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

// Ordered reports whether the columns are in an order; nil is as they stand.
func (f *Factor) Ordered(order []int) bool {
	if order == nil {
		order = natural(len(f.Order))
	}
	return slices.Equal(f.Order, order)
}

// FactorHessian factors the Hessian X Xᵀ [n, n] with its columns in an order;
// nil leaves them as they stand. damp (DefaultDamp when 0) is doubled until the
// damped Hessian is positive definite, at most to 1: then, and when the Hessian
// is zero, the error is ErrIndefinite or ErrZero. A column without inputs is
// tied to no other: its error moves nothing. threads 0 means one per core.
func FactorHessian(hessian []float32, n int, order []int, damp float64, threads int) (*Factor, error) {
	f := &Factor{Order: order, Idle: make([]bool, n)}
	if order == nil {
		f.Order = natural(n)
	}
	sum := 0.0
	for c := range n {
		sum += float64(hessian[c*n+c])
	}
	for i, c := range f.Order {
		if f.Idle[i] = hessian[c*n+c] == 0; f.Idle[i] {
			f.Dead++
		}
	}
	if sum == 0 {
		return nil, ErrZero
	}
	f.mean = sum / float64(n-f.Dead)
	f.Upper = make([]float32, n*n)
	for damp = cmp.Or(damp, DefaultDamp); ; damp = min(2*damp, 1) {
		f.take(hessian, order)
		if InvertFactor(f.Upper, n, damp*f.mean, threads) {
			f.Damping = damp
			return f, nil
		}
		if damp >= 1 {
			return nil, ErrIndefinite
		}
	}
}

// take sets what is on and above Upper's diagonal to the Hessian, columns in an
// order or as they stand, and what is below to zero.
func (f *Factor) take(hessian []float32, order []int) {
	n := len(f.Order)
	for i, from := range f.Order {
		row := f.Upper[i*n:][:n]
		clear(row[:i])
		if order == nil {
			copy(row[i:], hessian[i*n+i:])
		} else {
			for j, to := range order[i:] {
				row[i+j] = hessian[from*n+to]
			}
		}
		if f.Idle[i] {
			row[i] = float32(f.mean)
		}
	}
}
