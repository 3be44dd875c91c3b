package quantize

import (
	"context"
	"fmt"

	"llmc/calibrate"
	"llmc/internal/fault"
	"llmc/internal/solve"
	"llmc/kernels"
)

// DefaultDamp is the share of the Hessian's mean diagonal that GPTQ adds to
// its diagonal, section 3.3 of arXiv 2210.17323.
const DefaultDamp = solve.DefaultDamp

// DefaultFirstToken is how much the first token of a window of calibration text
// counts in q, k and v, as a share of the window's tokens. Without it GPTQ moves
// errors to where the inputs of one token in hundreds are, and with them the
// keys that most tokens attend to. With only the attention's linears of
// SmolLM2-135M rounded to 4 bits, and inputs as the blocks had them, the mean KL divergence on 1022 tokens is 0.142
// without, above round-to-nearest's 0.108, and 0.044 with a share of 0.2. The
// inputs of o, gate and down are better left alone: there the first token's, which
// can be huge, would drown the others.
const DefaultFirstToken = 0.25

// gptqBlock is how many columns are fixed before their errors reach the
// columns after them in one matrix product. Ranges of groups are chosen from
// weights that carry the errors of earlier blocks, not yet those of their own,
// as the authors' code does it. Ranges that follow every error grow with it: at
// 2 bits in groups of 32 they cost 4% more output error.
const gptqBlock = 128

// GPTQSolver rounds column after column and spreads each error over the columns that
// are still free, so that the layer's output on the calibration text changes
// least (arXiv 2210.17323): codes in groups, and codes, scales and minima of
// GGUF's block types. What has no such solution, and what calibration has not
// seen, is rounded as [RTN] does it; Layer.Solution says so.
type GPTQSolver struct {
	Clip    Clip // how the range of a group is chosen, from the weights alone
	Threads int  // 0 means one per core

	// Damp is the share of the mean diagonal that is added to the diagonal
	// first, DefaultDamp when 0. It is doubled until the Hessian is positive
	// definite.
	Damp float64
	// FirstToken is [calibrate.Options.FirstToken] of the Hessian it needs.
	FirstToken float64
	// ActOrder fixes the columns with the largest inputs first, by their mean
	// magnitude. The diagonal of the Hessian, which the authors' code goes by, is a
	// mean square, and of some channels that of one token in hundreds: SmolLM2-135M
	// at 3 bits in groups of 64 has a mean KL divergence of 1.60 by it, of 1.08 in the
	// order of the file and of 0.91 by magnitudes. Groups are then of columns that
	// follow each other in that order, unless StaticGroups keeps those of the file,
	// with ranges chosen before any column is fixed.
	ActOrder     bool
	StaticGroups bool

	Zeros  Zeros  // which zeros of the weight stay zero
	Pruner Pruner // chooses further zeros, nil for none
}

// Name returns "gptq", after the name of its Pruner.
func (m GPTQSolver) Name() string {
	if m.Pruner != nil {
		return m.Pruner.Name() + "+gptq"
	}
	return "gptq"
}

// Needs returns NeedsHessian.
func (GPTQSolver) Needs() Needs { return NeedsHessian }

// Walking asks for m.FirstToken, and for inputs as the linears before give them;
// see [Walker].
func (m GPTQSolver) Walking(o *calibrate.Options) {
	o.FirstToken, o.Sequential = m.FirstToken, true
}

// Quantize rounds l.Weight; see [Method].
func (m GPTQSolver) Quantize(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if l.Inputs == nil {
		return m.fallback(ctx, l, s, "not calibrated")
	}
	rows, cols := l.Weight.Shape()
	if len(l.Inputs.Hessian) != cols*cols {
		return nil, fault.Invalid("%s has %d columns, its Hessian %d numbers, not %d", l.Name, cols, len(l.Inputs.Hessian), cols*cols)
	}
	if m.prunes(l) && m.Pruner.First() {
		return m.quantizePruned(ctx, l, s)
	}
	if !s.IsInteger() {
		return m.quantizeBlocks(ctx, l, s)
	}
	if s.GroupSize > cols {
		s.GroupSize = cols
	}
	var order []int
	if m.ActOrder {
		if len(l.Inputs.MeanAbs) != cols {
			return nil, fault.Invalid("%s has %d columns, its calibration saw %d", l.Name, cols, len(l.Inputs.MeanAbs))
		}
		order = solve.Descending(l.Inputs.MeanAbs)
	}
	factor, err := l.Inputs.Factor(order, m.Damp, m.Threads)
	if err != nil {
		return m.fallback(ctx, l, s, err.Error())
	}
	if l.Solution != nil {
		l.Solution.Damping, l.Solution.Dead = factor.Damping, factor.Dead
	}
	g := &gptqLayer{method: m, scheme: s, rows: rows, cols: cols, order: factor.Order}
	if err := g.load(ctx, l.Weight); err != nil {
		return nil, err
	}
	if g.mask, err = m.mask(l, g.w, rows, cols, factor); err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	if err := g.solve(ctx, factor.Upper); err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	codes, err := g.pack(ctx)
	if err != nil {
		return nil, err
	}
	packed := s.finish(codes)
	return packed, l.compare(ctx, packed, RTN{Clip: m.Clip, Threads: m.Threads}, s)
}

// fallback rounds to nearest and says why.
func (m GPTQSolver) fallback(ctx context.Context, l Layer, s Scheme, reason string) (kernels.Matrix, error) {
	l.note(func(s *Solution) { s.Fallback = reason })
	l, err := m.prunedLayer(ctx, l)
	if err != nil {
		return nil, err
	}
	l.Inputs = nil
	return RTN{Clip: m.Clip, Threads: m.Threads}.Quantize(ctx, l, s)
}

// gptqLayer is one layer on its way, the [solve.Fixer] that rounds it. Positions
// are columns in the order in which they are fixed.
type gptqLayer struct {
	method     GPTQSolver
	scheme     Scheme
	rows, cols int

	order  []int     // [cols] the column at each position
	w      []float32 // [rows, cols] by position
	codes  []uint8   // [rows, cols] by column
	grids  []Grid    // [rows, groups]
	groups int
	mask   solve.Mask // nil when no weight has to be zero
}

// load copies the weights in the order of the positions.
func (g *gptqLayer) load(ctx context.Context, w kernels.Matrix) error {
	g.w = make([]float32, g.rows*g.cols)
	g.codes = make([]uint8, g.rows*g.cols)
	g.groups = g.scheme.groups(g.cols)
	g.grids = make([]Grid, g.rows*g.groups)
	return eachRow(ctx, g.method.Threads, g.rows, g.cols, func(r int, row []float32, _ []uint8) error {
		w.Row(row, r)
		for p, c := range g.order {
			g.w[r*g.cols+p] = row[c]
		}
		return nil
	})
}

// late reports whether a group's range is chosen when the block of its first
// column is reached, from weights that carry the errors of the blocks before.
// A range over the whole row or tensor has to be chosen before any.
func (g *gptqLayer) late() bool {
	return g.scheme.GroupSize > 0 && !(g.method.ActOrder && g.method.StaticGroups)
}

// shuffled reports whether groups are of positions that are not the columns.
func (g *gptqLayer) shuffled() bool {
	return g.scheme.GroupSize > 0 && g.method.ActOrder && !g.method.StaticGroups
}

// groupAt is the group of a position.
func (g *gptqLayer) groupAt(p int) int {
	if g.scheme.GroupSize <= 0 {
		return 0
	}
	if g.shuffled() {
		return p / g.scheme.GroupSize
	}
	return g.order[p] / g.scheme.GroupSize
}

// solve fixes all columns.
func (g *gptqLayer) solve(ctx context.Context, upper []float32) error {
	if !g.late() {
		if err := g.fitAll(ctx); err != nil {
			return err
		}
	}
	return solve.Feedback(ctx, g.w, g.rows, g.cols, upper, gptqBlock, g.method.Threads, g)
}

// Block chooses the ranges of the groups that begin in the block.
func (g *gptqLayer) Block(ctx context.Context, from, to int, w []float32) error {
	if g.mask != nil {
		if err := g.mask.Block(ctx, from, to, w); err != nil {
			return err
		}
	}
	if !g.late() {
		return nil
	}
	return eachRow(ctx, g.method.Threads, g.rows, g.cols, func(r int, x []float32, _ []uint8) error {
		row := w[r*g.cols:][:g.cols]
		if g.mask != nil {
			end := min(to+g.scheme.GroupSize, g.cols)
			copy(x[from:end], row[from:end])
			clearChosen(x[from:end], g.mask, r, from)
			row = x
		}
		return g.fitBlock(r, from, to, row)
	})
}

// Group is the mask's.
func (g *gptqLayer) Group() int { return groupOf(g.mask) }

// Fix rounds weights to the nearest numbers of their groups' grids.
func (g *gptqLayer) Fix(p int, x solve.Lanes) {
	group, c := g.groupAt(p), g.order[p]
	if g.mask != nil {
		g.mask.Choose(p, x)
	}
	for i, v := range x.At(0) {
		r := x.First + i
		if g.mask != nil && g.mask.Chosen(r, p) {
			v = 0
		}
		grid := g.grids[r*g.groups+group]
		code := grid.Code(v)
		g.codes[r*g.cols+c] = code
		x.At(0)[i] = grid.Value(code)
	}
}

// fitAll chooses every range from the weights as they are.
func (g *gptqLayer) fitAll(ctx context.Context) error {
	s, clip := g.scheme, g.method.Clip
	if s.GroupSize == PerTensor {
		grid, err := FitGrid(s, clip, g.w, nil)
		if err != nil {
			return fault.Invalid("%w", err)
		}
		for r := range g.grids {
			g.grids[r] = grid
		}
		return nil
	}
	return eachRow(ctx, g.method.Threads, g.rows, g.cols, func(r int, x []float32, _ []uint8) error {
		for p, c := range g.order {
			x[c] = g.w[r*g.cols+p]
		}
		size := s.GroupSize
		if size <= 0 {
			size = g.cols
		}
		for i := range g.groups {
			grid, err := FitGrid(s, clip, x[i*size:min((i+1)*size, g.cols)], nil)
			if err != nil {
				return fault.Invalid("row %d %w", r, err)
			}
			g.grids[r*g.groups+i] = grid
		}
		return nil
	})
}

// fitBlock chooses the ranges of a row's groups that begin from from to to-1.
func (g *gptqLayer) fitBlock(r, from, to int, row []float32) error {
	size := g.scheme.GroupSize
	for p := (from + size - 1) / size * size; p < to; p += size {
		grid, err := FitGrid(g.scheme, g.method.Clip, row[p:min(p+size, g.cols)], nil)
		if err != nil {
			return fault.Invalid("row %d %w", r, err)
		}
		g.grids[r*g.groups+p/size] = grid
	}
	return nil
}

// pack stores codes and grids.
func (g *gptqLayer) pack(ctx context.Context) (*kernels.Groups, error) {
	out := newGroups(g.rows, g.cols, g.scheme)
	err := eachRow(ctx, g.method.Threads, g.rows, g.cols, func(r int, _ []float32, _ []uint8) error {
		out.SetRow(r, g.codes[r*g.cols:][:g.cols])
		return nil
	})
	for i, grid := range g.grids {
		out.Scales[i] = grid.Scale
		if out.Zeros != nil {
			out.Zeros[i] = grid.Zero
		}
	}
	if g.shuffled() {
		out.GroupOf = make([]int32, g.cols)
		for p, c := range g.order {
			out.GroupOf[c] = int32(g.groupAt(p))
		}
	}
	return out, err
}
