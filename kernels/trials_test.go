package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// TestTrials compares the sums with their definition in float64, and those of all
// levels with one another, bit for bit.
func TestTrials(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, grids := range []int{1, 7, 8, 16, 37, 80} {
		for _, n := range []int{0, 1, 31, 32, 128} {
			x, w := make([]float32, n), make([]float32, n)
			for i := range x {
				x[i], w[i] = float32(rng.NormFloat64()), rng.Float32()
			}
			tr := Trials{make([]float32, grids), make([]float32, grids), make([]float32, grids)}
			for i := range grids {
				tr.Scales[i], tr.Lows[i] = 0.05+rng.Float32(), -float32(rng.IntN(8))
				tr.Highs[i] = tr.Lows[i] + float32(rng.IntN(15))
			}
			for _, weights := range [][]float32{nil, w} {
				sums := make([]float32, grids)
				tr.Errors(sums, x, weights)
				for i, got := range sums {
					if p := trialPortable(x, weights, tr.Scales[i], tr.Lows[i], tr.Highs[i]); got != p {
						t.Fatalf("%d numbers on grid %d of %d: %v, portable Go gives %v", n, i, grids, got, p)
					}
					want := 0.0
					for j, v := range x {
						s := float64(tr.Scales[i])
						q := math.RoundToEven(min(max(float64(v)/s, float64(tr.Lows[i])), float64(tr.Highs[i])))
						e := (float64(v) - q*s) * (float64(v) - q*s)
						if weights != nil {
							e *= float64(w[j])
						}
						want += e
					}
					if math.Abs(float64(got)-want) > 1e-5*(1+want) {
						t.Fatalf("%d numbers on grid %d: %v, want %v", n, i, got, want)
					}
				}
			}
		}
	}
}

func BenchmarkTrials(b *testing.B) {
	x := make([]float32, 32)
	tr := Trials{make([]float32, 80), make([]float32, 80), make([]float32, 80)}
	for i := range x {
		x[i] = float32(i%7) - 3
	}
	for i := range tr.Scales {
		tr.Scales[i], tr.Lows[i], tr.Highs[i] = 0.1+float32(i)/50, -3, 4
	}
	sums := make([]float32, 80)
	for _, weights := range [][]float32{nil, x} {
		b.Run(fmt.Sprintf("weighed=%v", weights != nil), func(b *testing.B) {
			for b.Loop() {
				tr.Errors(sums, x, weights)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(x)), "ns/weight")
		})
	}
}
