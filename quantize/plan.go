package quantize

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Tensor is what a plan must know of a tensor of the source.
type Tensor struct {
	ID        model.ID
	Name      string // as the source calls it
	Shape     []int  // [out, in] for a matrix
	From      string // the numbers it is stored in: "BF16", "Q4_K", "int4:g128:sym"
	Bytes     int64  // as stored
	Quantized bool   // From has lost precision already
}

func (t *Tensor) isMatrix() bool {
	return len(t.Shape) == 2 && t.ID.Role.IsMatrix() && !t.ID.Role.IsRouter() && !t.ID.Bias
}

// Policy says what to do with which tensor. The zero Policy keeps everything.
type Policy struct {
	Scheme     Scheme                // for the linears of the blocks
	Mix        Mix                   // instead of Scheme, when it has a name
	Roles      map[model.Role]Scheme // exceptions by role; they may name embed and head
	Tensors    map[model.ID]Scheme   // chosen for each, below Roles and Ignore; see [Allocate]
	Ignore     []string              // roles, or globs on the source's tensor names
	Embeddings bool                  // quantize the embedding with Scheme too
	Head       bool                  // quantize the head with Scheme too
	Importance bool                  // an importance matrix drives the block types
	// Inputs is how the linears that are rounded round their activations; a
	// static scale is found by Run.Calibrate.
	Inputs kernels.Rounding
	// Vectors is the type that vectors are converted to; dtype.Invalid keeps
	// them.
	Vectors dtype.Type
	// UniformGroups is set for file formats that know one group size: then the
	// size that fits every tensor is taken for all.
	UniformGroups bool
	// ActOrder is set when groups are of columns in another order than the
	// file's, which the configuration must say.
	ActOrder bool
}

// Entry is what happens to one tensor, and why.
type Entry struct {
	Tensor
	To       Scheme // the zero Scheme keeps the tensor as it is
	OutBytes int64  // with To: codes and scales, without a file's padding
	Reason   string
	Fallback bool // To is not what was asked for, because the shape does not allow it
}

// Kept reports whether the tensor is left as it is.
func (e *Entry) Kept() bool { return e.To == Scheme{} }

// Plan is what happens to each tensor, in the source's order. It is made of
// names and shapes alone.
type Plan struct {
	Entries []Entry
	Notes   []string // what the user should know before running it

	shuffled bool             // Policy.ActOrder
	inputs   kernels.Rounding // Policy.Inputs
}

// NewPlan decides what happens to each tensor. Divisibility and tied
// embeddings are settled here; what does not fit is an Entry with Fallback
// set, or an error when nothing fits.
func NewPlan(c *model.Config, tensors []Tensor, p Policy) (*Plan, error) {
	if err := p.check(tensors); err != nil {
		return nil, err
	}
	tied := !slices.ContainsFunc(tensors, func(t Tensor) bool { return t.ID.Role == model.Head && !t.ID.Bias })
	planner := planner{policy: p, tied: tied, mix: newMixModel(c, tied, p.Importance)}
	plan := &Plan{shuffled: p.ActOrder, inputs: p.Inputs}
	for _, t := range tensors {
		e := planner.entry(t)
		plan.Entries = append(plan.Entries, e)
	}
	if p.UniformGroups {
		if err := plan.unifyGroups(); err != nil {
			return nil, err
		}
	}
	for i := range plan.Entries {
		plan.Entries[i].size()
	}
	plan.note(tied, p)
	return plan, nil
}

// check refuses a policy that names what the model does not have, and one that
// no scheme could follow.
func (p *Policy) check(tensors []Tensor) error {
	if p.Scheme != (Scheme{}) {
		if err := p.Scheme.Check(); err != nil {
			return err
		}
	}
	for _, pattern := range p.Ignore {
		if _, ok := model.ParseRole(pattern); ok {
			continue
		}
		if _, err := path.Match(pattern, ""); err != nil {
			return fault.Usage("ignore pattern %q is not a valid glob: %w", pattern, err)
		}
		if head, _ := path.Match(pattern, "lm_head"); head {
			continue // a habit, and no mistake where the head is tied
		}
		if !slices.ContainsFunc(tensors, func(t Tensor) bool { return matches(pattern, t) }) {
			return fault.Hint(fault.Usage("ignore pattern %q matches no tensor", pattern),
				"patterns are roles (q, k, v, o, gate, up, down, embed, head) or globs on tensor names")
		}
	}
	for role, s := range p.Roles {
		if err := s.Check(); err != nil {
			return err
		}
		if !role.IsMatrix() || role.IsRouter() {
			return fault.Usage("%s is not a matrix that can be quantized", role)
		}
	}
	return nil
}

// matches reports whether an ignore pattern means a tensor. A glob that ends
// before ".weight" means the weight too.
func matches(pattern string, t Tensor) bool {
	if pattern == t.ID.Role.String() {
		return true
	}
	if ok, _ := path.Match(pattern, t.Name); ok {
		return true
	}
	stem, isWeight := strings.CutSuffix(t.Name, ".weight")
	ok, _ := path.Match(pattern, stem)
	return ok && isWeight
}

type planner struct {
	policy Policy
	tied   bool
	mix    mixModel
}

// entry decides about one tensor.
func (p *planner) entry(t Tensor) Entry {
	e := Entry{Tensor: t}
	if !t.isMatrix() {
		e.Reason = "not a matrix"
		if t.ID.Role.IsRouter() {
			e.Reason = "what chooses experts is kept"
		}
		if v := p.policy.Vectors; v != dtype.Invalid && v.String() != t.From {
			e.To, e.Reason = TypeScheme(v), "vectors are "+v.String()
		}
		return e
	}
	for _, pattern := range p.policy.Ignore {
		if matches(pattern, t) {
			e.Reason = fmt.Sprintf("ignored by %q", pattern)
			return e
		}
	}
	if s, ok := p.policy.Roles[t.ID.Role]; ok {
		e.To, e.Reason = s, "asked for "+t.ID.Role.String()
		e.fit()
		return e
	}
	if s, ok := p.policy.Tensors[t.ID]; ok {
		e.To, e.Reason = s, "least loss within the budget"
		return e
	}
	if p.policy.Mix.Name != "" {
		e.To = TypeScheme(p.policy.Mix.typeOf(t.ID, t.Shape[1], p.mix))
		e.Reason = p.policy.Mix.Name
		if e.To.Type != p.policy.Mix.Default {
			e.Reason += " for this " + t.ID.Role.String()
		}
		e.fit()
		return e
	}
	switch {
	case t.ID.Role == model.Embed && !p.policy.Embeddings:
		e.Reason = "embeddings are kept unless asked for"
	case t.ID.Role == model.Head && !p.policy.Head:
		e.Reason = "the head is kept unless asked for"
	case p.policy.Scheme == Scheme{}:
		e.Reason = "nothing asked for"
	default:
		e.To, e.Reason = p.policy.Scheme, "all linears"
		e.fit()
	}
	return e
}

// fit falls back to a scheme that the tensor's rows allow.
func (e *Entry) fit() {
	cols := e.Shape[1]
	if e.To.Fits(cols) {
		return
	}
	e.Fallback = true
	if !e.To.IsInteger() {
		asked := e.To.Type
		e.To = TypeScheme(fallbackType(asked, cols))
		e.Reason = fmt.Sprintf("%d columns are no whole blocks of %s", cols, asked)
		return
	}
	asked := e.To.GroupSize
	if asked >= cols {
		e.To.GroupSize = PerChannel
		e.Reason = fmt.Sprintf("%d columns are fewer than a group of %d", cols, asked)
		return
	}
	e.To.GroupSize = divisorGroup(asked, cols)
	e.Reason = fmt.Sprintf("%d columns are no whole groups of %d", cols, asked)
}

// smallestGroup is the smallest group size a fallback takes: engines have no
// kernels for less.
const smallestGroup = 16

// divisorGroup is the largest power-of-two fraction of a group size that
// divides cols, PerChannel if that would be too small to be of use.
func divisorGroup(size, cols int) int {
	for cols%size != 0 {
		if size%2 != 0 || size/2 < smallestGroup {
			return PerChannel
		}
		size /= 2
	}
	return size
}

// unifyGroups gives every integer entry the same group size: the smallest
// among them that divides all rows.
func (p *Plan) unifyGroups() error {
	smallest, sizes := 0, map[int]bool{}
	for _, e := range p.Entries {
		if e.To.IsInteger() {
			sizes[e.To.GroupSize] = true
			smallest = gcd(smallest, e.groupColumns())
		}
	}
	if len(sizes) < 2 {
		return nil
	}
	if smallest < smallestGroup {
		return fault.Hint(fault.Usage("no group size from %d on divides the rows of every tensor", smallestGroup),
			"ask for --group-size %d, or for another format", PerChannel)
	}
	for i := range p.Entries {
		e := &p.Entries[i]
		if e.To.IsInteger() && e.To.GroupSize != smallest {
			e.To.GroupSize = smallest
			if !e.Fallback {
				e.Fallback, e.Reason = true, "the format has one group size for all"
			}
		}
	}
	return nil
}

// SmallestGroup is the smallest group size that a tensor fell back to because
// the one asked for does not divide its rows; that one, if there is none.
func (p *Plan) SmallestGroup(asked int) int {
	for _, e := range p.Entries {
		if size := e.To.GroupSize; e.To.IsInteger() && size > 0 {
			asked = min(asked, size)
		}
	}
	return asked
}

// groupColumns is how many columns share a scale.
func (e *Entry) groupColumns() int {
	if e.To.GroupSize == PerChannel {
		return e.Shape[1]
	}
	return e.To.GroupSize
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// size fills OutBytes.
func (e *Entry) size() {
	e.OutBytes = e.Bytes
	switch {
	case e.Kept():
	case e.isMatrix():
		e.OutBytes = e.To.Bytes(e.Shape[0], e.Shape[1])
	default:
		e.OutBytes = e.To.Bytes(1, int(e.elements()))
	}
}

// note collects what the user should know.
func (p *Plan) note(tied bool, policy Policy) {
	fallbacks, requantized := 0, 0
	for _, e := range p.Entries {
		if e.Fallback {
			fallbacks++
		}
		if e.Quantized && !e.Kept() && e.To.String() != e.From {
			requantized++
		}
	}
	if fallbacks > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("%d tensors fall back to another size or type because of their shape", fallbacks))
	}
	if requantized > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("%d tensors are quantized already, so errors add up: start from the original weights if there are any", requantized))
	}
	if _, asked := policy.Roles[model.Head]; tied && (asked || policy.Head) {
		p.Notes = append(p.Notes, "the head is tied to the embedding, so head options have no tensor of their own")
	}
	if policy.Mix.Name == "" {
		p.noteFused()
	}
}

// noteFused warns when projections that vLLM fuses get different schemes.
func (p *Plan) noteFused() {
	if p.splitsFused() {
		p.Notes = append(p.Notes, "q, k, v (or gate, up) differ within a block: transformers loads that, vLLM fuses them and does not")
	}
}

// Bytes returns the size of the tensors before and after.
func (p *Plan) Bytes() (before, after int64) {
	for _, e := range p.Entries {
		before += e.Bytes
		after += e.OutBytes
	}
	return before, after
}

// Elements is the number of weights in the plan.
func (p *Plan) Elements() int64 {
	var n int64
	for i := range p.Entries {
		n += p.Entries[i].elements()
	}
	return n
}

func (e *Entry) elements() int64 {
	n := int64(1)
	for _, d := range e.Shape {
		n *= int64(d)
	}
	return n
}

// BitsPerWeight is the size after, over all weights.
func (p *Plan) BitsPerWeight() float64 {
	_, after := p.Bytes()
	return 8 * float64(after) / float64(max(p.Elements(), 1))
}

// Count is how many tensors of one role end up stored in one way.
type Count struct {
	Role    string `json:"role"`
	Stored  string `json:"stored"`
	Tensors int    `json:"tensors"`
	Before  int64  `json:"bytes_before"`
	After   int64  `json:"bytes_after"`
}

// Counts sums the plan up by role and stored form, in order of appearance.
func (p *Plan) Counts() []Count {
	var counts []Count
	for _, e := range p.Entries {
		role, stored := e.ID.Role.String(), e.From
		if !e.isMatrix() && !e.ID.Role.IsRouter() {
			role = "vectors"
		}
		if !e.Kept() {
			stored = e.To.String()
		}
		i := slices.IndexFunc(counts, func(c Count) bool { return c.Role == role && c.Stored == stored })
		if i < 0 {
			counts = append(counts, Count{Role: role, Stored: stored})
			i = len(counts) - 1
		}
		counts[i].Tensors++
		counts[i].Before += e.Bytes
		counts[i].After += e.OutBytes
	}
	return counts
}
