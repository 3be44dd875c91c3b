package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strings"
	"time"

	"llmc/distill"
	"llmc/eval"
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/model/export"
)

// distillReport is the document of "llmc distill --json".
type distillReport struct {
	Teacher string `json:"teacher,omitempty"`
	Student string `json:"student,omitempty"` // absent for a new one
	Output  string `json:"output,omitempty"`  // absent when nothing is written
	DryRun  bool   `json:"dry_run,omitempty"`

	Parameters        int64  `json:"parameters"`
	TeacherParameters int64  `json:"teacher_parameters,omitempty"`
	Architecture      string `json:"architecture"`
	Layers            int    `json:"layers"`
	Hidden            int    `json:"hidden"`
	Heads             int    `json:"heads"`
	FFN               int    `json:"ffn"`
	Random            bool   `json:"random,omitempty"`

	Loss        string  `json:"loss"`
	Temperature float64 `json:"temperature,omitempty"`
	Alpha       float64 `json:"alpha,omitempty"`
	TopK        int     `json:"top_k,omitempty"`
	Cache       string  `json:"cache,omitempty"`
	CacheBytes  int64   `json:"cache_bytes,omitempty"`

	Text    string  `json:"text"`
	Windows int     `json:"windows"`
	Context int     `json:"context"`
	Batch   int     `json:"batch"`
	Micro   int     `json:"windows_together,omitempty"`
	Steps   int     `json:"steps"`
	Epochs  float64 `json:"epochs"`
	Rate    float64 `json:"learning_rate"`
	Seed    uint64  `json:"seed"`

	BestStep    int                  `json:"best_step"`
	Evaluations []distill.Evaluation `json:"evaluations,omitempty"`
	Curve       []distill.Point      `json:"curve,omitempty"`

	Seconds         float64 `json:"seconds,omitempty"` // of training, since it was begun or resumed
	TokensPerSecond float64 `json:"tokens_per_second,omitempty"`
	PeakRSSBytes    int64   `json:"peak_rss_bytes,omitempty"`

	Eval *eval.Report `json:"eval,omitempty"`
}

// lasting is what a folder keeps of the report: what does not differ from run
// to run.
func (r *distillReport) lasting() *distillReport {
	kept := *r
	kept.Output, kept.Eval, kept.Seconds, kept.TokensPerSecond, kept.PeakRSSBytes = "", nil, 0, 0, 0
	return &kept
}

// describe fills in what is known before training.
func (d *distillation) describe(o *distillOptions) {
	c := &d.weights.Config
	r := &d.report
	*r = distillReport{
		Teacher: d.teacherPath, Student: d.studentPath, Output: d.out,
		Parameters: c.Parameters(), Architecture: c.Architecture, Layers: c.Blocks, Hidden: c.Hidden, Heads: c.Heads, FFN: c.FFN,
		Random: o.random, Loss: d.loss.Kind.String(), TopK: d.topK, Cache: o.cache,
		Text: d.train.Name, Windows: len(d.data.Train), Context: d.context,
		Batch: d.options.Batch, Steps: d.options.Schedule.Steps, Rate: d.options.Schedule.Rate, Seed: o.seed,
	}
	r.Epochs = float64(r.Steps) * float64(r.Batch) / float64(r.Windows)
	switch {
	case o.layerwise:
		r.Loss = "layerwise"
	case d.loss.Teaches():
		r.Temperature, r.Alpha = d.loss.Temperature, d.loss.Alpha
	}
	if d.teacherWeights != nil {
		r.TeacherParameters = d.teacherWeights.Config.Parameters()
	}
}

// trained takes in what training has made.
func (r *distillReport) trained(t *distill.Trainer, spent time.Duration) {
	r.BestStep, r.Evaluations, r.Curve = t.BestStep(), t.Evaluations, t.Curve
	r.Seconds = spent.Seconds()
	r.TokensPerSecond = t.Speed()
	r.PeakRSSBytes = eval.PeakMemory()
}

func perplexity(nll float64) float64 { return math.Exp(nll) }

// measure compares the student with what it was before and with its teacher.
func (d *distillation) measure(ctx context.Context, global *globalOptions, window int) error {
	var paths []string
	for _, path := range []string{d.teacherPath, d.studentPath, d.out} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	subjects, closeAll, err := loadSubjects(global.newDevice(), paths, false)
	defer closeAll()
	if err != nil {
		return err
	}
	if d.out == "" {
		s, err := eval.LoadWeights(global.newDevice(), d.from, d.weights, "student")
		if err != nil {
			return err
		}
		s.SizeBytes = 2 * d.report.Parameters
		s.WeightBytes, s.Scheme = s.SizeBytes, "BF16"
		subjects = append(subjects, s)
	}
	opts := eval.Options{Context: window, Threads: global.threads, Progress: global.ui.progress, BaselineTokens: true}
	defer global.ui.closeProgress()
	d.report.Eval, err = eval.Run(ctx, subjects, *d.heldOut, opts)
	return err
}

// curveWriter returns what writes a loss curve to a file of a name, nil for
// other endings.
func curveWriter(path string) func(io.Writer, []distill.Point, []distill.Evaluation) error {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		return distill.WriteCSV
	case ".png":
		return distill.WritePNG
	}
	return nil
}

// store writes the report and the loss curve where they were asked for.
func (d *distillation) store(o *distillOptions) error {
	if o.reportFile != "" {
		if err := writeReport(o.reportFile, &d.report, o.force); err != nil {
			return err
		}
	}
	for _, path := range o.curve {
		if err := d.storeCurve(path, o.force); err != nil {
			return err
		}
	}
	if d.out == "" || isGGUFName(d.out) || d.from.Kind != formats.HuggingFace {
		return nil
	}
	if err := writeReport(filepath.Join(d.out, export.ReportFile), d.report.lasting(), true); err != nil {
		return fmt.Errorf("the model is written, its report is not: %w", err)
	}
	return nil
}

func (d *distillation) storeCurve(path string, force bool) error {
	f, err := raw.CreateFile(path, force)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := curveWriter(path)(f, d.report.Curve, d.report.Evaluations); err != nil {
		return err
	}
	return f.Commit()
}

// print prints what was done or would be, and stores it.
func (d *distillation) print(ui *ui, o *distillOptions) error {
	r := &d.report
	if !r.DryRun && !d.cacheOnly {
		if err := d.store(o); err != nil {
			return err
		}
	}
	if err := ui.document(r); err != nil {
		return err
	}
	if d.cacheOnly {
		ui.print("%d windows of %d predictions of the %d likeliest tokens: %s", r.Windows, r.Context, r.TopK, bytesString(r.CacheBytes))
		return nil
	}
	d.printRun(ui)
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

// printRun prints what was trained and how the loss went.
func (d *distillation) printRun(ui *ui) {
	r := &d.report
	size := fmt.Sprintf("%s parameters (%d layers, hidden %d, %d heads, feed-forward %d)", countString(r.Parameters), r.Layers, r.Hidden, r.Heads, r.FFN)
	if r.TeacherParameters > 0 {
		size += fmt.Sprintf(", the teacher has %s", countString(r.TeacherParameters))
	}
	ui.print("%s", size)
	ui.print("%d steps of %d windows of %d tokens, %s times through %s, loss %s", r.Steps, r.Batch, r.Context, figure(r.Epochs), r.Text, r.Loss)
	if len(r.Curve) == 0 {
		return
	}
	losses := make([]float64, len(r.Curve))
	for i, p := range r.Curve {
		losses[i] = p.Loss
	}
	const width = 60
	ui.print("loss %s %s %s", figure(losses[0]), distill.Sparkline(losses, width), figure(losses[len(losses)-1]))
	if n := len(r.Evaluations); n > 0 {
		ui.print("perplexity on the held-out text while training: %s before, %s after %d steps; the best weights are of step %d",
			figure(perplexity(r.Evaluations[0].NLL)), figure(perplexity(r.Evaluations[n-1].NLL)), r.Steps, r.BestStep)
	}
	if r.TokensPerSecond > 0 {
		ui.print("%.0f tokens/s", r.TokensPerSecond)
	}
}
