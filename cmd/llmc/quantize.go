package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"llmc/calibrate"
	"llmc/demo"
	"llmc/dtype"
	"llmc/eval"
	"llmc/formats"
	"llmc/formats/imatrix"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/model/export"
	"llmc/quantize"
)

// quantizeOptions are the flags of "llmc quantize".
type quantizeOptions struct {
	out        string
	bits       int
	typeName   string
	method     string
	groupSize  string
	symmetric  bool
	asymmetric bool
	clip       string
	to         string
	ignore     []string
	bitsFor    []string
	keepZeros  bool
	embeddings bool
	head       bool
	text       string
	context    int
	maxShard   string
	reportFile string
	// replaceReport allows the file to be there: by --force, or because an
	// unfinished run has written it.
	replaceReport bool
	tensors       bool
	force         bool
	dryRun        bool

	schemeOptions
	calibration calibrationOptions
	budget      budgetOptions
	pruner      *pruner // of a run that prunes as well, or nil

	flags *pflag.FlagSet
	given func(flag string) bool // whether a flag was on the command line
}

func newQuantizeCommand(global *globalOptions) *cobra.Command {
	o := &quantizeOptions{}
	cmd := &cobra.Command{
		Use:   "quantize [MODEL]",
		Short: "Store a model in fewer bits, for llama.cpp, transformers or vLLM",
		Long: `Rounds the weights of a model to fewer bits and writes it in the format that
an engine loads:
  --to compressed-tensors  a folder for vLLM and transformers, 2 to 8 bits
  --to gptq                a folder for vLLM, transformers, GPTQModel: 2, 3, 4, 8 bits
  --to awq                 a folder for vLLM and transformers: 4 bits, asymmetric
  --to gguf                a file for llama.cpp; --type names the mix of types

Schemes of --scheme, named as in llm-compressor (compressed-tensors):
  W4A16 W4A16_ASYM W8A16   integer weights in groups of 128
  W8A8                     8-bit weights per channel, activations 8-bit per token
  FP8_DYNAMIC              8-bit floats (E4M3), the same way
  FP8                      8-bit floats with one scale per tensor, for activations
                           the one that the --calibration text needs

Types of --type, which give every tensor what llama.cpp's own quantizer gives it:` +
			inLines(quantize.MixNames()) + `
IQ4_NL has nonlinear levels, dense where most weights are, as NF4 has them.

Without --to, --type and the name of OUT decide, then the kind of MODEL. Without
MODEL the built-in demo model is quantized, measured, and written only with -o.
With --text FILE the model is measured before and after.`,
		Example: `  llmc quantize --bits 4
  llmc quantize model/ --type Q4_K_M -o model-q4.gguf --text test.txt
  llmc quantize model/ --bits 4 --group-size 32 --clip mse --to gptq -o out/
  llmc quantize model/ --bits 3 --method gptq --calibration sample.txt --to gptq -o out/
  llmc quantize model/ --scheme W8A8 --smooth 0.5 --calibration sample.txt -o model-w8a8/
  llmc quantize model/ --type Q3_K_M --calibration sample.txt --save-imatrix model.imatrix.gguf
  llmc quantize model/ --type Q4_K_M --imatrix model.imatrix.gguf
  llmc quantize model/ --target-size 300MB --calibration sample.txt -o model.gguf
  llmc quantize model/ --bits 4 --bits-for down=8 --ignore 'model.layers.0.*' --dry-run`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.flags, o.given = cmd.Flags(), cmd.Flags().Changed
			return runQuantize(cmd.Context(), global, o, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.out, "output", "o", "", "file or folder to write (default: a name made of MODEL and type, here)")
	flags.IntVar(&o.bits, "bits", 0, "bits of a weight, 2 to 8")
	flags.StringVar(&o.groupSize, "group-size", "128", "columns that share a scale, or channel, or tensor")
	flags.BoolVar(&o.symmetric, "symmetric", false, "codes are centred on zero (default but for awq)")
	flags.BoolVar(&o.asymmetric, "asymmetric", false, "every group has a zero point of its own")
	flags.StringVar(&o.typeName, "type", "", "GGUF mix of types, such as Q4_K_M (instead of --bits)")
	flags.StringVar(&o.scheme, "scheme", "", "weights and activations by name (instead of --bits): "+strings.Join(presetNames(), ", "))
	flags.StringVar(&o.to, "to", "", "gptq, awq, compressed-tensors or gguf")
	flags.StringVar(&o.method, "method", "rtn", "how weights are rounded: rtn (to the nearest), or gptq, awq, awq+gptq (calibrated)")
	flags.StringVar(&o.clip, "clip", "", "how the range of a group is chosen: none, mse for least squared error, or output for that of the output (default none, with awq output)")
	o.budget.register(cmd)
	o.calibration.register(cmd)
	flags.StringVar(&o.activations, "activations", "none",
		"round activations like 8-bit weights: dynamic (a scale per token), static (one from calibration), none")
	flags.Float64Var(&o.smooth, "smooth", 0, "SmoothQuant first: how much of the activations' range moves to the weights, 0.5 in most cases")
	flags.BoolVar(&o.keepZeros, "keep-zeros", true, "zeros stay zero, by gptq too (default: in linears of which a fifth is zero, where the type has a zero)")
	flags.StringSliceVar(&o.ignore, "ignore", nil, "leave tensors alone: roles (down, head) or globs on names; repeatable")
	flags.StringSliceVar(&o.bitsFor, "bits-for", nil, "other bits for a role: down=6, or a GGUF type: embed=Q8_0; repeatable")
	flags.BoolVar(&o.embeddings, "embeddings", false, "quantize the embeddings like the rest")
	flags.BoolVar(&o.head, "head", false, "quantize the output projection like the rest")
	flags.StringVar(&o.text, "text", "", "measure before and after on this text (demo model: its held-out text)")
	flags.IntVar(&o.context, "context", 0, "tokens of a window when measuring (default as in eval)")
	flags.StringVar(&o.maxShard, "max-shard-size", "5GB", "size at which the weights of a folder are split into files")
	flags.StringVar(&o.reportFile, "report", "", "also write the JSON document of --json to this file (folders have one in them, GGUF files do not)")
	flags.BoolVar(&o.tensors, "tensors", false, "list what became of every tensor, not only of every role")
	flags.BoolVar(&o.force, "force", false, "replace an existing output")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be done and stop")
	putUnder(topicMeasuring, flags, "text", "context")
	putUnder(topicOutput, flags, "max-shard-size", "report", "tensors", "force", "dry-run")
	return cmd
}

// quantizeJob is what the flags mean.
type quantizeJob struct {
	path     string // "demo" for the built-in model
	out      string // "" writes nothing
	target   quantize.Target
	policy   quantize.Policy
	method   quantize.Method
	clip     quantize.Clip
	zeros    quantize.Zeros
	pruner   *pruner // nil unless weights are pruned in the same pass
	maxShard int64
	gather   bool // an importance matrix is gathered
	only     bool // nothing but that
	budget   bool // a search chooses every tensor's bits

	found  *quantize.Allocation // what a search found; nil without one
	sample *sample              // of calibration text, once it is read
}

// calibrates reports whether text is taken through the model.
func (j *quantizeJob) calibrates() bool { return j.gather || j.solves() }

// solves reports whether that is to round the linears.
func (j *quantizeJob) solves() bool {
	return j.method.Needs() != quantize.NeedsNothing || j.policy.Inputs.Static
}

// keepsBlocks reports whether finished blocks are kept beside an output.
func (j *quantizeJob) keepsBlocks() bool { return j.solves() && !j.gather }

// settle turns flags into a job, and refuses those that do not go together.
// No file is opened.
func (o *quantizeOptions) settle(global *globalOptions, args []string) (*quantizeJob, error) {
	job := &quantizeJob{path: demo.Name, out: o.out, budget: o.budget.asked(), pruner: o.pruner}
	if len(args) > 0 {
		job.path = args[0]
	}
	if err := o.settleScheme(); err != nil {
		return nil, err
	}
	var err error
	if job.target, err = o.target(job.path); err != nil {
		return nil, err
	}
	if job.maxShard, err = shardSize(o.maxShard); err != nil {
		return nil, err
	}
	clip, ok := quantize.ParseClip(o.clip)
	if !ok {
		return nil, fault.Usage("--clip is %q, allowed are none, mse, and with --method awq output", o.clip)
	}
	if o.budget.asked() && !o.given("method") {
		o.method = "gptq"
	}
	if !o.given("clip") && job.target != quantize.GGUF {
		clip = quantize.DefaultClip(o.method)
	}
	job.clip = clip
	if job.zeros, err = o.zeros(); err != nil {
		return nil, err
	}
	if job.method, err = quantize.NewMethod(o.method, quantize.Options{
		Clip: clip, Threads: global.threads,
		Damp: o.calibration.damp, FirstToken: o.calibration.firstToken, ActOrder: o.calibration.actOrder, StaticGroups: o.calibration.staticGroups,
		Zeros: job.zeros, Pruner: job.pruner.option(),
	}); err != nil {
		return nil, err
	}
	job.only = o.calibration.saveImatrix != "" && !o.given("bits") && o.typeName == "" && !o.budget.asked()
	if job.only {
		job.target = quantize.GGUF
	} else if o.budget.asked() {
		if job.policy, err = o.budgetPolicy(job.target); err != nil {
			return nil, err
		}
	} else if job.policy, err = o.policy(job.target); err != nil {
		return nil, err
	}
	if job.method, err = o.smoothed(job.method, job.policy.Inputs); err != nil {
		return nil, err
	}
	if err := job.target.Check(&job.policy); err != nil {
		return nil, err
	}
	if err := o.calibration.settle(job, o.given); err != nil {
		return nil, err
	}
	if o.budget.asked() && !job.calibrates() {
		return nil, fault.Hint(fault.Usage("choosing bits needs text to measure with, and --method %s has none", job.method.Name()), "use --method gptq")
	}
	if o.context < 0 {
		return nil, fault.Usage("--context is %d, allowed is 1 and more", o.context)
	}
	if job.target != quantize.GGUF && isGGUFName(job.out) {
		return nil, fault.Hint(fault.Usage("the output %s is called like a GGUF file, and %s is written as a folder", job.out, job.target),
			"use --to gguf, or another name")
	}
	return job, nil
}

// target settles what is written: what was asked for, what the other flags
// imply, or what the model is.
func (o *quantizeOptions) target(path string) (quantize.Target, error) {
	if o.to != "" {
		target := quantize.Target(o.to)
		if !slices.Contains(quantize.Targets, target) {
			return "", fault.Usage("--to is %q, allowed are %v", o.to, quantize.Targets)
		}
		return target, nil
	}
	switch {
	case o.typeName != "" || isGGUFName(o.out):
		return quantize.GGUF, nil
	case slices.ContainsFunc(groupFlags, o.given):
		return quantize.CompressedTensors, nil
	case isGGUFName(path):
		return quantize.GGUF, nil
	}
	return quantize.CompressedTensors, nil
}

func isGGUFName(path string) bool { return strings.EqualFold(filepath.Ext(path), ".gguf") }

// groupFlags belong to integer codes in groups, which GGUF does not have.
var groupFlags = []string{"scheme", "activations", "smooth", "group-size", "symmetric", "asymmetric", "clip", "embeddings", "head"}

// defaultOut names the output after the model and what becomes of most of its
// linears, in the current folder.
func (j *quantizeJob) defaultOut(plan *quantize.Plan) string {
	base := modelBase(j.path) + j.pruner.suffix()
	switch {
	case j.target == quantize.GGUF:
		return base + "-" + j.policy.Mix.Name + ".gguf"
	case j.budget:
		return fmt.Sprintf("%s-%s-%s", base, j.target, mixed)
	}
	s := j.policy.Scheme
	for _, e := range plan.Entries {
		if j.policy.UniformGroups && e.To.IsInteger() {
			s = e.To
		}
	}
	group := "g" + strconv.Itoa(s.GroupSize)
	switch s.GroupSize {
	case quantize.PerChannel:
		group = "channel"
	case quantize.PerTensor:
		group = "tensor"
	}
	numbers := "int"
	if s.Float {
		numbers = "fp"
	}
	name := fmt.Sprintf("%s-%s-%s%d-%s", base, j.target, numbers, s.Bits, group)
	switch in := j.policy.Inputs; {
	case in.Static:
		name += "-static"
	case in.Bits > 0:
		name += "-dynamic"
	}
	return name
}

// modelBase is the name of a model without folder, extension, and the type
// that names of GGUF files end in.
func modelBase(path string) string {
	base := filepath.Base(filepath.Clean(path))
	if base == "." || base == ".." || base == string(filepath.Separator) {
		return "model"
	}
	for _, ext := range []string{".gguf", ".safetensors"} {
		base = strings.TrimSuffix(base, ext)
	}
	if i := strings.LastIndexAny(base, ".-"); i > 0 {
		if _, ok := quantize.ParseMix(base[i+1:]); ok {
			base = base[:i]
		}
	}
	return base
}

// shardSize parses --max-shard-size.
func shardSize(text string) (int64, error) {
	n, err := eval.ParseSize(text)
	if err != nil {
		return 0, fault.Usage("--max-shard-size: %w", err)
	}
	if n < 1<<10 {
		return 0, fault.Usage("--max-shard-size is %d bytes, allowed is 1024 and more", n)
	}
	return n, nil
}

func runQuantize(ctx context.Context, global *globalOptions, o *quantizeOptions, args []string) error {
	job, err := o.settle(global, args)
	if err != nil {
		return err
	}
	ui := global.ui
	var text *eval.Text
	if o.text != "" || isDemo(job.path) {
		t, err := evalText(o.text, job.path)
		if err != nil {
			return err
		}
		text = &t
	}
	var calibrationText eval.Text
	if job.calibrates() {
		if calibrationText, err = o.calibration.text(); err != nil {
			return err
		}
	}
	if err := o.free(job); err != nil {
		return err
	}
	if isDemo(job.path) {
		ui.note("no model given: quantizing the built-in demo model")
	}
	c, err := openModel(job.path)
	if err != nil {
		return err
	}
	defer c.Close()
	w, err := model.Open(c)
	if err != nil {
		return fmt.Errorf("%s: %w", job.path, err)
	}
	var q *quantization
	if job.budget {
		q, err = o.allocate(ctx, global, c, w, job, calibrationText)
	} else if q, err = newQuantization(c, w, job, global.threads); err != nil {
		err = fmt.Errorf("%s: %w", job.path, err)
	}
	if err != nil {
		return err
	}
	if err := q.perform(ctx, global, o, calibrationText, text); err != nil {
		return q.unfinished.failed(err)
	}
	q.unfinished.finished(ui)
	if !o.dryRun && !job.keepsBlocks() {
		mentionUnfinished(ui, job.out)
	}
	return nil
}

// free refuses outputs that are there, before any work is done.
func (o *quantizeOptions) free(job *quantizeJob) error {
	if o.dryRun {
		return nil
	}
	o.replaceReport = o.force || o.calibration.resume && job.out != "" && calibrate.IsWriting(calibrate.JournalDir(job.out))
	if err := checkFree(o.reportFile); err != nil && !o.replaceReport && job.out != "" {
		return err
	}
	if err := checkFree(o.calibration.saveImatrix); err != nil && !o.force {
		return err
	}
	for _, path := range []string{o.reportFile, o.calibration.saveImatrix} {
		if err := checkFolder(path); err != nil {
			return err
		}
	}
	return checkOutput(job.out, job.keepsBlocks(), o.calibration.resume, o.force)
}

// perform does what is planned, or prints it for a dry run. text may be nil.
func (q *quantization) perform(ctx context.Context, global *globalOptions, o *quantizeOptions, calibrationText eval.Text, text *eval.Text) error {
	job, ui := q.job, global.ui
	if o.calibration.imatrix != "" {
		if err := q.readImportance(o.calibration.imatrix); err != nil {
			return err
		}
	}
	if job.calibrates() {
		if _, _, err := q.walk(&o.calibration, o.calibration.samples); err != nil {
			return err
		}
	}
	for _, note := range q.report.Notes {
		ui.warn("%s", note)
	}
	if o.dryRun {
		if job.calibrates() {
			if err := q.forecast(global, &o.calibration, calibrationText); err != nil {
				return err
			}
		}
		return q.printPlan(ui)
	}
	if q.unfinished == nil { // nor was looked at before it was begun
		if err := o.free(job); err != nil { // it has a name by now
			return err
		}
	}
	return q.execute(ctx, global, o, calibrationText, text)
}

// execute does what was planned. text may be nil.
func (q *quantization) execute(ctx context.Context, global *globalOptions, o *quantizeOptions, calibrationText eval.Text, text *eval.Text) error {
	ui := global.ui
	err := q.weights.Check(ctx, func(done, total int64) { ui.progress("check", done, total) })
	if err != nil {
		return fmt.Errorf("%s: %w", q.job.path, err)
	}
	if q.job.calibrates() {
		if err := q.calibrate(ctx, global, o, calibrationText); err != nil {
			return err
		}
	}
	if path := o.calibration.saveImatrix; path != "" {
		if err := q.importance.Save(path, o.force); err != nil {
			return err
		}
		ui.note("importance matrix of %d tensors written to %s", len(q.importance.Entries), path)
	}
	if q.job.only {
		return ui.document(&q.report)
	}
	if err := q.carryOut(ctx, global, o.force); err != nil {
		return err
	}
	if text != nil {
		if err := q.measure(ctx, global, *text, o.context); err != nil {
			return err
		}
	}
	return q.print(ui, o)
}

// checkFree refuses an output that exists, before any work is done.
func checkFree(path string) error {
	if _, err := os.Lstat(path); path == "" || err != nil {
		return nil // what else may be wrong is found when it is created
	}
	return fault.Hint(fault.Usage("%s exists already", path), "pass --force to replace it")
}

// checkFolder refuses a file to be written where there is no folder, before any
// work is done.
func checkFolder(path string) error {
	folder := filepath.Dir(path)
	if _, err := os.Stat(folder); path != "" && errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot create %s: there is no folder %s", path, folder)
	}
	return nil
}

// quantization is one run of the command.
type quantization struct {
	job     *quantizeJob
	from    *formats.Checkpoint
	weights *model.Weights
	plan    *quantize.Plan
	run     *quantize.Run
	out     *export.Export // nil when nothing is written
	report  quantizeReport

	importance *imatrix.File // what was gathered
	unfinished *unfinished   // nil unless blocks are kept
}

// newQuantization plans everything that can be planned without reading weights.
func newQuantization(c *formats.Checkpoint, w *model.Weights, job *quantizeJob, threads int) (*quantization, error) {
	p := &job.policy
	if p.Scheme.IsInteger() {
		p.Scheme.ScaleType = job.target.ScaleType(w)
	}
	for role, s := range p.Roles {
		if s.IsInteger() {
			s.ScaleType = p.Scheme.ScaleType
			p.Roles[role] = s
		}
	}
	if job.target == quantize.GGUF && w.Kind == formats.HuggingFace {
		p.Vectors = dtype.F32
	}
	plan, err := quantize.NewPlan(&w.Config, quantize.Describe(w), *p)
	if err != nil {
		return nil, err
	}
	q := &quantization{job: job, from: c, weights: w, plan: plan, run: quantize.NewRun(w, plan, job.method, threads)}
	if job.pruner != nil {
		if err := q.checkPruned(); err != nil {
			return nil, err
		}
	}
	if job.zeros == quantize.ZerosAll {
		if err := q.checkZeros(); err != nil {
			return nil, err
		}
	}
	notes := plan.Notes
	if job.out == "" && !isDemo(job.path) && !job.only {
		job.out = job.defaultOut(plan)
	}
	if job.out != "" {
		spec, err := plan.Spec(w, job.target, p.Mix)
		if err != nil {
			return nil, err
		}
		spec.MaxShard, spec.Threads = job.maxShard, threads
		if job.found != nil {
			spec.FileType = export.FileType(spec.Items)
		}
		if q.out, err = export.New(c, w, spec); err != nil {
			return nil, err
		}
		notes = append(notes, q.out.Notes...)
	}
	q.report = q.newReport(notes)
	return q, nil
}

// carryOut rounds the weights, into the output or in memory.
func (q *quantization) carryOut(ctx context.Context, global *globalOptions, force bool) error {
	progress := func(done, total int64) { global.ui.progress("quantize", done, total) }
	if q.out == nil {
		err := q.run.Replace(ctx, progress)
		global.ui.closeProgress()
		return err
	}
	force, err := q.unfinished.writing(q.job.out, q.out.Tensors(), force)
	if err != nil {
		return err
	}
	err = q.out.Write(ctx, q.job.out, force, q.run.Matrix, progress)
	global.ui.closeProgress()
	if err != nil {
		return err
	}
	return q.finishReport()
}

// measure evaluates the model before and after: what was written, or what is
// in memory.
func (q *quantization) measure(ctx context.Context, global *globalOptions, text eval.Text, window int) error {
	_, after := q.plan.Bytes()
	c := change{path: q.job.path, from: q.from, weights: q.weights, label: "quantized", bytes: after, scheme: q.report.Scheme}
	if q.out != nil {
		c.out = q.job.out
	}
	var err error
	q.report.Eval, err = c.measure(ctx, global, text, window)
	return err
}
