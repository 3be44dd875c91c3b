package quantize

import (
	"context"
	"fmt"

	"llmc/internal/parallel"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/kernels/blocks"
)

// blockPanel is how many columns are fixed, or refined, before their errors
// reach the others in one matrix product: a multiple of every block's length.
const blockPanel = 256

// blockLayer is one layer on its way into a block type, the [solve.Fixer] that
// rounds it: scales and minima are chosen when a block is reached, from weights
// that carry the errors of the columns before it, and kept when its columns are
// rounded.
type blockLayer struct {
	layout     *blocks.Layout
	threads    int
	rows, cols int

	importance []float32 // [cols] of the search for scales

	factors, minFactors []float32 // [rows, blocks]
	scales, mins        []int8    // [rows, sub-blocks]
	codes               []uint8   // [rows, cols]
}

func newBlockLayer(l *blocks.Layout, rows, cols int, importance []float32, threads int) *blockLayer {
	n, subs := rows*cols/l.Size, rows*cols/l.Sub
	g := &blockLayer{
		layout: l, threads: threads, rows: rows, cols: cols, importance: importance,
		factors: make([]float32, n), minFactors: make([]float32, n),
		scales: make([]int8, subs), mins: make([]int8, subs), codes: make([]uint8, rows*cols),
	}
	for i := range g.scales { // what types without sub-blocks leave so
		g.scales[i], g.mins[i] = int8(l.Scales.High), int8(l.Mins.High)
	}
	return g
}

// view sets b to the block with the column c of a row; its slices are the
// layer's, its factors have to be put back with keep.
func (g *blockLayer) view(b *blocks.Block, r, c int) {
	at := (r*g.cols + c) / g.layout.Size
	subs, size := g.layout.Size/g.layout.Sub, g.layout.Size
	b.Factor, b.MinFactor = g.factors[at], g.minFactors[at]
	b.Scales, b.Mins = g.scales[at*subs:][:subs], g.mins[at*subs:][:subs]
	b.Codes = g.codes[at*size:][:size]
}

// keep stores the factors of a block that view gave.
func (g *blockLayer) keep(b *blocks.Block, r, c int) {
	at := (r*g.cols + c) / g.layout.Size
	g.factors[at], g.minFactors[at] = b.Factor, b.MinFactor
}

// search chooses the numbers of the blocks of columns from to to-1 of a row as
// ggml's quantizer does, for values x of these columns.
func (g *blockLayer) search(r, from, to int, x []float32, packed []byte) error {
	t := g.layout.Type
	if err := blocks.Quantize(t, packed, x, len(x), g.importance[from:to]); err != nil {
		return err
	}
	var b blocks.Block
	for c := from; c < to; c += g.layout.Size {
		g.view(&b, r, c)
		g.layout.Unpack(&b, packed[(c-from)/g.layout.Size*t.BlockBytes():])
		g.keep(&b, r, c)
	}
	return nil
}

// Block chooses scales and minima from weights that carry the errors of the
// panels before.
func (g *blockLayer) Block(ctx context.Context, from, to int, w []float32) error {
	return parallel.Rows(ctx, g.threads, g.rows, to-from, func() func(int) error {
		packed := make([]byte, (to-from)/g.layout.Size*g.layout.Type.BlockBytes())
		return func(r int) error {
			return g.search(r, from, to, w[r*g.cols+from:][:to-from], packed)
		}
	})
}

// grid is what a sub-block's values are made of.
func (g *blockLayer) grid(r, c int) (scale, low float32) {
	l := g.layout
	at := r*g.cols + c
	return g.factors[at/l.Size] * float32(g.scales[at/l.Sub]), g.minFactors[at/l.Size] * float32(g.mins[at/l.Sub])
}

// Fix rounds one weight.
func (g *blockLayer) Fix(r, p int, row []float32) float32 {
	scale, low := g.grid(r, p)
	code := g.layout.Code(row[p], scale, low)
	g.codes[r*g.cols+p] = code
	return g.layout.Value(code, scale, low)
}

// pack writes the rows.
func (g *blockLayer) pack() (*kernels.Dense, error) {
	t := g.layout.Type
	rowBytes, _ := t.RowBytes(g.cols)
	data := make([]byte, g.rows*rowBytes)
	var b blocks.Block
	for r := range g.rows {
		for c := 0; c < g.cols; c += g.layout.Size {
			g.view(&b, r, c)
			g.layout.Pack(data[r*rowBytes+c/g.layout.Size*t.BlockBytes():][:t.BlockBytes()], &b)
		}
	}
	return kernels.NewDense(g.rows, g.cols, t, data)
}

// quantizeBlocks rounds l.Weight to a block type: errors are spread over the
// columns behind, then a descent refines all numbers. Rows that the search for
// scales alone leaves with a smaller output error are taken from it.
func (m GPTQSolver) quantizeBlocks(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error) {
	search, err := RTN{Threads: m.Threads}.Quantize(ctx, l, s)
	if err != nil || !s.Type.IsBlock() {
		return search, err
	}
	layout, ok := blocks.LayoutOf(s.Type)
	if !ok {
		return m.fallback(ctx, l, s, "errors are not spread through "+s.Type.String())
	}
	rows, cols := l.Weight.Shape()
	factor, err := solve.FactorHessian(l.Inputs.Hessian, cols, nil, m.Damp)
	if err != nil {
		return m.fallback(ctx, l, s, err.Error())
	}
	g := newBlockLayer(layout, rows, cols, l.Inputs.MeanSquare, m.Threads)
	w := kernels.Float32s(l.Weight)
	q := append([]float32(nil), w...)
	if err := solve.Feedback(ctx, q, rows, cols, factor.Upper, blockPanel, m.Threads, g); err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	factor.Upper = nil // its memory is wanted
	d := &descent{layer: g, hessian: dampedHessian(l.Inputs.Hessian, cols, factor), w: w, q: q}
	if err := d.refine(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	packed, err := g.pack()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	solution := Solution{Damping: factor.Damping, Dead: factor.Dead}
	solution.takeBetterRows(l, packed, search.(*kernels.Dense), m.Threads)
	if l.Solution != nil {
		*l.Solution = solution
	}
	return packed, nil
}

// dampedHessian is the Hessian that a factor is of, in the order of the
// columns.
func dampedHessian(hessian []float32, n int, f *solve.Factor) []float32 {
	damped := append([]float32(nil), hessian...)
	sum := 0.0
	for c := range n {
		sum += float64(hessian[c*n+c])
	}
	mean := sum / float64(n-f.Dead)
	for c := range n {
		damped[c*n+c] += float32(f.Damping * mean)
	}
	return damped
}

// takeBetterRows replaces the rows of q that have a larger output error than
// those of plain, counts them, and sets the errors.
func (s *Solution) takeBetterRows(l Layer, q, plain *kernels.Dense, threads int) {
	of := func(q kernels.Matrix) (errors []float64, whole float64) {
		return outputErrors(l.Weight, q, l.Inputs.Hessian, threads)
	}
	own, whole := of(q)
	searched, _ := of(plain)
	rowBytes := len(q.Data) / len(own)
	var ownSum, searchedSum float64
	for r := range own {
		if searched[r] < own[r] {
			copy(q.Data[r*rowBytes:][:rowBytes], plain.Data[r*rowBytes:])
			own[r] = searched[r]
			s.SearchedRows++
		}
		ownSum += own[r]
		searchedSum += searched[r]
	}
	s.OutputError, s.RTNOutputError = relativeError(ownSum, whole), relativeError(searchedSum, whole)
}
