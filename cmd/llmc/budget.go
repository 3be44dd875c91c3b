package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"llmc/eval"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/quantize"
)

// budgetOptions are the flags that leave the bits of each tensor to a search.
type budgetOptions struct {
	bitsPerWeight string
	size          string

	bpw   float64 // 0 unless asked for
	bytes int64   // of the weight files, 0 unless asked for
}

// mixed is what the scheme is called when every tensor has its own.
const mixed = "mixed"

func (o *budgetOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.bitsPerWeight, "target-bpw", "", "choose every tensor's bits for the least loss at this many bits per weight, over all tensors: 4.5")
	flags.StringVar(&o.size, "target-size", "", "the same for a size of the weight files: 300MB")
}

func (o *budgetOptions) asked() bool { return o.bitsPerWeight != "" || o.size != "" }

// parse reads the flags.
func (o *budgetOptions) parse() error {
	if o.bitsPerWeight != "" && o.size != "" {
		return fault.Usage("--target-bpw %s and --target-size %s both say how small", o.bitsPerWeight, o.size)
	}
	var err error
	if o.size != "" {
		if o.bytes, err = eval.ParseSize(o.size); err != nil {
			return fault.Usage("--target-size: %w", err)
		}
		if o.bytes < 1 {
			return fault.Usage("--target-size is %s, allowed is more than 0", o.size)
		}
		return nil
	}
	if o.bpw, err = strconv.ParseFloat(o.bitsPerWeight, 64); err != nil || !(o.bpw > 0 && o.bpw <= 16) {
		return fault.Usage("--target-bpw is %q, allowed is more than 0, up to 16", o.bitsPerWeight)
	}
	return nil
}

// budgetPolicy is the policy before anything is chosen: 8 bits everywhere.
func (o *quantizeOptions) budgetPolicy(target quantize.Target) (quantize.Policy, error) {
	p := quantize.Policy{Ignore: o.ignore, Embeddings: o.embeddings, Head: o.head}
	if o.typeName != "" || o.given("bits") {
		return p, fault.Hint(fault.Usage("--bits and --type say how small, and so does a target"), "leave one of them out")
	}
	if o.scheme != "" || o.activations != "none" {
		return p, fault.Hint(fault.Usage("--scheme and --activations fix the bits, which a target chooses"), "leave one of them out")
	}
	if err := o.budget.parse(); err != nil {
		return p, err
	}
	var err error
	switch target {
	case quantize.GGUF:
		o.typeName = "Q8_0"
		p.Mix, err = o.mix()
		p.Mix.Name = mixed
	case quantize.CompressedTensors:
		o.bits = quantize.MaxBits
		p.Scheme, err = o.groups(target)
	default:
		err = fault.Hint(fault.Usage("%s has one number of bits for all linears, so there is nothing to choose", target),
			"use --to gguf or compressed-tensors")
	}
	if err != nil {
		return p, err
	}
	p.Roles, err = o.roles(target, p.Scheme)
	return p, err
}

// choices are what the search chooses from.
func (o *budgetOptions) choices(q *quantization) quantize.Budget {
	b := quantize.Budget{Bytes: int64(o.bpw * float64(q.plan.Elements()) / 8)}
	if q.job.target == quantize.GGUF {
		b.Among = quantize.GGUFChoices()
		return b
	}
	b.Fused = true // by vLLM
	for _, bits := range []int{2, 3, 4, 5, 6, 8} {
		s := q.job.policy.Scheme
		s.Bits, s.GroupSize = bits, q.plan.SmallestGroup(s.GroupSize)
		b.Among = append(b.Among, s)
	}
	return b
}

// The names under which a search's result is kept, and what it has found so far.
const (
	searchNote = "search"
	partNote   = "sensitivities"
)

// partInterval is how often that is written.
const partInterval = 10 * time.Second

// keptSearch is a search's result, as it is kept for a run that resumes.
type keptSearch struct {
	Found   quantize.Allocation
	Schemes []keptScheme
}

type keptScheme struct {
	ID     model.ID
	Scheme quantize.Scheme
}

// allocate searches the schemes of the tensors, puts them into the job's policy,
// and plans with them. What it finds is kept for a run that resumes.
func (o *quantizeOptions) allocate(ctx context.Context, global *globalOptions, c *formats.Checkpoint, w *model.Weights, job *quantizeJob, text eval.Text) (*quantization, error) {
	base, err := newQuantization(c, w, job, global.threads) // all in 8 bits
	if err != nil {
		return nil, fmt.Errorf("%s: %w", job.path, err)
	}
	if _, err := base.read(global.ui, &o.calibration, text); err != nil {
		return nil, err
	}
	if !o.dryRun {
		if err := o.free(job); err != nil { // it has a name by now
			return nil, err
		}
		if err := base.begin(ctx, global, o); err != nil {
			return nil, err
		}
	}
	if err := o.search(ctx, global, base); err != nil {
		return nil, base.unfinished.failed(fmt.Errorf("%s: %w", job.path, err))
	}
	q, err := newQuantization(c, w, job, global.threads)
	if err != nil {
		return nil, base.unfinished.failed(fmt.Errorf("%s: %w", job.path, err))
	}
	q.unfinished, q.report.Calibration = base.unfinished, base.report.Calibration
	return q, nil
}

// search puts the schemes that a search finds into the job's policy, or those
// that an unfinished run has found.
func (o *quantizeOptions) search(ctx context.Context, global *globalOptions, base *quantization) error {
	job := base.job
	var kept keptSearch
	if base.unfinished != nil && base.unfinished.journal.Noted(searchNote, &kept) {
		global.ui.note("resuming: the search for bits is done")
		job.found = &kept.Found
		job.found.Schemes = map[model.ID]quantize.Scheme{}
		for _, s := range kept.Schemes {
			job.found.Schemes[s.ID] = s.Scheme
		}
		job.policy.Tensors = job.found.Schemes
		return nil
	}
	if err := base.weights.Check(ctx, func(done, total int64) { global.ui.progress("check", done, total) }); err != nil {
		return err
	}
	budget := o.budget.choices(base)
	if o.budget.bytes > 0 {
		header := int64(0)
		if base.out != nil {
			var err error
			if header, err = base.out.HeaderBytes(); err != nil {
				return err
			}
		}
		budget.Bytes = o.budget.bytes - header
	}
	if job.target == quantize.GGUF {
		w := base.weights
		budget.Rivals = quantize.LargestMixes(&w.Config, quantize.Describe(w), job.policy, budget.Bytes)
	}
	fixed := func(e *quantize.Entry) bool {
		_, asked := job.policy.Roles[e.ID.Role]
		return asked || e.Fallback && job.target == quantize.GGUF
	}
	probe := quantize.Probe{
		Threads: global.threads, MaxMemory: o.calibration.memory, Method: job.method,
		Progress: func(done, total int64) { global.ui.progress("search", done, total) },
	}
	if base.unfinished != nil {
		base.unfinished.keepSensitivities(&probe)
	}
	found, err := quantize.Allocate(ctx, global.newDevice(), base.weights, base.plan, fixed, job.sample.windows, budget, probe)
	global.ui.closeProgress()
	if err != nil {
		return err
	}
	job.policy.Tensors, job.found = found.Schemes, found
	if base.unfinished == nil {
		return nil
	}
	kept.Found = *found
	for i := range base.plan.Entries {
		id := base.plan.Entries[i].ID
		if s, ok := found.Schemes[id]; ok {
			kept.Schemes = append(kept.Schemes, keptScheme{id, s})
		}
	}
	return base.unfinished.journal.Note(searchNote, kept)
}

// keepSensitivities makes a search keep what it finds, and begin with what an
// unfinished one has found.
func (u *unfinished) keepSensitivities(p *quantize.Probe) {
	var found []quantize.Sensitivity
	if !u.journal.Noted(partNote, &found) {
		found = nil
	}
	known := map[model.ID]quantize.Sensitivity{}
	for _, s := range found {
		known[s.ID] = s
	}
	p.Known = func(id model.ID) (quantize.Sensitivity, bool) {
		s, ok := known[id]
		return s, ok
	}
	written := time.Now()
	p.Found = func(s quantize.Sensitivity) error {
		found = append(found, s)
		if time.Since(written) < partInterval {
			return nil
		}
		written = time.Now()
		return u.journal.Note(partNote, found)
	}
}

// printAllocation says what the search expects.
func (r *quantizeReport) printAllocation(ui *ui) {
	a := r.Allocation
	ui.print("expected mean divergence %.5f nats a token at %s of %s; nothing within that can be below %.5f",
		a.Loss, bytesString(a.Bytes), bytesString(a.Budget), a.Bound)
	ui.print("(by sensitivities measured on %d tokens; the rounding itself may do better)", a.ProbeTokens)
	whole := fmt.Sprintf("all together, rounded to nearest, have %.5f on these", a.Nearest)
	for i, r := range a.Rivals {
		if whole += ", "; i == len(a.Rivals)-1 && i > 0 {
			whole += "and "
		}
		whole += fmt.Sprintf("%s %.5f", r.Name, r.Nearest)
	}
	if a.Took != "" {
		whole += fmt.Sprintf(": %s is taken", a.Took)
	}
	ui.print("%s", whole)
}
