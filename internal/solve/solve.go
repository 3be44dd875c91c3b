// Package solve holds the linear algebra that layer-wise compression rests on:
// factors of the inverse of a Hessian, for solvers that fix one column of a
// weight after the other (GPTQ, arXiv 2210.17323; SparseGPT, arXiv 2301.00774).
// It knows matrices, not models.
package solve

import "llmc/kernels"

// InverseFactor returns the upper triangular U [n, n] with H⁻¹ = Uᵀ U of the
// symmetric h [n, n], both row-major, after damp was added to h's diagonal.
// Row i of U, divided by its first element U[i, i], is how an error in column i
// is best spread over the columns after it once those before it are fixed. It
// returns false when the damped matrix is not positive definite.
//
// The factor comes from one Cholesky decomposition without inverting h: of
// H = R Rᵀ, U = R⁻¹. threads 0 means one per core; the result does not depend
// on it.
func InverseFactor(h []float32, n int, damp float64, threads int) ([]float32, bool) {
	u := make([]float32, n*n)
	for i := range n {
		copy(u[i*n+i:(i+1)*n], h[i*n+i:])
	}
	return u, invertFactor(u, n, damp, threads)
}

// invertFactor is InverseFactor in place of what is on and above h's diagonal,
// with zeros below.
func invertFactor(u []float32, n int, damp float64, threads int) bool {
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	for i := range n {
		u[i*n+i] = float32(float64(u[i*n+i]) + damp)
	}
	b := kernels.NewBlock(u, n, n)
	return Cholesky(cpu, b) && InvertUpper(cpu, b)
}
