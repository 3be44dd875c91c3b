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
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model"
)

// Inputs is what calibration knows of the activations that a linear multiplies.
type Inputs struct {
	// Expert is whose linears these are the inputs of, in a mixture of experts.
	// Routed is how many tokens the router sent to it. Where that is too few
	// to tell what its inputs are like, all tokens were run through the expert,
	// and Tokens counts those; see [Inputs.Uncovered].
	Expert model.Expert
	Routed int

	Tokens     int       // rows that were seen
	MeanSquare []float32 // [in] mean of x² of each input channel
	MeanAbs    []float32 // [in] mean of |x|
	MaxAbs     []float32 // [in] largest |x|
	Hessian    []float32 // [in, in] X Xᵀ over all tokens, symmetric; nil unless asked for; see Options.FirstToken

	factor   *solve.Factor // what Factor returned last,
	factored []float32     // of this Hessian
	damp     float64       // and so much damping
}

// Options are what Walk can be told.
type Options struct {
	Hessian bool // gather Inputs.Hessian
	// FirstToken makes the first token of each window count as this share of the
	// window's tokens more in the Hessian of q, k and v. Most tokens attend to the
	// first, whatever it is (attention sinks, arXiv 2309.17453): an error of its
	// key is an error of every token's attention.
	FirstToken float64
	// Final visits what the final norm puts out, too, which the head multiplies.
	Final bool
	// Sequential shows the linears of a block in the order in which the model runs
	// them, each with the inputs that those before it give as the visitor left them
	// (GPTQ's authors call it true-sequential). It takes the windows through a
	// block once, not twice, if there is memory for what is between its linears.
	// It goes with visitors that change only the linears that they are called for.
	// Mixtures of experts are walked without.
	Sequential bool
	// Unchanged is set when the visitor leaves all weights as they are, which
	// saves taking the windows through every block once more.
	Unchanged bool
	// Through, when not nil, sees the hidden states [rows, hidden] of each window
	// before and after each block, with Unchanged. They are valid during the call.
	Through func(block int, before, after []float32)
	// Solve, when not nil, says what the visitor takes for a linear
	// [rows, cols], so that memory and time can be planned.
	Solve func(rows, cols int) Cost
	// Compute is how the device multiplies with packed weights, so that memory and
	// time can be planned.
	Compute kernels.Compute
	// MaxMemory bounds the program's memory in bytes; 0 does not. See
	// [NewSchedule].
	MaxMemory int64
	// Dir is the folder for a file of hidden states, should they not be kept in
	// memory; "" is the journal's, or the system's for temporary files.
	Dir string
	// Journal, when not nil, keeps the tensors that the visitor replaced, block by
	// block; blocks that it has already are not visited. It goes with visitors
	// that change weights of the block they are called for.
	Journal *Journal
	// Save, when not nil, returns what else is to be kept of a block that was
	// visited; Load is given it, as JSON, when the block was finished before. The
	// block of the head is -1.
	Save func(block int) (any, error)
	Load func(block int, saved []byte) error
	// Begin, when not nil, is called as each block is begun, before its weights are
	// read.
	Begin func(block int)
	// Progress, when not nil, is told the floating-point operations done and
	// those in all, as far as they are known beforehand.
	Progress func(done, total int64)
}

func (o *Options) dir() string {
	if o.Dir == "" && o.Journal != nil {
		return o.Journal.dir
	}
	return o.Dir
}

// Visitor is called once for each input of a block, with the linears that
// share it, from the last to the first: down; gate and up; o; q, k and v; with
// Options.Sequential from the first to the last. Of a
// mixture it is called for each expert, in.Expert, and with the input of the
// router, which all tokens are seen at, after all downs and before the first
// gate; see [model.Config.Inputs]. With
// Options.Final the last call of all is for the head, whose block is -1. It may
// put other weights in their place with [model.Weights.Replace], and change
// those of the block whose turn is still to come, as [llmc/model/fold] does: what
// it sees are the inputs of the block as it was before. in belongs to the
// visitor only during the call.
type Visitor func(ctx context.Context, block int, roles []model.Role, in *Inputs) error

// Walk runs windows of token ids through the model of w. All inputs of a block
// are gathered with the blocks before it as the visitor left them, and its own
// weights as they are, but see Options.Sequential. What is in memory at a time is one block, its Inputs or
// some of them, and the hidden states of all windows or of one; see
// [NewSchedule].
//
// The result does not depend on the number of threads, nor on the memory. NaN
// or an infinity in an activation is an error that names the block and the
// linears.
func Walk(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, o Options, visit Visitor) error {
	if len(windows) == 0 {
		return errors.New("there are no calibration samples")
	}
	sizes := make([]int, len(windows))
	longest := 0
	for i, ids := range windows {
		sizes[i] = len(ids) * w.Config.Hidden
		longest = max(longest, len(ids))
	}
	schedule, err := NewSchedule(w, len(windows), longest, o)
	if err != nil {
		return err
	}
	m, err := model.NewOutline(dev, w)
	if err != nil {
		return err
	}
	hidden, err := newHiddenStates(sizes, schedule.OnDisk, o.dir())
	if err != nil {
		return err
	}
	defer hidden.close()
	walk := walk{dev: dev, weights: w, model: m, hidden: hidden, options: o, schedule: schedule}
	for _, ids := range windows {
		walk.rows = append(walk.rows, len(ids))
	}
	if schedule.KeepInner {
		walk.inner = make(memoryStates, len(windows))
	}
	return walk.run(ctx, windows, visit)
}

// walk is the state of one Walk.
type walk struct {
	dev      kernels.Device
	weights  *model.Weights
	model    *model.Model
	state    *model.State // of one window at a time
	rows     []int        // tokens of each window
	hidden   hiddenStates
	inner    memoryStates // with Schedule.KeepInner: of the half block at work
	options  Options
	schedule *Schedule
	done     float64 // operations
	total    float64
	last     int // block that is not in the journal, -1 if all are
}

func (w *walk) run(ctx context.Context, windows [][]int32, visit Visitor) error {
	blocks := w.weights.Config.Blocks
	w.last = -1
	for i := range blocks {
		if w.kept(i) == nil {
			w.last = i
			w.total += w.schedule.block
		} else {
			w.total += w.schedule.forward
		}
	}
	if w.options.Final && w.kept(blocks) == nil {
		w.last = blocks
	}
	if w.last >= 0 {
		if err := w.embed(ctx, windows); err != nil {
			return err
		}
	}
	for i := range blocks {
		if err := w.block(ctx, i, visit); err != nil {
			return err
		}
	}
	if !w.options.Final {
		return nil
	}
	if kept := w.kept(blocks); kept != nil {
		return w.load(-1, kept)
	}
	if err := w.final(ctx, visit); err != nil {
		return err
	}
	return w.keep(-1)
}

// kept returns a block as it was finished before, nil if it was not. The head
// follows the last block.
func (w *walk) kept(i int) *keptBlock {
	if w.options.Journal == nil {
		return nil
	}
	return w.options.Journal.blocks[i]
}

// embed begins the hidden states of all windows.
func (w *walk) embed(ctx context.Context, windows [][]int32) error {
	for i, ids := range windows {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.model.CheckIDs(ids); err != nil {
			return err
		}
		x := w.model.Embed(ids)
		err := w.save(i, x)
		w.dev.Free(x)
		if err != nil {
			return err
		}
	}
	return nil
}

// save keeps a window's hidden states.
func (w *walk) save(window int, x *kernels.Tensor) error {
	return w.hidden.save(window, read(w.dev, x))
}

// take returns a copy of a window's hidden states, which the caller frees.
func (w *walk) take(window int) (*kernels.Tensor, error) {
	values, err := w.hidden.load(window)
	if err != nil {
		return nil, err
	}
	x := w.dev.NewResult(w.rows[window], len(values)/w.rows[window])
	w.dev.Write(x, values)
	return x, nil
}

// block gathers the inputs of a block, lets the visitor at them, and takes the
// hidden states through what it made of the block, or had made of it before.
func (w *walk) block(ctx context.Context, i int, visit Visitor) error {
	defer w.drop(i)
	if w.options.Begin != nil {
		w.options.Begin(i)
	}
	w.state = w.model.NewState() // without the keys and values of other blocks
	kept := w.kept(i)
	if kept == nil && w.schedule.Sequential {
		return w.sequence(ctx, i, visit)
	}
	if kept == nil {
		if err := w.compress(ctx, i, visit); err != nil {
			return err
		}
	} else if err := w.load(i, kept); err != nil {
		return err
	}
	if w.options.Unchanged {
		return nil
	}
	if i >= w.last {
		w.advance(w.schedule.forward)
		return nil // nobody sees what comes out
	}
	if err := w.model.LoadBlock(w.weights, i); err != nil {
		return err
	}
	return w.forward(ctx, i, w.save)
}

// load puts a block as it was finished before in its place.
func (w *walk) load(i int, kept *keptBlock) error {
	kept.restore(w.weights, i)
	if w.options.Load == nil {
		return nil
	}
	if err := w.options.Load(i, kept.saved); err != nil {
		return fmt.Errorf("block %d as it was kept: %w", i, err)
	}
	return nil
}

// compress lets the visitor at all inputs of a block, and keeps what it made
// of it.
func (w *walk) compress(ctx context.Context, i int, visit Visitor) error {
	if err := w.model.LoadBlock(w.weights, i); err != nil {
		return err
	}
	for at, pass := range slices.Backward(w.schedule.passes) {
		through := w.options.Unchanged && at == 0
		if err := w.pass(ctx, i, pass, through, visit); err != nil {
			return err
		}
	}
	return w.keep(i)
}

// keep stores what the visitor made of a block, -1 for what is outside of them.
func (w *walk) keep(i int) error {
	if w.options.Journal == nil {
		return nil
	}
	var saved any
	var err error
	if w.options.Save != nil {
		if saved, err = w.options.Save(i); err != nil {
			return err
		}
	}
	text, err := json.Marshal(saved)
	if err != nil {
		return err
	}
	tensors, err := replacedIn(w.weights, i)
	if err != nil {
		return err
	}
	at := i
	if i < 0 {
		at = w.weights.Config.Blocks
	}
	kept, err := w.options.Journal.keep(at, tensors, text)
	if err != nil {
		return err
	}
	kept.restore(w.weights, i) // as views of the file, so that memory does not grow
	return nil
}

// drop lets go of a block's weights.
func (w *walk) drop(i int) {
	w.model.DropBlock(i)
	for _, id := range w.weights.Config.IDs() {
		if id.Block == i {
			w.weights.Release(id)
		}
	}
}

// each shows the hidden states of all windows one after the other, flops
// operations in all. x is freed afterwards.
func (w *walk) each(ctx context.Context, flops float64, visit func(window int, x *kernels.Tensor) error) error {
	for window := range w.rows {
		if err := ctx.Err(); err != nil {
			return err
		}
		x, err := w.take(window)
		if err != nil {
			return err
		}
		err = visit(window, x)
		w.dev.Free(x)
		if err != nil {
			return err
		}
		w.advance(flops / float64(len(w.rows)))
	}
	return nil
}

// forward takes all windows through a block as it is loaded, and shows what
// comes out as each does.
func (w *walk) forward(ctx context.Context, i int, visit func(window int, x *kernels.Tensor) error) error {
	return w.each(ctx, w.schedule.forward, func(window int, x *kernels.Tensor) error {
		w.state.Truncate(0)
		w.model.Block(i, x, w.state)
		return visit(window, x)
	})
}

// final gathers what the final norm makes of the hidden states.
func (w *walk) final(ctx context.Context, visit Visitor) error {
	roles := []model.Role{model.Head}
	g := newGatherer(w.dev, model.Input{Roles: roles}, w.weights.Config.Hidden, w.options.Hessian)
	err := w.each(ctx, 0, func(_ int, x *kernels.Tensor) error {
		w.model.Norm(x)
		g.add(x)
		return nil
	})
	if err != nil {
		return err
	}
	in, err := g.inputs()
	if err != nil {
		return fmt.Errorf("the input of the head: %w", err)
	}
	return visit(ctx, -1, roles, in)
}

// pass gathers some inputs of a block, all windows through it, and lets the
// visitor at them. through says that what comes out of the block is what the next
// one takes.
func (w *walk) pass(ctx context.Context, i int, pass []input, through bool, visit Visitor) error {
	mixture := w.weights.Config.Experts.Count > 0
	gathered, err := w.gather(ctx, i, pass, through && !mixture)
	if err == nil && mixture {
		err = w.cover(ctx, i, pass, gathered, through)
	}
	if err != nil {
		return err
	}
	w.trim()
	for at, g := range slices.Backward(gathered) {
		gathered[at] = nil // its memory goes when the visitor returns
		if err := w.show(ctx, i, g, visit); err != nil {
			return err
		}
		w.advance(pass[at].solve.Flops)
	}
	return nil
}

// show lets the visitor at what was gathered.
func (w *walk) show(ctx context.Context, i int, g *gatherer, visit Visitor) error {
	in, err := g.inputs()
	if err != nil {
		return fmt.Errorf("block %d, the input of %s: %w", i, inputString(g.to), err)
	}
	return visit(ctx, i, g.to.Roles, in)
}

// gatherer begins to gather an input.
func (w *walk) gatherer(in input) *gatherer {
	g := newGatherer(w.dev, in.to, int(in.width), w.options.Hessian)
	if slices.Contains(in.to.Roles, model.K) {
		g.first = w.options.FirstToken
	}
	return g
}

// gather runs all windows through a block, and throws the results away unless
// they are to be kept.
func (w *walk) gather(ctx context.Context, i int, pass []input, through bool) ([]*gatherer, error) {
	var all []*gatherer
	gatherers := map[inputKey]*gatherer{}
	for _, in := range pass {
		g := w.gatherer(in)
		gatherers[keyOf(in.to)] = g
		all = append(all, g)
	}
	w.model.SetHook(func(_ int, to model.Input, in *kernels.Tensor) {
		if g := gatherers[keyOf(to)]; g != nil {
			g.add(in)
		}
	})
	defer w.model.SetHook(nil)
	err := w.forward(ctx, i, func(window int, x *kernels.Tensor) error {
		for _, in := range pass {
			w.advance(in.gather / float64(len(w.rows)))
		}
		if through {
			if err := w.seeThrough(i, window, x); err != nil {
				return err
			}
			return w.save(window, x)
		}
		return nil
	})
	return all, err
}

// seeThrough shows what a block made of a window.
func (w *walk) seeThrough(i, window int, x *kernels.Tensor) error {
	if w.options.Through == nil {
		return nil
	}
	before, err := w.hidden.load(window)
	if err != nil {
		return err
	}
	w.options.Through(i, before, read(w.dev, x))
	return nil
}

// trim gives back what the device keeps for the next forward pass, for the
// visitor to use, where memory is short.
func (w *walk) trim() {
	if w.options.MaxMemory <= 0 {
		return
	}
	if dev, ok := w.dev.(interface{ Trim() }); ok {
		dev.Trim()
	}
}

func (w *walk) advance(flops float64) {
	w.done += flops
	if w.options.Progress != nil {
		w.options.Progress(int64(w.done), int64(w.total))
	}
}

// inputKey tells the inputs of a block apart.
type inputKey struct {
	expert model.Expert
	first  model.Role
}

func keyOf(to model.Input) inputKey { return inputKey{to.Expert, to.Roles[0]} }

func inputString(to model.Input) string {
	var names []string
	for _, r := range to.Roles {
		names = append(names, r.String())
	}
	s := strings.Join(names, ", ")
	if to.Expert != model.NoExpert {
		s += fmt.Sprintf(" of expert %d", to.Expert.Index())
	}
	return s
}
