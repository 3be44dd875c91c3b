package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"

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
		s.Bits = bits
		b.Among = append(b.Among, s)
	}
	return b
}

// allocate searches the schemes of the tensors and puts them into the job's
// policy.
func (o *quantizeOptions) allocate(ctx context.Context, global *globalOptions, c *formats.Checkpoint, w *model.Weights, job *quantizeJob, text eval.Text) error {
	all8 := *job
	base, err := newQuantization(c, w, &all8, global.threads)
	if err != nil {
		return err
	}
	sample, err := base.read(global.ui, &o.calibration, text)
	if err != nil {
		return err
	}
	windows := sample.windows
	budget := o.budget.choices(base)
	if o.budget.bytes > 0 {
		header := int64(0)
		if base.out != nil {
			if header, err = base.out.HeaderBytes(); err != nil {
				return err
			}
		}
		budget.Bytes = o.budget.bytes - header
	}
	fixed := func(e *quantize.Entry) bool {
		_, asked := job.policy.Roles[e.ID.Role]
		return asked || e.Fallback && job.target == quantize.GGUF
	}
	probe := quantize.Probe{
		Windows: probeWindows(w, windows), Threads: global.threads, MaxMemory: o.calibration.memory,
		Progress: func(done, total int64) { global.ui.progress("search", done, total) },
	}
	found, err := quantize.Allocate(ctx, global.newDevice(), w, base.plan, fixed, windows, budget, probe)
	global.ui.closeProgress()
	if err != nil {
		return err
	}
	job.policy.Tensors, job.found = found.Schemes, found
	return nil
}

// probeWindows cuts the calibration text to so many tokens that trying every
// linear in the model, from its block on, takes about as long as the walk.
func probeWindows(w *model.Weights, windows [][]int32) [][]int32 {
	tokens := 0
	for _, ids := range windows {
		tokens += len(ids)
	}
	linears := 7 * w.Config.Blocks
	left := min(max(4*tokens/max(linears, 1), 512), 8192)
	var short [][]int32
	for _, ids := range windows {
		if left < 2 {
			break
		}
		ids = ids[:min(left, len(ids))]
		short, left = append(short, ids), left-len(ids)
	}
	return slices.Clip(short)
}

// printAllocation says what the search expects.
func (r *quantizeReport) printAllocation(ui *ui) {
	a := r.Allocation
	ui.print("expected mean divergence %.5f nats a token at %s of %s; nothing within that can be below %.5f",
		a.Loss, bytesString(a.Bytes), bytesString(a.Budget), a.Bound)
	ui.print("(by sensitivities measured on %s; the rounding itself may do better)", fmt.Sprintf("%d tokens", a.ProbeTokens))
}
