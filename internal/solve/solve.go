// Package solve holds the linear algebra that layer-wise compression rests on:
// factors of the inverse of a Hessian, for solvers that fix one column of a
// weight after the other (GPTQ, arXiv 2210.17323; SparseGPT, arXiv 2301.00774).
// It knows matrices, not models.
package solve

import (
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"
)

// InverseFactor returns the upper triangular U [n, n] with H⁻¹ = Uᵀ U of the
// symmetric h [n, n], both row-major, after damp was added to h's diagonal.
// Row i of U, divided by its first element U[i, i], is how an error in column i
// is best spread over the columns after it once those before it are fixed. It
// returns false when the damped matrix is not positive definite.
//
// The factor comes from one Cholesky decomposition without inverting h: with
// the order of rows and columns reversed, H = L Lᵀ; reversed back, L is an upper
// triangular R with H = R Rᵀ, and U = R⁻¹.
func InverseFactor(h []float32, n int, damp float64) ([]float32, bool) {
	reversed := make([]float64, n*n)
	for i := range n {
		for j := range i + 1 {
			reversed[i*n+j] = float64(h[(n-1-i)*n+n-1-j])
		}
		reversed[i*n+i] += damp
	}
	// Lapack's lower triangle of row-major data, as blas64 has it.
	symmetric := blas64.Symmetric{Uplo: blas.Lower, N: n, Data: reversed, Stride: max(n, 1)}
	l, ok := lapack64.Potrf(symmetric)
	if !ok || !lapack64.Trtri(l) {
		return nil, false
	}
	u := make([]float32, n*n)
	for i := range n {
		for j := range i + 1 {
			v := float32(reversed[i*n+j])
			if v-v != 0 {
				return nil, false
			}
			u[(n-1-i)*n+n-1-j] = v
		}
		if reversed[i*n+i] <= 0 {
			return nil, false
		}
	}
	return u, true
}
