// Package calibrate runs text through a model block by block and gathers what
// quantizers and pruners must know of each linear's inputs.
//
// [Windows] cuts a text into samples; [Walk] takes them through the model and
// calls a visitor with the [Inputs] of each linear. The visitor replaces the
// weights it compresses; Walk runs the block again with them, so that the next
// block sees what it will see in use.
package calibrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"llmc/kernels"
	"llmc/model"
)

// Inputs is what calibration knows of the activations that a linear multiplies.
type Inputs struct {
	Tokens     int       // rows that were seen
	MeanSquare []float32 // [in] mean of x² of each input channel
	Hessian    []float32 // [in, in] X Xᵀ over all tokens, symmetric; nil unless asked for
}

// Options are what Walk can be told.
type Options struct {
	Hessian bool // gather Inputs.Hessian
	// Progress, when not nil, is told the blocks done and the blocks in all.
	Progress func(done, total int64)
}

// Visitor is called once for each input of a block, with the linears that
// share it: q, k and v; o; gate and up; down. It may put other weights in
// their place with [model.Weights.Replace]. in belongs to the visitor only
// during the call.
type Visitor func(ctx context.Context, block int, roles []model.Role, in *Inputs) error

// Walk runs windows of token ids through the model of w. All inputs of a block
// are gathered with its weights as they are and the blocks before it as the
// visitor left them. What is in memory at a time is one block, its Inputs, and
// the hidden states of all windows: 4 bytes * tokens * hidden size.
//
// The result does not depend on the number of threads. NaN or an infinity in
// an activation is an error that names the block and the linears.
func Walk(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, o Options, visit Visitor) error {
	if len(windows) == 0 {
		return errors.New("there are no calibration samples")
	}
	m, err := model.NewOutline(dev, w)
	if err != nil {
		return err
	}
	walk := walk{dev: dev, weights: w, model: m, state: m.NewState(), gatherHessian: o.Hessian}
	defer walk.free()
	for _, ids := range windows {
		if err := m.CheckIDs(ids); err != nil {
			return err
		}
		walk.hidden = append(walk.hidden, m.Embed(ids))
	}
	blocks := w.Config.Blocks
	for i := range blocks {
		if err := walk.block(ctx, i, visit); err != nil {
			return err
		}
		if o.Progress != nil {
			o.Progress(int64(i+1), int64(blocks))
		}
	}
	return nil
}

// walk is the state of one Walk.
type walk struct {
	dev           kernels.Device
	weights       *model.Weights
	model         *model.Model
	state         *model.State // of one window at a time
	hidden        []*kernels.Tensor
	gatherHessian bool
}

func (w *walk) free() {
	for _, x := range w.hidden {
		w.dev.Free(x)
	}
}

// block gathers the inputs of a block, lets the visitor at them, and takes the
// hidden states through what it made of the block.
func (w *walk) block(ctx context.Context, i int, visit Visitor) error {
	if err := w.model.LoadBlock(w.weights, i); err != nil {
		return err
	}
	defer w.model.DropBlock(i)
	gathered, err := w.gather(ctx, i)
	if err != nil {
		return err
	}
	for _, g := range gathered {
		in, err := g.inputs()
		if err != nil {
			return fmt.Errorf("block %d, the input of %s: %w", i, rolesString(g.roles), err)
		}
		if err := visit(ctx, i, g.roles, in); err != nil {
			return err
		}
	}
	if i == w.weights.Config.Blocks-1 {
		return nil // nobody sees what comes out
	}
	if err := w.model.LoadBlock(w.weights, i); err != nil {
		return err
	}
	for _, x := range w.hidden {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.state.Truncate(0)
		w.model.Block(i, x, w.state)
	}
	return nil
}

// gather runs all windows through a block and throws the results away.
func (w *walk) gather(ctx context.Context, i int) ([]*gatherer, error) {
	var all []*gatherer
	byRole := map[model.Role]*gatherer{}
	w.model.SetHook(func(_ int, roles []model.Role, in *kernels.Tensor) {
		g := byRole[roles[0]]
		if g == nil {
			g = newGatherer(w.dev, roles, in.Cols, w.gatherHessian)
			byRole[roles[0]] = g
			all = append(all, g)
		}
		g.add(in)
	})
	defer w.model.SetHook(nil)
	var values []float32
	for _, x := range w.hidden {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		values = slices.Grow(values[:0], x.Rows*x.Cols)[:x.Rows*x.Cols]
		w.dev.Read(values, x)
		scratch := w.dev.NewTensor(x.Rows, x.Cols)
		w.dev.Write(scratch, values)
		w.state.Truncate(0)
		w.model.Block(i, scratch, w.state)
		w.dev.Free(scratch)
	}
	return all, nil
}

func rolesString(roles []model.Role) string {
	var names []string
	for _, r := range roles {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}
