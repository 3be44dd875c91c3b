package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"

	"llmc/calibrate"
	"llmc/demo"
	"llmc/eval"
	"llmc/formats/imatrix"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/quantize"
)

// calibrationOptions are the flags of methods that look at activations.
type calibrationOptions struct {
	file         string
	samples      int
	context      int
	seed         uint64
	damp         float64
	actOrder     bool
	staticGroups bool
	maxMemory    string
	imatrix      string
	saveImatrix  string
	resume       bool

	memory int64 // bytes of maxMemory, 0 for no limit
}

// calibrationFlags are their names.
var calibrationFlags = []string{"calibration", "samples", "calibration-context", "seed", "damp", "act-order", "static-groups", "max-memory", "resume"}

// importanceFlags are those of calibrationFlags that gathering an importance
// matrix takes.
var importanceFlags = []string{"calibration", "samples", "calibration-context", "seed", "max-memory"}

func (o *calibrationOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.file, "calibration", "", "text that shows the model's activations to a calibrated method, or to rtn with GGUF types (demo model: its own)")
	flags.IntVar(&o.samples, "samples", 128, "windows of calibration text")
	flags.IntVar(&o.context, "calibration-context", 0, "tokens of such a window (default 2048, or the model's context if that is less)")
	flags.Uint64Var(&o.seed, "seed", 0, "chooses the windows")
	flags.StringVar(&o.maxMemory, "max-memory", "", "keep calibration within this much memory: 4GB (default: no limit)")
	flags.StringVar(&o.imatrix, "imatrix", "", "rtn, GGUF: weigh errors by this importance matrix, made by llmc or llama-imatrix")
	flags.StringVar(&o.saveImatrix, "save-imatrix", "", "rtn, GGUF: write the importance matrix of --calibration; .dat for the older form")
	flags.BoolVar(&o.resume, "resume", false, "go on with a run that was ended; begins one if there is none")
	flags.Float64Var(&o.damp, "damp", quantize.DefaultDamp, "gptq: share of the Hessian's mean diagonal added to it")
	flags.BoolVar(&o.actOrder, "act-order", false, "gptq: round the columns with the largest inputs first")
	flags.BoolVar(&o.staticGroups, "static-groups", false, "gptq: with --act-order, keep groups of neighbouring columns")
}

// settle checks the flags against the job's method and format. path is the
// model's.
func (o *calibrationOptions) settle(job *quantizeJob, given func(string) bool) error {
	if err := o.settleImportance(job, given); err != nil {
		return err
	}
	if !job.calibrates() {
		return nil
	}
	scheme := job.policy.Scheme
	switch {
	case o.file == "" && !isDemo(job.path):
		return fault.Hint(fault.Usage("there is no text to calibrate on"), "add --calibration FILE with text like what the model will see, not the text it is measured on")
	case o.samples < 1:
		return fault.Usage("--samples is %d, allowed is 1 and more", o.samples)
	case given("calibration-context") && o.context < 2:
		return fault.Usage("--calibration-context is %d, allowed is 2 and more", o.context)
	case !(o.damp > 0 && o.damp <= 1):
		return fault.Usage("--damp is %g, allowed is more than 0, up to 1", o.damp)
	case job.target == quantize.GGUF && o.actOrder:
		return fault.Hint(fault.Usage("--act-order does not go with GGUF, whose blocks are of neighbouring columns"), "leave it out")
	case o.staticGroups && !o.actOrder:
		return fault.Usage("--static-groups says something only with --act-order")
	case o.actOrder && !o.staticGroups && scheme.GroupSize > 0 && job.target != quantize.GPTQ:
		return fault.Hint(fault.Usage("%s has no place for the groups that --act-order makes", job.target),
			"add --static-groups, or use --to gptq")
	}
	job.policy.ActOrder = o.actOrder && !o.staticGroups
	if o.maxMemory != "" {
		var err error
		if o.memory, err = eval.ParseSize(o.maxMemory); err != nil {
			return fault.Usage("--max-memory: %w", err)
		}
		if o.memory < 1 {
			return fault.Usage("--max-memory is %s, allowed is more than 0", o.maxMemory)
		}
	}
	return nil
}

// settleImportance settles what --imatrix, --save-imatrix and, with a method
// that needs no calibration, --calibration ask for.
func (o *calibrationOptions) settleImportance(job *quantizeJob, given func(string) bool) error {
	gguf, rtn := job.target == quantize.GGUF, job.method.Needs() == quantize.NeedsNothing
	for _, flag := range []string{"imatrix", "save-imatrix"} {
		switch {
		case !given(flag):
		case !rtn:
			return fault.Hint(fault.Usage("--%s does not go with --method %s, which gathers what it needs itself", flag, job.method.Name()),
				"leave one of them out")
		case !gguf:
			return fault.Hint(fault.Usage("--%s weighs errors of GGUF types, and the output is %s", flag, job.target),
				"use --type, one of Q4_K_M, Q8_0, ...")
		}
	}
	if o.imatrix != "" && o.saveImatrix != "" {
		return fault.Usage("--imatrix %s is read, so there is nothing to gather for --save-imatrix", o.imatrix)
	}
	job.gather = rtn && gguf && o.imatrix == "" && (o.file != "" || o.saveImatrix != "")
	job.policy.Importance = gguf && (job.gather || o.imatrix != "" || !rtn)
	if !rtn {
		return nil
	}
	for _, flag := range calibrationFlags {
		if !given(flag) || job.gather && slices.Contains(importanceFlags, flag) {
			continue
		}
		if o.imatrix != "" && slices.Contains(importanceFlags, flag) {
			return fault.Hint(fault.Usage("--%s does not go with --imatrix, which is gathered already", flag), "leave one of them out")
		}
		return fault.Hint(fault.Usage("--%s does not go with --method %s, which needs no calibration", flag, job.method.Name()),
			"add --method gptq")
	}
	return nil
}

// window is how many tokens a window has.
func (o *calibrationOptions) window(c *model.Config) int {
	if o.context > 0 {
		return o.context
	}
	return min(2048, max(c.Context, 2))
}

// walk is how calibration goes about it, and whether that fits into the memory
// that is allowed.
func (q *quantization) walk(o *calibrationOptions, samples int) (calibrate.Options, *calibrate.Schedule, error) {
	options := q.run.CalibrationOptions()
	if q.job.gather {
		options = quantize.ImportanceOptions()
	}
	options.MaxMemory = o.memory
	s, err := calibrate.NewSchedule(q.weights, samples, o.window(&q.weights.Config), options)
	return options, s, err
}

// text is where the calibration text is; a missing file is found here.
func (o *calibrationOptions) text() (eval.Text, error) {
	if o.file == "" {
		return eval.StringText("the demo model's calibration text", demo.CalibrationText()), nil
	}
	return eval.FileText(o.file)
}

// calibrationReport says what a calibrated method has seen.
type calibrationReport struct {
	Text         string  `json:"text"`
	Samples      int     `json:"samples"`
	Context      int     `json:"context"`
	Tokens       int     `json:"tokens"`
	Seed         uint64  `json:"seed"`
	Damp         float64 `json:"damp"`
	ActOrder     bool    `json:"act_order"`
	StaticGroups bool    `json:"static_groups"`
}

// prepare cuts the calibration text, which it also returns.
func (q *quantization) prepare(global *globalOptions, c *calibrationOptions, text eval.Text) (windows [][]int32, content string, err error) {
	if content, err = readText(text); err != nil {
		return nil, "", err
	}
	if windows, err = q.windows(c, text.Name, content); err != nil {
		return nil, "", err
	}
	if len(windows) < c.samples {
		global.ui.warn("%s gives %d samples of %d tokens, not %d", text.Name, len(windows), len(windows[0]), c.samples)
	}
	q.report.Calibration = &calibrationReport{
		Text: text.Name, Samples: len(windows), Context: len(windows[0]), Tokens: len(windows) * len(windows[0]),
		Seed: c.seed, Damp: c.damp, ActOrder: c.actOrder, StaticGroups: c.staticGroups,
	}
	return windows, content, nil
}

// forecast says what calibration would take.
func (q *quantization) forecast(global *globalOptions, c *calibrationOptions, text eval.Text) error {
	windows, _, err := q.prepare(global, c, text)
	if err != nil {
		return err
	}
	_, schedule, err := q.walk(c, len(windows))
	if err != nil {
		return err
	}
	kept := int64(0)
	for i := range q.plan.Entries {
		if e := &q.plan.Entries[i]; e.ID.Block >= 0 && q.out != nil && !q.job.gather {
			kept += e.OutBytes
		}
	}
	q.report.Forecast = newForecast(schedule, kept, global.newDevice())
	return nil
}

// calibrate takes the text through the model and solves its linears. What is
// done is kept beside the output, if there is one.
func (q *quantization) calibrate(ctx context.Context, global *globalOptions, o *quantizeOptions, text eval.Text) error {
	c := &o.calibration
	windows, content, err := q.prepare(global, c, text)
	if err != nil {
		return err
	}
	options, schedule, err := q.walk(c, len(windows))
	if err != nil {
		return err
	}
	if c.memory > 0 {
		debug.SetMemoryLimit(schedule.HeapLimit(c.memory))
	}
	dev := global.newDevice()
	if q.out != nil && !q.job.gather {
		in := runInputs{model: q.from, calibration: content, flags: o.flags, arithmetic: dev.Name()}
		if q.unfinished, err = beginRun(ctx, global, in, q.job.out, q.weights.Config.Blocks, c.resume); err != nil {
			return err
		}
		options.Journal = q.unfinished.journal
	}
	blocks := q.weights.Config.Blocks
	where := ""
	options.Begin = func(block int) { where = fmt.Sprintf("block %d of %d", block+1, blocks) }
	options.Progress = func(done, total int64) { global.ui.progressAt("calibrate", where, done, total) }
	defer global.ui.closeProgress()
	if q.job.gather {
		err = q.gather(ctx, global, windows, options)
	} else {
		err = q.run.Calibrate(ctx, dev, windows, options)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", q.job.path, err)
	}
	return nil
}

// gather makes an importance matrix for the run, and writes it if asked to.
func (q *quantization) gather(ctx context.Context, global *globalOptions, windows [][]int32, options calibrate.Options) error {
	m, err := quantize.GatherImportance(ctx, global.newDevice(), q.weights, windows, options)
	if err != nil {
		return err
	}
	q.run.SetImportance(m)
	q.importance = m.File(q.weights, q.report.Calibration.Text, len(windows), len(windows[0]))
	q.report.Importance = fmt.Sprintf("gathered on %s", q.report.Calibration.Text)
	return nil
}

// readImportance gives the run the importance matrix of a file.
func (q *quantization) readImportance(path string) error {
	f, err := imatrix.Open(path)
	if err != nil {
		return err
	}
	m, err := quantize.ReadImportance(q.weights, f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	q.run.SetImportance(m)
	q.report.Importance = path
	return nil
}

// readText returns all of a text.
func readText(text eval.Text) (string, error) {
	r, err := text.Reader()
	if err != nil {
		return "", err
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	return string(all), err
}

// windows cuts the calibration text.
func (q *quantization) windows(o *calibrationOptions, name, text string) ([][]int32, error) {
	tokenizer, err := model.OpenTokenizer(q.from)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", q.job.path, err)
	}
	s := calibrate.Sampling{Samples: o.samples, Context: o.window(&q.weights.Config), Seed: o.seed}
	windows, err := calibrate.Windows(tokenizer, text, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return windows, nil
}
