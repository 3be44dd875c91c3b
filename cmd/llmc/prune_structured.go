package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"llmc/calibrate"
	"llmc/demo"
	"llmc/dtype"
	"llmc/eval"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/model/export"
	"llmc/prune/structured"
)

// structuredOptions are the flags of "llmc prune --structured".
type structuredOptions struct {
	axis         string
	remove       int
	targetParams string
	targetSize   string
	nested       []float64
	multiple     int
	noRepair     bool
	importance   string
}

// structuredFlags are those that say nothing without --structured.
var structuredFlags = []string{"remove", "target-params", "target-size", "nested", "multiple", "no-repair", "importance"}

func (o *structuredOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.axis, "structured", "", "remove whole parts: "+strings.Join(structured.AxisNames(), ", "))
	flags.IntVar(&o.remove, "remove", 0, "how many are removed, of every block or of the model")
	flags.StringVar(&o.targetParams, "target-params", "", "remove as few as leave at most this many parameters: 100M")
	flags.StringVar(&o.targetSize, "target-size", "", "remove as few as leave at most this size: 200MB")
	flags.Float64SliceVar(&o.nested, "nested", nil, "write a model for each of these `shares` that are left, from one ranking: 0.75,0.5")
	flags.IntVar(&o.multiple, "multiple", structured.DefaultMultiple, "ffn, hidden: what widths are multiples of; 256 for llama.cpp's K-quants")
	flags.StringVar(&o.importance, "importance", "", "what stays: heads, ffn: activations, reconstruction or taylor; hidden: activations or taylor; layers: influence or taylor (default the first)")
	flags.BoolVar(&o.noRepair, "no-repair", false, "do not fit what is left to make up for what is gone")
	putUnder(topicStructured, flags, "structured", "remove", "target-params", "target-size", "nested", "multiple", "importance", "no-repair")
}

// structuredJob is what the flags mean.
type structuredJob struct {
	path       string // "demo" for the built-in model
	kind       formats.Kind
	axis       structured.Axis
	importance structured.Importance
	maxShard   int64
	params     int64 // of --target-params; 0 for none
	bytes      int64 // of --target-size; 0 for none
}

// settleStructured turns flags into a job, and refuses those that do not go
// together. No file is opened.
func (o *pruneOptions) settleStructured(args []string) (*structuredJob, error) {
	job := &structuredJob{path: demo.Name}
	if len(args) > 0 {
		job.path = args[0]
	}
	s := &o.structured
	var ok bool
	if job.axis, ok = structured.ParseAxis(s.axis); !ok {
		return nil, fault.Usage("--structured is %q, allowed are %s", s.axis, strings.Join(structured.AxisNames(), ", "))
	}
	if err := o.settleImportance(job); err != nil {
		return nil, err
	}
	if err := o.settleAmount(job); err != nil {
		return nil, err
	}
	switch {
	case o.to == "gguf", o.to == "" && (isGGUFName(o.out) || o.out == "" && isGGUFName(job.path)):
		job.kind = formats.GGUF
	case o.to != "" && o.to != "safetensors":
		return nil, fault.Usage("--to is %q, allowed are gguf and safetensors", o.to)
	case isGGUFName(o.out):
		return nil, fault.Usage("the output %s is called like a GGUF file, and a folder is written", o.out)
	}
	var err error
	if job.maxShard, err = shardSize(o.maxShard); err != nil {
		return nil, err
	}
	switch {
	case s.multiple < 1:
		return nil, fault.Usage("--multiple is %d, allowed is 1 and more", s.multiple)
	case o.context < 0:
		return nil, fault.Usage("--context is %d, allowed is 1 and more", o.context)
	}
	if !(o.damp > 0 && o.damp <= 1) {
		return nil, fault.Usage("--damp is %g, allowed is more than 0, up to 1", o.damp)
	}
	if o.dryRun && o.samples.file == "" {
		return job, nil // no text is read
	}
	return job, o.samples.settle(job.path, o.flags.Changed)
}

// settleImportance settles what the parts are ranked by.
func (o *pruneOptions) settleImportance(job *structuredJob) error {
	allowed := job.axis.Importances()
	job.importance = allowed[0]
	name := o.structured.importance
	if name == "" {
		return nil
	}
	var ok bool
	if job.importance, ok = structured.ParseImportance(name); !ok || !slices.Contains(allowed, job.importance) {
		return fault.Usage("--importance is %q, allowed for %s are %s", name, job.axis, strings.Trim(fmt.Sprint(allowed), "[]"))
	}
	return nil
}

// settleAmount settles how much goes, which is said once.
func (o *pruneOptions) settleAmount(job *structuredJob) error {
	s := &o.structured
	var said []string
	for _, flag := range []string{"sparsity", "remove", "target-params", "target-size", "nested"} {
		if o.flags.Changed(flag) {
			said = append(said, "--"+flag)
		}
	}
	switch {
	case len(said) == 0:
		return fault.Hint(fault.Usage("nothing says how much is removed"), "add --sparsity 0.25, --remove, --target-params, --target-size or --nested")
	case len(said) > 1:
		return fault.Usage("%s say how much is removed, allowed is one of them", strings.Join(said, " and "))
	}
	if !(o.sparsity >= 0 && o.sparsity < 1) {
		return fault.Usage("--sparsity is %g, allowed is 0 up to, but not including, 1", o.sparsity)
	}
	for _, flag := range []string{"pattern", "method", "allocate", "steps", "permute", "first-token", "act-order", "keep-zeros", "ignore"} {
		if o.flags.Changed(flag) {
			return fault.Usage("--%s does not go with --structured", flag)
		}
	}
	for _, share := range s.nested {
		if !(share > 0 && share < 1) {
			return fault.Usage("--nested has %g, allowed are shares between 0 and 1", share)
		}
	}
	var err error
	if o.flags.Changed("target-size") {
		if job.bytes, err = eval.ParseSize(s.targetSize); err != nil {
			return fault.Usage("--target-size: %w", err)
		}
	}
	if o.flags.Changed("target-params") {
		// 100M is 100MB without the unit of bytes.
		text := strings.TrimSuffix(strings.ToUpper(s.targetParams), "B") + "B"
		if strings.HasSuffix(strings.ToUpper(s.targetParams), "B") {
			text = strings.TrimSuffix(text, "B") + "GB"
		}
		if job.params, err = eval.ParseSize(text); err != nil {
			return fault.Usage("--target-params is %q, allowed are forms like 100M, 1.1B and 99000000", s.targetParams)
		}
	}
	return nil
}

// structuredRun is one run of the command.
type structuredRun struct {
	job     *structuredJob
	options *pruneOptions
	from    *formats.Checkpoint
	weights *model.Weights
	widths  []int // that are left, one for each output
	sample  *sample
	report  structuredReport

	finished   []bool        // by output: by the run that is resumed
	unfinished []*unfinished // by output; nil unless blocks are kept
}

func runStructured(ctx context.Context, global *globalOptions, o *pruneOptions, args []string) error {
	job, err := o.settleStructured(args)
	if err != nil {
		return err
	}
	var text *eval.Text
	if o.text != "" || isDemo(job.path) {
		t, err := evalText(o.text, job.path)
		if err != nil {
			return err
		}
		text = &t
	}
	if isDemo(job.path) {
		global.ui.note("no model given: pruning the built-in demo model")
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
	p := &structuredRun{job: job, options: o, from: c, weights: w}
	if err := p.plan(); err != nil {
		return fmt.Errorf("%s: %w", job.path, err)
	}
	for _, note := range p.report.Notes {
		global.ui.warn("%s", note)
	}
	if o.dryRun {
		p.report.DryRun = true
		return p.report.print(global.ui)
	}
	if !o.force {
		if err := checkFree(o.reportFile); err != nil {
			return err
		}
	}
	for i, out := range p.report.Outputs {
		p.finished = append(p.finished, p.finishedBefore(i))
		if p.finished[i] {
			continue
		}
		if err := checkOutput(out.Output, true, o.samples.resume, o.force); err != nil {
			return err
		}
	}
	return p.failed(p.execute(ctx, global, text))
}

// plan settles widths and outputs, from headers alone.
func (p *structuredRun) plan() error {
	o, job, c := p.options, p.job, &p.weights.Config
	widths, err := structured.Widths(c, job.axis, o.structured.multiple, job.kind)
	if err != nil {
		return err
	}
	if err := p.settleWidths(widths); err != nil {
		return err
	}
	p.report = structuredReport{
		Model: job.path, Structured: job.axis.String(), Unit: job.axis.Unit(c), Units: job.axis.Units(c),
		Parameters: c.Parameters(), Repair: !o.structured.noRepair && job.axis.Repairable(c), RankedBy: job.importance.String(),
	}
	for _, id := range c.IDs() {
		p.report.Bytes += p.weights.Bytes(id)
	}
	for i, n := range p.widths {
		cut, err := p.weights.Cut(structured.Outline(c, job.axis, n))
		if err != nil {
			return err
		}
		out := structuredOutput{Left: n, Parameters: cut.Config.Parameters(), Output: p.outputName(i, n)}
		e, err := p.export(cut)
		if err != nil {
			return err
		}
		out.Bytes = e.Bytes()
		if i == 0 {
			p.report.Notes = e.Notes
		}
		p.report.Outputs = append(p.report.Outputs, out)
	}
	return nil
}

// settleWidths chooses what is left.
func (p *structuredRun) settleWidths(widths []int) error {
	o, job, c := p.options, p.job, &p.weights.Config
	if len(o.structured.nested) > 0 {
		for _, share := range o.structured.nested {
			n, err := structured.Nearest(c, job.axis, widths, share)
			if err != nil {
				return err
			}
			if slices.Contains(p.widths, n) {
				return fault.Usage("--nested %g leaves %d %s, as another one does", share, n, job.axis.Unit(c))
			}
			p.widths = append(p.widths, n)
		}
		return nil
	}
	var n int
	var err error
	switch {
	case o.flags.Changed("remove"):
		n, err = structured.Without(c, job.axis, widths, o.structured.remove)
	case job.params > 0 || job.bytes > 0:
		n, err = structured.Largest(c, job.axis, widths, p.fits)
	default:
		n, err = structured.Nearest(c, job.axis, widths, 1-o.sparsity)
	}
	p.widths = []int{n}
	return err
}

// fits reports whether a model of a width is small enough.
func (p *structuredRun) fits(n int) bool {
	cut, err := p.weights.Cut(structured.Outline(&p.weights.Config, p.job.axis, n))
	if err != nil {
		return true // plan says what is wrong
	}
	if p.job.params > 0 {
		return cut.Config.Parameters() <= p.job.params
	}
	e, err := p.export(cut)
	return err != nil || e.Bytes() <= p.job.bytes
}

// export lays out what is written of cut weights.
func (p *structuredRun) export(cut *model.Weights) (*export.Export, error) {
	items, err := export.Plain(cut, p.job.kind, dtype.Invalid)
	if err != nil {
		return nil, err
	}
	return export.New(p.from, cut, export.Spec{Kind: p.job.kind, Items: items, FileType: export.FileType(items), MaxShard: p.job.maxShard})
}

// outputName is where an output goes, "" for nowhere.
func (p *structuredRun) outputName(i, width int) string {
	o, job := p.options, p.job
	if o.out == "" && isDemo(job.path) {
		return ""
	}
	ext := ""
	if job.kind == formats.GGUF {
		ext = ".gguf"
	}
	switch {
	case o.out == "":
		return fmt.Sprintf("%s-%s%d%s", modelBase(job.path), job.axis, width, ext)
	case len(o.structured.nested) == 0:
		return o.out
	}
	own := filepath.Ext(o.out)
	if !strings.EqualFold(own, ".gguf") {
		own = ""
	}
	return fmt.Sprintf("%s-%g%s", strings.TrimSuffix(o.out, own), o.structured.nested[i], cmp.Or(own, ext))
}

// execute ranks, cuts, writes and measures.
func (p *structuredRun) execute(ctx context.Context, global *globalOptions, measured *eval.Text) error {
	ui := global.ui
	defer ui.closeProgress()
	if err := p.weights.Check(ctx, func(done, total int64) { ui.progress("check", done, total) }); err != nil {
		return fmt.Errorf("%s: %w", p.job.path, err)
	}
	text, err := p.options.samples.text()
	if err != nil {
		return err
	}
	if p.sample, err = p.options.samples.read(ui, text, p.from, p.weights); err != nil {
		return err
	}
	p.report.Calibration = &p.sample.report
	options, err := p.schedule()
	if err != nil {
		return err
	}
	if err := p.begin(ctx, global); err != nil {
		return err
	}
	ranking, err := p.rank(ctx, global, options)
	if err != nil {
		return err
	}
	p.report.Importance = ranking.Scores
	var inMemory []*model.Weights
	for i := range p.widths {
		w, err := p.carryOut(ctx, global, i, ranking, options)
		if err != nil {
			return err
		}
		if w != nil {
			inMemory = append(inMemory, w)
		}
	}
	ui.closeProgress()
	if measured != nil {
		if err := p.measure(ctx, global, *measured, inMemory); err != nil {
			return err
		}
	}
	if p.options.reportFile != "" {
		if err := writeReport(p.options.reportFile, &p.report, p.options.force); err != nil {
			return fmt.Errorf("the model is written, its report is not: %w", err)
		}
	}
	return p.report.print(ui)
}

// store puts into the folder of an output what is said of it.
func (p *structuredRun) store(i int) error {
	if p.job.kind == formats.GGUF {
		return nil
	}
	if err := writeReport(filepath.Join(p.report.Outputs[i].Output, export.ReportFile), p.report.lasting(i), true); err != nil {
		return fmt.Errorf("the model is written, its report is not: %w", err)
	}
	return nil
}

// schedule fits ranking and repairing into the memory that is allowed.
func (p *structuredRun) schedule() (calibrate.Options, error) {
	var options calibrate.Options
	samples, c := &p.options.samples, &p.weights.Config
	schedule, err := samples.schedule(p.weights, len(p.sample.windows), &options)
	if err != nil {
		return options, err
	}
	for _, n := range p.widths {
		if !p.report.Repair {
			break
		}
		_, err := structured.Schedule(p.weights, structured.Outline(c, p.job.axis, n), len(p.sample.windows), samples.window(c), options)
		if err != nil {
			return options, err
		}
	}
	samples.limit(schedule)
	return options, nil
}

// carryOut makes one of the outputs, and returns its weights if it is not
// written.
func (p *structuredRun) carryOut(ctx context.Context, global *globalOptions, i int, ranking *structured.Ranking, options calibrate.Options) (*model.Weights, error) {
	out, run := &p.report.Outputs[i], p.unfinished[i]
	cut := ranking.Cut(&p.weights.Config, out.Left)
	out.Layers = cut.Blocks
	if p.finished[i] {
		global.ui.note("resuming: %s is done", out.Output)
		p.recall(i)
		return nil, nil
	}
	if run != nil {
		options.Journal = run.journal
	}
	apply := structured.Options{Repair: p.report.Repair, Damp: p.options.damp, Threads: global.threads}
	showProgress(global.ui, &options, p.weights.Config.Blocks)
	w, repairs, err := structured.Apply(ctx, global.newDevice(), p.weights, cut, p.sample.windows, apply, options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.job.path, err)
	}
	for _, r := range repairs {
		out.Repairs = append(out.Repairs, repairReport{export.Stem(w, w.Kind, r.ID), r})
	}
	if out.Output == "" {
		return w, nil
	}
	if err := p.write(ctx, global.ui, w, out.Output, run); err != nil {
		return nil, err
	}
	if err := p.store(i); err != nil {
		return nil, err
	}
	run.finished(global.ui)
	return nil, nil
}

// write writes cut weights.
func (p *structuredRun) write(ctx context.Context, ui *ui, w *model.Weights, path string, run *unfinished) error {
	e, err := p.export(w)
	if err != nil {
		return err
	}
	force, err := run.writing(path, e.Tensors(), p.options.force)
	if err != nil {
		return err
	}
	return e.Write(ctx, path, force, nil, func(done, total int64) { ui.progress("write", done, total) })
}

// measure evaluates the model before and after: what was written, or what is in
// memory.
func (p *structuredRun) measure(ctx context.Context, global *globalOptions, text eval.Text, inMemory []*model.Weights) error {
	paths := []string{p.job.path}
	for _, out := range p.report.Outputs {
		if out.Output != "" {
			paths = append(paths, out.Output)
		}
	}
	subjects, closeAll, err := loadSubjects(global.newDevice(), paths, false)
	defer closeAll()
	if err != nil {
		return err
	}
	for i, w := range inMemory {
		out := p.report.Outputs[i]
		s, err := eval.LoadWeights(global.newDevice(), p.from, w, fmt.Sprintf("%s %d", p.job.axis, out.Left))
		if err != nil {
			return err
		}
		s.SizeBytes, s.WeightBytes = out.Bytes, out.Bytes
		subjects = append(subjects, s)
	}
	opts := eval.Options{Context: p.options.context, Threads: global.threads, Progress: global.ui.progress, BaselineTokens: true}
	p.report.Eval, err = eval.Run(ctx, subjects, text, opts)
	global.ui.closeProgress()
	return err
}
