package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"llmc/calibrate"
	"llmc/model/export"
	"llmc/prune/structured"
)

// rankingNote is what journals call the scores of the parts.
const rankingNote = "ranking"

// finishedBefore reports whether an output of a family is there already because
// the run that is resumed had finished it: it has no journal any more, another
// output of the family has one.
func (p *structuredRun) finishedBefore(i int) bool {
	begun := func(out structuredOutput) bool {
		_, any := calibrate.Unfinished(calibrate.JournalDir(out.Output))
		return any
	}
	out := p.report.Outputs[i]
	if _, err := os.Lstat(out.Output); err != nil || !p.options.samples.resume || begun(out) {
		return false
	}
	return slices.ContainsFunc(p.report.Outputs, begun)
}

// begin begins a run for each output, or takes up those that are unfinished.
// Without repair, which takes long, nothing is kept.
func (p *structuredRun) begin(ctx context.Context, global *globalOptions) error {
	p.unfinished = make([]*unfinished, len(p.report.Outputs))
	if !p.report.Repair {
		return nil
	}
	in := runInputs{model: p.from, calibration: p.sample.content, flags: p.options.flags, arithmetic: global.newDevice().Name()}
	for i, out := range p.report.Outputs {
		if out.Output == "" || p.finished[i] {
			continue
		}
		run, err := beginRun(ctx, global, in, out.Output, p.weights.Config.Blocks, p.options.samples.resume)
		if err != nil {
			return err
		}
		p.unfinished[i] = run
	}
	return nil
}

// failed ends the runs that are not finished. The first of them says how to go
// on.
func (p *structuredRun) failed(err error) error {
	if err == nil {
		return nil
	}
	said := err
	for _, run := range slices.Backward(p.unfinished) {
		if run != nil && run.journal != nil {
			said = run.failed(err)
		}
	}
	return said
}

// rank orders the parts, unless an unfinished run has done so.
func (p *structuredRun) rank(ctx context.Context, global *globalOptions, options calibrate.Options) (*structured.Ranking, error) {
	var scores [][]float64
	for _, run := range p.unfinished {
		if run != nil && run.journal.Noted(rankingNote, &scores) {
			global.ui.note("resuming: the ranking is done")
			break
		}
	}
	if scores == nil {
		showProgress(global.ui, &options, p.weights.Config.Blocks)
		how := structured.RankOptions{Importance: p.job.importance, Least: slices.Min(p.widths), Damp: p.options.damp, Threads: global.threads}
		ranking, err := structured.Rank(ctx, global.newDevice(), p.weights, p.sample.windows, p.job.axis, how, options)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.job.path, err)
		}
		scores = ranking.Scores
	}
	for _, run := range p.unfinished {
		if run != nil {
			if err := run.journal.Note(rankingNote, scores); err != nil {
				return nil, err
			}
		}
	}
	return structured.NewRanking(p.job.axis, scores), nil
}

// recall takes what was done to an output that an earlier run has finished from
// its report, if there is one.
func (p *structuredRun) recall(i int) {
	text, err := os.ReadFile(filepath.Join(p.report.Outputs[i].Output, export.ReportFile))
	var kept structuredReport
	if err == nil && json.Unmarshal(text, &kept) == nil && len(kept.Outputs) == 1 {
		p.report.Outputs[i].Repairs = kept.Outputs[0].Repairs
	}
}
