package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"llmc/demo"
	"llmc/dtype"
	"llmc/eval"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/model/export"
	"llmc/prune"
)

// pruneOptions are the flags of "llmc prune".
type pruneOptions struct {
	out        string
	sparsity   float64
	pattern    string
	method     string
	allocate   string
	steps      int
	permute    bool
	damp       float64
	firstToken float64
	actOrder   bool
	keepZeros  bool
	ignore     []string
	text       string
	context    int
	to         string
	maxShard   string
	reportFile string
	force      bool
	dryRun     bool

	samples    sampleOptions
	joined     jointOptions
	structured structuredOptions

	flags *pflag.FlagSet
}

func newPruneCommand(global *globalOptions) *cobra.Command {
	o := &pruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [MODEL]",
		Short: "Set the weights that matter least to zero, or remove whole parts",
		Long: `Sets a share of the weights of every linear to zero and writes the model in the
format and the types it has, which every engine loads:
  --method magnitude  the smallest weights
  --method wanda      the smallest products of weight and input (arXiv 2306.11695)
  --method sparsegpt  those that cost the output least, and the others make up
                      for it (arXiv 2301.00774)

wanda and sparsegpt see the model's activations on the text of --calibration.
Weights that are zero stay so, with sparsegpt in linears of which a fifth is, or
with --keep-zeros.
Files are as large as before: engines have no use for sparse ones, but what
compresses files makes them smaller.

With --steps, what stays is fitted by least squares so that each linear puts out
what it did, at once or in several steps to the sparsity (arXiv 1710.01878).

--allocate makes some linears sparser than others, in all as sparse as asked for:
owl spares blocks with many outliers among the products of weight and input
(arXiv 2310.05175), sensitivity linears that change predictions most.

With --bits or --type, what sparsegpt leaves is rounded by GPTQ in the same pass,
so that later weights make up for both, and stored as quantize does it.

With --structured, whole parts are removed instead, and what is left is a
smaller model of the same family, which transformers and llama.cpp run faster:
  --structured heads   key and value heads with their query heads, as many in
                       every block; query heads where one is shared by all
  --structured ffn     feed-forward neurons, as many in every block
  --structured hidden  channels of the residual stream, in the whole model
  --structured layers  whole layers
Text shows what matters: heads, neurons and channels with the largest activations
stay (arXiv 2407.14679), and layers that turn the residual stream most (arXiv
2403.03853). --importance says otherwise: reconstruction keeps those heads and
neurons whose loss the others make up for least (arXiv 2302.04089), taylor what
the loss changes most without (arXiv 1906.10771). Then down, or o and down, are
fitted block after block so that the residual stream becomes what it was. How
much goes is said by one of --sparsity (a share of the parts; the nearest number
that there can be), --remove, --target-params, --target-size and --nested.
Quantized models do not come apart: prune first, then quantize.

Without MODEL the built-in demo model is pruned, measured, and written only with
-o. With --text FILE the model is measured before and after.`,
		Example: `  llmc prune --sparsity 0.5
  llmc prune model/ --sparsity 0.5 --method sparsegpt --calibration sample.txt -o pruned/
  llmc prune model.gguf --pattern 2:4 --method wanda --calibration sample.txt --text test.txt
  llmc prune model/ --pattern 2:4 --bits 4 --calibration sample.txt -o pruned-w4/
  llmc prune model/ --structured ffn --sparsity 0.25 --calibration sample.txt -o smaller/
  llmc prune model/ --structured layers --remove 4 --calibration sample.txt -o model.gguf`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.flags = cmd.Flags()
			return runPrune(cmd.Context(), global, o, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.out, "output", "o", "", "file or folder to write (default: a name made of MODEL, method and pattern, here)")
	flags.Float64Var(&o.sparsity, "sparsity", 0, "share of the weights that become zero: 0.5")
	flags.StringVar(&o.pattern, "pattern", "unstructured", "where zeros may be: unstructured, or N:M for at most N of M neighbours that stay: 2:4, 4:8")
	flags.StringVar(&o.method, "method", "", "magnitude, wanda or sparsegpt (default wanda with text to calibrate on, else magnitude)")
	flags.StringVar(&o.allocate, "allocate", "uniform", "how zeros spread over linears: uniform, owl (by outliers), sensitivity (by divergence), global (magnitude: one threshold)")
	flags.IntVar(&o.steps, "steps", 0, "get there in so many `steps`, each sparser; after each, what stays is fitted to the outputs by least squares")
	flags.BoolVar(&o.permute, "permute", false, "N:M: first put the inputs of down and o into an order in which the pattern keeps more; the model stays the same")
	flags.Float64Var(&o.damp, "damp", 0.01, "sparsegpt: share of the Hessian's mean diagonal added to it")
	flags.Float64Var(&o.firstToken, "first-token", 0, "sparsegpt, steps: how much more the first token of a window counts in q, k and v: as this share of the window's tokens")
	flags.BoolVar(&o.actOrder, "act-order", true, "sparsegpt, N:M: fix the groups with the largest inputs first; false for the order of the file")
	flags.BoolVar(&o.keepZeros, "keep-zeros", false, "sparsegpt: all zeros stay zero (default: those of linears of which a fifth is zero)")
	flags.StringSliceVar(&o.ignore, "ignore", nil, "leave linears alone: roles (down, q) or globs on names; repeatable")
	o.samples.register(cmd, "text that shows the model's activations to wanda and sparsegpt (demo model: its own)")
	flags.StringVar(&o.text, "text", "", "measure before and after on this text (demo model: its held-out text)")
	flags.IntVar(&o.context, "context", 0, "tokens of a window when measuring (default as in eval)")
	flags.StringVar(&o.to, "to", "", "with --structured gguf or safetensors (default: what OUT is called like, or what MODEL is); with --bits gptq, awq or compressed-tensors")
	flags.StringVar(&o.maxShard, "max-shard-size", "5GB", "size at which the weights of a folder are split into files")
	flags.StringVar(&o.reportFile, "report", "", "also write the JSON document of --json to this file")
	flags.BoolVar(&o.force, "force", false, "replace an existing output")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be done and stop")
	putUnder(topicMeasuring, flags, "text", "context")
	putUnder(topicOutput, flags, "to", "max-shard-size", "report", "force", "dry-run")
	o.joined.register(cmd)
	o.structured.register(cmd)
	return cmd
}

// pruning is one run of the command.
type pruning struct {
	path    string // "demo" for the built-in model
	out     string // "" writes nothing
	method  prune.Method
	pattern prune.Pattern

	allocation prune.Allocation

	text *eval.Text // to measure on, may be nil

	from       *formats.Checkpoint
	weights    *model.Weights
	run        *prune.Run
	export     *export.Export // nil when nothing is written
	sample     *sample        // of calibration
	unfinished *unfinished    // nil unless blocks are kept
	report     pruneReport
}

// settle turns flags into a run, and refuses those that do not go together. No
// file is opened but texts.
func (o *pruneOptions) settle(args []string) (*pruning, error) {
	p := &pruning{path: demo.Name, out: o.out}
	if len(args) > 0 {
		p.path = args[0]
	}
	var err error
	if p.pattern, err = o.parsePattern(); err != nil {
		return nil, err
	}
	if !(o.damp > 0 && o.damp <= 1) {
		return nil, fault.Usage("--damp is %g, allowed is more than 0, up to 1", o.damp)
	}
	name := o.method
	if name == "" {
		name = "magnitude"
		if o.samples.file != "" || isDemo(p.path) {
			name = "wanda"
		}
	}
	if err := o.checkOrder(p.pattern, name); err != nil {
		return nil, err
	}
	if o.keepZeros && name != "sparsegpt" {
		return nil, fault.Hint(fault.Usage("--keep-zeros is for sparsegpt, and the method is %s, which moves no zeros", name), "leave it out")
	}
	if p.method, err = prune.NewMethod(name, o.solver()); err != nil {
		return nil, err
	}
	if err := o.checkPermute(p.pattern); err != nil {
		return nil, err
	}
	if err := o.checkSteps(); err != nil {
		return nil, err
	}
	if o.steps > 0 {
		p.method = prune.Gradual{Method: p.method, Steps: o.steps, Damp: o.damp}
	}
	if err := o.checkFirstToken(p.method.Needs()&prune.NeedsHessian != 0); err != nil {
		return nil, err
	}
	if p.allocation, err = o.parseAllocation(p.pattern, p.method.Name()); err != nil {
		return nil, err
	}
	if !p.calibrates() {
		for _, flag := range sampleFlags {
			if o.flags.Changed(flag) {
				return nil, fault.Hint(fault.Usage("--%s does not go with --method %s, which needs no calibration", flag, name), "add --method wanda or sparsegpt")
			}
		}
	} else if err := o.samples.settle(p.path, o.flags.Changed); err != nil {
		return nil, err
	}
	if o.context < 0 {
		return nil, fault.Usage("--context is %d, allowed is 1 and more", o.context)
	}
	if o.text != "" || isDemo(p.path) {
		t, err := evalText(o.text, p.path)
		if err != nil {
			return nil, err
		}
		p.text = &t
	}
	return p, nil
}

// maxSteps bounds --steps.
const maxSteps = 100

// solver is what SparseGPT is like.
func (o *pruneOptions) solver() prune.SparseGPT {
	return prune.SparseGPT{Damp: o.damp, FileOrder: !o.actOrder, KeepZeros: o.keepZeros}
}

// checkOrder refuses --act-order where nothing goes by it.
func (o *pruneOptions) checkOrder(p prune.Pattern, method string) error {
	switch {
	case !o.flags.Changed("act-order"):
		return nil
	case method != "sparsegpt" || p.Of == 0:
		return fault.Hint(fault.Usage("--act-order is how sparsegpt takes the groups of an N:M pattern, and this is %s %s", method, p), "leave it out")
	case o.joint() && o.steps == 0:
		return fault.Hint(fault.Usage("zeros are chosen in the order in which weights are rounded, that of the file"), "add --steps 1, or leave --act-order out")
	}
	return nil
}

// checkFirstToken refuses a share that cannot be, or that nothing looks at.
func (o *pruneOptions) checkFirstToken(hessian bool) error {
	switch {
	case !(o.firstToken >= 0 && o.firstToken <= 100):
		return fault.Usage("--first-token is %g, allowed is 0 to 100", o.firstToken)
	case o.flags.Changed("first-token") && !hessian:
		return fault.Hint(fault.Usage("--first-token says what a Hessian is made of, and the method has none"), "use --method sparsegpt, or --steps 1")
	}
	return nil
}

// checkSteps refuses a number of steps that cannot be.
func (o *pruneOptions) checkSteps() error {
	if o.flags.Changed("steps") && (o.steps < 1 || o.steps > maxSteps) {
		return fault.Usage("--steps is %d, allowed are 1 to %d", o.steps, maxSteps)
	}
	return nil
}

// checkPermute refuses --permute where there is nothing to gain.
func (o *pruneOptions) checkPermute(p prune.Pattern) error {
	if o.permute && p.Of == 0 {
		return fault.Hint(fault.Usage("--permute is for N:M patterns, and unstructured zeros may be anywhere"), "add --pattern 2:4, or leave it out")
	}
	return nil
}

// parsePattern settles how many weights go, and from where.
func (o *pruneOptions) parsePattern() (prune.Pattern, error) {
	if o.sparsity == 0 && !o.flags.Changed("sparsity") && (o.pattern == "" || o.pattern == "unstructured") {
		return prune.Pattern{}, fault.Hint(fault.Usage("neither --sparsity nor --pattern says how many weights go"), "llmc prune MODEL --sparsity 0.5, or --pattern 2:4")
	}
	return prune.ParsePattern(o.pattern, o.sparsity)
}

// calibrates reports whether text is looked at.
func (p *pruning) calibrates() bool {
	return p.method.Needs() != prune.NeedsNothing || p.allocation.Calibrates()
}

func runPrune(ctx context.Context, global *globalOptions, o *pruneOptions, args []string) error {
	if err := o.jointOnly(); err != nil {
		return err
	}
	if o.flags.Changed("structured") {
		return runStructured(ctx, global, o, args)
	}
	for _, flag := range structuredFlags {
		if o.flags.Changed(flag) {
			return fault.Hint(fault.Usage("--%s goes with --structured", flag), "add --structured ffn, or leave it out")
		}
	}
	if o.joint() {
		return runJoint(ctx, global, o, args)
	}
	p, err := o.settle(args)
	if err != nil {
		return err
	}
	shard, err := shardSize(o.maxShard)
	if err != nil {
		return err
	}
	var calibrationText eval.Text
	if p.calibrates() {
		if calibrationText, err = o.samples.text(); err != nil {
			return err
		}
	}
	free := func() error {
		if o.dryRun {
			return nil
		}
		if !o.force {
			if err := checkFree(o.reportFile); err != nil {
				return err
			}
		}
		return checkOutput(p.out, p.calibrates(), o.samples.resume, o.force)
	}
	if err := free(); err != nil {
		return err
	}
	if isDemo(p.path) {
		global.ui.note("no model given: pruning the built-in demo model")
	}
	if p.from, err = openModel(p.path); err != nil {
		return err
	}
	defer p.from.Close()
	if err := p.plan(global, o, shard); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	if err := free(); err != nil { // it has a name by now
		return err
	}
	if p.calibrates() {
		if p.sample, err = o.samples.read(global.ui, calibrationText, p.from, p.weights); err != nil {
			return err
		}
		p.report.Calibration = &p.sample.report
	}
	if o.dryRun {
		p.report.DryRun = true
		return p.print(global.ui, o)
	}
	if err := p.execute(ctx, global, o); err != nil {
		return p.unfinished.failed(err)
	}
	p.unfinished.finished(global.ui)
	if !p.calibrates() {
		mentionUnfinished(global.ui, p.out)
	}
	return nil
}

// plan lays out what can be without reading weights.
func (p *pruning) plan(global *globalOptions, o *pruneOptions, shard int64) error {
	var err error
	if p.weights, err = model.Open(p.from); err != nil {
		return err
	}
	if p.run, err = prune.NewRun(p.weights, p.method, p.pattern, o.ignore, global.threads); err != nil {
		return err
	}
	p.run.WeighFirstToken(o.firstToken)
	if o.permute {
		p.run.Permute()
	}
	kind := p.from.Kind
	if p.out == "" && !isDemo(p.path) {
		p.out = p.run.OutputName(modelBase(p.path), kind)
	}
	p.report = pruneReport{
		Model: p.path, Method: p.method.Name(), Pattern: p.pattern.String(), Sparsity: p.pattern.Sparsity, Steps: o.steps,
		ActOrder: o.actOrder && p.method.Name() == "sparsegpt" && p.pattern.Of > 0, Output: p.out,
	}
	if p.out == "" {
		return nil
	}
	if isGGUFName(p.out) {
		kind = formats.GGUF
	}
	items, err := export.Plain(p.weights, kind, dtype.Invalid)
	if err != nil {
		return err
	}
	p.export, err = export.New(p.from, p.weights, export.Spec{
		Kind: kind, Items: items, FileType: export.FileType(items), MaxShard: shard, Threads: global.threads,
	})
	if err != nil {
		return err
	}
	for _, note := range p.export.Notes {
		global.ui.warn("%s", note)
	}
	return nil
}

// execute prunes, writes and measures.
func (p *pruning) execute(ctx context.Context, global *globalOptions, o *pruneOptions) error {
	ui := global.ui
	defer ui.closeProgress()
	if err := p.weights.Check(ctx, func(done, total int64) { ui.progress("check", done, total) }); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	if err := p.prune(ctx, global, o); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	p.report.add(p.run.Results(), p.weights)
	if p.export != nil {
		force, err := p.unfinished.writing(p.out, p.export.Tensors(), o.force)
		if err != nil {
			return err
		}
		err = p.export.Write(ctx, p.out, force, nil, func(done, total int64) { ui.progress("write", done, total) })
		if err != nil {
			return err
		}
	}
	if p.text != nil {
		c := change{
			path: p.path, out: p.out, from: p.from, weights: p.weights, label: "pruned",
			bytes: p.report.Bytes, scheme: p.method.Name() + " " + p.pattern.String(),
		}
		var err error
		if p.report.Eval, err = c.measure(ctx, global, *p.text, o.context); err != nil {
			return err
		}
	}
	ui.closeProgress()
	return p.print(ui, o)
}

// prune replaces the weights in memory, block by block where text is looked at.
func (p *pruning) prune(ctx context.Context, global *globalOptions, o *pruneOptions) error {
	ui := global.ui
	var windows [][]int32
	options := p.run.Options()
	if p.calibrates() {
		windows = p.sample.windows
		schedule, err := o.samples.schedule(p.weights, len(windows), &options)
		if err != nil {
			return err
		}
		p.report.Calibration.Sequential = schedule.Sequential
		o.samples.limit(schedule)
	}
	dev := global.newDevice()
	if p.export != nil && p.method.Needs() != prune.NeedsNothing {
		in := runInputs{model: p.from, calibration: p.sample.content, flags: o.flags, arithmetic: dev.Name()}
		var err error
		if p.unfinished, err = beginRun(ctx, global, in, p.out, p.weights.Config.Blocks, o.samples.resume); err != nil {
			return err
		}
		options.Journal = p.unfinished.journal
	}
	if p.allocation != prune.Uniform {
		var err error
		if p.report.Allocation, err = allocate(ctx, global, p.run, p.allocation, windows, options, p.unfinished); err != nil {
			return err
		}
	}
	if p.method.Needs() == prune.NeedsNothing {
		return p.run.Replace(ctx, func(done, total int64) { ui.progress("prune", done, total) })
	}
	showProgress(ui, &options, p.weights.Config.Blocks)
	return p.run.Calibrate(ctx, dev, windows, options)
}

// print prints what was done or would be, and stores it.
func (p *pruning) print(ui *ui, o *pruneOptions) error {
	r := &p.report
	if !r.DryRun {
		if o.reportFile != "" {
			if err := writeReport(o.reportFile, r, o.force); err != nil {
				return err
			}
		}
		if p.export != nil && !isGGUFName(p.out) && p.from.Kind == formats.HuggingFace {
			if err := writeReport(filepath.Join(p.out, export.ReportFile), r.lasting(), true); err != nil {
				return fmt.Errorf("the model is written, its report is not: %w", err)
			}
		}
	}
	if err := ui.document(r); err != nil {
		return err
	}
	if err := r.printTable(ui); err != nil {
		return err
	}
	if r.Steps > 0 {
		ui.print("%s by %s, the others fitted by least squares, steps: %d", r.Pattern, r.Method, r.Steps)
	} else {
		ui.print("%s by %s", r.Pattern, r.Method)
	}
	switch {
	case r.Output == "":
		ui.print("nothing is written without -o")
	case r.DryRun:
		ui.print("would be written to %s", r.Output)
	default:
		ui.print("written to %s, read back and compared", r.Output)
	}
	if r.Eval == nil {
		return nil
	}
	ui.print("")
	return printReport(ui, r.Eval)
}
