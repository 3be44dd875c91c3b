package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"llmc/eval"
	"llmc/prune/structured"
)

// structuredReport is the document of "llmc prune --structured --json".
type structuredReport struct {
	Model       string             `json:"model"`
	DryRun      bool               `json:"dry_run,omitempty"`
	Structured  string             `json:"structured"`
	Unit        string             `json:"unit"`
	Units       int                `json:"units"` // before, of every block or of the model
	Parameters  int64              `json:"parameters"`
	Bytes       int64              `json:"bytes"` // of the tensors
	Repair      bool               `json:"repair"`
	RankedBy    string             `json:"ranked_by"`
	Notes       []string           `json:"notes,omitempty"`
	Calibration *sampleReport      `json:"calibration,omitempty"`
	Importance  [][]float64        `json:"importance,omitempty"` // by block and unit, or by unit
	Outputs     []structuredOutput `json:"outputs"`
	Eval        *eval.Report       `json:"eval,omitempty"`
}

// structuredOutput is one size.
type structuredOutput struct {
	Output     string         `json:"output,omitempty"` // absent when nothing is written
	Left       int            `json:"left"`             // units
	Parameters int64          `json:"parameters"`
	Bytes      int64          `json:"bytes"`
	Layers     []int          `json:"layers,omitempty"` // that are left, by their old numbers
	Repairs    []repairReport `json:"repairs,omitempty"`
}

type repairReport struct {
	Name string `json:"name"`
	structured.Repair
}

// lasting is what a folder keeps of the report: what is said of its own size,
// and what does not differ from run to run.
func (r *structuredReport) lasting(i int) *structuredReport {
	kept := *r
	own := r.Outputs[i]
	own.Output = ""
	kept.Outputs, kept.Eval = []structuredOutput{own}, nil
	return &kept
}

// print prints what was done, or would be.
func (r *structuredReport) print(ui *ui) error {
	if err := ui.document(r); err != nil {
		return err
	}
	repaired := slices.ContainsFunc(r.Outputs, func(o structuredOutput) bool { return len(o.Repairs) > 0 })
	header := []string{r.Unit, "removed", "parameters", "size"}
	if repaired {
		header = append(header, "error", "repaired")
	}
	header = append(header, "output")
	row := []string{fmt.Sprint(r.Units), "", countString(r.Parameters), bytesString(r.Bytes)}
	if repaired {
		row = append(row, "", "")
	}
	rows := [][]string{append(row, "")}
	for _, o := range r.Outputs {
		row := []string{fmt.Sprint(o.Left), percentString(1 - float64(o.Left)/float64(r.Units)), countString(o.Parameters), bytesString(o.Bytes)}
		if repaired {
			cut, fitted := o.errors()
			row = append(row, percentString(cut), percentString(fitted))
		}
		rows = append(rows, append(row, o.Output))
	}
	if err := ui.table(header, rows, len(header)-1); err != nil {
		return err
	}
	if repaired {
		ui.print("\nerror: how far the residual stream is from the whole model's, relative to its size, on the calibration text")
	}
	for _, o := range r.Outputs {
		if o.Layers != nil {
			ui.print("\nlayers that are left: %s", strings.Trim(fmt.Sprint(o.Layers), "[]"))
		}
		switch {
		case r.DryRun && o.Output != "":
			ui.print("would be written to %s", o.Output)
		case o.Output != "":
			ui.print("written to %s, read back and compared", o.Output)
		default:
			ui.print("nothing is written without -o")
		}
	}
	if r.Eval == nil {
		return nil
	}
	ui.print("")
	return printReport(ui, r.Eval)
}

// errors are the mean errors after the linears, before and after their repair.
func (o *structuredOutput) errors() (cut, repaired float64) {
	for _, r := range o.Repairs {
		cut += r.Cut
		if r.Used {
			repaired += r.Repaired
		} else {
			repaired += r.Cut
		}
	}
	n := math.Max(float64(len(o.Repairs)), 1)
	return cut / n, repaired / n
}
