package quantize

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Budget is how large the tensors of a model may be, and what they may be
// stored as.
type Budget struct {
	Bytes int64 // of all tensors, as [Plan.Bytes] counts them
	// Among are the schemes to choose from; one whose blocks or groups do not
	// divide a matrix's rows is not for that matrix.
	Among []Scheme
	// Fused is set when an engine joins q, k, v and gate, up, so that they must
	// be stored alike.
	Fused bool
	// Rivals are other ways that fit, of schemes among these. One is taken where it
	// costs the model less.
	Rivals []Rival
}

// Rival is what could be done to a model instead, made by hand.
type Rival struct {
	Name    string  `json:"name"`
	Plan    *Plan   `json:"-"`
	Nearest float64 `json:"nearest_kl"` // as Allocation.Nearest, of this plan
}

// Allocation is the assignment of schemes that is expected to cost a model
// least within a budget.
type Allocation struct {
	Schemes map[model.ID]Scheme `json:"-"` // for Policy.Tensors

	Budget int64 `json:"budget_bytes"` // of all tensors
	Bytes  int64 `json:"bytes"`
	// Loss is the expected mean KL divergence in nats a token: the sum of the
	// tensors' sensitivities. Bound is less than or equal to what any
	// assignment within the budget could have.
	Loss  float64 `json:"predicted_kl"`
	Bound float64 `json:"predicted_kl_bound"`
	// Nearest is the mean divergence, on the same tokens, of the whole model with
	// every matrix rounded to nearest as the sensitivities say. Took names the rival
	// that has less and is taken instead.
	Nearest float64 `json:"nearest_kl"`
	Rivals  []Rival `json:"rivals,omitempty"`
	Took    string  `json:"took,omitempty"`
	// ProbeTokens is how many tokens the sensitivities were measured on.
	ProbeTokens int `json:"probe_tokens"`
	// Operations and Memory are what measuring them took, as in [Measured].
	Operations float64 `json:"-"`
	Memory     int64   `json:"-"`
}

// GGUFChoices are what [Budget.Among] is for GGUF: the block
// types that llama.cpp loads and llmc writes, but for those made for training.
func GGUFChoices() []Scheme {
	types := []dtype.Type{
		dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.IQ4_NL, dtype.Q4_0, dtype.Q4_1, dtype.Q5_K, dtype.Q5_0, dtype.Q5_1, dtype.Q6_K, dtype.Q8_0,
	}
	list := make([]Scheme, len(types))
	for i, t := range types {
		list[i] = TypeScheme(t)
	}
	return list
}

// rivals is how many mixes LargestMixes returns: of some as large, one may suit a
// model better.
const rivals = 3

// LargestMixes returns the largest mixes of block types within so many bytes, the
// largest first. What the policy says but for its mix holds.
func LargestMixes(c *model.Config, tensors []Tensor, p Policy, bytes int64) []Rival {
	var list []Rival
	sizes := map[string]int64{}
	for _, m := range mixes {
		if !slices.Contains(GGUFChoices(), TypeScheme(m.Default)) {
			continue
		}
		p.Mix, p.Tensors = m, nil
		plan, err := NewPlan(c, tensors, p)
		if err != nil {
			continue
		}
		if _, after := plan.Bytes(); after <= bytes {
			list, sizes[m.Name] = append(list, Rival{Name: m.Name, Plan: plan}), after
		}
	}
	slices.SortStableFunc(list, func(a, b Rival) int { return cmp.Compare(sizes[b.Name], sizes[a.Name]) })
	return list[:min(rivals, len(list))]
}

// Allocate measures the sensitivities of the matrices that plan rounds, but for
// those in fixed, and chooses among the budget's schemes for each. plan is what
// happens without a choice; windows of token ids are calibration text.
func Allocate(ctx context.Context, dev kernels.Device, w *model.Weights, plan *Plan, fixed func(*Entry) bool, windows [][]int32, b Budget, p Probe) (*Allocation, error) {
	a := &allocator{plan: plan, budget: b, entries: map[model.ID]*Entry{}}
	for i := range plan.Entries {
		if e := &plan.Entries[i]; e.Rounds() && !fixed(e) {
			a.entries[e.ID] = e
		} else {
			a.kept += e.OutBytes
		}
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	bits := a.meanBits()
	p.Pick = func(id model.ID, schemes []Scheme) int {
		shape := a.entries[id].Shape
		return nearest(bits, shape, schemes)
	}
	candidates := func(id model.ID, _, _ int) []Scheme { return a.candidates(id) }
	pr, err := newProbe(ctx, dev, w, windows, candidates, p, 1+len(b.Rivals))
	if err != nil {
		return nil, err
	}
	defer pr.run.Free()
	found, err := pr.measure(ctx, dev)
	if err != nil {
		return nil, err
	}
	result, err := a.solve(found.Sensitivities)
	if err != nil {
		return nil, err
	}
	if err := a.confirm(ctx, pr, result, found.Sensitivities); err != nil {
		return nil, err
	}
	found.Operations = pr.done + float64(pr.walkDone)
	result.ProbeTokens, result.Operations, result.Memory = found.Tokens, found.Operations, found.Memory
	return result, nil
}

// allocator is a plan's matrices that have a choice.
type allocator struct {
	plan    *Plan
	budget  Budget
	entries map[model.ID]*Entry
	kept    int64 // bytes of the tensors that have none
}

// confirm measures the whole model as it was chosen, since what each matrix costs
// alone need not add up, and its rivals, of which the best takes its place if it
// loses less.
func (a *allocator) confirm(ctx context.Context, pr *probe, result *Allocation, found []Sensitivity) error {
	var err error
	if result.Nearest, err = pr.whole(ctx, a.all(a.plan, result.Schemes)); err != nil {
		return err
	}
	least := result.Nearest
	for _, r := range a.budget.Rivals {
		schemes := a.all(r.Plan, nil)
		if r.Nearest, err = pr.whole(ctx, schemes); err != nil {
			return err
		}
		result.Rivals = append(result.Rivals, Rival{Name: r.Name, Nearest: r.Nearest})
		if r.Nearest < least {
			least = r.Nearest
			if err := a.take(result, r.Name, schemes, found); err != nil {
				return err
			}
		}
	}
	return nil
}

// take makes a rival's schemes the result.
func (a *allocator) take(result *Allocation, name string, schemes map[model.ID]Scheme, found []Sensitivity) error {
	result.Took, result.Loss, result.Bytes = name, 0, a.kept
	for _, s := range found {
		to, shape := schemes[s.ID], a.entries[s.ID].Shape
		at := slices.Index(s.Schemes, to)
		if at < 0 {
			return fmt.Errorf("%s of %s is none of what the search chooses from", to, name)
		}
		result.Schemes[s.ID] = to
		result.Loss += s.Losses[at]
		result.Bytes += to.Bytes(shape[0], shape[1])
	}
	return nil
}

// all are the schemes of the matrices that a plan rounds, those in chosen in the
// place of its own.
func (a *allocator) all(plan *Plan, chosen map[model.ID]Scheme) map[model.ID]Scheme {
	list := map[model.ID]Scheme{}
	for i := range plan.Entries {
		e := &plan.Entries[i]
		if !e.isMatrix() || !e.Rounds() {
			continue
		}
		list[e.ID] = e.To
		if s, ok := chosen[e.ID]; ok {
			list[e.ID] = s
		}
	}
	return list
}

// candidates are the schemes that fit a matrix, the smallest first.
func (a *allocator) candidates(id model.ID) []Scheme {
	e, ok := a.entries[id]
	if !ok {
		return nil
	}
	var list []Scheme
	for _, s := range a.budget.Among {
		if s.Fits(e.Shape[1]) {
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(x, y Scheme) int {
		return cmp.Compare(x.Bytes(e.Shape[0], e.Shape[1]), y.Bytes(e.Shape[0], e.Shape[1]))
	})
	return list
}

// check refuses a budget below the smallest sizes, before anything is measured.
func (a *allocator) check() error {
	if len(a.entries) == 0 {
		return fault.Usage("there is no tensor whose bits could be chosen")
	}
	least, elements := a.kept, a.plan.Elements()
	for i := range a.plan.Entries {
		e := &a.plan.Entries[i]
		if a.entries[e.ID] != e {
			continue
		}
		list := a.candidates(e.ID)
		if len(list) == 0 {
			return fault.Hint(fault.Usage("%s has rows of %d, which no type to choose from divides", e.Name, e.Shape[1]),
				"ask for another --group-size, or leave the tensor out with --ignore")
		}
		least += list[0].Bytes(e.Shape[0], e.Shape[1])
	}
	if least <= a.budget.Bytes {
		return nil
	}
	err := fault.Usage("%d bytes (%.2f bits per weight) are asked for, the smallest types make %d (%.2f)",
		a.budget.Bytes, 8*float64(a.budget.Bytes)/float64(elements), least, 8*float64(least)/float64(elements))
	if share := float64(a.kept) / float64(least); share > 0.1 {
		return fault.Hint(err, "%.0f%% of that is tensors that are kept as they are", 100*share)
	}
	return fault.Hint(err, "ask for more, or prune first")
}

// meanBits is what the matrices with a choice may have on average.
func (a *allocator) meanBits() float64 {
	elements := int64(0)
	for _, e := range a.entries {
		elements += e.elements()
	}
	return 8 * float64(a.budget.Bytes-a.kept) / float64(elements)
}

// nearest returns the index of the scheme of about as many bits.
func nearest(bits float64, shape []int, schemes []Scheme) int {
	off := func(s Scheme) float64 {
		own := 8 * float64(s.Bytes(shape[0], shape[1])) / float64(shape[0]*shape[1])
		return max(own-bits, bits-own)
	}
	best := 0
	for i, s := range schemes {
		if off(s) < off(schemes[best]) {
			best = i
		}
	}
	return best
}

// fusedKey names the matrices that are stored alike, among them all experts of a
// block: GGUF holds them in one tensor, and engines run them in one kernel.
func (a *allocator) fusedKey(id model.ID) model.ID {
	id.Expert = min(id.Expert, model.ExpertAt(0))
	if a.budget.Fused {
		switch id.Role {
		case model.K, model.V:
			id.Role = model.Q
		case model.Up:
			id.Role = model.Gate
		}
	}
	return id
}

// solve chooses.
func (a *allocator) solve(found []Sensitivity) (*Allocation, error) {
	var items [][]choice
	var members [][]model.ID
	at := map[model.ID]int{}
	for _, s := range found {
		key, shape := a.fusedKey(s.ID), a.entries[s.ID].Shape
		i, seen := at[key]
		if !seen {
			i = len(items)
			at[key] = i
			items, members = append(items, make([]choice, len(s.Schemes))), append(members, nil)
		}
		if len(items[i]) != len(s.Schemes) {
			return nil, fmt.Errorf("%s has %d schemes to choose from, what it is fused with %d", s.ID, len(s.Schemes), len(items[i]))
		}
		for c, scheme := range s.Schemes {
			items[i][c].bytes += scheme.Bytes(shape[0], shape[1])
			items[i][c].loss += s.Losses[c]
		}
		members[i] = append(members[i], s.ID)
	}
	if err := checkChoices(items); err != nil {
		return nil, err
	}
	picked, bound, smallest, ok := knapsack(items, a.budget.Bytes-a.kept)
	if !ok {
		return nil, fault.Usage("%d bytes are asked for, the smallest types make %d", a.budget.Bytes, smallest+a.kept)
	}
	result := &Allocation{Schemes: map[model.ID]Scheme{}, Budget: a.budget.Bytes, Bytes: a.kept, Bound: bound}
	for i, p := range picked {
		result.Bytes += items[i][p].bytes
		result.Loss += items[i][p].loss
		for _, id := range members[i] {
			result.Schemes[id] = a.candidates(id)[p]
		}
	}
	return result, nil
}
