package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"llmc/eval"
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/export"
	"llmc/quantize"
)

// quantizeReport is the document of "llmc quantize --json".
type quantizeReport struct {
	Model  string `json:"model"`
	Output string `json:"output,omitempty"` // absent when nothing is written
	DryRun bool   `json:"dry_run,omitempty"`

	Format string `json:"format"`
	Scheme string `json:"scheme"` // the mix, or bits, group and symmetry of most linears
	Method string `json:"method"`
	Clip   string `json:"clip"`
	// Pattern is where zeros were put in the same pass.
	Pattern string `json:"pattern,omitempty"`
	// ZerosBy is how they were spread over the linears, absent where evenly.
	ZerosBy *allocationReport `json:"zeros_allocation,omitempty"`
	// Permuted is what other orders of inputs were worth.
	Permuted []permutedReport `json:"permuted,omitempty"`
	// Activations is how the output has engines round activations, Smooth the
	// alpha of SmoothQuant; absent where they do not, and without it.
	Activations string  `json:"activations,omitempty"`
	Smooth      float64 `json:"smooth,omitempty"`

	Parameters    int64   `json:"parameters"`
	BytesBefore   int64   `json:"bytes_before"` // of all tensors
	BytesAfter    int64   `json:"bytes_after"`
	BitsPerWeight float64 `json:"bits_per_weight"`
	FileBytes     int64   `json:"file_bytes,omitempty"` // of the output's weight files

	Notes       []string             `json:"notes,omitempty"`
	Importance  string               `json:"importance,omitempty"` // the importance matrix that weighed errors
	Calibration *calibrationReport   `json:"calibration,omitempty"`
	Allocation  *quantize.Allocation `json:"allocation,omitempty"` // of a search for each tensor's bits

	Engines  []quantize.Engine `json:"engines,omitempty"`  // what is known of who loads the output
	Forecast *forecast         `json:"forecast,omitempty"` // of a dry run

	Zeros *zerosReport `json:"zeros,omitempty"` // of a model that was pruned

	Counts  []quantize.Count `json:"counts"`
	Tensors []tensorReport   `json:"tensors"`
	Eval    *eval.Report     `json:"eval,omitempty"`
}

// tensorReport is one tensor of the plan, and what rounding did to it.
type tensorReport struct {
	Name     string `json:"name"`
	Role     string `json:"role"`
	Block    int    `json:"block"`            // -1 outside the blocks
	Expert   *int   `json:"expert,omitempty"` // of a mixture, from 0 on
	Shape    []int  `json:"shape"`
	From     string `json:"from"`
	To       string `json:"to"` // the same as From when it is kept
	Before   int64  `json:"bytes_before"`
	After    int64  `json:"bytes_after"`
	Reason   string `json:"reason"`
	Fallback bool   `json:"fallback,omitempty"`

	*quantize.Stats
	*quantize.Solution // absent without calibration

	Seconds float64 `json:"seconds,omitempty"` // that rounding it took; not in the report beside the output
}

// newReport fills in what the plan knows.
func (q *quantization) newReport(notes []string) quantizeReport {
	r := quantizeReport{
		Model: q.job.path, Output: q.job.out,
		Format: string(q.job.target), Scheme: q.job.policy.Mix.Name,
		Method: q.job.method.Name(), Pattern: q.job.pruner.name(), Clip: q.job.clip.String(),
		Parameters: q.plan.Elements(), BitsPerWeight: q.plan.BitsPerWeight(),
		Notes: notes, Counts: q.plan.Counts(),
	}
	switch {
	case q.job.found != nil:
		r.Scheme, r.Allocation = mixed, q.job.found
	case r.Scheme == "":
		r.Scheme = q.job.policy.Scheme.String()
	}
	if in := q.job.policy.Inputs; in.Bits > 0 {
		r.Activations = in.String()
	}
	if m, ok := q.job.method.(quantize.Smooth); ok {
		r.Smooth = m.Alpha
	}
	r.BytesBefore, r.BytesAfter = q.plan.Bytes()
	if q.out != nil {
		r.Engines = q.plan.Engines(q.job.target)
		r.BytesAfter = q.out.Bytes()
		r.BitsPerWeight = 8 * float64(r.BytesAfter) / float64(max(r.Parameters, 1))
	}
	for i := range q.plan.Entries {
		e := &q.plan.Entries[i]
		r.Tensors = append(r.Tensors, tensorReport{
			Name: e.Name, Role: e.ID.Role.String(), Block: e.ID.Block, Expert: expertIndex(e.ID), Shape: e.Shape,
			From: e.From, To: storedName(e), Before: e.Bytes, After: e.OutBytes,
			Reason: e.Reason, Fallback: e.Fallback,
		})
	}
	return r
}

// expertIndex is the index of the expert that a tensor belongs to, if it does.
func expertIndex(id model.ID) *int {
	if id.Expert == model.NoExpert {
		return nil
	}
	index := id.Expert.Index()
	return &index
}

// storedName is how a tensor is stored after the plan.
func storedName(e *quantize.Entry) string {
	if e.Kept() {
		return e.From
	}
	return e.To.String()
}

// finishReport adds what only a written output knows.
func (q *quantization) finishReport() error {
	c, err := formats.Open(q.job.out)
	if err != nil {
		return err
	}
	defer c.Close()
	q.report.FileBytes = c.Size()
	return nil
}

// addStats adds what rounding did to each tensor.
func (q *quantization) addStats() {
	results := map[*quantize.Entry]quantize.Result{}
	for _, result := range q.run.Results() {
		results[result.Entry] = result
	}
	for i := range q.report.Tensors {
		t := &q.report.Tensors[i]
		if result, ok := results[&q.plan.Entries[i]]; ok {
			t.Stats, t.Solution, t.Seconds = &result.Stats, result.Solution, result.Seconds
		}
	}
}

// printPlan prints what would be done.
func (q *quantization) printPlan(ui *ui) error {
	r := &q.report
	r.DryRun = true
	if err := ui.document(r); err != nil {
		return err
	}
	rows := make([][]string, len(r.Tensors))
	for i, t := range r.Tensors {
		rows[i] = []string{t.Name, fmt.Sprint(t.Shape), t.From, t.To, bytesString(t.After), t.Reason}
	}
	if err := ui.table([]string{"tensor", "shape", "from", "to", "size", "why"}, rows, 0, 1, 2, 3, 5); err != nil {
		return err
	}
	ui.print("")
	if err := q.printSummary(ui, "would be written to"); err != nil {
		return err
	}
	if r.Forecast != nil {
		ui.print("")
		r.Forecast.print(ui)
	}
	return nil
}

// store puts the report into the folder that was written, without what differs
// between two runs of one command, and into the file that was asked for.
func (q *quantization) store(o *quantizeOptions) error {
	if q.out != nil && q.job.target != quantize.GGUF {
		if err := writeReport(filepath.Join(q.job.out, export.ReportFile), q.report.lasting(), true); err != nil {
			return err
		}
	}
	if o.reportFile == "" {
		return nil
	}
	return writeReport(o.reportFile, &q.report, o.replaceReport)
}

// lasting is the report without times and memory.
func (r *quantizeReport) lasting() *quantizeReport {
	c := *r
	c.Tensors = slices.Clone(r.Tensors)
	for i := range c.Tensors {
		c.Tensors[i].Seconds = 0
	}
	if r.Eval != nil {
		e := *r.Eval
		e.PeakRSSBytes, e.Device = 0, ""
		c.Eval = &e
	}
	return &c
}

// writeReport writes a JSON document to a file, whole or not at all.
func writeReport(path string, document any, force bool) error {
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	f, err := raw.CreateFile(path, force)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(append(text, '\n')); err != nil {
		return err
	}
	return f.Commit()
}

// print prints what was done, and stores it.
func (q *quantization) print(ui *ui, o *quantizeOptions) error {
	q.addStats()
	q.countZeros()
	if err := q.store(o); err != nil {
		if q.out != nil {
			err = fmt.Errorf("the model is written, its report is not: %w", err)
		}
		return err
	}
	if err := ui.document(&q.report); err != nil {
		return err
	}
	if o.tensors {
		if err := q.report.printTensors(ui); err != nil {
			return err
		}
	}
	if err := q.printSummary(ui, "written to"); err != nil {
		return err
	}
	q.printReportPlace(ui, o)
	if q.report.Eval == nil {
		return nil
	}
	ui.print("")
	return printReport(ui, q.report.Eval)
}

// printReportPlace says where the report is: a folder has a place for it, a file
// has none.
func (q *quantization) printReportPlace(ui *ui, o *quantizeOptions) {
	switch {
	case o.reportFile != "":
		ui.print("report in %s", o.reportFile)
	case q.out == nil:
	case q.job.target == quantize.GGUF:
		ui.print("--report FILE keeps a report of every tensor, for which a GGUF file has no place")
	default:
		ui.print("report in %s", filepath.Join(q.job.out, export.ReportFile))
	}
}

// printSummary prints the plan by role, sizes, and the worst layers.
func (q *quantization) printSummary(ui *ui, written string) error {
	r := &q.report
	header := []string{"role", "stored as", "tensors", "before", "after"}
	measured := slices.ContainsFunc(r.Tensors, func(t tensorReport) bool { return t.Stats != nil })
	if measured {
		header = append(header, "error", "worst", "in block")
	}
	calibrated := measured && r.Calibration != nil && !q.job.gather
	solved := slices.ContainsFunc(r.Tensors, func(t tensorReport) bool { return t.Solution != nil && t.OutputError != nil })
	if solved {
		header = append(header, "output", "by rtn")
	}
	var rows [][]string
	for _, c := range r.Counts {
		row := []string{c.Role, c.Stored, fmt.Sprint(c.Tensors), bytesString(c.Before), bytesString(c.After)}
		if measured {
			row = append(row, r.errorsOf(c)...)
		}
		if solved {
			row = append(row, r.outputErrorsOf(c)...)
		}
		rows = append(rows, row)
	}
	if err := ui.table(header, rows, 0, 1); err != nil {
		return err
	}
	if measured {
		ui.print("\nerror: of the weights, relative to their size (Frobenius norms), by %s with clip %s", r.Method, r.Clip)
	}
	if calibrated {
		r.printCalibration(ui, solved)
	}
	if r.Activations != "" {
		ui.print("activations: %s, when the output is run", r.Activations)
	}
	if r.Allocation != nil {
		r.printAllocation(ui)
	}
	if r.Importance != "" {
		ui.print("errors were weighed by an importance matrix: %s", r.Importance)
	}
	ui.print("\n%s weights, %s before, %s after: %.2f bits per weight",
		countString(r.Parameters), bytesString(r.BytesBefore), bytesString(r.BytesAfter), r.BitsPerWeight)
	r.printZeros(ui)
	if r.Output == "" {
		ui.print("nothing is written without -o")
		return nil
	}
	size := ""
	if r.FileBytes > 0 {
		size = fmt.Sprintf(", %s, read back and compared", bytesString(r.FileBytes))
	}
	ui.print("%s %s as %s%s", written, r.Output, r.Format, size)
	r.printEngines(ui)
	return nil
}

// printEngines says who loads the output.
func (r *quantizeReport) printEngines(ui *ui) {
	for _, e := range r.Engines {
		switch {
		case !e.Loads:
			ui.print("not known to load in %s: %s", e.Name, e.Note)
		case e.Note != "":
			ui.print("loads in %s, %s", e.Name, e.Note)
		default:
			ui.print("loads in %s", e.Name)
		}
	}
}

// printTensors prints a line for every tensor that was rounded.
func (r *quantizeReport) printTensors(ui *ui) error {
	var rows [][]string
	for _, t := range r.Tensors {
		if t.Stats == nil {
			continue
		}
		row := []string{t.Name, t.To, percentString(t.RelativeError), "", "", "", fmt.Sprintf("%.2g s", t.Seconds)}
		if t.Solution != nil && t.OutputError != nil {
			row[3], row[4], row[5] = percentString(*t.OutputError), percentString(*t.RTNOutputError), fmt.Sprintf("%g", t.Damping)
		}
		rows = append(rows, row)
	}
	if err := ui.table([]string{"tensor", "stored as", "error", "output", "by rtn", "damping", "time"}, rows, 0, 1); err != nil {
		return err
	}
	ui.print("")
	return nil
}

// errorsOf returns the mean and the largest relative error of the tensors of
// a line of the summary, and the block that has it.
func (r *quantizeReport) errorsOf(c quantize.Count) []string {
	var matching []tensorReport
	sum := 0.0
	for _, t := range r.Tensors {
		if t.Role == c.Role && t.To == c.Stored && t.Stats != nil {
			matching = append(matching, t)
			sum += t.RelativeError
		}
	}
	if len(matching) == 0 {
		return []string{"", "", ""}
	}
	worst := slices.MaxFunc(matching, func(a, b tensorReport) int { return cmp.Compare(a.RelativeError, b.RelativeError) })
	block := ""
	if worst.Block >= 0 {
		block = fmt.Sprint(worst.Block)
	}
	return []string{percentString(sum / float64(len(matching))), percentString(worst.RelativeError), block}
}

// outputErrorsOf returns the mean output error of the tensors of a line of the
// summary, and round-to-nearest's.
func (r *quantizeReport) outputErrorsOf(c quantize.Count) []string {
	var own, rtn float64
	n := 0
	for _, t := range r.Tensors {
		if t.Role == c.Role && t.To == c.Stored && t.Solution != nil && t.OutputError != nil {
			own += *t.OutputError
			rtn += *t.RTNOutputError
			n++
		}
	}
	if n == 0 {
		return []string{"", ""}
	}
	return []string{percentString(own / float64(n)), percentString(rtn / float64(n))}
}

// printCalibration says what calibration was for, what the output errors are,
// and what did not go as asked for.
func (r *quantizeReport) printCalibration(ui *ui, solved bool) {
	c := r.Calibration
	if solved {
		ui.print("output: of the linears' outputs on %d samples of %d tokens, relative to their size; by rtn: if rounded to nearest",
			c.Samples, c.Context)
	} else {
		ui.print("calibrated on %d samples of %d tokens", c.Samples, c.Context)
	}
	if c.Compute != kernels.Exact.String() {
		ui.print("computed %s", kernels.Fast.Describe())
	}
	if r.Smooth > 0 {
		ui.print("channels were smoothed with alpha %g (SmoothQuant)", r.Smooth)
	}
	for _, t := range r.Tensors {
		if t.Solution != nil && t.Damping > c.Damp {
			ui.print("%s needed damping %g", t.Name, t.Damping)
		}
	}
	r.printReasons(ui, "calibrated on all tokens", func(s *quantize.Solution) string { return s.Uncovered })
	r.printReasons(ui, "rounded to nearest", func(s *quantize.Solution) string { return s.Fallback })
	r.printReasons(ui, "not scaled", func(s *quantize.Solution) string { return s.Unscaled })
}

// printReasons says of which linears the method gives a reason, and which; what
// is what happened to them.
func (r *quantizeReport) printReasons(ui *ui, what string, reason func(*quantize.Solution) string) {
	var reasons []string
	names := map[string][]string{}
	for _, t := range r.Tensors {
		if t.Solution == nil || reason(t.Solution) == "" {
			continue
		}
		why := reason(t.Solution)
		if names[why] == nil {
			reasons = append(reasons, why)
		}
		names[why] = append(names[why], t.Name)
	}
	for _, why := range reasons {
		if list := names[why]; len(list) == 1 {
			ui.print("%s was %s: %s", list[0], what, why)
		} else {
			ui.print("%d linears were %s, %s: %s, ...", len(list), what, why, list[0])
		}
	}
}

func percentString(v float64) string { return fmt.Sprintf("%.2f%%", 100*v) }
