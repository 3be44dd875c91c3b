package main

import (
	"context"
	"fmt"
	"slices"

	"llmc/calibrate"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/prune"
)

// parseAllocation checks --allocate against the pattern and the method.
func (o *pruneOptions) parseAllocation(pattern prune.Pattern, method string) (prune.Allocation, error) {
	a, err := prune.ParseAllocation(o.allocate)
	switch {
	case err != nil:
		return a, fault.Usage("--allocate: %w", err)
	case a == prune.Global && method != "magnitude":
		return a, fault.Hint(fault.Usage("--allocate global compares weights alone, and the method is %s", method), "use --method magnitude, or --allocate owl")
	case a != prune.Uniform && pattern.Of > 0:
		return a, fault.Hint(fault.Usage("--allocate %s has nothing to choose with %s, which is as sparse everywhere", a, pattern), "leave one of them out")
	}
	return a, nil
}

// allocationReport says how the zeros were spread.
type allocationReport struct {
	Name prune.Allocation `json:"name"`
	// Outliers are OWL's: the percentage of products of weight and input in each
	// block that are more than five times their mean.
	Outliers []float64 `json:"outlier_percent,omitempty"`
}

// allocationNote is what journals call how zeros are spread.
const allocationNote = "allocation"

// keptAllocation is what a journal keeps of it.
type keptAllocation struct {
	Shares []prune.Share
	Report *allocationReport
}

// allocate spreads the zeros over the linears of a run, unless an unfinished one,
// which may be nil, has done so.
func allocate(ctx context.Context, global *globalOptions, run *prune.Run, a prune.Allocation, windows [][]int32, options calibrate.Options, u *unfinished) (*allocationReport, error) {
	var kept keptAllocation
	if u != nil && u.journal.Noted(allocationNote, &kept) {
		global.ui.note("resuming: how zeros are spread is known")
		run.SetShares(kept.Shares)
		return kept.Report, nil
	}
	options.Save, options.Load, options.Journal, options.Final = nil, nil, nil, false
	options.Progress = func(done, total int64) { global.ui.progress("allocate", done, total) }
	outliers, err := run.Allocate(ctx, global.newDevice(), a, windows, options)
	global.ui.closeProgress()
	if err != nil {
		return nil, err
	}
	report := &allocationReport{a, outliers}
	if u != nil {
		err = u.journal.Note(allocationNote, keptAllocation{run.Shares(), report})
	}
	return report, err
}

// printAllocation prints the share of zeros of every linear, a line for each
// block.
func (r *pruneReport) printAllocation(ui *ui) error {
	if r.Allocation == nil {
		return nil
	}
	header := []string{"block"}
	var rows [][]string
	type place struct{ block, column int }
	weights, zeros := map[place]int{}, map[place]int{} // experts together
	for _, t := range r.Tensors {
		if !slices.Contains(header, t.Role) {
			header = append(header, t.Role)
		}
		at := place{t.ID.Block, slices.Index(header, t.Role)}
		weights[at] += t.Weights
		zeros[at] += t.Zeros
		for len(rows) <= t.ID.Block {
			rows = append(rows, []string{fmt.Sprint(len(rows))})
		}
	}
	for block := range rows {
		for column := range header[1:] {
			cell, at := "", place{block, column + 1}
			if weights[at] > 0 {
				cell = fmt.Sprintf("%.1f%%", 100*float64(zeros[at])/float64(weights[at]))
			}
			rows[block] = append(rows[block], cell)
		}
	}
	if r.Allocation.Outliers != nil {
		header = append(header, "outliers")
		for block := range rows {
			rows[block] = append(rows[block], fmt.Sprintf("%.2f%%", r.Allocation.Outliers[block]))
		}
	}
	ui.print("\nzeros as %s spread them:", r.Allocation.Name)
	return ui.table(header, rows)
}

// permutedReport is what other orders of the inputs of a role were worth.
type permutedReport struct {
	Role string `json:"role"`
	prune.Permuted
}

// permutedMeans sums it up, by role.
type permutedMeans map[model.Role]*permutedSum

type permutedSum struct {
	prune.Permuted
	n float64
}

func (m permutedMeans) add(role model.Role, p prune.Permuted) {
	if m[role] == nil {
		m[role] = &permutedSum{}
	}
	sum := m[role]
	sum.Before += p.Before
	sum.After += p.After
	sum.n++
}

func (m permutedMeans) list() (list []permutedReport) {
	for _, role := range []model.Role{model.O, model.Down} {
		if sum := m[role]; sum != nil {
			list = append(list, permutedReport{role.String(), prune.Permuted{Before: sum.Before / sum.n, After: sum.After / sum.n}})
		}
	}
	return list
}

// printPermuted says what other orders of inputs were worth.
func printPermuted(ui *ui, pattern string, list []permutedReport) {
	for _, r := range list {
		ui.print("inputs of %s put into another order: %s keeps at most %s of the scores, %s before", r.Role, pattern,
			percentString(r.After), percentString(r.Before))
	}
}

// permuted sums up what the tensors say.
func (r *pruneReport) permuted() []permutedReport {
	means := permutedMeans{}
	for _, t := range r.Tensors {
		if t.Permuted != nil {
			means.add(t.ID.Role, *t.Permuted)
		}
	}
	return means.list()
}
