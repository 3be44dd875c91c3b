package structured

import (
	"math"
	"slices"

	"llmc/internal/solve"
	"llmc/kernels"
)

// elimination takes units out of the inputs of a linear, those first without
// which its output changes least once the others have made up for them: the
// optimal brain surgeon for whole columns (section 3 of arXiv 2302.04089).
type elimination struct {
	cpu  *kernels.CPU
	size int             // columns of a unit
	w    *kernels.Tensor // [rows, cols] as the columns that are left make up for the others
	g    *kernels.Tensor // [cols, cols] the inverse of the damped Hessian of those that are left
	left []int           // units, ascending
	lost float64         // ‖(W-w) X‖² so far
}

// eliminate returns what the output error ‖(W-W')X‖² relative to ‖WX‖² comes to
// when a unit goes after all those with less; w [rows, cols] has units of so many
// columns, hessian is X Xᵀ. Units are ranked until least are left. damping is
// the share of the Hessian's mean diagonal that was added.
func eliminate(w []float32, rows int, hessian []float32, cols, size, least int, damp float64, threads int) (scores []float64, damping float64, err error) {
	f, err := solve.FactorHessian(hessian, cols, nil, damp, threads)
	if err != nil {
		return nil, 0, err
	}
	cpu := kernels.NewCPU(threads)
	defer cpu.Close()
	e := &elimination{cpu: cpu, size: size, w: cpu.NewTensor(rows, cols), g: cpu.NewTensor(cols, cols)}
	copy(e.w.Data, w)
	for at := range e.w.Data {
		if c := at % cols; hessian[c*cols+c] == 0 {
			e.w.Data[at] = 0 // nothing is lost with it
		}
	}
	upper := kernels.NewBlock(f.Upper, cols, cols)
	cpu.Update(kernels.Update{Dst: kernels.NewBlock(e.g.Data, cols, cols), Alpha: 1, A: upper, TransA: true, B: upper})
	for u := range cols / size {
		e.left = append(e.left, u)
	}
	whole := energy(w, rows, hessian, cols, threads)
	scores = make([]float64, cols/size)
	for len(e.left) > least {
		costs := e.costs()
		batch := e.choose(costs, len(e.left)-least)
		for _, at := range batch {
			e.lost += costs[at]
			scores[e.left[at]] = e.lost / whole
		}
		e.remove(batch)
	}
	for i, cost := range e.costs() {
		scores[e.left[i]] = (e.lost + cost) / whole
	}
	return scores, f.Damping, nil
}

// energy is ‖WX‖², 1 if that is 0.
func energy(w []float32, rows int, hessian []float32, cols, threads int) float64 {
	out := solve.NewOutputs(hessian, cols, threads)
	defer out.Close()
	x := out.CPU.NewTensor(rows, cols)
	copy(x.Data, w)
	if sum := out.Energy(x); sum > 0 {
		return sum
	}
	return 1
}

// costs is by how much the squared error grows without each unit that is left.
func (e *elimination) costs() []float64 {
	costs := make([]float64, len(e.left))
	if e.size > 1 {
		for i, u := range e.left {
			costs[i] = e.groupCost(u)
		}
		return costs
	}
	squares := make([]float64, e.w.Cols)
	for r := range e.w.Rows {
		for c, v := range e.w.Data[r*e.w.Cols:][:e.w.Cols] {
			squares[c] += float64(v) * float64(v)
		}
	}
	for i, u := range e.left {
		costs[i] = squares[u] / max(float64(e.g.Data[u*e.g.Cols+u]), math.SmallestNonzeroFloat32)
	}
	return costs
}

// groupCost is tr(w_S (G_SS)⁻¹ w_Sᵀ) for the columns S of a unit.
func (e *elimination) groupCost(unit int) float64 {
	columns := e.columns([]int{unit})
	x := e.cpu.NewTensor(len(columns), e.w.Rows)
	defer e.cpu.Free(x)
	for i, c := range columns {
		for r := range e.w.Rows {
			x.Data[i*x.Cols+r] = e.w.Data[r*e.w.Cols+c]
		}
	}
	if !e.solve(columns, kernels.NewBlock(x.Data, x.Rows, x.Cols)) {
		return math.Inf(1)
	}
	sum := 0.0
	for i, c := range columns {
		for r := range e.w.Rows {
			sum += float64(x.Data[i*x.Cols+r]) * float64(e.w.Data[r*e.w.Cols+c])
		}
	}
	return max(sum, 0)
}

// solve sets b to (G_SS)⁻¹ b, and reports whether that can be.
func (e *elimination) solve(columns []int, b kernels.Block) bool {
	n := len(columns)
	square := kernels.NewBlock(make([]float32, n*n), n, n)
	for i, r := range columns {
		for j, c := range columns {
			square.Row(i)[j] = e.g.Data[r*e.g.Cols+c]
		}
	}
	if !solve.Cholesky(e.cpu, square) {
		return false
	}
	solve.Solve(e.cpu, square, b)
	return true
}

func (e *elimination) columns(units []int) []int {
	var list []int
	for _, u := range units {
		for i := range e.size {
			list = append(list, u*e.size+i)
		}
	}
	return list
}

// How many columns go at a time at the most, as a share of those that are left,
// and how much two of them may have to do with each other: the square of their
// partial correlation.
const (
	batchShare   = 1. / 64
	independence = 0.05
)

// choose returns indices into e.left: the unit that costs least, and those that
// cost little more and hardly make up for one already chosen.
func (e *elimination) choose(costs []float64, most int) []int {
	order := make([]int, len(costs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case costs[a] < costs[b]:
			return -1
		case costs[a] > costs[b]:
			return 1
		}
		return 0
	})
	if e.size > 1 {
		return order[:1]
	}
	most = min(most, max(int(batchShare*float64(len(order))), 1))
	var batch []int
	for _, at := range order[:min(len(order), 4*most)] {
		if len(batch) == most {
			break
		}
		if !slices.ContainsFunc(batch, func(b int) bool { return e.related(e.left[at], e.left[b]) }) {
			batch = append(batch, at)
		}
	}
	return batch
}

func (e *elimination) related(a, b int) bool {
	n := e.g.Cols
	v := float64(e.g.Data[a*n+b])
	return v*v > independence*float64(e.g.Data[a*n+a])*float64(e.g.Data[b*n+b])
}

// remove takes units out and lets the others make up for them:
// w -= w_S (G_SS)⁻¹ G_S, G -= G_Sᵀ (G_SS)⁻¹ G_S.
func (e *elimination) remove(batch []int) {
	var units []int
	for _, at := range batch {
		units = append(units, e.left[at])
	}
	columns := e.columns(units)
	n, rows := e.g.Cols, e.w.Rows
	ours := kernels.NewBlock(make([]float32, len(columns)*n), len(columns), n)
	for i, c := range columns {
		copy(ours.Row(i), e.g.Data[c*n:][:n])
	}
	step := kernels.NewBlock(slices.Clone(ours.Data), len(columns), n)
	if e.solve(columns, step) {
		lost := kernels.NewBlock(make([]float32, rows*len(columns)), rows, len(columns))
		for r := range rows {
			for i, c := range columns {
				lost.Row(r)[i] = e.w.Data[r*n+c]
			}
		}
		e.cpu.Update(kernels.Update{Dst: kernels.NewBlock(e.w.Data, rows, n), Alpha: -1, A: lost, B: step})
		e.cpu.Update(kernels.Update{Dst: kernels.NewBlock(e.g.Data, n, n), Alpha: -1, A: ours, TransA: true, B: step})
	}
	for _, c := range columns {
		for r := range rows {
			e.w.Data[r*n+c] = 0
		}
		for i := range n {
			e.g.Data[c*n+i], e.g.Data[i*n+c] = 0, 0
		}
		e.g.Data[c*n+c] = 1
	}
	e.left = slices.DeleteFunc(e.left, func(u int) bool { return slices.Contains(units, u) })
}
