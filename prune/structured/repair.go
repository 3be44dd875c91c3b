package structured

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"

	"llmc/calibrate"
	"llmc/dtype"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model"
)

// Repair says what was done to one linear whose inputs were cut.
type Repair struct {
	ID model.ID `json:"-"`
	// Cut is the error of the linear's output on the calibration text without
	// its cut inputs, relative to the output; Repaired is that of the weights that
	// were fitted to make up for them, as they are stored.
	Cut      float64 `json:"error_cut"`
	Repaired float64 `json:"error_repaired,omitempty"`
	// Used is whether they are used: where they lower the error.
	Used    bool    `json:"used"`
	Damping float64 `json:"damping,omitempty"` // the share of the Hessian's mean diagonal that was added
	Reason  string  `json:"reason,omitempty"`  // why nothing was fitted
}

// fold returns the weights of the kept columns of w [rows, cols] that make the
// output on the inputs behind the Hessian h [cols, cols] change least when the
// others go: W_K + W_R H_RK (H_KK + damping)⁻¹, which is W H_:K H_KK⁻¹ without
// damping, and W_K where nothing is removed.
func fold(w []float32, rows, cols int, h []float32, kept []int, damp float64, threads int) (folded []float32, damping float64, err error) {
	n := len(kept)
	var removed []int
	for c := range cols {
		if _, ok := slices.BinarySearch(kept, c); !ok {
			removed = append(removed, c)
		}
	}
	own, others := columns(w, rows, cols, kept), columns(w, rows, cols, removed)
	if len(removed) == 0 {
		return own, 0, nil
	}
	square := make([]float32, 0, n*n)
	cross := make([]float32, 0, n*len(removed)) // H_KR
	for _, r := range kept {
		row := h[r*cols:][:cols]
		for _, c := range kept {
			square = append(square, row[c])
		}
		for _, c := range removed {
			cross = append(cross, row[c])
		}
	}
	lost := multiply(others, rows, len(removed), cross, n, threads)
	gain, damping, err := solve.Ridge(square, n, damp, lost, rows, threads)
	if err != nil {
		return nil, 0, err
	}
	for i, v := range gain {
		own[i] += v
	}
	return own, damping, nil
}

// columns returns some columns of w [rows, cols].
func columns(w []float32, rows, cols int, list []int) []float32 {
	out := make([]float32, 0, rows*len(list))
	for r := range rows {
		row := w[r*cols:][:cols]
		for _, c := range list {
			out = append(out, row[c])
		}
	}
	return out
}

// multiply returns a [rows, k] times the transpose of b [n, k].
func multiply(a []float32, rows, k int, b []float32, n, threads int) []float32 {
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	x, y := cpu.NewTensor(rows, k), cpu.NewTensor(rows, n)
	copy(x.Data, a)
	cpu.MatMul(y, x, cpu.Load(kernels.FromFloat32s(n, k, b)))
	return y.Data
}

// spread puts the kept columns [rows, len(kept)] back where they were among
// cols, with zeros for those that are gone, and stores them as t.
func spread(folded []float32, rows, cols int, kept []int, t dtype.Type) (*kernels.Dense, error) {
	row := make([]float32, cols)
	size := cols * t.BlockBytes()
	data := make([]byte, rows*size)
	for r := range rows {
		for i, c := range kept {
			row[c] = folded[r*len(kept)+i]
		}
		if err := dtype.Encode(data[r*size:][:size], row, t); err != nil {
			return nil, err
		}
	}
	return kernels.NewDense(rows, cols, t, data)
}

// repair replaces a linear of w by one that is zero where its inputs are cut,
// fitted to make up for them where that helps.
func repair(w *model.Weights, id model.ID, kept []int, in *calibrate.Inputs, o Options) (Repair, error) {
	report := Repair{ID: id}
	m, err := w.Matrix(id)
	if err != nil {
		return report, err
	}
	rows, cols := m.Shape()
	t := w.Stored(id)["weight"].Type
	values := kernels.Float32s(m)
	plain, err := spread(columns(values, rows, cols, kept), rows, cols, kept, t)
	if err != nil {
		return report, err
	}
	report.Cut = outputError(m, plain, in.Hessian, o.Threads)
	w.Replace(id, plain)
	folded, damping, err := fold(values, rows, cols, in.Hessian, kept, o.Damp, o.Threads)
	if errors.Is(err, solve.ErrZero) || errors.Is(err, solve.ErrIndefinite) {
		report.Reason = err.Error()
		return report, nil
	}
	if err != nil {
		return report, err
	}
	report.Damping = damping
	fitted, err := spread(folded, rows, cols, kept, t)
	if err != nil {
		return report, err
	}
	report.Repaired = outputError(m, fitted, in.Hessian, o.Threads)
	if report.Repaired < report.Cut {
		report.Used = true
		w.Replace(id, fitted)
	}
	return report, nil
}

// outputError returns ‖(W-Q)X‖ / ‖WX‖, 0 when the output is zero.
func outputError(w, q kernels.Matrix, hessian []float32, threads int) float64 {
	rows, whole := solve.OutputErrors(w, q, hessian, threads)
	sum := 0.0
	for _, e := range rows {
		sum += e
	}
	if whole == 0 {
		return 0
	}
	return math.Sqrt(sum / whole)
}

// Options are how [Apply] works.
type Options struct {
	Repair  bool    // fit what stays to make up for what goes
	Damp    float64 // share of a Hessian's mean diagonal added to it; 0 means solve.DefaultDamp
	Threads int     // 0 means one per core; the result does not depend on it
}

// Apply returns what a cut leaves of w. With o.Repair windows of token ids are
// taken through the model, block by block, and the linears that lose inputs are
// fitted anew to their old outputs (the least squares of section 3.2 of arXiv
// 2210.17323 for whole columns), each on what the blocks before it have become:
// o for heads, down for neurons. w itself stays as it is.
func Apply(ctx context.Context, dev kernels.Device, w *model.Weights, cut *model.Cut, windows [][]int32, o Options, walk calibrate.Options) (*model.Weights, []Repair, error) {
	if !o.Repair || cut.Heads == nil && cut.Neurons == nil {
		out, err := w.Cut(cut)
		return out, nil, err
	}
	masked, err := w.Cut(&model.Cut{}) // what is replaced in it leaves w alone
	if err != nil {
		return nil, nil, err
	}
	repairs := map[int][]Repair{} // by block
	visit := func(_ context.Context, block int, roles []model.Role, in *calibrate.Inputs) error {
		kept := inputs(&w.Config, cut, roles[0], block)
		if kept == nil {
			return nil
		}
		r, err := repair(masked, model.ID{Role: roles[0], Block: block}, kept, in, o)
		repairs[block] = append(repairs[block], r)
		return err
	}
	walk.Hessian = true
	walk.Save = func(block int) (any, error) { return repairs[block], nil }
	walk.Load = func(block int, saved []byte) error {
		var kept []Repair
		if err := json.Unmarshal(saved, &kept); err != nil {
			return err
		}
		for i := range kept {
			kept[i].ID = model.ID{Role: repaired(cut), Block: block}
		}
		repairs[block] = kept
		return nil
	}
	if err := calibrate.Walk(ctx, dev, masked, windows, walk, visit); err != nil {
		return nil, nil, err
	}
	var all []Repair
	for b := range w.Config.Blocks {
		all = append(all, repairs[b]...)
	}
	out, err := masked.Cut(cut)
	return out, all, err
}

// repaired is the linear of a block that loses inputs.
func repaired(cut *model.Cut) model.Role {
	if cut.Heads != nil {
		return model.O
	}
	return model.Down
}

// inputs lists the inputs of a linear that a cut leaves, nil for all.
func inputs(c *model.Config, cut *model.Cut, role model.Role, block int) []int {
	switch {
	case role == model.Down && cut.Neurons != nil:
		return cut.Neurons[block]
	case role == model.O && cut.Heads != nil:
		var list []int
		for _, h := range cut.Heads[block] {
			for i := range c.HeadDim {
				list = append(list, h*c.HeadDim+i)
			}
		}
		return list
	}
	return nil
}
