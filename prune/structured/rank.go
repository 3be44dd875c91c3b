package structured

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"llmc/calibrate"
	"llmc/internal/fault"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model"
)

// Ranking orders the units of an axis by importance.
type Ranking struct {
	Axis Axis
	// Scores holds the importance of each unit: by block for heads and neurons,
	// those of a mixture's experts by block and expert, one list for channels and
	// layers.
	Scores [][]float64
	order  [][]int // the units of each list, the most important first
}

// NewRanking returns the ranking that scores, as [Rank] has made them, say.
func NewRanking(a Axis, scores [][]float64) *Ranking {
	r := &Ranking{Axis: a, Scores: scores}
	r.sort()
	return r
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

// Importance is what makes a unit important.
type Importance uint8

// The kinds of importance.
const (
	// Reconstruction is how much is lost without a head or a neuron once the
	// others have made up for it: those go first, one after the other, without
	// which the output of the linear that multiplies them changes least (section 3
	// of arXiv 2302.04089). Tokens count alike, whatever the size of their
	// activations.
	Reconstruction Importance = iota
	// Activations is the size of a unit's activations (section 2.2 of arXiv
	// 2407.14679): of what attention or a neuron puts out, of what all norms make
	// of a channel, with L2 norms over all tokens.
	Activations
	// Influence is how far a layer turns the residual stream, one minus the cosine
	// between what goes in and what comes out (section 2.2 of arXiv 2403.03853).
	Influence
	// Taylor is how the model's loss changes without a unit, to first order: the
	// mean over the samples of (Σ w ∂L/∂w)², w being the weights that write what
	// the unit makes to the residual stream, or into the channel (section 3.1 of
	// arXiv 1906.10771). It takes the whole model in float32 with its gradients.
	Taylor
)

var importanceNames = []string{"reconstruction", "activations", "influence", "taylor"}

// ParseImportance returns the kind of a name.
func ParseImportance(name string) (Importance, bool) {
	i := slices.Index(importanceNames, name)
	return Importance(max(i, 0)), i >= 0
}

// String returns the name.
func (i Importance) String() string { return importanceNames[i] }

// Importances lists what the units of an axis can be ranked by, the default
// first.
func (a Axis) Importances() []Importance {
	switch a {
	case Hidden:
		return []Importance{Activations, Taylor}
	case Layers:
		return []Importance{Influence, Taylor}
	}
	return []Importance{Activations, Reconstruction, Taylor}
}

// RankOptions are how [Rank] works.
type RankOptions struct {
	Importance Importance // one of the axis's
	Least      int        // units that are left at the least, which need no order
	Damp       float64    // as in Options
	Threads    int        // as in Options
}

// Rank takes windows of token ids through the model and scores every unit of an
// axis. o.Importance must be one of the axis's.
//
// walk may bound the memory and be told of the progress; what is gathered is up
// to Rank.
func Rank(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, a Axis, o RankOptions, walk calibrate.Options) (*Ranking, error) {
	r := &Ranking{Axis: a}
	var err error
	switch {
	case !slices.Contains(a.Importances(), o.Importance):
		return nil, fmt.Errorf("%s are not ranked by %s", a, o.Importance)
	case o.Importance == Taylor:
		err = r.byTaylor(ctx, w, windows, o, walk)
	case o.Importance == Influence:
		err = r.byInfluence(ctx, dev, w, windows, walk)
	case o.Importance == Reconstruction && a == FFN && w.Config.Experts.Count > 0:
		err = fault.Hint(fault.Invalid("the model is a mixture of experts (%s), whose neurons are not ranked by what the others make up for", w.Config.Family.Name), "rank by %s", Activations)
	case o.Importance == Reconstruction:
		err = r.byReconstruction(ctx, dev, w, windows, o, walk)
	case a == Hidden:
		err = r.channels(ctx, dev, w, windows, walk)
	default:
		err = r.byActivations(ctx, dev, w, windows, walk)
	}
	if err != nil {
		return nil, err
	}
	r.sort()
	return r, nil
}

// multiplier is the linear that multiplies what heads or neurons put out.
func (a Axis) multiplier() model.Role {
	if a == Heads {
		return model.O
	}
	return model.Down
}

// byReconstruction scores heads and neurons.
func (r *Ranking) byReconstruction(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, o RankOptions, walk calibrate.Options) error {
	c := &w.Config
	r.Scores = make([][]float64, c.Blocks)
	units := r.Axis.Units(c)
	lead := calibrate.Lead{Weights: w, Fit: []model.Role{r.Axis.multiplier()}}
	walk.Solve = func(rows, cols int) calibrate.Cost {
		in, out := int64(cols), int64(rows)
		gone := float64(cols) * float64(units-o.Least) / float64(units)
		return calibrate.Cost{Bytes: 4 * (4*in*in + 3*in*out), Flops: 2*float64(in*in)*float64(in) + 2*float64(in)*float64(in+out)*gone}
	}
	return calibrate.Follow(ctx, dev, lead, w, windows, walk, func(_ context.Context, id model.ID, gap *calibrate.Gap) error {
		m, err := w.Matrix(id)
		if err != nil {
			return err
		}
		rows, cols := m.Shape()
		scores, _, err := eliminate(kernels.Float32s(m), rows, gap.Hessian, cols, cols/units, o.Least, o.Damp, o.Threads)
		if errors.Is(err, solve.ErrZero) {
			scores, err = make([]float64, units), nil // all are as good
		}
		r.Scores[id.Block] = scores
		return err
	})
}

// byActivations scores heads and neurons.
func (r *Ranking) byActivations(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, walk calibrate.Options) error {
	r.Scores = make([][]float64, r.Axis.lists(&w.Config))
	walk.Unchanged = true
	return calibrate.Walk(ctx, dev, w, windows, walk, func(_ context.Context, block int, roles []model.Role, in *calibrate.Inputs) error {
		id := model.ID{Role: roles[0], Block: block, Expert: in.Expert}
		if id.Role == r.Axis.multiplier() && !shared(&w.Config, id) {
			r.Scores[r.Axis.list(&w.Config, id)] = sizes(in.MeanSquare, r.Axis.Units(&w.Config))
		}
		return nil
	})
}

// shared reports whether a linear is of the expert that all tokens go through.
func shared(c *model.Config, id model.ID) bool {
	return c.Experts.Count > 0 && id.Role == model.Down && id.Expert == model.NoExpert
}

// channels scores those of the residual stream.
func (r *Ranking) channels(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, walk calibrate.Options) error {
	sum := make([]float64, w.Config.Hidden)
	r.Scores = [][]float64{sum}
	walk.Unchanged, walk.Final = true, true
	return calibrate.Walk(ctx, dev, w, windows, walk, func(_ context.Context, _ int, roles []model.Role, in *calibrate.Inputs) error {
		if roles[0] != model.O && roles[0] != model.Down && in.Expert == model.NoExpert {
			for i, v := range in.MeanSquare {
				sum[i] += math.Sqrt(float64(v))
			}
		}
		return nil
	})
}

// byInfluence scores layers.
func (r *Ranking) byInfluence(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, walk calibrate.Options) error {
	through := newInfluence(&w.Config)
	walk.Unchanged, walk.Through = true, through.add
	err := calibrate.Walk(ctx, dev, w, windows, walk, func(context.Context, int, []model.Role, *calibrate.Inputs) error { return nil })
	r.Scores = [][]float64{through.scores()}
	return err
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
