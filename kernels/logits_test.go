package kernels

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// logSum is the definition in float64.
func logSum(row []float32) float64 {
	largest := math.Inf(-1)
	for _, v := range row {
		largest = math.Max(largest, float64(v))
	}
	sum := 0.0
	for _, v := range row {
		sum += math.Exp(float64(v) - largest)
	}
	return largest + math.Log(sum)
}

func TestLogits(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(61, 62))
		for _, n := range []int{1, 2, 15, 16, 17, 1000, 1024, 5003} {
			for _, noise := range []float32{0.01, 3} {
				base, variant := randoms(r, n), randoms(r, n)
				for i := range base {
					base[i] = 5*base[i] - 20
					variant[i] = base[i] + noise*variant[i] + 7
				}
				b, ok1 := summarize(o, base)
				v, ok2 := summarize(o, variant)
				lb, lv := logSum(base), logSum(variant)
				if !ok1 || !ok2 || math.Abs(b.LogSum-lb) > 1e-6 || math.Abs(v.LogSum-lv) > 1e-6 {
					t.Fatalf("%d: sums are %v and %v, want %v and %v", n, b.LogSum, v.LogSum, lb, lv)
				}
				kl := 0.0
				for i, x := range base {
					if x > base[b.Top] || x == base[b.Top] && i < b.Top {
						t.Fatalf("%d: top is %d, but %d is larger or earlier", n, b.Top, i)
					}
					kl += math.Exp(float64(x)-lb) * (float64(x) - lb - float64(variant[i]) + lv)
				}
				if got := divergence(o, base, variant, b, v); math.Abs(got-kl) > 1e-6*kl+2e-8 {
					t.Errorf("%d, noise %v: divergence is %v, want %v", n, noise, got, kl)
				}
			}
		}
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for i := range 40 {
				row := make([]float32, 40)
				row[i] = float32(bad)
				if _, ok := summarize(o, row); ok {
					t.Fatalf("a row with %v at %d is accepted", bad, i)
				}
			}
		}
	})
	row := []float32{1, 2, 3}
	LogSoftmax(row)
	checkClose(t, "log-softmax", row, []float32{-2.407606, -1.407606, -0.407606}, 1e-6)
}

// TestSoftmax compares with float64 at every level.
func TestSoftmax(t *testing.T) {
	row := []float32{1, -200, 3.5, 0, 90, 88, 2, 91.25, -3}
	sum := 0.0
	for _, v := range row {
		sum += math.Exp(float64(v) - 91.25)
	}
	for _, o := range levels() {
		got := slices.Clone(row)
		d, _ := summarize(o, got)
		softmax(o, got, d)
		for i, v := range row {
			want := math.Exp(float64(v)-91.25) / sum
			if math.Abs(float64(got[i])-want) > 1e-5*want+1e-37 {
				t.Errorf("%s: probability %d is %v, want %v", o.level, i, got[i], want)
			}
		}
	}
}

func TestWithin(t *testing.T) {
	row := make([]float32, 50)
	for i := range row {
		row[i] = -9.5
	}
	for _, last := range []float32{9.99, 10, -10, float32(math.NaN()), float32(math.Inf(-1))} {
		row[49] = last
		if got, want := Within(row, 10), last == 9.99; got != want {
			t.Errorf("%v is within 10: %v, want %v", last, got, want)
		}
	}
	if row[49] = 1; !Within(row, 1000) {
		t.Error("small numbers are not within 1000")
	}
}
