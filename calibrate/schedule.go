package calibrate

import (
	"fmt"
	"slices"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Cost is what visiting one linear takes.
type Cost struct {
	// Bytes is the most memory that is taken at a time, besides the weight as
	// it is stored and the Inputs.
	Bytes int64
	// Flops are the floating-point operations; those at a fraction of a matrix
	// product's speed count as that many more.
	Flops float64
}

// Schedule is how a walk keeps within its memory. What a walk gives does not
// depend on it.
type Schedule struct {
	Passes     int  // how often all windows go through a block to gather its inputs
	OnDisk     bool // hidden states are kept in a file, not in memory
	Sequential bool // Options.Sequential, where it applies
	KeepInner  bool // with Sequential: what o and down multiply is kept in memory, not computed again

	Peak        int64   // bytes of memory, resident, at the most
	Least       int64   // what Peak can be brought down to by MaxMemory
	Activations int64   // bytes of all hidden states, wherever they are kept
	Flops       float64 // floating-point operations in all

	passes  [][]input // the inputs that are gathered together
	forward float64   // operations that take all windows through a block
	block   float64   // operations of a block, that included
	mapped  int64     // bytes of weights that are views of files

	halves [2]halfFlops // of a block, with Sequential
}

// halfFlops are the operations that take all windows through half a block: its
// first linears and attention, and its last.
type halfFlops struct{ first, last float64 }

// end are those from the hidden states before a half to those after it.
func (h halfFlops) end(kept bool) float64 {
	if kept {
		return h.last
	}
	return h.first + h.last
}

// input returns the input of a dense block that a linear multiplies.
func (s *Schedule) input(first model.Role) input {
	for _, in := range slices.Concat(s.passes...) {
		if in.to.Roles[0] == first {
			return in
		}
	}
	panic("calibrate: no input of " + first.String())
}

// NewSchedule fits a walk over windows of up to context tokens into
// o.MaxMemory bytes, 0 for as many as it likes. It prefers hidden states in
// memory to a file and a file to gathering in several passes. With
// o.Sequential it keeps what is between a block's linears if there is room, and
// never more than innerBytes of it without a limit. What cannot be done in that
// much memory is an error that says what is needed.
func NewSchedule(w *model.Weights, windows, context int, o Options) (*Schedule, error) {
	p := planner{weights: w, windows: int64(windows), context: int64(context), options: o}
	inputs := p.inputs()
	single := p.single(inputs)
	short := p
	short.options.MaxMemory = 1
	least := short.schedule(single, true)
	var choices []func() *Schedule
	if o.Sequential && !o.Unchanged && w.Config.Experts.Count == 0 {
		least = short.sequential(single, true, false)
		if o.MaxMemory > 0 || p.inner() <= innerBytes {
			choices = append(choices, func() *Schedule { return p.sequential(single, false, true) })
		}
		choices = append(choices, func() *Schedule { return p.sequential(single, false, false) },
			func() *Schedule { return p.sequential(single, true, false) })
	} else {
		all := [][]input{inputs}
		choices = append(choices, func() *Schedule { return p.schedule(all, false) },
			func() *Schedule { return p.schedule(all, true) },
			func() *Schedule { return p.schedule(p.split(inputs), true) })
	}
	var s *Schedule
	for _, choice := range choices {
		if s = choice(); o.MaxMemory <= 0 || s.Peak <= o.MaxMemory {
			break
		}
	}
	s.Least = min(least.Peak, s.Peak)
	if o.MaxMemory <= 0 || s.Peak <= o.MaxMemory {
		return s, nil
	}
	return nil, fault.Hint(fault.Usage("calibrating in %s of memory is not possible, it needs at least %s", sizeString(o.MaxMemory), sizeString(least.Peak)),
		"allow more memory, or use shorter samples: %s of it grow with their %d tokens", sizeString(p.forward()), context)
}

// HeapLimit is what of maxMemory is left for Go's own memory, for
// [runtime/debug.SetMemoryLimit]: mapped weights and the program's code are not
// in it.
func (s *Schedule) HeapLimit(maxMemory int64) int64 {
	return max(maxMemory-s.mapped-codeBytes, maxMemory/2)
}

// input is one input of a block that some linears share.
type input struct {
	to    model.Input
	width int64
	solve Cost // of the linears: the most memory of one, the operations of all

	bytes  int64   // of what is gathered
	gather float64 // operations of gathering it from all windows
}

// planner adds up memory and operations.
type planner struct {
	weights          *model.Weights
	windows, context int64
	options          Options
}

// inputs describes the inputs of the largest block.
func (p *planner) inputs() []input {
	c := &p.weights.Config
	var list []input
	for _, shared := range c.Inputs() {
		in := input{to: shared}
		for _, role := range shared.Roles {
			shape := c.Shape(model.ID{Role: role, Expert: shared.Expert})
			in.width = int64(shape[1])
			if p.options.Solve != nil && !role.IsRouter() {
				cost := p.options.Solve(shape[0], shape[1])
				in.solve.Bytes = max(in.solve.Bytes, cost.Bytes)
				in.solve.Flops += cost.Flops
			}
		}
		in.bytes = gatherBytes(int(in.width), p.options.Hessian)
		if p.options.Hessian {
			in.gather = float64(p.windows*p.context) * c.ShareOf(shared.Expert) * float64(in.width*in.width)
		}
		list = append(list, in)
	}
	return list
}

// split puts as many inputs into each pass as memory allows.
func (p *planner) split(inputs []input) [][]input {
	var passes [][]input
	for _, in := range inputs {
		last := len(passes) - 1
		if last >= 0 {
			wider := append(passes[last][:len(passes[last]):len(passes[last])], in)
			if p.schedule([][]input{wider}, true).Peak <= p.options.MaxMemory {
				passes[last] = wider
				continue
			}
		}
		passes = append(passes, []input{in})
	}
	return passes
}

// single gives every input a pass of its own.
func (p *planner) single(inputs []input) [][]input {
	var passes [][]input
	for _, in := range inputs {
		passes = append(passes, []input{in})
	}
	return passes
}

// schedule adds up what a walk in such passes takes.
func (p *planner) schedule(passes [][]input, onDisk bool) *Schedule {
	c := &p.weights.Config
	s := &Schedule{
		Passes: len(passes), OnDisk: onDisk, Activations: 4 * p.windows * p.context * int64(c.Hidden),
		passes: passes, forward: p.forwardFlops(), mapped: p.block(),
	}
	var most int64
	for _, pass := range passes {
		var held int64
		for _, in := range pass {
			held += in.bytes
		}
		most = max(most, held+p.forward()+p.add(pass))
		if p.options.MaxMemory <= 0 { // see walk.trim
			held += p.forward()
		}
		for _, in := range slices.Backward(pass) {
			most = max(most, held+in.solve.Bytes)
			held -= in.bytes
		}
	}
	most = max(most, p.final())
	s.Peak = programBytes + 2*s.mapped + p.copies() + max(most, p.forward())
	if onDisk {
		s.Peak += 4 * p.context * int64(c.Hidden)
	} else {
		s.Peak += s.Activations
	}
	s.block = s.blockFlops(p.options.Unchanged, c.Experts.Count > 0)
	s.Flops = float64(c.Blocks) * s.block
	return s
}

// innerBytes is how much of what is between a block's linears is kept in memory
// when no limit was set.
const innerBytes = 2 << 30

// inner is how large the widest input of o or down is, of all windows.
func (p *planner) inner() int64 {
	c := &p.weights.Config
	return 4 * p.windows * p.context * int64(max(c.Heads*c.HeadDim, c.FFN))
}

// sequential adds up what a walk takes that shows one input after the other.
func (p *planner) sequential(single [][]input, onDisk, keep bool) *Schedule {
	s := p.schedule(single, onDisk)
	s.Passes, s.Sequential, s.KeepInner = 1, true, keep
	if keep {
		s.Peak += p.inner()
	}
	c := &p.weights.Config
	tokens := float64(p.windows * p.context)
	linears := func(roles ...model.Role) (flops float64) {
		for _, role := range roles {
			shape := c.Shape(model.ID{Role: role})
			flops += 2 * tokens * float64(shape[0]*shape[1])
		}
		if p.options.Compute == kernels.Fast {
			flops *= fastShare
		}
		return flops
	}
	s.halves[0] = halfFlops{linears(model.Q, model.K, model.V) + p.attentionFlops(), linears(model.O)}
	s.halves[1] = halfFlops{linears(model.Gate, model.Up), linears(model.Down)}
	s.block = 0
	for _, h := range s.halves {
		s.block += h.first + h.end(keep)
	}
	for _, in := range slices.Concat(single...) {
		s.block += in.gather + in.solve.Flops
	}
	s.Flops = float64(c.Blocks) * s.block
	return s
}

// programBytes is what the program takes besides: code, tokenizer, text.
const programBytes = 128 << 20

// codeBytes is the part of it that is not Go's memory.
const codeBytes = 32 << 20

// block is the size of the largest block's weights. Twice of it is in memory,
// as stored and as the visitor leaves it.
func (p *planner) block() int64 {
	sizes := make([]int64, p.weights.Config.Blocks)
	for _, id := range p.weights.Config.IDs() {
		if id.Block >= 0 {
			sizes[id.Block] += p.weights.Bytes(id)
		}
	}
	most := int64(0)
	for _, n := range sizes {
		most = max(most, n)
	}
	return most
}

// fastShare is the time of a product with packed weights on a device that
// multiplies them as integers, as a share of others'.
const fastShare = 0.4

// copies is what such a device's copies of a block take: of up to 8 bits a
// weight, and scales.
func (p *planner) copies() int64 {
	if p.options.Compute != kernels.Fast {
		return 0
	}
	c, weights := &p.weights.Config, int64(0)
	for _, in := range c.Inputs() {
		for _, role := range in.Roles {
			shape := c.Shape(model.ID{Role: role, Expert: in.Expert})
			weights += int64(shape[0] * shape[1])
		}
	}
	return weights + weights/8
}

// forward is what a window takes on its way through a block: the residual
// stream and its norm, q and what attention makes of it, k, v and their cache,
// gate and up, and a copy of the widest for the matrix product; of a mixture one
// expert at a time, with its rows of the input and of the output.
func (p *planner) forward() int64 {
	c := &p.weights.Config
	ffn, more := int64(c.FFN), int64(0)
	if x := c.Experts; x.Count > 0 {
		ffn, more = int64(max(x.Width, x.Shared)), 3*int64(c.Hidden)
	}
	heads, kv := int64(c.Heads*c.HeadDim), int64(c.KVHeads*c.HeadDim)
	numbers := 3*int64(c.Hidden) + 2*heads + 4*kv + 2*ffn + more + max(int64(c.Hidden), heads, ffn)
	return 4 * p.context * numbers
}

// add is what adding a window to the widest input of a pass takes.
func (p *planner) add(pass []input) int64 {
	var most int64
	for _, in := range pass {
		most = max(most, addBytes(int(p.context), int(in.width), p.options.Hessian))
	}
	return most
}

// final is what gathering the head's input and visiting the head take.
func (p *planner) final() int64 {
	if !p.options.Final {
		return 0
	}
	c := &p.weights.Config
	held := gatherBytes(c.Hidden, p.options.Hessian)
	most := held + addBytes(int(p.context), c.Hidden, p.options.Hessian)
	if p.options.Solve != nil {
		most = max(most, held+p.options.Solve(c.Vocab, c.Hidden).Bytes)
	}
	return most
}

// blockFlops counts the operations of a block, but for those of running all
// tokens through experts that saw few.
func (s *Schedule) blockFlops(unchanged, mixture bool) float64 {
	sum := s.forward
	if unchanged && !mixture {
		sum = 0
	}
	for _, pass := range s.passes {
		sum += s.forward
		for _, in := range pass {
			sum += in.gather + in.solve.Flops
		}
	}
	return sum
}

// forwardFlops are those of taking all windows through a block.
func (p *planner) forwardFlops() float64 {
	c := &p.weights.Config
	weights := 0.0
	for _, shared := range c.Inputs() {
		for _, role := range shared.Roles {
			shape := c.Shape(model.ID{Role: role, Expert: shared.Expert})
			weights += c.ShareOf(shared.Expert) * float64(shape[0]*shape[1])
		}
	}
	return 2*float64(p.windows*p.context)*weights + p.attentionFlops()
}

// attentionFlops are those of a block's attention, without its linears.
func (p *planner) attentionFlops() float64 {
	c := &p.weights.Config
	return 2 * float64(p.windows*p.context) * float64(p.context) * float64(c.Heads*c.HeadDim) // causal: half of all pairs
}

// sizeString writes a number of bytes for people: 2.31 GB.
func sizeString(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.3g MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.3g GB", float64(n)/1e9)
}
