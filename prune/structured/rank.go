package structured

import (
	"cmp"
	"context"
	"math"
	"slices"

	"llmc/calibrate"
	"llmc/kernels"
	"llmc/model"
)

// Ranking orders the units of an axis by importance.
type Ranking struct {
	Axis Axis
	// Scores holds the importance of each unit: by block for heads and neurons,
	// one list for channels and layers.
	Scores [][]float64
	order  [][]int // the units of each list, the most important first
}

// sort makes the order from the scores; equal ones stay as they stand.
func (r *Ranking) sort() {
	r.order = nil
	for _, scores := range r.Scores {
		order := make([]int, len(scores))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
		r.order = append(r.order, order)
	}
}

// Cut returns the cut that leaves the n most important units, of each block for
// heads and neurons.
func (r *Ranking) Cut(c *model.Config, n int) *model.Cut {
	var kept [][]int
	for _, order := range r.order {
		list := slices.Clone(order[:n])
		slices.Sort(list)
		kept = append(kept, list)
	}
	switch r.Axis {
	case FFN:
		return &model.Cut{Neurons: kept}
	case Hidden:
		return &model.Cut{Hidden: kept[0]}
	case Layers:
		return &model.Cut{Blocks: kept[0]}
	}
	if c.KVHeads == 1 {
		return &model.Cut{Heads: kept}
	}
	per := c.Heads / c.KVHeads
	for b, groups := range kept {
		var heads []int
		for _, g := range groups {
			for i := range per {
				heads = append(heads, g*per+i)
			}
		}
		kept[b] = heads
	}
	return &model.Cut{Heads: kept}
}

// Rank takes windows of token ids through the model and scores every unit of an
// axis: heads by the size of what attention makes of them, neurons by that of
// their activations, channels by that of what all norms make of them (section
// 2.2 of arXiv 2407.14679, with L2 norms over all tokens), layers by how far
// they turn the residual stream, one minus the cosine between what goes in and
// what comes out (block influence, section 2.2 of arXiv 2403.03853).
//
// o may bound the memory and be told of the progress; what is gathered is up to
// Rank.
func Rank(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, a Axis, o calibrate.Options) (*Ranking, error) {
	r := &Ranking{Axis: a}
	c := &w.Config
	through := newInfluence(c)
	visit := func(context.Context, int, []model.Role, *calibrate.Inputs) error { return nil }
	switch a {
	case Heads, FFN:
		r.Scores = make([][]float64, c.Blocks)
		role := model.Down
		if a == Heads {
			role = model.O
		}
		visit = func(_ context.Context, block int, roles []model.Role, in *calibrate.Inputs) error {
			if roles[0] == role {
				r.Scores[block] = sizes(in.MeanSquare, a.Units(c))
			}
			return nil
		}
	case Hidden:
		sum := make([]float64, c.Hidden)
		r.Scores = [][]float64{sum}
		o.Final = true
		visit = func(_ context.Context, _ int, roles []model.Role, in *calibrate.Inputs) error {
			if roles[0] != model.O && roles[0] != model.Down {
				for i, v := range in.MeanSquare {
					sum[i] += math.Sqrt(float64(v))
				}
			}
			return nil
		}
	case Layers:
		o.Through = through.add
	}
	o.Unchanged = true
	if err := calibrate.Walk(ctx, dev, w, windows, o, visit); err != nil {
		return nil, err
	}
	if a == Layers {
		r.Scores = [][]float64{through.scores()}
	}
	r.sort()
	return r, nil
}

// sizes returns the root mean square of each of so many equal parts.
func sizes(meanSquare []float32, parts int) []float64 {
	size := len(meanSquare) / parts
	out := make([]float64, parts)
	for i, v := range meanSquare {
		out[i/size] += float64(v)
	}
	for i := range out {
		out[i] = math.Sqrt(out[i] / float64(size))
	}
	return out
}

// influence sums the block influence of each block.
type influence struct {
	hidden int
	sums   []float64 // of 1 - cosine
	tokens []int
}

func newInfluence(c *model.Config) *influence {
	return &influence{hidden: c.Hidden, sums: make([]float64, c.Blocks), tokens: make([]int, c.Blocks)}
}

// add takes in the hidden states [rows, hidden] before and after a block.
func (s *influence) add(block int, before, after []float32) {
	for at := 0; at < len(before); at += s.hidden {
		var dot, a, b float64
		for i, x := range before[at:][:s.hidden] {
			y := float64(after[at+i])
			dot += float64(x) * y
			a += float64(x) * float64(x)
			b += y * y
		}
		if a > 0 && b > 0 {
			s.sums[block] += 1 - dot/math.Sqrt(a*b)
		}
		s.tokens[block]++
	}
}

func (s *influence) scores() []float64 {
	out := make([]float64, len(s.sums))
	for b, sum := range s.sums {
		out[b] = sum / float64(max(s.tokens[b], 1))
	}
	return out
}
