package quantize

import (
	"math"
	"math/rand/v2"
	"testing"
)

// tryAll returns the least loss that fits, by trying everything.
func tryAll(items [][]choice, budget int64) (least float64) {
	if budget < 0 {
		return math.Inf(1)
	}
	if len(items) == 0 {
		return 0
	}
	least = math.Inf(1)
	for _, c := range items[0] {
		least = min(least, c.loss+tryAll(items[1:], budget-c.bytes))
	}
	return least
}

// TestKnapsack compares with the best of all combinations.
func TestKnapsack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		items := make([][]choice, 1+rng.IntN(6))
		for i := range items {
			for range 1 + rng.IntN(5) {
				items[i] = append(items[i], choice{int64(rng.IntN(1000)), rng.ExpFloat64()})
			}
		}
		if err := checkChoices(items); err != nil {
			t.Fatal(err)
		}
		budget := int64(rng.IntN(3500))
		want := tryAll(items, budget)
		picked, bound, smallest, ok := knapsack(items, budget)
		if ok != !math.IsInf(want, 1) || ok != (smallest <= budget) {
			t.Fatalf("ok is %v, the least loss %g, the smallest %d of %d", ok, want, smallest, budget)
		}
		if !ok {
			continue
		}
		var loss float64
		var bytes int64
		for i, p := range picked {
			loss += items[i][p].loss
			bytes += items[i][p].bytes
		}
		if bytes > budget || math.Abs(loss-want) > 1e-9 || bound > want+1e-9 {
			t.Fatalf("loss %g at %d bytes with bound %g, want %g at %d", loss, bytes, bound, want, budget)
		}
	}
}

// TestKnapsackRoundsUp has sizes far above the resolution: what is picked still
// fits, and is near the bound.
func TestKnapsackRoundsUp(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	var items [][]choice
	var most int64
	for range 200 {
		size, weight := 1e6+rng.Float64()*1e8, rng.ExpFloat64()
		var choices []choice
		for _, bits := range []float64{2.6, 3.4, 4.5, 5.5, 6.6, 8.5} {
			choices = append(choices, choice{int64(size * bits / 8), weight * math.Exp2(-2*bits)})
		}
		items = append(items, choices)
		most += choices[len(choices)-1].bytes
	}
	budget := most / 2
	picked, bound, _, ok := knapsack(items, budget)
	if !ok {
		t.Fatal("nothing fits")
	}
	var loss float64
	var bytes int64
	for i, p := range picked {
		loss += items[i][p].loss
		bytes += items[i][p].bytes
	}
	if bytes > budget || loss > 1.01*bound || bound <= 0 {
		t.Errorf("loss %g at %d bytes, the bound is %g at %d", loss, bytes, bound, budget)
	}
}

func TestCheckChoices(t *testing.T) {
	for _, items := range [][][]choice{{{}}, {{{1, -1}}}, {{{1, math.NaN()}}}, {{{1, math.Inf(1)}}}, {{{-1, 1}}}} {
		if checkChoices(items) == nil {
			t.Errorf("%v is let through", items)
		}
	}
}
