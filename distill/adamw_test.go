package distill

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func variables(rng *rand.Rand) []*Variable {
	var list []*Variable
	for i, n := range []int{3, chunk + 5, 2*chunk + 1} {
		_, value := logits(rng, n, 1)
		_, grad := logits(rng, n, 1)
		v := NewVariable("v", value, grad)
		v.Decay = i != 1
		list = append(list, v)
	}
	return list
}

// TestAdamW compares with the formulas in float64, over some steps, and the
// threads with each other.
func TestAdamW(t *testing.T) {
	a := AdamW{Beta1: 0.9, Beta2: 0.95, Epsilon: 1e-8, Decay: 0.1}
	var first [][]float32
	for _, threads := range []int{1, 3} {
		rng := rand.New(rand.NewPCG(5, 5))
		vars := variables(rng)
		type state struct{ x, m, v []float64 }
		want := make([]state, len(vars))
		for i, v := range vars {
			want[i] = state{make([]float64, len(v.Value)), make([]float64, len(v.Value)), make([]float64, len(v.Value))}
			for j, x := range v.Value {
				want[i].x[j] = float64(x)
			}
		}
		const scale = 0.5
		for step := 1; step <= 20; step++ {
			rate := 1e-2 / float64(step)
			for i, v := range vars {
				w := &want[i]
				for j := range v.Grad {
					g := rng.NormFloat64()
					v.Grad[j] = float32(g)
					g = float64(v.Grad[j]) * scale
					w.m[j] = 0.9*w.m[j] + 0.1*g
					w.v[j] = 0.95*w.v[j] + 0.05*g*g
					if v.Decay {
						w.x[j] -= rate * 0.1 * w.x[j]
					}
					mean := w.m[j] / (1 - math.Pow(0.9, float64(step)))
					square := w.v[j] / (1 - math.Pow(0.95, float64(step)))
					w.x[j] -= rate * mean / (math.Sqrt(square) + 1e-8)
				}
			}
			a.Step(threads, vars, step, rate, scale)
		}
		for i, v := range vars {
			for j, x := range v.Value {
				if d := math.Abs(float64(x) - want[i].x[j]); !(d <= 3e-6) {
					t.Fatalf("value %d of %d is %v, want %v", j, i, x, want[i].x[j])
				}
			}
			if threads == 1 {
				first = append(first, v.Value)
			} else if !slices.Equal(first[i], v.Value) {
				t.Errorf("variable %d depends on the number of threads", i)
			}
		}
	}
}

func TestNorm(t *testing.T) {
	vars := variables(rand.New(rand.NewPCG(5, 5)))
	want := 0.0
	for _, v := range vars {
		for _, g := range v.Grad {
			want += float64(g) * float64(g)
		}
	}
	want = math.Sqrt(want)
	got := Norm(1, vars)
	if math.Abs(got-want) > 1e-9*want || got != Norm(3, vars) {
		t.Errorf("the norm is %v on one thread, %v on three, want %v", got, Norm(3, vars), want)
	}
	vars[1].Grad[chunk] = float32(math.NaN())
	if !math.IsNaN(Norm(2, vars)) {
		t.Error("a gradient that is not a number gives a norm")
	}
}

func TestKeepZeros(t *testing.T) {
	a := DefaultAdamW
	v := NewVariable("v", []float32{0, 1, 0}, []float32{1, 1, 1})
	v.KeepZeros = true
	a.Step(1, []*Variable{v}, 1, 0.1, 1)
	if v.Value[0] != 0 || v.Value[2] != 0 || !(v.Value[1] < 1) {
		t.Errorf("zeros became %v", v.Value)
	}
}

func TestSchedule(t *testing.T) {
	s := Schedule{Rate: 2, Steps: 110, Warmup: 10, Final: 0.1}
	for step, want := range map[int]float64{1: 0.2, 5: 1, 10: 2, 60: 2 * (0.1 + 0.9/2), 110: 0.2} {
		if got := s.At(step); math.Abs(got-want) > 1e-12 {
			t.Errorf("the rate of step %d is %v, want %v", step, got, want)
		}
	}
	if got := (&Schedule{Rate: 2, Steps: 5, Warmup: 5}).At(5); got != 2 {
		t.Errorf("a warm-up to the end ends at %v, want 2", got)
	}
}

func TestChecks(t *testing.T) {
	nan := math.NaN()
	for _, err := range []error{
		(&AdamW{Beta1: 1, Beta2: 0.9, Epsilon: 1}).Check(), (&AdamW{Beta2: nan, Epsilon: 1}).Check(),
		(&AdamW{Epsilon: 0}).Check(), (&AdamW{Epsilon: 1, Decay: -1}).Check(),
		(&Schedule{Rate: 0, Steps: 1}).Check(), (&Schedule{Rate: nan, Steps: 1}).Check(),
		(&Schedule{Rate: 1}).Check(), (&Schedule{Rate: 1, Steps: 3, Warmup: 4}).Check(), (&Schedule{Rate: 1, Steps: 3, Final: 2}).Check(),
		(&Loss{Kind: KL}).Check(), (&Loss{Kind: KL, Temperature: nan}).Check(), (&Loss{Kind: KL, Temperature: 1, Alpha: 1.1}).Check(),
		(&Loss{Kind: JS, Temperature: 1, Alpha: 1}).Check(), (&Loss{Kind: 9}).Check(),
	} {
		if err == nil {
			t.Error("a wrong number is accepted")
		}
	}
	if _, err := ParseKind("mse"); err == nil {
		t.Error("a loss that there is not is accepted")
	}
	for _, name := range Kinds() {
		if kind, err := ParseKind(name); err != nil || kind.String() != name {
			t.Errorf("%s became %v, %v", name, kind, err)
		}
	}
}

func BenchmarkAdamW(b *testing.B) {
	v := NewVariable("v", make([]float32, 1<<22), make([]float32, 1<<22))
	a := DefaultAdamW
	b.SetBytes(1 << 22)
	for b.Loop() {
		a.Step(0, []*Variable{v}, 1, 1e-3, 1)
	}
}
