package prune

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"

	"llmc/calibrate"
	"llmc/internal/fault"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model"
)

// Allocation is how a share of zeros is spread over linears: some more than the
// share, some less, in all as many.
type Allocation string

// The allocations.
const (
	Uniform Allocation = "uniform" // all alike
	// Global drops the smallest weights of all linears together.
	Global Allocation = "global"
	// OWL spares blocks with many outliers among the products of weight and input
	// (arXiv 2310.05175).
	OWL Allocation = "owl"
	// Sensitivity spares linears that change the model's predictions most.
	Sensitivity Allocation = "sensitivity"
)

// ParseAllocation returns the Allocation of a name.
func ParseAllocation(name string) (Allocation, error) {
	known := []Allocation{Uniform, Global, OWL, Sensitivity}
	if !slices.Contains(known, Allocation(name)) {
		var names []string
		for _, a := range known {
			names = append(names, string(a))
		}
		return "", fault.Usage("allocation is %q, allowed are %s", name, strings.Join(names, ", "))
	}
	return Allocation(name), nil
}

// Calibrates reports whether text has to be looked at.
func (a Allocation) Calibrates() bool { return a == OWL || a == Sensitivity }

// The numbers of OWL's official code for language models.
const (
	outlierFactor = 5    // M: products above so many times the mean are outliers
	outlierSpread = 0.08 // λ: shares differ from the mean by up to about this
)

// maxSparsity is the largest share that an allocation gives.
const maxSparsity = 0.99

// Allocate chooses the sparsity of each linear of the run, before any is pruned.
// windows of token ids are looked at by those that calibrate, o as in
// [calibrate.Walk]. It returns the outlier ratios of the blocks in percent for
// [OWL], else nil.
func (r *Run) Allocate(ctx context.Context, dev kernels.Device, a Allocation, windows [][]int32, o calibrate.Options) ([]float64, error) {
	if r.pattern.structured() && a != Uniform {
		return nil, fault.Hint(fault.Usage("an N:M pattern has the same sparsity everywhere, so there is nothing to allocate"), "leave --allocate or --pattern out")
	}
	switch a {
	case Global:
		return nil, r.allocateGlobal()
	case OWL:
		return r.allocateOWL(ctx, dev, windows, o)
	case Sensitivity:
		return nil, r.allocateBySensitivity(ctx, dev, windows, o)
	}
	return nil, nil
}

// Share is the sparsity of one linear.
type Share struct {
	ID       model.ID
	Sparsity float64
}

// Shares lists what [Run.Allocate] chose, in the order of the forward pass.
func (r *Run) Shares() (list []Share) {
	for _, id := range r.linears() {
		if share, ok := r.shares[id]; ok {
			list = append(list, Share{id, share})
		}
	}
	return list
}

// SetShares takes what Shares has listed in the place of Allocate.
func (r *Run) SetShares(list []Share) {
	r.shares = map[model.ID]float64{}
	for _, s := range list {
		r.shares[s.ID] = s.Sparsity
	}
}

// linears are the ids that are pruned, in the order of the forward pass.
func (r *Run) linears() (ids []model.ID) {
	for _, id := range r.weights.Config.IDs() {
		if _, ok := r.names[id]; ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func (r *Run) size(id model.ID) float64 {
	shape := r.weights.Config.Shape(id)
	return float64(shape[0]) * float64(shape[1])
}

// settle moves the shares by the same amount, within what is allowed, until
// all linears together are as sparse as was asked for.
func (r *Run) settle(shares map[model.ID]float64) {
	ids := r.linears()
	total := 0.0
	for _, id := range ids {
		total += r.size(id)
	}
	low, high := -1.0, 1.0
	sum := func(shift float64) (sum float64) {
		for _, id := range ids {
			sum += r.size(id) * min(max(shares[id]+shift, 0), maxSparsity)
		}
		return sum
	}
	for range 100 {
		if middle := (low + high) / 2; sum(middle) < r.pattern.Sparsity*total {
			low = middle
		} else {
			high = middle
		}
	}
	r.shares = map[model.ID]float64{}
	for _, id := range ids {
		r.shares[id] = min(max(shares[id]+high, 0), maxSparsity)
	}
}

// PatternOf is the pattern of one linear.
func (r *Run) PatternOf(id model.ID) Pattern {
	p := r.pattern
	if share, ok := r.shares[id]; ok {
		p.Sparsity = share
	}
	return p
}

// eachWeight calls f with the rows of a linear.
func (r *Run) eachWeight(id model.ID, f func(row []float32)) error {
	w, err := r.weights.Matrix(id)
	if err != nil {
		return err
	}
	rows, cols := w.Shape()
	row := make([]float32, cols)
	for i := range rows {
		w.Row(row, i)
		f(row)
	}
	return nil
}

// allocateGlobal gives every linear the share of its weights that are below one
// threshold for all. Weights are told apart by sign, exponent and 7 bits, as
// BF16 has them; those at the threshold go in proportion.
func (r *Run) allocateGlobal() error {
	counts := map[model.ID]*[1 << 15]int32{}
	var all [1 << 15]float64
	total := 0.0
	for _, id := range r.linears() {
		own := new([1 << 15]int32)
		err := r.eachWeight(id, func(row []float32) {
			for _, v := range row {
				own[math.Float32bits(v)<<1>>17]++
			}
		})
		if err != nil {
			return err
		}
		counts[id] = own
		for i, n := range own {
			all[i] += float64(n)
		}
		total += r.size(id)
	}
	at, left := 0, r.pattern.Sparsity*total
	for ; at < len(all)-1 && left > all[at]; at++ {
		left -= all[at]
	}
	shares := map[model.ID]float64{}
	for id, own := range counts {
		below := 0.0
		for _, n := range own[:at] {
			below += float64(n)
		}
		if all[at] > 0 {
			below += float64(own[at]) * left / all[at]
		}
		shares[id] = below / r.size(id)
	}
	r.settle(shares)
	return nil
}

// allocateOWL computes the share of outliers in every block, those of the
// products |W| ‖X‖₂ of all its linears that are larger than M times their mean
// (section 3.2 of arXiv 2310.05175), spreads the shares of what stays linearly
// over 2λ, and moves them to the mean that was asked for.
func (r *Run) allocateOWL(ctx context.Context, dev kernels.Device, windows [][]int32, o calibrate.Options) ([]float64, error) {
	norms := map[model.ID][]float32{}
	o.Unchanged, o.Hessian = true, false
	err := calibrate.Walk(ctx, dev, r.weights, windows, o, func(_ context.Context, block int, roles []model.Role, in *calibrate.Inputs) error {
		for _, role := range roles {
			norms[model.ID{Role: role, Block: block, Expert: in.Expert}] = inputNorms(in)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ratios := make([]float64, r.weights.Config.Blocks)
	for block := range ratios {
		if ratios[block], err = r.outliers(block, norms); err != nil {
			return nil, err
		}
	}
	low, high := slices.Min(ratios), slices.Max(ratios)
	shares := map[model.ID]float64{}
	for _, id := range r.linears() {
		shares[id] = r.pattern.Sparsity
		if high > low {
			shares[id] -= (ratios[id.Block] - low) / (high - low) * 2 * outlierSpread
		}
	}
	r.settle(shares)
	return ratios, nil
}

// outliers is the percentage of outliers in a block.
func (r *Run) outliers(block int, norms map[model.ID][]float32) (float64, error) {
	sum, n, above := 0.0, 0.0, 0
	each := func(f func(score float32)) error {
		for _, id := range r.linears() {
			if id.Block != block {
				continue
			}
			err := r.eachWeight(id, func(row []float32) {
				for i, v := range row {
					f(abs(v) * norms[id][i])
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := each(func(score float32) { sum += float64(score); n++ }); err != nil || n == 0 {
		return 0, err
	}
	limit := float32(outlierFactor * sum / n)
	err := each(func(score float32) {
		if score > limit {
			above++
		}
	})
	return 100 * float64(above) / n, err
}

// The sparsities at which outputs are compared: up to sensitivityReach from the
// one that was asked for, on so many rows of a linear at most.
const (
	sensitivitySteps = 4 // to either side
	sensitivityReach = 0.2
	sensitivityRows  = 256
)

// allocateBySensitivity prunes every linear alone by [Wanda] to the sparsity that
// was asked for, measures how far the model's predictions diverge, and expects at
// other sparsities divergences in proportion to the squared error of the
// linear's output, as the linearity theorem of arXiv 2411.17525 has it. The
// sparsities with the least sum are taken.
func (r *Run) allocateBySensitivity(ctx context.Context, dev kernels.Device, windows [][]int32, o calibrate.Options) error {
	var points []float64
	for i := -sensitivitySteps; i <= sensitivitySteps; i++ {
		at := r.pattern.Sparsity
		if i != 0 {
			at = min(max(at+sensitivityReach*float64(i)/sensitivitySteps, 0), maxSparsity)
		}
		if len(points) == 0 || at > points[len(points)-1] {
			points = append(points, at)
		}
	}
	tried := slices.Index(points, r.pattern.Sparsity)
	p, err := calibrate.NewProbe(ctx, dev, r.weights, excerpt(windows), calibrate.ProbeOptions{MaxMemory: o.MaxMemory})
	if err != nil {
		return err
	}
	defer p.Free()
	curves := map[model.ID][]float64{}
	o.Unchanged, o.Hessian = true, true
	err = calibrate.Walk(ctx, dev, r.weights, windows, o, func(ctx context.Context, block int, roles []model.Role, in *calibrate.Inputs) error {
		if err := p.Advance(ctx, block); err != nil {
			return err
		}
		for _, role := range roles {
			id := model.ID{Role: role, Block: block, Expert: in.Expert}
			if _, ok := r.names[id]; !ok {
				continue
			}
			curve, err := r.errorsAt(ctx, id, in, points)
			if err != nil {
				return err
			}
			loss, err := r.tryPruned(ctx, p, id, in)
			if err != nil {
				return err
			}
			if whole := curve[tried]; whole > 0 {
				for i := range curve {
					curve[i] *= loss / whole
				}
			}
			curves[id] = curve
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.settle(leastErrors(r.linears(), r.size, points, curves, r.pattern.Sparsity))
	return nil
}

// probeTokens is how many tokens a probe predicts at most.
const probeTokens = 1024

// excerpt returns the first windows, and of the last of them the beginning, with
// probeTokens tokens in all.
func excerpt(windows [][]int32) [][]int32 {
	var list [][]int32
	left := probeTokens
	for _, ids := range windows {
		ids = ids[:min(len(ids), left)]
		if len(ids) == 0 {
			break
		}
		list, left = append(list, ids), left-len(ids)
	}
	return list
}

// tryPruned is the divergence that pruning one linear makes.
func (r *Run) tryPruned(ctx context.Context, p *calibrate.Probe, id model.ID, in *calibrate.Inputs) (float64, error) {
	w, err := r.weights.Matrix(id)
	if err != nil {
		return 0, err
	}
	rows, cols := w.Shape()
	l := Layer{Name: r.names[id], Rows: rows, Cols: cols, Weight: slices.Clone(kernels.Float32s(w)), Inputs: in, Threads: r.threads}
	if err := (Wanda{}).Prune(ctx, l, r.pattern); err != nil {
		return 0, err
	}
	return p.Linear(ctx, id, kernels.FromFloat32s(rows, cols, l.Weight), w)
}

// errorsAt returns a linear's squared output errors at some sparsities, relative
// to the output.
func (r *Run) errorsAt(ctx context.Context, id model.ID, in *calibrate.Inputs, points []float64) ([]float64, error) {
	w, err := r.weights.Matrix(id)
	if err != nil {
		return nil, err
	}
	all, cols := w.Shape()
	rows := min(all, sensitivityRows)
	values := make([]float32, rows*cols)
	for i := range rows {
		w.Row(values[i*cols:][:cols], i*all/rows)
	}
	whole := kernels.FromFloat32s(rows, cols, values)
	var curve []float64
	for _, at := range points {
		l := Layer{Name: r.names[id], Rows: rows, Cols: cols, Weight: slices.Clone(values), Inputs: in, Threads: r.threads}
		if err := (Wanda{}).Prune(ctx, l, Pattern{Sparsity: at}); err != nil {
			return nil, err
		}
		errors, output := solve.OutputErrors(whole, in.Hessian, r.threads, kernels.FromFloat32s(rows, cols, l.Weight))
		sum := 0.0
		for _, e := range errors[0] {
			sum += e
		}
		if output > 0 {
			sum /= output
		}
		curve = append(curve, sum)
	}
	return curve, nil
}

// leastErrors returns the sparsities with the least sum of errors that make all
// linears together as sparse as share. Curves [len(points)] are replaced by
// their lower convex hulls; what costs least for each weight goes first.
func leastErrors(ids []model.ID, size func(model.ID) float64, points []float64, curves map[model.ID][]float64, share float64) map[model.ID]float64 {
	type step struct {
		id          model.ID
		width, cost float64 // in sparsity; of a weight
	}
	var steps []step
	shares := map[model.ID]float64{}
	left := 0.0
	for _, id := range ids {
		shares[id] = points[0]
		left += (share - points[0]) * size(id)
		hull := convexHull(points, curves[id])
		for i := 1; i < len(hull); i++ {
			a, b := hull[i-1], hull[i]
			width := points[b] - points[a]
			steps = append(steps, step{id, width, (curves[id][b] - curves[id][a]) / (width * size(id))})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.cost, b.cost) })
	for _, s := range steps {
		take := min(s.width, left/size(s.id))
		shares[s.id] += take
		left -= take * size(s.id)
	}
	return shares
}

// convexHull returns the indices of the points on the lower convex hull of
// (x, y), x ascending.
func convexHull(x, y []float64) (hull []int) {
	for i := range x {
		for len(hull) > 1 {
			a, b := hull[len(hull)-2], hull[len(hull)-1]
			if (y[b]-y[a])*(x[i]-x[a]) < (y[i]-y[a])*(x[b]-x[a]) {
				break
			}
			hull = hull[:len(hull)-1]
		}
		hull = append(hull, i)
	}
	return hull
}

// inputNorms is in proportion to ‖X‖₂ of each channel.
func inputNorms(in *calibrate.Inputs) []float32 {
	norms := make([]float32, len(in.MeanSquare))
	for c, v := range in.MeanSquare {
		norms[c] = float32(math.Sqrt(float64(v)))
	}
	return norms
}
