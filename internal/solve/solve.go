// Package solve holds the linear algebra that layer-wise compression rests on:
// factors of the inverse of a Hessian, for solvers that fix one column of a
// weight after the other (GPTQ, arXiv 2210.17323; SparseGPT, arXiv 2301.00774).
// It knows matrices, not models.
package solve

import "llmc/kernels"

// InvertFactor makes of a symmetric H [n, n], of which u has what is on and above
// the diagonal and zeros below, the upper triangular U [n, n] with H⁻¹ = Uᵀ U,
// both row-major, after damp was added to H's diagonal. Row i of U, divided by
// its first element U[i, i], is how an error in column i is best spread over the
// columns after it once those before it are fixed. It returns false when the
// damped matrix is not positive definite.
//
// The factor comes from one Cholesky decomposition without inverting H: of
// H = R Rᵀ, U = R⁻¹. threads 0 means one per core; the result does not depend
// on it.
func InvertFactor(u []float32, n int, damp float64, threads int) bool {
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	for i := range n {
		u[i*n+i] = float32(float64(u[i*n+i]) + damp)
	}
	b := kernels.NewBlock(u, n, n)
	return Cholesky(cpu, b) && InvertUpper(cpu, b)
}
