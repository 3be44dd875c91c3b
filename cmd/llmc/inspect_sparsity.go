package main

import (
	"context"
	"fmt"
	"strings"

	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
)

// sparsityInfo is what is zero in one matrix.
type sparsityInfo struct {
	Name     string   `json:"name"`
	Weights  int      `json:"weights"`
	Zeros    int      `json:"zeros"`
	Share    float64  `json:"share"`
	Patterns []string `json:"patterns,omitempty"` // that hold: 2:4, 4:8
}

// nmPatterns are what engines and processors know: at most n of m neighbours of
// a row are not zero.
var nmPatterns = []struct {
	name string
	n, m int
}{{"2:4", 2, 4}, {"4:8", 4, 8}}

// readSparsity counts exact zeros in every matrix, which reads all weights.
func readSparsity(ctx context.Context, ui *ui, w *model.Weights) ([]sparsityInfo, error) {
	defer ui.closeProgress()
	var list []sparsityInfo
	ids := w.Config.IDs()
	for at, id := range ids {
		if !id.Role.IsMatrix() || id.Bias {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := w.Matrix(id)
		if err != nil {
			return nil, err
		}
		info := countZeros(m)
		info.Name = w.Config.Family.TensorName(w.Kind, id)
		if w.Kind == formats.GGUF && id.Expert != model.NoExpert {
			info.Name += fmt.Sprintf("[%d]", id.Expert.Index()) // of one tensor
		}
		list = append(list, info)
		w.Release(id)
		ui.progress("read", int64(at+1), int64(len(ids)))
	}
	return list, nil
}

// countZeros counts the zeros of a matrix and finds the patterns that hold.
func countZeros(m kernels.Matrix) sparsityInfo {
	rows, cols := m.Shape()
	info := sparsityInfo{Weights: rows * cols}
	holds := make([]bool, len(nmPatterns))
	for i, p := range nmPatterns {
		holds[i] = cols%p.m == 0
	}
	row := make([]float32, cols)
	for r := range rows {
		m.Row(row, r)
		for _, v := range row {
			if v == 0 {
				info.Zeros++
			}
		}
		for i, p := range nmPatterns {
			holds[i] = holds[i] && rowHolds(row, p.n, p.m)
		}
	}
	info.Share = float64(info.Zeros) / float64(info.Weights)
	for i, p := range nmPatterns {
		if holds[i] {
			info.Patterns = append(info.Patterns, p.name)
		}
	}
	return info
}

// rowHolds reports whether of every m neighbours at most n are not zero.
func rowHolds(row []float32, n, m int) bool {
	for at := 0; at < len(row); at += m {
		kept := 0
		for _, v := range row[at:][:m] {
			if v != 0 {
				kept++
			}
		}
		if kept > n {
			return false
		}
	}
	return true
}

func printSparsity(ui *ui, list []sparsityInfo) error {
	var rows [][]string
	for _, s := range list {
		rows = append(rows, []string{s.Name, fmt.Sprint(s.Weights), percentString(s.Share), strings.Join(s.Patterns, " ")})
	}
	ui.print("")
	return ui.table([]string{"matrix", "weights", "zeros", "patterns"}, rows, 0, 3)
}
