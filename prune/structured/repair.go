package structured

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"

	"llmc/calibrate"
	"llmc/dtype"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model"
)

// Repair says what was done to one linear of the model that is left.
type Repair struct {
	ID model.ID `json:"-"` // in the model that is left
	// Cut is how far the residual stream is from the whole model's after the
	// linear as it was cut, relative to its size: the root of the mean square over
	// the calibration tokens that nothing was fitted to, or over all if there are
	// too few. Repaired is that with the weights that were fitted, as they are
	// stored. In families that normalize what the linear puts out, it is of that
	// output.
	Cut      float64 `json:"error_cut"`
	Repaired float64 `json:"error_repaired,omitempty"`
	// Used is whether they are used: where they lower the error.
	Used bool `json:"used"`
	// Share is the mean share of the fitted step that is taken, by row as it lowers
	// the error most on the tokens kept apart.
	Share   float64 `json:"share,omitempty"`
	Damping float64 `json:"damping,omitempty"` // the least share of the Hessian's mean diagonal that was added
	Reason  string  `json:"reason,omitempty"`  // why nothing was fitted
}

// dampings are what Options.Damp is multiplied by, of which each row takes what
// serves it best on the tokens kept apart.
var dampings = []float64{1, 30}

// repair replaces a linear of w by one that closes the gap to the whole model
// best: W + D Zᵀ (Z Zᵀ + damping)⁻¹, where that helps. What is left of errors of
// many blocks is mostly noise to a linear: rows take only the share of the step
// that holds for tokens that they were not fitted to.
func repair(w *model.Weights, id model.ID, gap *calibrate.Gap, o Options) (Repair, error) {
	check := gap
	if gap.Check != nil {
		check = gap.Check
	}
	report := Repair{ID: id, Cut: rootMean(total(check.Energy), check.Tokens)}
	m, err := w.Matrix(id)
	if err != nil {
		return report, err
	}
	rows, cols := m.Shape()
	step, err := report.fit(gap, rows, cols, o)
	if errors.Is(err, solve.ErrZero) || errors.Is(err, solve.ErrIndefinite) {
		report.Reason = err.Error()
		return report, nil
	}
	if err != nil {
		return report, err
	}
	before := kernels.Float32s(m)
	for i, v := range before {
		step[i] += v
	}
	fitted, err := store(step, rows, cols, w.Stored(id)["weight"].Type)
	if err != nil {
		return report, err
	}
	for i, v := range kernels.Float32s(fitted) {
		step[i] = v - before[i]
	}
	left := 0.0
	for r, g := range gains(check, step, rows, o.Threads) {
		left += check.Energy[r] - 2*g.linear + g.square
	}
	report.Repaired = rootMean(left, check.Tokens)
	if report.Repaired < report.Cut {
		report.Used = true
		w.Replace(id, fitted)
	}
	return report, nil
}

// fit returns the step [rows, cols] to take, row by row.
func (r *Repair) fit(gap *calibrate.Gap, rows, cols int, o Options) ([]float32, error) {
	if gap.Check == nil {
		step, damping, err := solve.Ridge(gap.Hessian, cols, o.Damp, gap.Cross, rows, o.Threads)
		r.Damping, r.Share = damping, 1
		return step, err
	}
	best, won := make([]float32, rows*cols), make([]float64, rows)
	shares := make([]float64, rows)
	for _, factor := range dampings {
		step, damping, err := solve.Ridge(gap.Hessian, cols, min(factor*cmp.Or(o.Damp, solve.DefaultDamp), 1), gap.Cross, rows, o.Threads)
		if err != nil {
			return nil, err
		}
		if r.Damping == 0 {
			r.Damping = damping
		}
		for row, g := range gains(gap.Check, step, rows, o.Threads) {
			share := g.share()
			if gain := share * (2*g.linear - share*g.square); gain > won[row] {
				won[row], shares[row] = gain, share
				for c, v := range step[row*cols:][:cols] {
					best[row*cols+c] = float32(share) * v
				}
			}
		}
	}
	r.Share = total(shares) / float64(rows)
	return best, nil
}

// gain is what a step does to the squared gap of a row: a share t of it takes
// 2t·linear - t²·square off.
type gain struct{ linear, square float64 }

// share is the part of the step that serves best, at most all of it.
func (g gain) share() float64 {
	if g.linear <= 0 || g.square <= 0 {
		return 0
	}
	return min(g.linear/g.square, 1)
}

// gains measures a step [rows, in] on a gap.
func gains(gap *calibrate.Gap, step []float32, rows, threads int) []gain {
	cols := len(step) / rows
	out := solve.NewOutputs(gap.Hessian, cols, threads)
	defer out.Close()
	x := out.CPU.NewTensor(rows, cols)
	copy(x.Data, step)
	list := make([]gain, rows)
	for r, square := range out.Energies(x) {
		list[r].square = square
		for c, v := range step[r*cols:][:cols] {
			list[r].linear += float64(v) * float64(gap.Cross[r*cols+c])
		}
	}
	return list
}

func total(list []float64) float64 {
	sum := 0.0
	for _, v := range list {
		sum += v
	}
	return sum
}

func rootMean(sum float64, n int) float64 { return math.Sqrt(max(sum, 0) / float64(max(n, 1))) }

// store is a matrix of numbers in a type.
func store(values []float32, rows, cols int, t dtype.Type) (*kernels.Dense, error) {
	data := make([]byte, rows*cols*t.BlockBytes())
	if err := kernels.Encode(data, values, t); err != nil {
		return nil, err
	}
	return kernels.NewDense(rows, cols, t, data)
}

// Options are how [Apply] works.
type Options struct {
	Repair  bool    // fit what stays to make up for what goes
	Damp    float64 // share of a Hessian's mean diagonal added to it; 0 means solve.DefaultDamp
	Threads int     // 0 means one per core; the result does not depend on it
}

// Apply returns what a cut leaves of w, which itself stays as it is.
//
// With o.Repair windows of token ids are taken through both, block by block, and
// the linears that write to the residual stream and have lost inputs, or all of
// them (but experts) where channels or layers are gone, are fitted so that the residual stream
// becomes the whole model's again, as far as it goes: by least squares (as in
// section 3.2 of arXiv 2210.17323, for whole columns) on what the blocks before
// have become, so that errors do not add up. Errors count relative to the size
// of the stream at their token.
func Apply(ctx context.Context, dev kernels.Device, w *model.Weights, cut *model.Cut, windows [][]int32, o Options, walk calibrate.Options) (*model.Weights, []Repair, error) {
	out, err := w.Cut(cut)
	roles := fitted(&w.Config, cut)
	if err != nil || !o.Repair || len(roles) == 0 {
		return out, nil, err
	}
	repairs := map[int][]Repair{} // by block
	walk.Solve = repairCost
	walk.Save = func(block int) (any, error) { return repairs[block], nil }
	walk.Load = func(block int, saved []byte) error {
		var kept []Repair
		if err := json.Unmarshal(saved, &kept); err != nil {
			return err
		}
		for i := range kept {
			kept[i].ID = model.ID{Role: roles[i], Block: block}
		}
		repairs[block] = kept
		return nil
	}
	visit := func(_ context.Context, id model.ID, gap *calibrate.Gap) error {
		r, err := repair(out, id, gap, o)
		repairs[id.Block] = append(repairs[id.Block], r)
		return err
	}
	if err := calibrate.Follow(ctx, dev, lead(w, cut), out, windows, walk, visit); err != nil {
		return nil, nil, err
	}
	var all []Repair
	for b := range out.Config.Blocks {
		all = append(all, repairs[b]...)
	}
	return out, all, nil
}

// lead says how what a cut leaves of w follows it.
func lead(w *model.Weights, cut *model.Cut) calibrate.Lead {
	return calibrate.Lead{Weights: w, Blocks: cut.Blocks, Channels: cut.Hidden, Fit: fitted(&w.Config, cut)}
}

// fitted lists the linears of a block that are fitted after a cut: all that write
// to the residual stream, but only down where neurons are gone, which is where
// most of the loss is; fitting o, too, gained nothing. Experts of a mixture are
// left as they are: each sees some of the tokens.
func fitted(c *model.Config, cut *model.Cut) []model.Role {
	roles := []model.Role{model.O, model.Down}
	if cut.Neurons != nil {
		roles = roles[1:]
	}
	if c.Experts.Count > 0 {
		roles = slices.DeleteFunc(roles, func(r model.Role) bool { return r == model.Down })
	}
	return roles
}

// Repairable reports whether something is fitted where units of an axis go.
func (a Axis) Repairable(c *model.Config) bool {
	cut := &model.Cut{}
	if a == FFN {
		cut.Neurons = [][]int{}
	}
	return len(fitted(c, cut)) > 0
}

// Schedule plans the memory and the operations of [Apply] with repair, over
// windows of up to context tokens. Memory that is not enough is an error.
func Schedule(w *model.Weights, cut *model.Cut, windows, context int, walk calibrate.Options) (*calibrate.FollowSchedule, error) {
	out, err := w.Cut(cut)
	if err != nil {
		return nil, err
	}
	walk.Solve = repairCost
	return calibrate.NewFollowSchedule(lead(w, cut), out, windows, context, walk)
}

// repairCost is what [repair] takes: the factor with its copies, and as many of
// the weights. Factoring and solving run at about the speed of a matrix product.
func repairCost(rows, cols int) calibrate.Cost {
	in, all := int64(cols), int64(rows)*int64(cols)
	return calibrate.Cost{Bytes: 4 * (5*in*in + 9*all), Flops: float64(len(dampings)) * (2*float64(in*in*in)/3 + 22*float64(all)*float64(in))}
}
