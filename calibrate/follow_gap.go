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
	parts  [2]*kernels.Tensor // [in+out, in+out], on and above the diagonal: of rows [z d]; those to fit to, and the others
	tokens [2]int
}

// checkEvery is which windows are kept apart to check what was fitted to the
// others: every so many-th.
const checkEvery = 8

// newGap returns nil when a linear is not to be fitted.
func (f *follow) newGap(role model.Role, block int, fit bool) *gapSums {
	if !fit || !f.fits(role) {
		return nil
	}
	id := model.ID{Role: role, Block: block}
	shape := f.weights.Config.Shape(id)
	n := shape[0] + shape[1]
	g := &gapSums{follow: f, id: id}
	g.parts[0] = f.dev.NewTensor(n, n)
	if f.checks() {
		g.parts[1] = f.dev.NewTensor(n, n)
	}
	return g
}

// checks reports whether there are windows to keep apart.
func (f *follow) checks() bool { return !f.itself() && len(f.rows) >= checkEvery }

// part is what a window goes to.
func (f *follow) part(window int) int {
	if f.checks() && window%checkEvery == checkEvery-1 {
		return 1
	}
	return 0
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
	return g.add(window, target, x, in)
}

// add adds a window's rows of targets, of what w has instead, and of the linear's
// inputs.
func (g *gapSums) add(window int, target, own, inputs *kernels.Tensor) error {
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
	part := g.part(window)
	g.dev.AddGram(g.parts[part], t)
	g.tokens[part] += own.Rows
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
	gap := g.close(0)
	if g.parts[1] != nil {
		gap.Check = g.close(1)
	}
	return gap
}

func (g *gapSums) close(part int) *Gap {
	shape := g.weights.Config.Shape(g.id)
	out, in := shape[0], shape[1]
	n := in + out
	sums := read(g.dev, g.parts[part])
	gap := &Gap{Tokens: g.tokens[part], Hessian: make([]float32, in*in), Cross: make([]float32, out*in), Energy: make([]float64, out)}
	for r := range in {
		row := sums[r*n:][:n]
		copy(gap.Hessian[r*in+r:][:in-r], row[r:])
		for c, v := range row[in:] {
			gap.Cross[c*in+r] = v
		}
	}
	kernels.Mirror(kernels.NewBlock(gap.Hessian, in, in))
	for c := range out {
		gap.Energy[c] = float64(sums[(in+c)*n+in+c])
	}
	g.dev.Free(g.parts[part])
	return gap
}
