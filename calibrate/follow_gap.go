package calibrate

import (
	"context"
	"math"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// gapSums gathers the [Gap] after one linear.
type gapSums struct {
	*follow
	id     model.ID
	sums   *kernels.Tensor // [in+out, in+out], on and above the diagonal: of rows [z d]
	tokens int
}

// newGap returns nil when a linear is not to be fitted.
func (f *follow) newGap(role model.Role, block int, fit bool) *gapSums {
	if !fit || !f.fits(role) {
		return nil
	}
	id := model.ID{Role: role, Block: block}
	shape := f.weights.Config.Shape(id)
	n := shape[0] + shape[1]
	return &gapSums{follow: f, id: id, sums: f.dev.NewTensor(n, n)}
}

// compare takes a window of w through a half of the block and adds how far it is
// from the target [rows, channels of lead] then.
func (g *gapSums) compare(window int, target *kernels.Tensor, half func(i int, x *kernels.Tensor)) error {
	x, err := g.take(g.own, window)
	if err != nil {
		return err
	}
	in := g.watch(g.second, g.id.Role, true, func() { half(g.id.Block, x) })
	defer g.dev.Free(in)
	if g.normalized() {
		g.dev.Free(x)
		x = g.second.Linear(g.id, in)
	}
	defer g.dev.Free(x)
	return g.add(target, x, in)
}

// add adds rows of targets, of what w has instead, and of the linear's inputs.
func (g *gapSums) add(target, own, inputs *kernels.Tensor) error {
	scale := g.scale
	if g.normalized() {
		scale = 1 // the norm behind the linear takes care of it
	}
	in, out := inputs.Cols, own.Cols
	want, have, z := read(g.dev, target), read(g.dev, own), read(g.dev, inputs)
	joined := make([]float32, own.Rows*(in+out))
	for r := range own.Rows {
		row := joined[r*(in+out):][:in+out]
		copy(row, z[r*in:][:in])
		size := g.missing(row[in:], want[r*target.Cols:][:target.Cols], have[r*out:][:out], scale)
		weigh := float32(0)
		if size > 0 {
			weigh = float32(1 / size)
		}
		for i := range row {
			row[i] *= weigh
			if row[i]-row[i] != 0 {
				return fault.Invalid("block %d: an activation around %s is not a finite number", g.id.Block, g.id.Role)
			}
		}
	}
	t := g.dev.NewTensor(own.Rows, in+out)
	defer g.dev.Free(t)
	g.dev.Write(t, joined)
	g.dev.AddGram(g.sums, t)
	g.tokens += own.Rows
	return nil
}

// missing sets gap to what is missing in have, and returns the target's size.
func (g *gapSums) missing(gap, target, have []float32, scale float32) float64 {
	sum := 0.0
	for c, v := range have {
		from := c
		if g.lead.Channels != nil {
			from = g.lead.Channels[c]
		}
		t := target[from] * scale
		sum += float64(t) * float64(t)
		gap[c] = t - v
	}
	return math.Sqrt(sum)
}

// solve lets the visitor at the linear, and loads what it made of it.
func (g *gapSums) solve(ctx context.Context) error {
	if g == nil {
		return nil
	}
	if err := g.visit(ctx, g.id, g.gap()); err != nil {
		return err
	}
	m, err := g.weights.Matrix(g.id)
	if err != nil {
		return err
	}
	g.second.SetWeight(g.id, m)
	return nil
}

// gap closes the sums and lets go of them.
func (g *gapSums) gap() *Gap {
	shape := g.weights.Config.Shape(g.id)
	out, in := shape[0], shape[1]
	n := in + out
	sums := read(g.dev, g.sums)
	gap := &Gap{Tokens: g.tokens, Hessian: make([]float32, in*in), Cross: make([]float32, out*in)}
	for r := range in {
		row := sums[r*n:][:n]
		copy(gap.Hessian[r*in+r:][:in-r], row[r:])
		for c, v := range row[in:] {
			gap.Cross[c*in+r] = v
		}
	}
	kernels.Mirror(kernels.NewBlock(gap.Hessian, in, in))
	for c := in; c < n; c++ {
		gap.Energy += float64(sums[c*n+c])
	}
	g.dev.Free(g.sums)
	return gap
}
