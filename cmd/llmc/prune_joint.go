package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"llmc/calibrate"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/prune"
	"llmc/quantize"
)

// jointOptions are the flags of prune that round what stays in the same pass.
type jointOptions struct {
	bits       int
	groupSize  string
	symmetric  bool
	asymmetric bool
	typeName   string
	compute    string
}

// jointFlags are their names. The first two say that it is asked for.
var jointFlags = []string{"bits", "type", "group-size", "symmetric", "asymmetric", "compute"}

func (o *jointOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&o.bits, "bits", 0, "sparsegpt: also round what stays to so many bits by GPTQ, in the same pass")
	flags.StringVar(&o.typeName, "type", "", "the same to a GGUF type with a zero: Q4_0, Q5_0, Q8_0, Q6_K")
	flags.StringVar(&o.groupSize, "group-size", "128", "columns that share a scale, or channel, or tensor")
	flags.BoolVar(&o.symmetric, "symmetric", false, "codes are centred on zero (default but for awq)")
	flags.BoolVar(&o.asymmetric, "asymmetric", false, "every group has a zero point of its own")
	registerCompute(flags, &o.compute)
	putUnder(topicJoint, flags, jointFlags...)
}

// joint reports whether prune is to round as well.
func (o *pruneOptions) joint() bool { return o.flags.Changed("bits") || o.flags.Changed("type") }

// pruner is what chooses zeros while quantize rounds: the pattern, and the rule
// that makes zeros of it.
type pruner struct {
	pattern    prune.Pattern
	joint      prune.Joint
	allocation prune.Allocation
	permutes   bool
	run        *prune.Run // of those linears; nil unless zeros are spread or inputs permuted
}

// patternOf is the pattern of one linear.
func (p *pruner) patternOf(id model.ID) prune.Pattern {
	if p.run == nil {
		return p.pattern
	}
	return p.run.PatternOf(id)
}

// prepare spreads the zeros over the linears that the plan rounds, and finds out
// what orders of inputs go by. p may be nil.
func (p *pruner) prepare(ctx context.Context, global *globalOptions, q *quantization, windows [][]int32, options calibrate.Options) error {
	if p == nil || p.allocation == prune.Uniform && !p.permutes {
		return nil
	}
	var ids []model.ID
	for i := range q.plan.Entries {
		if e := &q.plan.Entries[i]; e.ID.Block >= 0 && e.Rounds() {
			ids = append(ids, e.ID)
		}
	}
	var err error
	if p.run, err = prune.NewRunOf(q.weights, ids, prune.SparseGPT{}, p.pattern, global.threads); err != nil {
		return err
	}
	if p.allocation != prune.Uniform {
		q.report.ZerosBy, err = allocate(ctx, global, p.run, p.allocation, windows, options, q.unfinished)
		return err
	}
	p.run.Permute()
	options.Save, options.Load, options.Journal, options.Final = nil, nil, nil, false
	options.Progress = func(done, total int64) { global.ui.progress("observe", done, total) }
	defer global.ui.closeProgress()
	return p.run.Observe(ctx, global.newDevice(), windows, options)
}

// permuting makes a walk put inputs in order as each block is begun. done says
// what became of it, given the walk's own error. p may be nil.
func (p *pruner) permuting(ctx context.Context, q *quantization, options *calibrate.Options) (walk context.Context, done func(error) error) {
	if p == nil || !p.permutes {
		return ctx, func(err error) error { return err }
	}
	ctx, cancel := context.WithCancelCause(ctx)
	begin, worth := options.Begin, permutedMeans{}
	options.Begin = func(block int) {
		begin(block)
		found, err := p.run.PermuteBlock(ctx, block)
		if err != nil {
			cancel(err)
		}
		for _, r := range found {
			worth.add(r.ID.Role, r.Permuted)
		}
	}
	return ctx, func(err error) error {
		if cause := context.Cause(ctx); cause != nil && err != nil {
			err = cause
		}
		cancel(nil)
		q.report.Permuted = worth.list()
		return err
	}
}

// runJoint prunes and rounds in one pass: quantize's run, with a mask.
func runJoint(ctx context.Context, global *globalOptions, o *pruneOptions, args []string) error {
	if o.method != "" && o.method != "sparsegpt" {
		return fault.Hint(fault.Usage("--bits and --type go with --method sparsegpt, and the method is %s", o.method), "prune first, then llmc quantize: zeros stay")
	}
	pattern, err := o.parsePattern()
	if err != nil {
		return err
	}
	if err := o.checkPermute(pattern); err != nil {
		return err
	}
	if err := o.checkOrder(pattern, "sparsegpt"); err != nil {
		return err
	}
	if err := o.checkFirstToken(true); err != nil {
		return err
	}
	if err := o.checkSteps(); err != nil {
		return err
	}
	p := &pruner{pattern: pattern, permutes: o.permute}
	if p.allocation, err = o.parseAllocation(pattern, "sparsegpt"); err != nil {
		return err
	}
	p.joint = prune.Joint{Pattern: p.patternOf, Threads: global.threads, Solver: o.solver(), Steps: o.steps}
	q := &quantizeOptions{
		out: o.out, bits: o.joined.bits, typeName: o.joined.typeName, method: "gptq", groupSize: o.joined.groupSize,
		symmetric: o.joined.symmetric, asymmetric: o.joined.asymmetric, to: o.to, ignore: o.ignore,
		text: o.text, context: o.context, maxShard: o.maxShard, reportFile: o.reportFile, force: o.force, dryRun: o.dryRun,
		schemeOptions: schemeOptions{activations: "none"},
		calibration:   calibrationOptions{sampleOptions: o.samples, damp: o.damp, firstToken: o.firstToken, compute: o.joined.compute},
		flags:         o.flags, given: o.flags.Changed,
	}
	q.pruner = p
	return runQuantize(ctx, global, q, args)
}

// checkPruned refuses what cannot be pruned while it is rounded.
func (q *quantization) checkPruned() error {
	for i := range q.plan.Entries {
		e := &q.plan.Entries[i]
		if e.ID.Block < 0 || !e.Rounds() {
			continue
		}
		if e.Quantized {
			return fault.Hint(fault.Invalid("%s is quantized, and zeros belong into the weights it was made of", e.Name), "prune the original model")
		}
		if !e.To.Spreads() || !e.To.HoldsZeros() {
			return fault.Hint(fault.Usage("%s becomes %s, in which nothing is pruned", e.Name, e.To),
				"types with a zero are Q8_0, Q6_K, Q5_0, Q4_0, Q3_K, and codes in groups (--to compressed-tensors)")
		}
		if err := q.job.pruner.pattern.Fits(e.Name, e.Shape[1]); err != nil {
			return err
		}
	}
	return nil
}

// suffix ends the names of outputs.
func (p *pruner) suffix() string {
	if p == nil {
		return ""
	}
	if p.pattern.Of == 0 {
		return fmt.Sprintf("-%gpct", 100*p.pattern.Sparsity)
	}
	return "-" + strings.ReplaceAll(p.pattern.String(), ":", "of")
}

// name is what reports call the pattern, "" without one.
func (p *pruner) name() string {
	if p == nil {
		return ""
	}
	return p.pattern.String()
}

// jointOnly refuses flags that only say something when prune rounds as well.
func (o *pruneOptions) jointOnly() error {
	for _, flag := range jointFlags {
		if o.flags.Changed(flag) && !o.joint() {
			return fault.Hint(fault.Usage("--%s says how what stays is rounded", flag), "add --bits 4, or leave it out")
		}
	}
	if o.flags.Changed("to") && !o.joint() && !o.flags.Changed("structured") {
		return fault.Hint(fault.Usage("--to goes with --bits or --structured, and a pruned model keeps its format"), "leave it out")
	}
	if o.joint() && o.flags.Changed("structured") {
		i := slices.IndexFunc(jointFlags, o.flags.Changed)
		return fault.Hint(fault.Usage("--%s does not go with --structured", jointFlags[i]), "prune first, then llmc quantize")
	}
	return nil
}

// option is what quantize's methods take; nil for none.
func (p *pruner) option() quantize.Pruner {
	if p == nil {
		return nil
	}
	return p.joint
}
