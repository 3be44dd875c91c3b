package prune

import (
	"cmp"
	"context"
	"slices"

	"llmc/calibrate"
	"llmc/dtype"
	"llmc/kernels"
	"llmc/model"
)

// Permuted says what another order of a linear's inputs is worth: the share of
// the scores, |W| or |W| ‖X‖₂, that its N:M pattern keeps at most.
type Permuted struct {
	Before float64 `json:"before"`
	After  float64 `json:"after"`
}

// Permute makes the run put the inputs of down, and within each head those of o,
// into an order in which an N:M pattern keeps more, and the rows of gate and up,
// and of v, into the same, so that the model stays what it was (channel
// permutation: Pool and Yu, NeurIPS 2021). The inputs of other linears are the
// residual stream, which has one order for all; it stays.
func (r *Run) Permute() { r.permutes = r.pattern.structured() }

// Observe takes windows of token ids through the model as it is and keeps how
// large the inputs of down and o are, for PermuteBlock. o is as in
// [calibrate.Walk].
func (r *Run) Observe(ctx context.Context, dev kernels.Device, windows [][]int32, o calibrate.Options) error {
	r.seen = map[model.ID]*calibrate.Inputs{}
	o.Unchanged, o.Hessian = true, false
	return calibrate.Walk(ctx, dev, r.weights, windows, o, func(_ context.Context, block int, roles []model.Role, in *calibrate.Inputs) error {
		if roles[0] == model.O || roles[0] == model.Down {
			r.seen[model.ID{Role: roles[0], Block: block, Expert: in.Expert}] = &calibrate.Inputs{MeanSquare: slices.Clone(in.MeanSquare)}
		}
		return nil
	})
}

// Reordered is a linear whose inputs were put into another order.
type Reordered struct {
	ID model.ID
	Permuted
}

// PermuteBlock does at once what Permute does as linears are pruned: for those who
// prune otherwise, before the block is looked at.
func (r *Run) PermuteBlock(ctx context.Context, block int) (list []Reordered, err error) {
	for _, id := range r.linears() {
		if id.Block != block {
			continue
		}
		_, permuted, err := r.permute(ctx, id, r.seen[id])
		if err != nil {
			return nil, err
		}
		if permuted != nil {
			list = append(list, Reordered{id, *permuted})
		}
	}
	return list, nil
}

// permute reorders the inputs of a linear and the rows of what they come from,
// if that can be done, and returns what calibration saw in the new order.
func (r *Run) permute(ctx context.Context, id model.ID, in *calibrate.Inputs) (*calibrate.Inputs, *Permuted, error) {
	c := &r.weights.Config
	var sources []model.ID
	heads, queries := 1, 1 // of the sources; that read each
	switch id.Role {
	case model.Down:
		sources = []model.ID{{Role: model.Gate, Block: id.Block, Expert: id.Expert}, {Role: model.Up, Block: id.Block, Expert: id.Expert}}
	case model.O:
		sources = []model.ID{{Role: model.V, Block: id.Block}}
		heads, queries = c.KVHeads, c.Heads/c.KVHeads
	default:
		return in, nil, nil
	}
	w, err := r.weights.Matrix(id)
	if err != nil {
		return nil, nil, err
	}
	rows, cols := w.Shape()
	width := cols / (heads * queries)
	for _, source := range sources {
		if !r.plain(source) || c.Shape(source)[0] != heads*width {
			return in, nil, nil
		}
	}
	if !r.plain(id) || width%r.pattern.Of != 0 || width <= r.pattern.Of {
		return in, nil, nil
	}
	scores := scoresOf(w, in, rows, cols)
	result := &Permuted{}
	order, sourceOrder := make([]int, cols), make([]int, heads*width)
	whole := 0.0
	for head := range heads {
		// The query heads that share a head of the source are further rows.
		a := &arrangement{pattern: r.pattern, cols: width}
		for q := range queries {
			from := (head*queries + q) * width
			for row := range rows {
				a.scores = append(a.scores, scores[row*cols+from:][:width]...)
			}
		}
		before, after, sum, err := a.search(ctx)
		if err != nil {
			return nil, nil, err
		}
		result.Before += before
		result.After += after
		whole += sum
		for i, from := range a.order {
			sourceOrder[head*width+i] = head*width + from
			for q := range queries {
				order[(head*queries+q)*width+i] = (head*queries+q)*width + from
			}
		}
	}
	if result.Before, result.After = result.Before/whole, result.After/whole; !(result.After > result.Before) {
		return in, nil, nil
	}
	for _, source := range sources {
		if err := r.reorderRows(source, sourceOrder); err != nil {
			return nil, nil, err
		}
	}
	return reorderInputs(in, order), result, r.reorderColumns(id, order)
}

// plain reports whether a linear is there in numbers that can be moved.
func (r *Run) plain(id model.ID) bool {
	stored, ok := r.weights.Stored(id)["weight"]
	return ok && slices.Contains([]dtype.Type{dtype.F32, dtype.F16, dtype.BF16}, stored.Type)
}

// scoresOf returns |W|, times ‖X‖₂ where the inputs are known.
func scoresOf(w kernels.Matrix, in *calibrate.Inputs, rows, cols int) []float32 {
	scores := make([]float32, rows*cols)
	var norms []float32
	if in != nil {
		norms = inputNorms(in)
	}
	for i := range rows {
		row := scores[i*cols:][:cols]
		w.Row(row, i)
		for c, v := range row {
			if row[c] = abs(v); norms != nil {
				row[c] *= norms[c]
			}
		}
	}
	return scores
}

// reorderColumns puts column order[i] of a linear in the place of i.
func (r *Run) reorderColumns(id model.ID, order []int) error {
	return r.rewrite(id, func(w kernels.Matrix, dst, scratch []float32, row int) {
		w.Row(scratch, row)
		for i, from := range order {
			dst[i] = scratch[from]
		}
	})
}

// reorderRows puts row order[i] of a linear, and of its bias, in the place of i.
func (r *Run) reorderRows(id model.ID, order []int) error {
	err := r.rewrite(id, func(w kernels.Matrix, dst, _ []float32, row int) { w.Row(dst, order[row]) })
	bias := id
	bias.Bias = true
	if err != nil || !slices.Contains(r.weights.Config.IDs(), bias) {
		return err
	}
	v, err := r.weights.Vector(bias)
	if err != nil {
		return err
	}
	moved := make([]float32, len(v))
	for i, from := range order {
		moved[i] = v[from]
	}
	r.weights.ReplaceVector(bias, moved)
	return nil
}

// rewrite replaces a linear by what f makes of its rows, in the type it has.
func (r *Run) rewrite(id model.ID, f func(w kernels.Matrix, dst, scratch []float32, row int)) error {
	w, err := r.weights.Matrix(id)
	if err != nil {
		return err
	}
	rows, cols := w.Shape()
	values, scratch := make([]float32, rows*cols), make([]float32, cols)
	for i := range rows {
		f(w, values[i*cols:][:cols], scratch, i)
	}
	return r.replace(id, rows, cols, values)
}

// reorderInputs returns statistics of inputs in another order; nil stays nil.
func reorderInputs(in *calibrate.Inputs, order []int) *calibrate.Inputs {
	if in == nil {
		return nil
	}
	move := func(x []float32) []float32 {
		if x == nil {
			return nil
		}
		moved := make([]float32, len(x))
		for i, from := range order {
			moved[i] = x[from]
		}
		return moved
	}
	out := *in
	out.MeanSquare, out.MeanAbs, out.MaxAbs = move(in.MeanSquare), move(in.MeanAbs), move(in.MaxAbs)
	if n := len(order); in.Hessian != nil {
		out.Hessian = make([]float32, n*n)
		for i, a := range order {
			row := in.Hessian[a*n:][:n]
			for j, b := range order {
				out.Hessian[i*n+j] = row[b]
			}
		}
	}
	return &out
}

// The search looks at some rows only, and at some partners of each group in
// each round.
const (
	permuteRows     = 96
	permutePartners = 48
	permuteRounds   = 4
)

// arrangement is a search for an order of columns in which an N:M pattern keeps
// more of scores [rows, cols].
type arrangement struct {
	pattern Pattern
	cols    int
	scores  []float32
	order   []int // the column at each position

	columns [][]float32 // [cols][rows looked at]
}

// search begins with large columns dealt out to the groups, and then swaps
// columns of two groups as long as that gains. It returns what is kept of all
// rows before and after, and the sum of all scores.
func (a *arrangement) search(ctx context.Context) (before, after, whole float64, err error) {
	natural := make([]int, a.cols)
	for i := range natural {
		natural[i] = i
	}
	rows := len(a.scores) / a.cols
	looked := min(rows, permuteRows)
	a.columns = make([][]float32, a.cols)
	sizes := make([]float64, a.cols)
	for c := range a.cols {
		a.columns[c] = make([]float32, looked)
		for i := range looked {
			a.columns[c][i] = a.scores[i*rows/looked*a.cols+c]
		}
		for r := range rows {
			sizes[c] += float64(a.scores[r*a.cols+c])
		}
		whole += sizes[c]
	}
	a.order = slices.Clone(natural)
	slices.SortStableFunc(a.order, func(x, y int) int { return cmp.Compare(sizes[y], sizes[x]) })
	a.deal()
	groups := a.cols / a.pattern.Of
	for round := range permuteRounds {
		gained := false
		for g := range groups {
			if err := ctx.Err(); err != nil {
				return 0, 0, 0, err
			}
			for i := range min(permutePartners, groups-1) {
				// Other partners in each round, spread over all groups.
				other := (g + 1 + (i*(groups-1)/min(permutePartners, groups-1)+round*7)%(groups-1)) % groups
				gained = a.swap(g, other) || gained
			}
		}
		if !gained {
			break
		}
	}
	before, after = a.kept(natural), a.kept(a.order)
	if after <= before {
		a.order, after = natural, before
	}
	return before, after, whole, nil
}

// deal gives each group one of the largest columns, then one of the next, and
// so on.
func (a *arrangement) deal() {
	groups := a.cols / a.pattern.Of
	dealt := make([]int, a.cols)
	for i, c := range a.order {
		dealt[i%groups*a.pattern.Of+i/groups] = c
	}
	a.order = dealt
}

// swap makes the best exchange of a column of one group for one of another, if
// any gains.
func (a *arrangement) swap(g, other int) bool {
	of := a.pattern.Of
	x, y := a.order[g*of:][:of], a.order[other*of:][:of]
	now := a.keptOf(x) + a.keptOf(y)
	best, bi, bj := now*(1+1e-6), -1, -1
	for i := range x {
		for j := range y {
			x[i], y[j] = y[j], x[i]
			if sum := a.keptOf(x) + a.keptOf(y); sum > best {
				best, bi, bj = sum, i, j
			}
			x[i], y[j] = y[j], x[i]
		}
	}
	if bi < 0 {
		return false
	}
	x[bi], y[bj] = y[bj], x[bi]
	return true
}

// keptOf is what the pattern keeps of a group of columns, of the rows looked at.
func (a *arrangement) keptOf(group []int) float64 {
	var columns [maxOf][]float32
	for i, c := range group {
		columns[i] = a.columns[c]
	}
	sum := float32(0)
	for r := range columns[0] {
		if len(group) == 4 && a.pattern.Keep == 2 {
			p, q, s, t := columns[0][r], columns[1][r], columns[2][r], columns[3][r]
			high, low := max(p, q), min(p, q)
			other, least := max(s, t), min(s, t)
			sum += max(high, other) + max(min(high, other), max(low, least))
			continue
		}
		var scores [maxOf]float32
		for i := range group {
			scores[i] = columns[i][r]
		}
		sum += largest(scores[:len(group)], a.pattern.Keep)
	}
	return float64(sum)
}

// kept is what the pattern keeps of all rows in an order.
func (a *arrangement) kept(order []int) (sum float64) {
	var scores [maxOf]float32
	of := a.pattern.Of
	for at := 0; at < len(a.scores); at += a.cols {
		for g := 0; g < a.cols; g += of {
			for i, c := range order[g : g+of] {
				scores[i] = a.scores[at+c]
			}
			sum += float64(largest(scores[:of], a.pattern.Keep))
		}
	}
	return sum
}

// largest sums the k largest of x, which it reorders.
func largest(x []float32, k int) (sum float32) {
	for i := range k {
		at := i
		for j := i + 1; j < len(x); j++ {
			if x[j] > x[at] {
				at = j
			}
		}
		x[i], x[at] = x[at], x[i]
		sum += x[i]
	}
	return sum
}
