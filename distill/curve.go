package distill

import (
	"encoding/csv"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Sparkline draws numbers as a line of width blocks of eight heights, each the
// mean of as many neighbours.
func Sparkline(values []float64, width int) string {
	values = thin(values, width)
	if len(values) == 0 {
		return ""
	}
	const blocks = "▁▂▃▄▅▆▇█"
	least, most := slices.Min(values), slices.Max(values)
	var line strings.Builder
	for _, v := range values {
		height := 0
		if most > least {
			height = int((v - least) / (most - least) * 7.999)
		}
		line.WriteRune([]rune(blocks)[height])
	}
	return line.String()
}

// thin replaces neighbours by their mean until at most n values are left.
func thin(values []float64, n int) []float64 {
	n = min(n, len(values))
	out := make([]float64, 0, n)
	for i := range n {
		part := values[i*len(values)/n : (i+1)*len(values)/n]
		sum := 0.0
		for _, v := range part {
			sum += v
		}
		out = append(out, sum/float64(len(part)))
	}
	return out
}

// WriteCSV writes a loss curve as a table: one line for each step, with the
// loss on held-out text where it was measured. That of step 0 is before
// training.
func WriteCSV(w io.Writer, curve []Point, evaluations []Evaluation) error {
	heldOut := map[int]string{}
	number := func(x float64) string { return strconv.FormatFloat(x, 'g', 8, 64) }
	for _, e := range evaluations {
		heldOut[e.Step] = number(e.NLL)
	}
	out := csv.NewWriter(w)
	rows := [][]string{{"step", "loss", "divergence", "cross_entropy", "learning_rate", "gradient_norm", "held_out_nll"}}
	if v, ok := heldOut[0]; ok {
		rows = append(rows, []string{"0", "", "", "", "", "", v})
	}
	for _, p := range curve {
		rows = append(rows, []string{
			strconv.Itoa(p.Step), number(p.Loss), number(p.Divergence), number(p.CrossEntropy), number(p.Rate), number(p.Norm), heldOut[p.Step],
		})
	}
	if err := out.WriteAll(rows); err != nil {
		return err
	}
	out.Flush()
	return out.Error()
}
