package solve

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"llmc/internal/cputime"
	"llmc/kernels"
)

// skewed is a Hessian as layers have them: a few directions hold nearly all of
// the inputs, which are fewer than the columns. A hundredth of the mean
// diagonal is added.
func skewed(rng *rand.Rand, n int) []float32 {
	const rank = 40
	h := make([]float64, n*n)
	mix := make([]float64, rank*n)
	for i := range mix {
		mix[i] = rng.NormFloat64() * math.Exp(-float64(i/n)/4)
	}
	x := make([]float64, n)
	for range n/2 + 1 {
		for j := range x {
			x[j] = 1e-3 * rng.NormFloat64()
		}
		for k := range rank {
			f := rng.NormFloat64()
			for j := range x {
				x[j] += f * mix[k*n+j]
			}
		}
		for i, v := range x {
			for j, w := range x {
				h[i*n+j] += v * w
			}
		}
	}
	mean := 0.0
	for i := range n {
		mean += h[i*n+i] / float64(n)
	}
	out := make([]float32, n*n)
	for i, v := range h {
		if i/n == i%n {
			v += DefaultDamp * mean
		}
		out[i] = float32(v)
	}
	return out
}

func dense(x []float32, rows, cols int) *mat.Dense {
	d := mat.NewDense(rows, cols, nil)
	for i, v := range x {
		d.Set(i/cols, i%cols, float64(v))
	}
	return d
}

// distance is the Frobenius norm of a-b relative to that of b.
func distance(a, b mat.Matrix) float64 {
	var d mat.Dense
	d.Sub(a, b)
	return mat.Norm(&d, 2) / mat.Norm(b, 2)
}

func TestCholesky(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{1, 3, 63, 64, 65, 130, 321} {
		h := skewed(rng, n)
		var first []float32
		for _, threads := range []int{1, 3} {
			cpu := kernels.NewCPU(threads)
			data := slices.Clone(h)
			r := kernels.NewBlock(data, n, n)
			for i := range n {
				for j := range i {
					r.Row(i)[j] = float32(math.NaN()) // is not to be read
				}
			}
			if !Cholesky(cpu, r) {
				t.Fatalf("n=%d is not positive definite", n)
			}
			if first == nil {
				first = slices.Clone(data)
			} else if !slices.Equal(first, data) {
				t.Fatalf("n=%d depends on the number of threads", n)
			}
			upper := dense(data, n, n)
			var product mat.Dense
			product.Mul(upper, upper.T())
			if d := distance(&product, dense(h, n, n)); d > 2e-7 {
				t.Errorf("n=%d: R Rᵀ is %.2g off", n, d)
			}

			const cols = 5
			b := make([]float32, n*cols)
			for i := range b {
				b[i] = float32(rng.NormFloat64())
			}
			x := slices.Clone(b)
			Solve(cpu, r, kernels.NewBlock(x, n, cols))
			var back, residual mat.Dense
			back.Mul(dense(h, n, n), dense(x, n, cols))
			residual.Sub(&back, dense(b, n, cols))
			// A backward stable solution: small against ‖A‖ ‖X‖.
			if d := mat.Norm(&residual, 2) / (mat.Norm(dense(h, n, n), 2) * mat.Norm(dense(x, n, cols), 2)); d > 2e-7 {
				t.Errorf("n=%d: A X - B is %.2g of ‖A‖‖X‖", n, d)
			}

			if !InvertUpper(cpu, r) {
				t.Fatalf("n=%d: the inverse is not finite", n)
			}
			var one mat.Dense
			one.Mul(dense(data, n, n), upper)
			for i := range n {
				for j := range n {
					want := 0.0
					if i == j {
						want = 1
					}
					if math.Abs(one.At(i, j)-want) > 1e-4 {
						t.Fatalf("n=%d: R⁻¹R[%d,%d] is %g", n, i, j, one.At(i, j))
					}
				}
			}
			cpu.Close()
		}
	}
}

// BenchmarkCholesky counts n³/3 operations, next to the machine's multiply and
// add; BenchmarkInvertFactor twice that.
func BenchmarkCholesky(b *testing.B) {
	benchmarkFactor(b, func(cpu *kernels.CPU, a kernels.Block) float64 {
		if !Cholesky(cpu, a) {
			b.Fatal("not positive definite")
		}
		return 1. / 3
	})
}

func BenchmarkInvertFactor(b *testing.B) {
	benchmarkFactor(b, func(cpu *kernels.CPU, a kernels.Block) float64 {
		if !Cholesky(cpu, a) || !InvertUpper(cpu, a) {
			b.Fatal("not positive definite")
		}
		return 2. / 3
	})
}

func benchmarkFactor(b *testing.B, f func(cpu *kernels.CPU, a kernels.Block) float64) {
	for _, threads := range []int{1, 2} {
		for _, n := range []int{576, 1536, 4096} {
			b.Run(fmt.Sprintf("threads=%d/%d", threads, n), func(b *testing.B) {
				cpu := kernels.NewCPU(threads)
				defer cpu.Close()
				h := make([]float32, n*n)
				rng := rand.New(rand.NewPCG(1, 2))
				a := kernels.NewBlock(h, n, n)
				clock, top, most := cputime.Now, 0.0, 0.0
				if threads > 1 {
					clock = cputime.Wall
				}
				for b.Loop() {
					for i := range h {
						h[i] = rng.Float32()
					}
					for i := range n {
						h[i*n+i] += float32(n)
					}
					start := clock()
					peak := cpu.Peak()
					most = max(most, peak/(clock()-start).Seconds()/1e9)
					start = clock()
					share := f(cpu, a)
					top = max(top, share*math.Pow(float64(n), 3)/(clock()-start).Seconds()/1e9)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(top, "GFLOP/s")
				b.ReportMetric(most, "GFLOP/s-ceiling")
				b.ReportMetric(100*top/most, "%")
			})
		}
	}
}
