package quantize

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"llmc/internal/fault"
	"llmc/internal/solve"
	"llmc/kernels"
)

// DefaultDamp is the share of the Hessian's mean diagonal that GPTQ adds to
// its diagonal, section 3.3 of arXiv 2210.17323.
const DefaultDamp = 0.01

// gptqBlock is how many columns are fixed before their errors reach the
// columns after them in one matrix product. Ranges of groups are chosen from
// weights that carry the errors of earlier blocks, not yet those of their own,
// as the authors' code does it. Ranges that follow every error grow with it: at
// 2 bits in groups of 32 they cost 4% more output error.
const gptqBlock = 128

// GPTQSolver rounds column after column and spreads each error over the columns that
// are still free, so that the layer's output on the calibration text changes
// least (arXiv 2210.17323). What is not in groups of integer codes, and what
// calibration has not seen, is rounded as [RTN] does it; Layer.Solution says so.
type GPTQSolver struct {
	Clip    Clip // how the range of a group is chosen, from the weights alone
	Threads int  // 0 means one per core

	// Damp is the share of the mean diagonal that is added to the diagonal
	// first, DefaultDamp when 0. It is doubled until the Hessian is positive
	// definite.
	Damp float64
	// ActOrder fixes the columns with the largest inputs first. Groups are then
	// of columns that follow each other in that order, unless StaticGroups keeps
	// those of the file, with ranges chosen before any column is fixed.
	ActOrder     bool
	StaticGroups bool
}

// Name returns "gptq".
func (GPTQSolver) Name() string { return "gptq" }

// Needs returns NeedsHessian.
func (GPTQSolver) Needs() Needs { return NeedsHessian }

// Quantize rounds l.Weight; see [Method].
func (m GPTQSolver) Quantize(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if !s.IsInteger() {
		return m.fallback(ctx, l, s, "a type, not integer codes")
	}
	if l.Inputs == nil {
		return m.fallback(ctx, l, s, "not calibrated")
	}
	rows, cols := l.Weight.Shape()
	if len(l.Inputs.Hessian) != cols*cols {
		return nil, fault.Invalid("%s has %d columns, its Hessian %d numbers, not %d", l.Name, cols, len(l.Inputs.Hessian), cols*cols)
	}
	if s.GroupSize > cols {
		s.GroupSize = cols
	}
	g := &gptqLayer{method: m, scheme: s, rows: rows, cols: cols, solution: cmp.Or(l.Solution, &Solution{})}
	if reason := g.factor(l.Inputs.Hessian); reason != "" {
		return m.fallback(ctx, l, s, reason)
	}
	g.load(l.Weight)
	if err := g.solve(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	packed := g.pack()
	if l.Solution == nil {
		return packed, nil
	}
	return packed, m.compare(ctx, l, s, packed)
}

// compare measures what a layer's output lost, and what it would have lost had
// it been rounded to nearest.
func (m GPTQSolver) compare(ctx context.Context, l Layer, s Scheme, packed *kernels.Groups) error {
	rtn, err := RTN{Clip: m.Clip, Threads: m.Threads}.Quantize(ctx, Layer{Name: l.Name, Weight: l.Weight}, s)
	if err != nil {
		return err
	}
	own := OutputError(l.Weight, packed, l.Inputs.Hessian, m.Threads)
	plain := OutputError(l.Weight, rtn, l.Inputs.Hessian, m.Threads)
	l.Solution.OutputError, l.Solution.RTNOutputError = &own, &plain
	return nil
}

// fallback rounds to nearest and says why.
func (m GPTQSolver) fallback(ctx context.Context, l Layer, s Scheme, reason string) (kernels.Matrix, error) {
	if l.Solution != nil {
		*l.Solution = Solution{Fallback: reason}
	}
	l.Inputs = nil
	return RTN{Clip: m.Clip, Threads: m.Threads}.Quantize(ctx, l, s)
}

// gptqLayer is one layer on its way. Positions are columns in the order in
// which they are fixed.
type gptqLayer struct {
	method     GPTQSolver
	scheme     Scheme
	rows, cols int
	solution   *Solution

	order  []int     // [cols] the column at each position
	upper  []float32 // [cols, cols] U of H⁻¹ = Uᵀ U, by position
	w      []float32 // [rows, cols] by position; what is fixed is left behind
	codes  []uint8   // [rows, cols] by column
	grids  []Grid    // [rows, groups]
	groups int
}

// factor settles the order of the columns and factors the damped Hessian. It
// returns why that is not possible, or "".
func (g *gptqLayer) factor(hessian []float32) string {
	n := g.cols
	g.order = make([]int, n)
	for i := range g.order {
		g.order[i] = i
	}
	diagonal := func(c int) float32 { return hessian[c*n+c] }
	if g.method.ActOrder {
		slices.SortStableFunc(g.order, func(a, b int) int { return cmp.Compare(diagonal(b), diagonal(a)) })
	}
	sum := 0.0
	for c := range n {
		sum += float64(diagonal(c))
		if diagonal(c) == 0 {
			g.solution.Dead++
		}
	}
	if sum == 0 {
		return "all inputs are zero"
	}
	mean := sum / float64(n-g.solution.Dead)
	h := make([]float32, n*n)
	for i, from := range g.order {
		for j, to := range g.order {
			h[i*n+j] = hessian[from*n+to]
		}
		if diagonal(from) == 0 {
			h[i*n+i] = float32(mean) // tied to no other column: rounded to nearest
		}
	}
	for damp := cmp.Or(g.method.Damp, DefaultDamp); ; damp = min(2*damp, 1) {
		var ok bool
		if g.upper, ok = solve.InverseFactor(h, n, damp*mean); ok {
			g.solution.Damping = damp
			return ""
		}
		if damp >= 1 {
			return "the Hessian is not positive definite"
		}
	}
}

// load copies the weights in the order of the positions.
func (g *gptqLayer) load(w kernels.Matrix) {
	g.w = make([]float32, g.rows*g.cols)
	row := make([]float32, g.cols)
	for r := range g.rows {
		w.Row(row, r)
		for p, c := range g.order {
			g.w[r*g.cols+p] = row[c]
		}
	}
	g.codes = make([]uint8, g.rows*g.cols)
	g.groups = g.scheme.groups(g.cols)
	g.grids = make([]Grid, g.rows*g.groups)
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

// solve fixes all columns, some at a time.
func (g *gptqLayer) solve(ctx context.Context) error {
	if !g.late() {
		if err := g.fitAll(ctx); err != nil {
			return err
		}
	}
	cpu := kernels.NewCPU(g.method.Threads)
	defer cpu.Close()
	for from := 0; from < g.cols; {
		to := min(from+gptqBlock, g.cols)
		errors := cpu.NewTensor(g.rows, to-from)
		err := eachRow(ctx, g.method.Threads, g.rows, g.cols, func(r int, _ []float32, _ []uint8) error {
			return g.fix(r, from, to, errors.Data[r*(to-from):][:to-from])
		})
		if err != nil {
			return err
		}
		g.spread(cpu, from, to, errors)
		cpu.Free(errors)
		from = to
	}
	return nil
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
	if !g.late() {
		return nil
	}
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

// fix rounds the positions from to to-1 of a row, one after the other, and
// spreads each error over those after it up to to. errors [to-from] receives
// the errors divided by U's diagonal, for spread.
func (g *gptqLayer) fix(r, from, to int, errors []float32) error {
	row := g.w[r*g.cols:][:g.cols]
	if err := g.fitBlock(r, from, to, row); err != nil {
		return err
	}
	for p := from; p < to; p++ {
		grid := g.grids[r*g.groups+g.groupAt(p)]
		code := grid.Code(row[p])
		g.codes[r*g.cols+g.order[p]] = code
		u := g.upper[p*g.cols+p : p*g.cols+to]
		e := (row[p] - grid.Value(code)) / u[0]
		errors[p-from] = e
		rest := row[p+1 : to]
		for i, v := range u[1:][:len(rest)] {
			rest[i] -= e * v
		}
	}
	return nil
}

// spread takes the errors [rows, to-from] of fixed positions off the positions
// from to on: W -= E U.
func (g *gptqLayer) spread(cpu *kernels.CPU, from, to int, errors *kernels.Tensor) {
	n, width := g.cols-to, to-from
	if n == 0 {
		return
	}
	panel := make([]float32, n*width) // Uᵀ [n, width]
	for p := from; p < to; p++ {
		for i, v := range g.upper[p*g.cols+to:][:n] {
			panel[i*width+p-from] = v
		}
	}
	product := cpu.NewTensor(g.rows, n)
	cpu.MatMul(product, errors, cpu.Load(kernels.FromFloat32s(n, width, panel)))
	for r := range g.rows {
		row := g.w[r*g.cols+to:][:n]
		for i, v := range product.Data[r*n:][:n] {
			row[i] -= v
		}
	}
	cpu.Free(product)
}

// pack stores codes and grids.
func (g *gptqLayer) pack() *kernels.Groups {
	out := newGroups(g.rows, g.cols, g.scheme)
	for r := range g.rows {
		out.SetRow(r, g.codes[r*g.cols:][:g.cols])
	}
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
	return out
}
