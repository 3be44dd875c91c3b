package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"llmc/calibrate"
	"llmc/eval"
	"llmc/formats/imatrix"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/quantize"
)

// calibrationOptions are the flags of methods that look at activations.
type calibrationOptions struct {
	sampleOptions
	damp         float64
	firstToken   float64
	actOrder     bool
	staticGroups bool
	compute      string
	imatrix      string
	saveImatrix  string

	arithmetic kernels.Compute // that compute names
}

// calibrationFlags are their names.
var calibrationFlags = append([]string{"damp", "first-token", "act-order", "static-groups", "compute"}, sampleFlags...)

// importanceFlags are those of calibrationFlags that gathering an importance
// matrix takes.
var importanceFlags = []string{"compute", "calibration", "samples", "calibration-context", "seed", "max-memory"}

func (o *calibrationOptions) register(cmd *cobra.Command) {
	o.sampleOptions.register(cmd, "text that shows the model's activations to a calibrated method, or to rtn with GGUF types (demo model: its own)")
	flags := cmd.Flags()
	registerCompute(flags, &o.compute)
	putUnder(topicCalibration, flags, "compute")
	flags.StringVar(&o.imatrix, "imatrix", "", "rtn, GGUF: weigh errors by this importance matrix, made by llmc or llama-imatrix")
	flags.StringVar(&o.saveImatrix, "save-imatrix", "", "rtn, GGUF: write the importance matrix of --calibration; .dat for the older form")
	flags.Float64Var(&o.damp, "damp", quantize.DefaultDamp, "gptq: share of the Hessian's mean diagonal added to it")
	flags.Float64Var(&o.firstToken, "first-token", quantize.DefaultFirstToken, "gptq, awq: how much more the first token of a window counts in q, k and v, which most others attend to: as this share of the window's tokens; 0 for like others")
	flags.BoolVar(&o.actOrder, "act-order", true, "gptq: round the columns with the largest inputs first; =false for the order of the file")
	flags.BoolVar(&o.staticGroups, "static-groups", true, "gptq: with --act-order, groups are of neighbouring columns all the same; =false for groups in its order, which only --to gptq holds")
}

// registerCompute adds the flag --compute of commands that round weights with
// calibration.
func registerCompute(flags *pflag.FlagSet, to *string) {
	flags.StringVar(to, "compute", kernels.Exact.String(),
		"how calibration runs what is rounded already, "+computeHelp+", which takes a quarter less time")
}

// gptqFlags are those of calibrationFlags that only GPTQ looks at.
var gptqFlags = []string{"damp", "act-order", "static-groups"}

// settle checks the flags against the job's method and format. path is the
// model's.
func (o *calibrationOptions) settle(job *quantizeJob, given func(string) bool) error {
	if err := o.settleImportance(job, given); err != nil {
		return err
	}
	if !job.calibrates() {
		return nil
	}
	if err := o.sampleOptions.settle(job.path, given); err != nil {
		return err
	}
	for _, flag := range gptqFlags {
		if given(flag) && !job.gather && !strings.Contains(job.method.Name(), "gptq") {
			return fault.Hint(fault.Usage("--%s says how gptq rounds, and the method is %s", flag, job.method.Name()), "use --method gptq or awq+gptq")
		}
	}
	var err error
	if o.arithmetic, err = kernels.ParseCompute(o.compute); err != nil {
		return fault.Usage("--compute: %w", err)
	}
	scheme := job.policy.Scheme
	switch {
	case !(o.damp > 0 && o.damp <= 1):
		return fault.Usage("--damp is %g, allowed is more than 0, up to 1", o.damp)
	case !(o.firstToken >= 0 && o.firstToken <= 100):
		return fault.Usage("--first-token is %g, allowed is 0 to 100", o.firstToken)
	case o.sequential && given("true-sequential") && strings.HasPrefix(job.method.Name(), "awq"):
		return fault.Usage("--true-sequential does not go with --method %s, which changes linears of a block before the one it looks at", job.method.Name())
	case job.target == quantize.GGUF && (given("act-order") && o.actOrder || given("static-groups")):
		return fault.Hint(fault.Usage("--act-order and --static-groups do not go with GGUF, whose blocks are of neighbouring columns"), "leave them out")
	case given("static-groups") && o.staticGroups && !o.actOrder:
		return fault.Usage("--static-groups says something only with --act-order")
	case o.actOrder && !o.staticGroups && scheme.GroupSize > 0 && job.target != quantize.GPTQ:
		return fault.Hint(fault.Usage("%s has no place for groups in the order of --act-order", job.target),
			"leave --static-groups=false out, or use --to gptq")
	}
	o.actOrder = o.actOrder && job.target != quantize.GGUF && strings.Contains(job.method.Name(), "gptq")
	o.staticGroups = o.staticGroups && o.actOrder
	job.policy.ActOrder = o.actOrder && !o.staticGroups
	return nil
}

// settleImportance settles what --imatrix, --save-imatrix and, with a method
// that needs no calibration, --calibration ask for.
func (o *calibrationOptions) settleImportance(job *quantizeJob, given func(string) bool) error {
	gguf, rtn := job.target == quantize.GGUF, !job.solves()
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

// walk is how calibration goes about it, and whether that fits into the memory
// that is allowed.
func (q *quantization) walk(o *calibrationOptions, samples int) (calibrate.Options, *calibrate.Schedule, error) {
	options := q.run.CalibrationOptions()
	if q.job.gather {
		options = quantize.ImportanceOptions()
	}
	options.Compute = o.arithmetic
	s, err := o.schedule(q.weights, samples, &options)
	return options, s, err
}

// calibrationReport says what a calibrated method has seen.
type calibrationReport struct {
	sampleReport
	Damp         float64 `json:"damp"`
	FirstToken   float64 `json:"first_token"`
	ActOrder     bool    `json:"act_order"`
	StaticGroups bool    `json:"static_groups"`
	Compute      string  `json:"compute"` // exact or fast
}

// read reads the calibration text, unless it has been read.
func (q *quantization) read(ui *ui, c *calibrationOptions, text eval.Text) (*sample, error) {
	if q.job.sample == nil {
		var err error
		if q.job.sample, err = c.read(ui, text, q.from, q.weights); err != nil {
			return nil, err
		}
	}
	s := q.job.sample
	q.report.Calibration = &calibrationReport{s.report, c.damp, c.firstToken, c.actOrder, c.staticGroups, c.arithmetic.String()}
	return s, nil
}

// begin begins a run whose finished blocks are kept beside its output, if they
// are, or takes up one.
func (q *quantization) begin(ctx context.Context, global *globalOptions, o *quantizeOptions) error {
	if q.unfinished != nil || q.out == nil || !q.job.keepsBlocks() {
		return nil
	}
	in := runInputs{model: q.from, calibration: q.job.sample.content, flags: o.flags, arithmetic: global.newDevice().Name()}
	var err error
	q.unfinished, err = beginRun(ctx, global, in, q.job.out, q.weights.Config.Blocks, o.calibration.resume)
	return err
}

// forecast says what calibration would take.
func (q *quantization) forecast(global *globalOptions, c *calibrationOptions, text eval.Text) error {
	s, err := q.read(global.ui, c, text)
	if err != nil {
		return err
	}
	_, schedule, err := q.walk(c, len(s.windows))
	if err != nil {
		return err
	}
	q.report.Calibration.Sequential = schedule.Sequential
	kept := int64(0)
	for i := range q.plan.Entries {
		if e := &q.plan.Entries[i]; e.ID.Block >= 0 && q.out != nil && !q.job.gather {
			kept += e.OutBytes
		}
	}
	q.report.Forecast = newForecast(schedule, kept, q.job.found, global.newDevice())
	return nil
}

// calibrate takes the text through the model and solves its linears. What is
// done is kept beside the output, if there is one.
func (q *quantization) calibrate(ctx context.Context, global *globalOptions, o *quantizeOptions, text eval.Text) error {
	c := &o.calibration
	s, err := q.read(global.ui, c, text)
	if err != nil {
		return err
	}
	options, schedule, err := q.walk(c, len(s.windows))
	if err != nil {
		return err
	}
	q.report.Calibration.Sequential = schedule.Sequential
	c.limit(schedule)
	dev := global.newDeviceFor(c.arithmetic)
	if err := q.begin(ctx, global, o); err != nil {
		return err
	}
	if q.unfinished != nil {
		options.Journal = q.unfinished.journal
	}
	if err := q.job.pruner.prepare(ctx, global, q, s.windows, options); err != nil {
		return fmt.Errorf("%s: %w", q.job.path, err)
	}
	showProgress(global.ui, &options, q.weights.Config.Blocks)
	defer global.ui.closeProgress()
	if q.job.gather {
		err = q.gather(ctx, dev, s.windows, options)
	} else {
		walk, done := q.job.pruner.permuting(ctx, q, &options)
		err = done(q.run.Calibrate(walk, dev, s.windows, options))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", q.job.path, err)
	}
	return nil
}

// gather makes an importance matrix for the run, and writes it if asked to.
func (q *quantization) gather(ctx context.Context, dev kernels.Device, windows [][]int32, options calibrate.Options) error {
	m, err := quantize.GatherImportance(ctx, dev, q.weights, windows, options)
	if err != nil {
		return err
	}
	uncovered := m.Uncovered()
	q.importance = m.File(q.weights, q.report.Calibration.Text, len(windows), len(windows[0]))
	// As the file has it, so that reading it gives the same.
	if m, err = quantize.ReadImportance(q.weights, q.importance); err != nil {
		return err
	}
	q.run.SetImportance(m)
	q.report.Importance = fmt.Sprintf("gathered on %s", q.report.Calibration.Text)
	if uncovered > 0 {
		q.report.Importance += fmt.Sprintf("; the router sent no token to %d linears of experts, so that all were run through those", uncovered)
	}
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
