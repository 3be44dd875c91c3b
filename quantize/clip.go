package quantize

import (
	"context"

	"llmc/internal/fault"
	"llmc/kernels"
)

// The ranges that AWQ's authors try: 100%, 95%, ... 55% of the largest
// magnitude.
const (
	outputClipSteps  = 20
	outputClipTrials = 10
)

// clipOutput rounds to nearest in ranges that make the output of each group by
// itself, on the calibration inputs, most like what it was (section 3.2 of the
// AWQ authors' code, their auto_clip). Numbers outside a range become its end.
func clipOutput(ctx context.Context, l Layer, s Scheme, threads int) (*kernels.Groups, error) {
	rows, cols := l.Weight.Shape()
	if s.GroupSize > cols {
		s.GroupSize = cols
	}
	c := &clipper{scheme: s, threads: threads, rows: rows, cols: cols, cpu: kernels.NewCPU(threads)}
	defer c.cpu.Close()
	c.weights = make([]float32, rows*cols)
	for r := range rows {
		l.Weight.Row(c.weights[r*cols:][:cols], r)
	}
	out := newGroups(rows, cols, s)
	groups := s.groups(cols)
	grids := make([]Grid, rows*groups)
	for g := range groups {
		lo := g * out.GroupSize
		hi := min(lo+out.GroupSize, cols)
		best, err := c.group(ctx, lo, hi, l.Inputs.Hessian)
		if err != nil {
			return nil, err
		}
		for r, grid := range best {
			grids[r*groups+g] = grid
		}
	}
	err := eachRow(ctx, threads, rows, cols, func(r int, _ []float32, codes []uint8) error {
		for i, v := range c.weights[r*cols:][:cols] {
			codes[i] = grids[r*groups+i/out.GroupSize].Code(v)
		}
		out.SetRow(r, codes)
		return nil
	})
	for i, grid := range grids {
		out.Scales[i] = grid.Scale
		if out.Zeros != nil {
			out.Zeros[i] = grid.Zero
		}
	}
	return out, err
}

// clipper searches the ranges of one layer.
type clipper struct {
	scheme     Scheme
	threads    int
	rows, cols int
	cpu        *kernels.CPU
	weights    []float32 // [rows, cols]
}

// group chooses for every row the grid of the columns lo to hi-1. What other
// groups make of the output is taken as given.
func (c *clipper) group(ctx context.Context, lo, hi int, hessian []float32) ([]Grid, error) {
	n := hi - lo
	part := make([]float32, n*n)
	for i := range n {
		copy(part[i*n:][:n], hessian[(lo+i)*c.cols+lo:])
	}
	h := c.cpu.Load(kernels.FromFloat32s(n, n, part))
	errors, product := c.cpu.NewTensor(c.rows, n), c.cpu.NewTensor(c.rows, n)
	defer c.cpu.Free(errors)
	defer c.cpu.Free(product)
	trial, best := make([]Grid, c.rows), make([]Grid, c.rows)
	least := make([]float64, c.rows)
	for i := range outputClipTrials {
		shrink := 1 - float32(i)/outputClipSteps
		err := eachRow(ctx, c.threads, c.rows, n, func(r int, _ []float32, _ []uint8) error {
			x := c.weights[r*c.cols:][lo:hi]
			grid, err := c.scheme.shrunkGrid(x, shrink)
			if err != nil {
				return fault.Invalid("row %d %w", r, err)
			}
			trial[r] = grid
			for j, v := range x {
				errors.Data[r*n+j] = grid.Value(grid.Code(v)) - v
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		c.cpu.MatMul(product, errors, h)
		for r := range c.rows {
			sum := 0.0
			for j, v := range errors.Data[r*n:][:n] {
				sum += float64(v) * float64(product.Data[r*n+j])
			}
			if i == 0 || sum < least[r] {
				least[r], best[r] = sum, trial[r]
			}
		}
	}
	return best, nil
}

// shrunkGrid is the grid of x with all magnitudes limited to a share of the
// largest.
func (s Scheme) shrunkGrid(x []float32, share float32) (Grid, error) {
	whole, err := FitGrid(s, ClipNone, x, nil)
	if err != nil || share == 1 {
		return whole, err
	}
	lo, hi := float32(0), float32(0)
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	limit := share * max(-lo, hi)
	return s.rangeGrid(max(lo, -limit), min(hi, limit)), nil
}
