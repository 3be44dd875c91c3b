//go:build !noasm && !purego

package kernels

// The functions below put Go around assembly kernels, which handle n whole
// vectors of lanes numbers: they check lengths, and give what is left at the
// end to the portable function.

type microKernel func(k int, a *float32, lda int, b, c *float32, ldc int, accumulate bool)

func tiles(kernels ...microKernel) func(rows, k int, a []float32, lda int, b, c []float32, ldc int, accumulate bool) {
	nr := 16
	if len(kernels) > 6 {
		nr = 32
	}
	return func(rows, k int, a []float32, lda int, b, c []float32, ldc int, accumulate bool) {
		_ = a[(rows-1)*lda+k-1]
		_ = b[k*nr-1]
		_ = c[(rows-1)*ldc+nr-1]
		kernels[rows-1](k, &a[0], lda, &b[0], &c[0], ldc, accumulate)
	}
}

// turning transposes four columns of lanes rows at a time.
func turning(lanes int, kernel func(dst, src *float32, ld, steps, stride int)) func(dst []float32, stride int, src []float32, ld, rows, cols int) {
	return func(dst []float32, stride int, src []float32, ld, rows, cols int) {
		if rows == 0 || cols == 0 {
			return
		}
		_ = dst[(cols-1)*stride+rows-1]
		_ = src[(rows-1)*ld+cols-1]
		r, whole := 0, cols&^3
		for ; whole > 0 && r+lanes <= rows; r += lanes {
			kernel(&dst[r], &src[r*ld], ld, whole/4, stride)
			if whole < cols {
				turnPortable(dst[whole*stride+r:], stride, src[r*ld+whole:], ld, lanes, cols-whole)
			}
		}
		if r < rows {
			turnPortable(dst[r:], stride, src[r*ld:], ld, rows-r, cols)
		}
	}
}

func dotProduct(lanes int, kernel func(dst, x *float32, w *byte, n, rows, stride int)) func(x, y []float32) float32 {
	return func(x, y []float32) float32 {
		y = y[:len(x)]
		n := len(x) / lanes
		var sum float32
		if n > 0 {
			kernel(&sum, &x[0], bytePointer(y), n, 1, 0)
		}
		if at := n * lanes; at < len(x) {
			sum += dotPortable(x[at:], y[at:])
		}
		return sum
	}
}

func addition(lanes int, kernel func(dst, x *float32, n int)) func(dst, x []float32) {
	return func(dst, x []float32) {
		x = x[:len(dst)]
		n := len(dst) / lanes
		if n > 0 {
			kernel(&dst[0], &x[0], n)
		}
		addPortable(dst[n*lanes:], x[n*lanes:])
	}
}

func scaledAddition(lanes int, kernel func(dst, x *float32, n int, s float32)) func(dst, x []float32, s float32) {
	return func(dst, x []float32, s float32) {
		x = x[:len(dst)]
		n := len(dst) / lanes
		if n > 0 {
			kernel(&dst[0], &x[0], n, s)
		}
		addScaledPortable(dst[n*lanes:], x[n*lanes:], s)
	}
}

func scaling(lanes int, kernel func(x *float32, n int, s float32)) func(x []float32, s float32) {
	return func(x []float32, s float32) {
		n := len(x) / lanes
		if n > 0 {
			kernel(&x[0], n, s)
		}
		scalePortable(x[n*lanes:], s)
	}
}

func squares(lanes int, kernel func(x *float32, n int) float64) func(x []float32) float64 {
	return func(x []float32) float64 {
		n, sum := len(x)/lanes, 0.0
		if n > 0 {
			sum = kernel(&x[0], n)
		}
		return sum + sumSquaresPortable(x[n*lanes:])
	}
}

func normalization(lanes int, kernel func(dst, x, w *float32, n int, s float32)) func(dst, x, w []float32, s float32) {
	return func(dst, x, w []float32, s float32) {
		x, w = x[:len(dst)], w[:len(dst)]
		n := len(dst) / lanes
		if n > 0 {
			kernel(&dst[0], &x[0], &w[0], n, s)
		}
		at := n * lanes
		normalizePortable(dst[at:], x[at:], w[at:], s)
	}
}

func maximum(lanes int, kernel func(x *float32, n int) float32) func(x []float32) float32 {
	return func(x []float32) float32 {
		n := len(x) / lanes
		largest := largestPortable(x[n*lanes:])
		if n > 0 {
			largest = max(largest, kernel(&x[0], n))
		}
		return largest
	}
}

func exponentials(lanes int, kernel func(x *float32, n int, s, shift float32) float64, rest expFunc) expFunc {
	return func(x []float32, s, shift float32) float64 {
		n, sum := len(x)/lanes, 0.0
		if n > 0 {
			sum = kernel(&x[0], n, s, shift)
		}
		return sum + rest(x[n*lanes:], s, shift)
	}
}

func divergences(lanes int, kernel func(p, q *float32, n int, lse float32, offset float64) float64) func(p, q []float32, lse float32, offset float64) float64 {
	return func(p, q []float32, lse float32, offset float64) float64 {
		q = q[:len(p)]
		n, sum := len(p)/lanes, 0.0
		if n > 0 {
			sum = kernel(&p[0], &q[0], n, lse, offset)
		}
		at := n * lanes
		return sum + divergencePortable(p[at:], q[at:], lse, offset)
	}
}

func gating(lanes int, kernel func(dst, gate, up *float32, n int), rest gateFunc) gateFunc {
	return func(dst, g, up []float32) {
		g, up = g[:len(dst)], up[:len(dst)]
		n := len(dst) / lanes
		if n > 0 {
			kernel(&dst[0], &g[0], &up[0], n)
		}
		at := n * lanes
		rest(dst[at:], g[at:], up[at:])
	}
}

func gateGrads(lanes int, kernel func(dg, dup, dy, gate, up *float32, n int), rest gateGradFunc) gateGradFunc {
	return func(dg, dup, dy, g, up []float32) {
		n := len(dg) / lanes
		dup, dy, g, up = dup[:len(dg)], dy[:len(dg)], g[:len(dg)], up[:len(dg)]
		if n > 0 {
			kernel(&dg[0], &dup[0], &dy[0], &g[0], &up[0], n)
		}
		at := n * lanes
		rest(dg[at:], dup[at:], dy[at:], g[at:], up[at:])
	}
}

func softmaxGrads(lanes int, kernel func(dp, p *float32, n int, dot, s float32)) func(dp, p []float32, dot, s float32) {
	return func(dp, p []float32, dot, s float32) {
		p = p[:len(dp)]
		n := len(dp) / lanes
		if n > 0 {
			kernel(&dp[0], &p[0], n, dot, s)
		}
		softmaxGradPortable(dp[n*lanes:], p[n*lanes:], dot, s)
	}
}

func rotation(lanes int, kernel func(lo, hi, cos, sin *float32, n int)) func(lo, hi, cos, sin []float32) {
	return func(lo, hi, cos, sin []float32) {
		hi, cos, sin = hi[:len(lo)], cos[:len(lo)], sin[:len(lo)]
		n := len(lo) / lanes
		if n > 0 {
			kernel(&lo[0], &hi[0], &cos[0], &sin[0], n)
		}
		at := n * lanes
		rotatePortable(lo[at:], hi[at:], cos[at:], sin[at:])
	}
}

func pairRotation(lanes int, kernel func(x, cos, sin *float32, n int)) func(x, cos, sin []float32) {
	return func(x, cos, sin []float32) {
		cos, sin = cos[:len(x)], sin[:len(x)]
		n := len(x) / lanes
		if n > 0 {
			kernel(&x[0], &cos[0], &sin[0], n)
		}
		at := n * lanes
		rotatePairsPortable(x[at:], cos[at:], sin[at:])
	}
}

func adamSteps(lanes int, kernel func(x, grad, m, v *float32, n int, scale, beta1, rest1, beta2, rest2, keep, size, root, epsilon, fixed float32)) func(s *AdamStep, x, grad, m, v []float32) {
	return func(s *AdamStep, x, grad, m, v []float32) {
		n := len(x) / lanes
		if n > 0 {
			kernel(&x[0], &grad[0], &m[0], &v[0], n, s.GradScale, s.Beta1, s.Rest1, s.Beta2, s.Rest2, s.Keep, s.Size, s.Root, s.Epsilon, s.fixed())
		}
		n *= lanes
		adamPortable(s, x[n:], grad[n:], m[n:], v[n:])
	}
}

func moments(lanes int, kernel func(squares, sums *float64, largest, x *float32, n int)) func(m *Moments, x []float32) {
	return func(m *Moments, x []float32) {
		n := len(x) / lanes
		if n > 0 {
			kernel(&m.Squares[0], &m.Sums[0], &m.Largest[0], &x[0], n)
		}
		tail := m.from(n * lanes)
		momentsPortable(&tail, x[n*lanes:])
	}
}

func differences(lanes int, kernel func(x, y *float32, n int, sums *float64) (zerosX, zerosY int)) func(d *Difference, x, y []float32) {
	return func(d *Difference, x, y []float32) {
		y = y[:len(x)]
		n := len(x) / lanes
		if n > 0 {
			sums := [3]float64{d.Square, d.Error, d.Max}
			zerosX, zerosY := kernel(&x[0], &y[0], n, &sums[0])
			d.Square, d.Error, d.Max = sums[0], sums[1], sums[2]
			d.ZerosX, d.ZerosY = d.ZerosX+zerosX, d.ZerosY+zerosY
		}
		differencePortable(d, x[n*lanes:], y[n*lanes:])
	}
}
