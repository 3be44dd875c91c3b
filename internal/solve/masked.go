package solve

import (
	"cmp"
	"context"

	"llmc/internal/parallel"
	"llmc/kernels"
)

// maskedSteps is how many steps of conjugate gradients FitMasked takes at most,
// and maskedGain the share of a row's first residual below which it is done.
const (
	maskedSteps = 24
	maskedGain  = 1e-9
)

// FitMasked changes the numbers of w [rows, n] that are not zero so that its
// product with the inputs behind the Hessian h [n, n] comes closest to that of
// target [rows, n]: row by row the least of (w-t) (H + damp·mean·I) (w-t)ᵀ, mean
// being that of H's diagonal, by conjugate gradients with the diagonal as
// preconditioner from where w is. It never makes that larger. damp 0 means
// DefaultDamp, threads 0 one per core; the result does not depend on them.
func FitMasked(ctx context.Context, h []float32, n int, damp float64, target, w []float32, rows, threads int) error {
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	f := &maskedFit{n: n, h: h, w: w, inverse: make([]float32, n), rz: make([]float64, rows), first: make([]float64, rows)}
	mean, live := 0.0, 0
	for c := range n {
		if d := h[c*n+c]; d > 0 {
			mean += float64(d)
			live++
		}
	}
	if live == 0 {
		return nil
	}
	f.added = float32(cmp.Or(damp, DefaultDamp) * mean / float64(live))
	for c := range n {
		f.inverse[c] = 1 / (h[c*n+c] + f.added)
	}
	f.residual, f.direction, f.product = make([]float32, len(w)), make([]float32, len(w)), make([]float32, len(w))
	for i, v := range w {
		f.direction[i] = target[i] - v
	}
	each := func(visit func(r int)) error {
		return parallel.Rows(ctx, threads, rows, n, func() func(int) error {
			return func(r int) error {
				visit(r)
				return nil
			}
		})
	}
	multiply := func() {
		clear(f.product)
		cpu.Update(kernels.Update{
			Dst: kernels.NewBlock(f.product, rows, n), Alpha: 1,
			A: kernels.NewBlock(f.direction, rows, n), B: kernels.NewBlock(h, n, n),
		})
	}
	multiply()
	if err := each(f.begin); err != nil {
		return err
	}
	for range maskedSteps {
		multiply()
		if err := each(f.step); err != nil {
			return err
		}
	}
	return nil
}

// FitFlops is how many floating-point operations FitMasked takes at most.
func FitFlops(rows, n int) float64 {
	return 2 * (maskedSteps + 1) * float64(rows) * float64(n) * float64(n)
}

// maskedFit is the state of FitMasked; the matrices are [rows, n].
type maskedFit struct {
	n       int
	h, w    []float32
	added   float32   // to h's diagonal
	inverse []float32 // [n] of that diagonal

	residual, direction, product []float32
	rz, first                    []float64 // [rows] the residual's size, and what it was at first; 0 for a row that is done
}

// begin makes the first residual and direction of a row from the product of
// its distance to the target.
func (f *maskedFit) begin(r int) {
	at := r * f.n
	rz := 0.0
	for c := range f.n {
		i := at + c
		v := f.product[i] + f.added*f.direction[i]
		if f.w[i] == 0 {
			v = 0
		}
		z := v * f.inverse[c]
		f.residual[i], f.direction[i] = v, z
		rz += float64(v) * float64(z)
	}
	f.rz[r], f.first[r] = rz, rz
}

// step moves a row along its direction and chooses the next.
func (f *maskedFit) step(r int) {
	from, to := r*f.n, (r+1)*f.n
	w, residual, direction, product := f.w[from:to], f.residual[from:to], f.direction[from:to], f.product[from:to]
	curvature := 0.0
	for c, p := range direction {
		product[c] += f.added * p
		curvature += float64(p) * float64(product[c])
	}
	if !(curvature > 0) || f.rz[r] == 0 {
		clear(direction)
		return
	}
	alpha := float32(f.rz[r] / curvature)
	rz := 0.0
	for c, p := range direction {
		if w[c] == 0 {
			continue // the mask
		}
		if w[c] += alpha * p; w[c] == 0 {
			w[c] = p * f.inverse[c] * 1e-30 // not of the mask
		}
		residual[c] -= alpha * product[c]
		rz += float64(residual[c]) * float64(residual[c]) * float64(f.inverse[c])
	}
	beta := float32(rz / f.rz[r])
	if f.rz[r] = rz; rz <= maskedGain*f.first[r] {
		f.rz[r] = 0
		clear(direction)
		return
	}
	for c := range direction {
		direction[c] = residual[c]*f.inverse[c] + beta*direction[c]
	}
}
