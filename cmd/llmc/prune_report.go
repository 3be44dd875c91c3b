package main

import (
	"cmp"
	"fmt"

	"llmc/eval"
	"llmc/model"
	"llmc/prune"
)

// pruneReport is the document of "llmc prune --json".
type pruneReport struct {
	Model    string  `json:"model"`
	Output   string  `json:"output,omitempty"` // absent when nothing is written
	DryRun   bool    `json:"dry_run,omitempty"`
	Method   string  `json:"method"`
	Pattern  string  `json:"pattern"`
	Sparsity float64 `json:"sparsity_asked"`
	Steps    int     `json:"steps,omitempty"` // of pruning and fitting what stays
	ActOrder bool    `json:"act_order,omitempty"`

	Calibration *sampleReport     `json:"calibration,omitempty"`
	Allocation  *allocationReport `json:"allocation,omitempty"` // absent where it is uniform

	Weights int64 `json:"weights,omitempty"` // of the linears that are pruned
	Zeros   int64 `json:"zeros,omitempty"`
	Bytes   int64 `json:"bytes,omitempty"` // of all tensors
	// PackedBytes is what all tensors would take with a bit for every pruned
	// linear's weight and the values of those that are not zero.
	PackedBytes int64 `json:"packed_bytes,omitempty"`

	Tensors []prune.Result `json:"tensors,omitempty"`
	Eval    *eval.Report   `json:"eval,omitempty"`
}

// lasting is what a folder keeps of the report: what does not differ from run
// to run.
func (r *pruneReport) lasting() *pruneReport {
	kept := *r
	kept.Output, kept.Eval = "", nil
	return &kept
}

// add takes in what became of the tensors.
func (r *pruneReport) add(results []prune.Result, w *model.Weights) {
	r.Tensors = results
	for _, id := range w.Config.IDs() {
		r.Bytes += w.Bytes(id)
	}
	r.PackedBytes = r.Bytes
	for _, t := range results {
		r.Weights += int64(t.Weights)
		r.Zeros += int64(t.Zeros)
		each := w.Bytes(t.ID) / int64(max(t.Weights, 1))
		r.PackedBytes += int64(t.Weights)/8 - int64(t.Zeros)*each
	}
}

// printTable prints the zeros by role.
func (r *pruneReport) printTable(ui *ui) error {
	if len(r.Tensors) == 0 {
		return nil
	}
	type sums struct{ tensors, weights, before, zeros int }
	var order []string
	byRole := map[string]*sums{}
	for _, t := range r.Tensors {
		s := byRole[t.Role]
		if s == nil {
			s = &sums{}
			byRole[t.Role], order = s, append(order, t.Role)
		}
		s.tensors++
		s.weights += t.Weights
		s.before += t.Before
		s.zeros += t.Zeros
	}
	var rows [][]string
	for _, role := range order {
		s := byRole[role]
		share := func(n int) string { return percentString(float64(n) / float64(cmp.Or(s.weights, 1))) }
		rows = append(rows, []string{role, fmt.Sprint(s.tensors), countString(int64(s.weights)), share(s.before), share(s.zeros)})
	}
	if err := ui.table([]string{"role", "tensors", "weights", "zeros before", "after"}, rows, 0); err != nil {
		return err
	}
	if err := r.printAllocation(ui); err != nil {
		return err
	}
	uncovered := 0
	printPermuted(ui, r.Pattern, r.permuted())
	for _, t := range r.Tensors {
		if t.Solution.Fallback != "" {
			ui.print("%s was pruned by wanda: %s", t.Name, t.Solution.Fallback)
		}
		if t.Solution.Uncovered != "" {
			uncovered++
		}
	}
	if uncovered > 0 {
		ui.print("%d experts' linears were calibrated on all tokens: the router sent them too few", uncovered)
	}
	ui.print("\n%s, or %s with a bit for every pruned linear's weight and the others' values", bytesString(r.Bytes), bytesString(r.PackedBytes))
	return nil
}
