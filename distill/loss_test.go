package distill

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// distribution is softmax(x/t) in float64.
func distribution(x []float64, t float64) []float64 {
	top, sum := slices.Max(x), 0.0
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = math.Exp((v - top) / t)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

func kl(p, q []float64) float64 {
	sum := 0.0
	for i, v := range p {
		if v > 0 {
			sum += v * math.Log(v/q[i])
		}
	}
	return sum
}

// slowDivergence is written from the definitions.
func slowDivergence(kind Kind, beta float64, p, q []float64) float64 {
	switch kind {
	case KL:
		return kl(p, q)
	case ReverseKL:
		return kl(q, p)
	case TV:
		sum := 0.0
		for i := range p {
			sum += math.Abs(p[i]-q[i]) / 2
		}
		return sum
	}
	m := make([]float64, len(p))
	for i := range m {
		m[i] = beta*p[i] + (1-beta)*q[i]
	}
	return beta*kl(p, m) + (1-beta)*kl(q, m)
}

// bucket sums up all but some tokens.
func bucket(p []float64, ids []int32) []float64 {
	out, rest := []float64{}, 0.0
	for _, id := range ids {
		out = append(out, p[id])
	}
	for i, v := range p {
		if !slices.Contains(ids, int32(i)) {
			rest += v
		}
	}
	return append(out, rest)
}

// slowLoss is the loss of student logits z and teacher logits u.
func slowLoss(l Loss, z, u []float64, next int32, ids []int32) float64 {
	ce := -math.Log(distribution(z, 1)[next])
	if !l.Teaches() {
		return ce
	}
	n := min(len(z), len(u))
	p, q := distribution(u[:n], l.Temperature), distribution(z[:n], l.Temperature)
	if ids != nil {
		p, q = bucket(p, ids), bucket(q, ids)
	}
	d := slowDivergence(l.Kind, l.Beta, p, q)
	return l.Alpha*l.Temperature*l.Temperature*d + (1-l.Alpha)*ce
}

func losses() []Loss {
	list := []Loss{{Kind: CrossEntropy}}
	for _, kind := range []Kind{KL, ReverseKL, JS, TV} {
		for _, t := range []float64{1, 2.5} {
			for _, alpha := range []float64{1, 0.3} {
				list = append(list, Loss{Kind: kind, Temperature: t, Alpha: alpha, Beta: 0.3})
			}
		}
	}
	return append(list, Loss{Kind: KL, Temperature: 1, Alpha: 0})
}

func logits(rng *rand.Rand, n int, spread float64) ([]float64, []float32) {
	wide, narrow := make([]float64, n), make([]float32, n)
	for i := range wide {
		narrow[i] = float32(rng.NormFloat64() * spread)
		wide[i] = float64(narrow[i])
	}
	return wide, narrow
}

// TestGradients compares losses and gradients with central differences of the
// definitions in float64, with all of the teacher's logits and with the most
// likely ones only, for vocabularies of one length and padded ones.
func TestGradients(t *testing.T) {
	for _, l := range losses() {
		for _, top := range []int{0, 1, 5, 16} {
			for _, vocab := range [][2]int{{37, 37}, {37, 40}, {40, 37}} {
				if top > 0 && vocab[0] != vocab[1] {
					continue // a padded teacher is cut before its likeliest tokens are taken
				}
				t.Run(fmt.Sprintf("%v T=%g alpha=%g top=%d %v", l.Kind, l.Temperature, l.Alpha, top, vocab), func(t *testing.T) {
					checkGradient(t, l, top, vocab)
				})
			}
		}
	}
}

func checkGradient(t *testing.T, l Loss, top int, vocab [2]int) {
	rng := rand.New(rand.NewPCG(1, uint64(top)))
	var s Scratch
	for range 5 {
		z, z32 := logits(rng, vocab[0], 2)
		u, u32 := logits(rng, vocab[1], 2)
		next := int32(rng.IntN(30))
		p := &Prediction{Logits: u32}
		var ids []int32
		if top > 0 && l.Teaches() {
			if !Top(u32, l.Temperature, top, p) {
				t.Fatal("finite logits are refused")
			}
			ids = p.IDs
		}
		want := slowLoss(l, z, u, next, ids)
		const scale = 0.125
		got := l.Row(z32, p, next, scale, &s)
		if !(math.Abs(got.Loss-want) <= 2e-6*(1+math.Abs(want))) {
			t.Fatalf("the loss is %v, want %v", got.Loss, want)
		}
		const h = 1e-5
		for i := range z {
			at := z[i]
			z[i] = at + h
			up := slowLoss(l, z, u, next, ids)
			z[i] = at - h
			down := slowLoss(l, z, u, next, ids)
			z[i] = at
			slope := scale * (up - down) / (2 * h)
			if !(math.Abs(float64(z32[i])-slope) <= 1e-6) {
				t.Fatalf("gradient %d is %v, want %v", i, z32[i], slope)
			}
		}
	}
}

// TestExtremeLogits: differences of hundreds give finite losses and gradients,
// and logits that are not finite give NaN, never a wrong number.
func TestExtremeLogits(t *testing.T) {
	for _, l := range losses() {
		for _, top := range []int{0, 3} {
			z := []float32{300, -300, 0, 5, 1, 2}
			u := []float32{-300, 300, 0, 5, 1, 2}
			run := func() Value {
				p := &Prediction{Logits: slices.Clone(u)}
				if top > 0 {
					Top(p.Logits, max(l.Temperature, 1), top, p)
				}
				var s Scratch
				return l.Row(z, p, 0, 1, &s)
			}
			v := run()
			if math.IsNaN(v.Loss) || math.IsInf(v.Loss, 0) || slices.ContainsFunc(z, func(g float32) bool { return !(math.Abs(float64(g)) < 1e4) }) {
				t.Errorf("%+v, top %d: loss %v, gradient %v", l, top, v.Loss, z)
			}
			z[2] = float32(math.Inf(1))
			if v := run(); !math.IsNaN(v.Loss) || z[0] == z[0] {
				t.Errorf("%+v, top %d: infinite logits give the loss %v and the gradient %v", l, top, v.Loss, z)
			}
		}
	}
}

// TestTop compares with sorting.
func TestTop(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for _, n := range []int{1, 2, 7, 100, 3000} {
		wide, x := logits(rng, n, 3)
		if n > 10 {
			x[3], wide[3] = x[5], wide[5] // equals
		}
		order := make([]int32, n)
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortStableFunc(order, func(a, b int32) int {
			switch {
			case x[a] > x[b]:
				return -1
			case x[a] < x[b]:
				return 1
			}
			return 0
		})
		for _, k := range []int{1, 2, 5, 64, 5000} {
			var p Prediction
			Top(slices.Clone(x), 1.5, k, &p)
			if !slices.Equal(p.IDs, order[:min(k, n)]) {
				t.Fatalf("the %d largest of %d are %v, want %v", k, n, p.IDs, order[:min(k, n)])
			}
			want := bucket(distribution(wide, 1.5), p.IDs)
			for i, lp := range append(slices.Clone(p.LogProbs), p.LogTail) {
				if got := math.Exp(float64(lp)); math.Abs(got-want[i]) > 1e-6 {
					t.Fatalf("probability %d of the %d largest of %d is %v, want %v", i, k, n, got, want[i])
				}
			}
		}
	}
}

func TestLog1p(t *testing.T) {
	for x := 1e-9; x < 1e9; x *= 1.01 {
		for _, v := range []float64{x, -x, x - 1, 1/x - 1} {
			if v <= -1 {
				continue
			}
			if got, want := log1p(v), math.Log1p(v); math.Abs(got-want) > 2e-7*math.Abs(want) {
				t.Fatalf("log1p(%v) is %v, want %v", v, got, want)
			}
		}
	}
	if !math.IsInf(log1p(-1), -1) || !math.IsNaN(log1p(math.NaN())) {
		t.Error("log1p of -1 or NaN is wrong")
	}
}

// BenchmarkRow is a row of SmolLM2's vocabulary.
func BenchmarkRow(b *testing.B) {
	rng := rand.New(rand.NewPCG(3, 3))
	_, z := logits(rng, 49152, 3)
	_, u := logits(rng, 49152, 3)
	var s Scratch
	for _, kind := range []Kind{KL, ReverseKL, JS, TV, CrossEntropy} {
		for _, top := range []int{0, 64} {
			b.Run(fmt.Sprintf("%v/top=%d", kind, top), func(b *testing.B) {
				l := Loss{Kind: kind, Temperature: 1, Alpha: 1, Beta: 0.5}
				row, other := make([]float32, len(z)), make([]float32, len(z))
				p := &Prediction{}
				for b.Loop() {
					copy(row, z)
					copy(other, u)
					p.Logits = other
					if top > 0 {
						Top(other, 1, top, p)
					}
					l.Row(row, p, 3, 1, &s)
				}
			})
		}
	}
}
