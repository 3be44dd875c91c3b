package quantize

import (
	"fmt"
	"math"
	"slices"
)

// choice is one way to store a tensor, or tensors that must be stored alike.
type choice struct {
	bytes int64
	loss  float64 // finite, 0 or more
}

// knapsackUnits is the resolution of the search: the budget above the smallest
// sizes is divided into that many units, and sizes are rounded up to them.
const knapsackUnits = 1 << 16

// knapsack picks one choice of every item so that the sum of bytes is at most
// budget and the sum of losses is the least. That is exact when a unit is one
// byte; else sizes are rounded up, so that the result fits but may be short of
// the best. bound is less than or equal to the least loss there can be: the
// optimum of the Lagrangian dual. ok is false when nothing fits; smallest is the
// least sum of bytes.
func knapsack(items [][]choice, budget int64) (picked []int, bound float64, smallest int64, ok bool) {
	least := make([]int64, len(items))
	for i, choices := range items {
		least[i] = slices.MinFunc(choices, func(a, b choice) int { return int(a.bytes - b.bytes) }).bytes
		smallest += least[i]
	}
	if smallest > budget {
		return nil, 0, smallest, false
	}
	unit := max(1, (budget-smallest+knapsackUnits-1)/knapsackUnits)
	room := int((budget - smallest) / unit)
	// best[u] is the least loss of the items so far in u units; taken[i][u] is
	// what item i does in it.
	best := make([]float64, room+1)
	taken := make([][]uint8, len(items))
	for i, choices := range items {
		next := slices.Repeat([]float64{math.Inf(1)}, room+1)
		taken[i] = make([]uint8, room+1)
		for c, ch := range choices {
			units := (ch.bytes - least[i] + unit - 1) / unit
			for u := int(units); u <= room; u++ {
				if v := best[u-int(units)] + ch.loss; v < next[u] {
					next[u], taken[i][u] = v, uint8(c)
				}
			}
		}
		best = next
	}
	picked = make([]int, len(items))
	u := room
	for i := len(items) - 1; i >= 0; i-- {
		picked[i] = int(taken[i][u])
		u -= int((items[i][picked[i]].bytes - least[i] + unit - 1) / unit)
	}
	return picked, dualBound(items, budget), smallest, true
}

// dualBound maximises min(loss + price*(bytes-budget)) over the price, a
// concave function that is below the least loss for every price.
func dualBound(items [][]choice, budget int64) float64 {
	// at returns the value at a price, and its slope there: the bytes over the
	// budget.
	at := func(price float64) (value float64, slope int64) {
		value, slope = -price*float64(budget), -budget
		for _, choices := range items {
			best, bytes := math.Inf(1), int64(0)
			for _, c := range choices {
				if v := c.loss + price*float64(c.bytes); v < best {
					best, bytes = v, c.bytes
				}
			}
			value += best
			slope += bytes
		}
		return value, slope
	}
	lo, hi := 0.0, 1e-12
	for range 200 { // until the cheapest choices are taken
		if _, over := at(hi); over <= 0 {
			break
		}
		lo, hi = hi, 2*hi
	}
	bound, _ := at(0)
	for range 100 {
		mid := (lo + hi) / 2
		value, over := at(mid)
		bound = max(bound, value)
		if over > 0 {
			lo = mid
		} else {
			hi = mid
		}
	}
	return max(bound, 0)
}

// checkChoices is what knapsack asks of its callers.
func checkChoices(items [][]choice) error {
	for i, choices := range items {
		if len(choices) == 0 || len(choices) > math.MaxUint8 {
			return fmt.Errorf("item %d has %d choices", i, len(choices))
		}
		for _, c := range choices {
			if !(c.loss >= 0) || math.IsInf(c.loss, 0) || c.bytes < 0 {
				return fmt.Errorf("item %d has the choice %+v", i, c)
			}
		}
	}
	return nil
}
