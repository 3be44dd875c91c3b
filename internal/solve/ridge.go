package solve

import "llmc/kernels"

// Ridge returns X [rows, n] with X (H + damp·mean·I) = B for the symmetric
// H [n, n], mean being that of its diagonal, and the share of it that was added:
// damp (DefaultDamp when 0), doubled like [FactorHessian]'s until the matrix is
// positive definite. Columns of H that are zero give zeros, whatever B holds
// there. threads 0 means one per core; the result does not depend on it.
func Ridge(h []float32, n int, damp float64, b []float32, rows, threads int) ([]float32, float64, error) {
	f, err := FactorHessian(h, n, nil, damp, threads)
	if err != nil {
		return nil, 0, err
	}
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	load := func(rows, cols int, values []float32) kernels.Weight {
		return cpu.Load(kernels.FromFloat32s(rows, cols, values))
	}
	damped := make([]float32, len(h))
	copy(damped, h)
	added := float32(f.Damping * f.mean)
	for i := range n {
		if damped[i*n+i] += added; h[i*n+i] == 0 {
			damped[i*n+i] = 0 // keeps what B holds here out of X
		}
	}
	upper, lower, matrix := load(n, n, f.Upper), load(n, n, transposed(f.Upper, n)), load(n, n, damped)
	x, residual := cpu.NewTensor(rows, n), cpu.NewTensor(rows, n)
	half, step := cpu.NewTensor(rows, n), cpu.NewTensor(rows, n)
	copy(residual.Data, b)
	zeroDead(residual.Data, h, n)
	// H⁻¹ = Uᵀ U in float32; refining the solution takes back what that loses.
	for range 1 + refinements {
		cpu.MatMul(half, residual, upper) // R Uᵀ
		cpu.MatMul(step, half, lower)     // R Uᵀ U
		cpu.Add(x, step)
		cpu.MatMul(residual, x, matrix)
		for i, v := range residual.Data {
			residual.Data[i] = b[i] - v
		}
		zeroDead(residual.Data, h, n)
	}
	return x.Data, f.Damping, nil
}

// refinements are how often a solution is improved by what it leaves.
const refinements = 2

// zeroDead makes the columns of b [rows, n] zero that h has no inputs for.
func zeroDead(b, h []float32, n int) {
	for c := range n {
		if h[c*n+c] != 0 {
			continue
		}
		for at := c; at < len(b); at += n {
			b[at] = 0
		}
	}
}

// transposed returns the transpose of a square matrix.
func transposed(a []float32, n int) []float32 {
	out := make([]float32, len(a))
	for r := range n {
		for c := range n {
			out[c*n+r] = a[r*n+c]
		}
	}
	return out
}
