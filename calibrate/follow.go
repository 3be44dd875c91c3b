package calibrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Lead is a model that a smaller one, cut from it, is to follow: to have the
// residual stream that it has, in the channels and after the blocks that both
// have.
type Lead struct {
	Weights  *model.Weights
	Blocks   []int        // those that the smaller model has, ascending; nil for all
	Channels []int        // of the residual stream that it has, ascending; nil for all
	Fit      []model.Role // the linears that are to be fitted: O, Down or both
}

// Gap is how far a model is from the one it follows after a linear that adds to
// the residual stream, over all tokens, and what the linear's inputs know of it.
//
// A row z of the linear's inputs and d of the gap, what is missing in its
// output, are divided by the size of what the leading model has there: after the
// next norm, that is how much an error counts. The large activations of a first
// token count no more than others so.
type Gap struct {
	Tokens  int
	Hessian []float32 // [in, in] Z Zᵀ
	Cross   []float32 // [out, in] D Zᵀ
	Energy  []float64 // [out] ‖D‖² by row: their sum, divided by Tokens, is the mean square of the relative error
	// Check, when not nil, is the same of every eighth window, which is in none of
	// the above: what was fitted to the others can be checked with it. There is
	// none with fewer than eight windows.
	Check *Gap
}

// Follower is called once for every linear that is to be fitted, in the order
// of the forward pass. It may put another weight in its place with
// [model.Weights.Replace]; what comes after sees it. gap belongs to it only
// during the call.
type Follower func(ctx context.Context, id model.ID, gap *Gap) error

// Follow takes windows of token ids through lead and through w, which was cut
// from it, side by side and block by block, and shows how far w is from where lead
// is as the blocks before have become, linear after linear. Of o, Hessian,
// Final, Unchanged and Through say nothing here.
//
// In families that normalize what a linear puts out, the gap is between the
// outputs of the linears themselves.
//
// w may be lead's weights themselves, all of them: then there is no gap, but there
// are the inputs, and nothing is changed.
//
// The result does not depend on the number of threads, nor on the memory.
func Follow(ctx context.Context, dev kernels.Device, lead Lead, w *model.Weights, windows [][]int32, o Options, visit Follower) error {
	f := &follow{dev: dev, lead: lead, weights: w, options: o, visit: visit}
	if err := f.open(windows); err != nil {
		return err
	}
	defer f.close()
	return f.run(ctx, windows)
}

// follow is the state of one Follow.
type follow struct {
	dev     kernels.Device
	lead    Lead
	weights *model.Weights
	options Options
	visit   Follower

	first, second       *model.Model // lead's and w's
	firstState, state   *model.State
	leading, own        hiddenStates
	outputs             hiddenStates // of lead's Down; nil but in families that normalize them
	rows                []int        // tokens of each window
	scale               float32      // what lead's residual stream is multiplied by
	last                int          // block of w that is not in the journal, -1 if all are
	done, total         float64      // operations
	forwardOne, forward float64      // of lead's and w's blocks
}

// open plans the memory, and loads what is outside of the blocks.
func (f *follow) open(windows [][]int32) error {
	if len(windows) == 0 {
		return errors.New("there are no calibration samples")
	}
	if f.fits(model.Down) && f.weights.Config.Experts.Count > 0 {
		return fault.Invalid("the model is a mixture of experts (%s), whose outputs cannot be fitted together", f.weights.Config.Family.Name)
	}
	longest := 0
	for _, ids := range windows {
		f.rows = append(f.rows, len(ids))
		longest = max(longest, len(ids))
	}
	schedule, err := NewFollowSchedule(f.lead, f.weights, len(windows), longest, f.options)
	if err != nil {
		return err
	}
	f.scale = float32(f.weights.Config.EmbedScale / f.lead.Weights.Config.EmbedScale)
	f.forwardOne, f.forward, f.total = schedule.lead, schedule.forward, schedule.Flops
	if f.first, err = model.NewOutline(f.dev, f.lead.Weights); err != nil {
		return err
	}
	if !f.itself() {
		if f.second, err = model.NewOutline(f.dev, f.weights); err != nil {
			return err
		}
	}
	if f.leading, err = f.states(f.lead.Weights, schedule.OnDisk); err != nil {
		return err
	}
	if f.itself() {
		return nil
	}
	if f.own, err = f.states(f.weights, schedule.OnDisk); err == nil && f.normalized() {
		f.outputs, err = f.states(f.lead.Weights, schedule.OnDisk)
	}
	if err != nil {
		f.close()
	}
	return err
}

// itself reports whether lead is followed by itself.
func (f *follow) itself() bool { return f.weights == f.lead.Weights }

// normalized reports whether what linears put out is normalized before it is
// added to the residual stream.
func (f *follow) normalized() bool { return f.weights.Config.Family.PostNorms }

func (f *follow) states(w *model.Weights, onDisk bool) (hiddenStates, error) {
	sizes := make([]int, len(f.rows))
	for i, rows := range f.rows {
		sizes[i] = rows * w.Config.Hidden
	}
	return newHiddenStates(sizes, onDisk, f.options.dir())
}

func (f *follow) close() {
	for _, s := range []hiddenStates{f.leading, f.own, f.outputs} {
		if s != nil {
			s.close()
		}
	}
}

func (f *follow) run(ctx context.Context, windows [][]int32) error {
	blocks := f.weights.Config.Blocks
	f.last = -1
	for i := range blocks {
		if f.kept(i) == nil {
			f.last = i
		}
	}
	if f.last >= 0 {
		if err := f.embed(ctx, windows); err != nil {
			return err
		}
		if err := f.skip(ctx, 0, f.source(0)); err != nil {
			return err
		}
	}
	for i := range blocks {
		if err := f.block(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (f *follow) kept(i int) *keptBlock {
	if f.options.Journal == nil {
		return nil
	}
	return f.options.Journal.blocks[i]
}

// source is the block of lead that is block i of w; after the last one, the
// number of lead's blocks.
func (f *follow) source(i int) int {
	switch {
	case i >= f.weights.Config.Blocks:
		return f.lead.Weights.Config.Blocks
	case f.lead.Blocks == nil:
		return i
	}
	return f.lead.Blocks[i]
}

func (f *follow) fits(r model.Role) bool { return slices.Contains(f.lead.Fit, r) }

// embed begins the hidden states of both models.
func (f *follow) embed(ctx context.Context, windows [][]int32) error {
	for i, ids := range windows {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.first.CheckIDs(ids); err != nil {
			return err
		}
		if err := f.save(f.leading, i, f.first.Embed(ids)); err != nil {
			return err
		}
		if f.itself() {
			continue
		}
		if err := f.save(f.own, i, f.second.Embed(ids)); err != nil {
			return err
		}
	}
	return nil
}

// save keeps a window's hidden states and frees them.
func (f *follow) save(to hiddenStates, window int, x *kernels.Tensor) error {
	values := make([]float32, x.Rows*x.Cols)
	f.dev.Read(values, x)
	f.dev.Free(x)
	return to.save(window, values)
}

// take returns a window's hidden states as a tensor.
func (f *follow) take(from hiddenStates, window int) (*kernels.Tensor, error) {
	values, err := from.load(window)
	if err != nil {
		return nil, err
	}
	x := f.dev.NewResult(f.rows[window], len(values)/f.rows[window])
	f.dev.Write(x, values)
	return x, nil
}

// each takes the hidden states of all windows through something.
func (f *follow) each(ctx context.Context, states hiddenStates, flops float64, through func(window int, x *kernels.Tensor) error) error {
	for window := range f.rows {
		if err := ctx.Err(); err != nil {
			return err
		}
		x, err := f.take(states, window)
		if err != nil {
			return err
		}
		if err := through(window, x); err != nil {
			return err
		}
		f.advance(flops / float64(len(f.rows)))
	}
	return nil
}

// skip takes lead's hidden states through blocks that w does not have.
func (f *follow) skip(ctx context.Context, from, to int) error {
	for b := from; b < to; b++ {
		state := f.first.NewState()
		if err := f.first.LoadBlock(f.lead.Weights, b); err != nil {
			return err
		}
		err := f.each(ctx, f.leading, f.forwardOne, func(window int, x *kernels.Tensor) error {
			state.Truncate(0)
			f.first.Block(b, x, state)
			return f.save(f.leading, window, x)
		})
		dropBlock(f.first, f.lead.Weights, b)
		if err != nil {
			return err
		}
	}
	return nil
}

// block takes both models through a block of w and what follows it in lead.
func (f *follow) block(ctx context.Context, i int) error {
	if f.options.Begin != nil {
		f.options.Begin(i)
	}
	if f.itself() {
		return f.alone(ctx, i)
	}
	defer dropBlock(f.second, f.weights, i)
	kept := f.kept(i)
	if kept != nil {
		kept.restore(f.weights, i)
		if f.options.Load != nil {
			if err := f.options.Load(i, kept.saved); err != nil {
				return fmt.Errorf("block %d as it was kept: %w", i, err)
			}
		}
	}
	if i > f.last {
		return nil // nobody sees what comes out
	}
	if err := f.second.LoadBlock(f.weights, i); err != nil {
		return err
	}
	f.state, f.firstState = f.second.NewState(), f.first.NewState()
	if err := f.attention(ctx, i, kept == nil); err != nil {
		return err
	}
	if err := f.skip(ctx, f.source(i)+1, f.source(i+1)); err != nil {
		return err
	}
	if err := f.feedForward(ctx, i, kept == nil); err != nil {
		return err
	}
	if kept != nil {
		return nil
	}
	return f.keep(i)
}

// attention takes lead through its block, all of it, and w through the first
// half, fitted if it is to be.
func (f *follow) attention(ctx context.Context, i int, fit bool) error {
	b := f.source(i)
	if err := f.first.LoadBlock(f.lead.Weights, b); err != nil {
		return err
	}
	defer dropBlock(f.first, f.lead.Weights, b)
	g := f.newGap(model.O, i, fit)
	outputs := fit && f.normalized() && f.fits(model.Down)
	err := f.each(ctx, f.leading, f.forwardOne, func(window int, x *kernels.Tensor) error {
		f.firstState.Truncate(0)
		in := f.watch(f.first, model.O, g != nil && f.normalized(), func() { f.first.Attention(b, x, f.firstState) })
		if g != nil {
			target := x
			if in != nil {
				target = f.output(f.first, model.ID{Role: model.O, Block: b}, in)
				defer f.dev.Free(target)
			}
			if err := g.compare(window, target, f.attend); err != nil {
				return err
			}
		}
		if in = f.watch(f.first, model.Down, outputs, func() { f.first.FeedForward(b, x) }); in != nil {
			if err := f.save(f.outputs, window, f.output(f.first, model.ID{Role: model.Down, Block: b}, in)); err != nil {
				return err
			}
		}
		return f.save(f.leading, window, x)
	})
	if err != nil {
		return err
	}
	if err := g.solve(ctx); err != nil {
		return err
	}
	return f.each(ctx, f.own, f.forward/2, func(window int, x *kernels.Tensor) error {
		f.attend(i, x)
		return f.save(f.own, window, x)
	})
}

// alone takes lead through a block and gathers the inputs of its linears.
func (f *follow) alone(ctx context.Context, i int) error {
	if err := f.first.LoadBlock(f.lead.Weights, i); err != nil {
		return err
	}
	defer dropBlock(f.first, f.lead.Weights, i)
	state := f.first.NewState()
	o, down := f.newGap(model.O, i, true), f.newGap(model.Down, i, true)
	half := func(window int, g *gapSums, role model.Role, x *kernels.Tensor, run func()) error {
		in := f.watch(f.first, role, g != nil, run)
		if in == nil {
			return nil
		}
		defer f.dev.Free(in)
		y := x
		if f.normalized() {
			y = f.first.Linear(g.id, in)
			defer f.dev.Free(y)
		}
		return g.add(window, y, y, in)
	}
	err := f.each(ctx, f.leading, f.forwardOne, func(window int, x *kernels.Tensor) error {
		state.Truncate(0)
		if err := half(window, o, model.O, x, func() { f.first.Attention(i, x, state) }); err != nil {
			return err
		}
		if err := half(window, down, model.Down, x, func() { f.first.FeedForward(i, x) }); err != nil {
			return err
		}
		return f.save(f.leading, window, x)
	})
	for _, g := range []*gapSums{o, down} {
		if g != nil && err == nil {
			err = f.visit(ctx, g.id, g.gap())
		}
	}
	return err
}

// attend takes a window of w through the first half of a block.
func (f *follow) attend(i int, x *kernels.Tensor) {
	f.state.Truncate(0)
	f.second.Attention(i, x, f.state)
}

// feedForward takes w through the second half of its block, fitted if it is to
// be, when lead is where w should come to.
func (f *follow) feedForward(ctx context.Context, i int, fit bool) error {
	if g := f.newGap(model.Down, i, fit); g != nil {
		targets := f.leading
		if f.normalized() {
			targets = f.outputs
		}
		err := f.each(ctx, targets, f.forward/2, func(window int, x *kernels.Tensor) error {
			defer f.dev.Free(x)
			return g.compare(window, x, f.second.FeedForward)
		})
		if err != nil {
			return err
		}
		if err := g.solve(ctx); err != nil {
			return err
		}
	}
	if i >= f.last {
		return nil // nobody sees what comes out
	}
	return f.each(ctx, f.own, f.forward/2, func(window int, x *kernels.Tensor) error {
		f.second.FeedForward(i, x)
		return f.save(f.own, window, x)
	})
}

// watch runs a part of a model and returns a copy of a linear's inputs, nil if
// they are not wanted.
func (f *follow) watch(m *model.Model, role model.Role, wanted bool, run func()) *kernels.Tensor {
	var in *kernels.Tensor
	if wanted {
		m.SetHook(func(_ int, to model.Input, x *kernels.Tensor) {
			if to.Roles[0] == role {
				in = f.dev.NewTensor(x.Rows, x.Cols)
				f.dev.Add(in, x)
			}
		})
		defer m.SetHook(nil)
	}
	run()
	return in
}

// output is what a linear makes of its inputs, which it frees.
func (f *follow) output(m *model.Model, id model.ID, in *kernels.Tensor) *kernels.Tensor {
	defer f.dev.Free(in)
	return m.Linear(id, in)
}

// keep stores what became of a block.
func (f *follow) keep(i int) error {
	if f.options.Journal == nil {
		return nil
	}
	var saved any
	var err error
	if f.options.Save != nil {
		if saved, err = f.options.Save(i); err != nil {
			return err
		}
	}
	text, err := json.Marshal(saved)
	if err != nil {
		return err
	}
	tensors, err := replacedIn(f.weights, i)
	if err != nil {
		return err
	}
	kept, err := f.options.Journal.keep(i, tensors, text)
	if err != nil {
		return err
	}
	kept.restore(f.weights, i)
	return nil
}

func (f *follow) advance(flops float64) {
	f.done += flops
	if f.options.Progress != nil {
		f.options.Progress(int64(f.done), int64(f.total))
	}
}

// dropBlock lets go of a block's weights.
func dropBlock(m *model.Model, w *model.Weights, i int) {
	m.DropBlock(i)
	for _, id := range w.Config.IDs() {
		if id.Block == i {
			w.Release(id)
		}
	}
}
