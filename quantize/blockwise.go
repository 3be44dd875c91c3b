package quantize

import (
	"context"

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

	mask solve.Mask // nil when no weight has to be zero
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
	if g.mask != nil {
		if err := g.mask.Block(ctx, from, to, w); err != nil {
			return err
		}
	}
	return parallel.Rows(ctx, g.threads, g.rows, to-from, func() func(int) error {
		packed := make([]byte, (to-from)/g.layout.Size*g.layout.Type.BlockBytes())
		x := make([]float32, to-from)
		return func(r int) error {
			copy(x, w[r*g.cols+from:])
			clearChosen(x, g.mask, r, from)
			return g.search(r, from, to, x, packed)
		}
	})
}

// grid is what a sub-block's values are made of.
func (g *blockLayer) grid(r, c int) (scale, low float32) {
	l := g.layout
	at := r*g.cols + c
	return g.factors[at/l.Size] * float32(g.scales[at/l.Sub]), g.minFactors[at/l.Size] * float32(g.mins[at/l.Sub])
}

// Group is the mask's.
func (g *blockLayer) Group() int { return groupOf(g.mask) }

// Fix rounds weights.
func (g *blockLayer) Fix(p int, x solve.Lanes) {
	if g.mask != nil {
		g.mask.Choose(p, x)
	}
	for i, v := range x.At(0) {
		r := x.First + i
		scale, low := g.grid(r, p)
		code := g.layout.Code(v, scale, low)
		if g.mask != nil && g.mask.Chosen(r, p) {
			code, _ = g.layout.Zero()
		}
		g.codes[r*g.cols+p] = code
		x.At(0)[i] = g.layout.Value(code, scale, low)
	}
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
