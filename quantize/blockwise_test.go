package quantize

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"llmc/dtype"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/kernels/blocks"
)

// blockTypes are those that errors are spread through.
func blockTypes() (list []*blocks.Layout) {
	for t := range dtype.Type(255) {
		if l, ok := blocks.LayoutOf(t); ok {
			list = append(list, l)
		}
	}
	return list
}

// fedBack is a layer after its errors were spread, and its values.
func fedBack(t *testing.T, l *blocks.Layout, w f32Matrix, in *Inputs, threads int) (*blockLayer, []float32) {
	t.Helper()
	factor, err := solve.FactorHessian(in.Hessian, w.cols, nil, 0, threads)
	if err != nil {
		t.Fatal(err)
	}
	g := newBlockLayer(l, w.rows, w.cols, in.MeanSquare, threads)
	q := slices.Clone(w.data)
	if err := solve.Feedback(context.Background(), q, w.rows, w.cols, factor.Upper, blockPanel, threads, g); err != nil {
		t.Fatal(err)
	}
	return g, q
}

// TestBlocksEqualColumnByColumn compares with the equations of arXiv 2210.17323
// in float64: every weight goes to the nearest of all values of its sub-block,
// its error to the free columns through the inverse of what is left of the
// Hessian. Scales are those of ggml's search, read off its bytes.
func TestBlocksEqualColumnByColumn(t *testing.T) {
	const rows, cols = 6, 256
	w, in := randomMatrix(5, rows, cols), correlatedInputs(6, cols, 600)
	shares := slowShares(t, in.Hessian, cols)
	for _, l := range blockTypes() {
		t.Run(l.Type.String(), func(t *testing.T) {
			_, got := fedBack(t, l, w, in, 2)
			packed := make([]byte, cols/l.Size*l.Type.BlockBytes())
			b := l.NewBlock()
			differ := 0
			for r := range rows {
				if err := blocks.Quantize(l.Type, packed, w.data[r*cols:][:cols], cols, in.MeanSquare); err != nil {
					t.Fatal(err)
				}
				want := slowColumns(w.data[r*cols:][:cols], shares, func(c int, v float64) float64 {
					if c%l.Size == 0 {
						l.Unpack(b, packed[c/l.Size*l.Type.BlockBytes():])
					}
					scale, low := l.Grid(b, c%l.Size/l.Sub)
					nearest := math.Inf(1)
					for code := range l.Levels {
						if x := float64(l.Value(uint8(code), scale, low)); math.Abs(x-v) < math.Abs(nearest-v) {
							nearest = x
						}
					}
					return nearest
				})
				for c, v := range want {
					if float64(got[r*cols+c]) != v {
						differ++
						break // what follows carries another error
					}
				}
			}
			if differ > 1 { // float32 may fall on the other side of a middle
				t.Errorf("%d of %d rows differ", differ, rows)
			}
		})
	}
}

// slowShares returns how much of an error in each column the columns behind it
// take: its row of the inverse of what is left of the Hessian, over the diagonal.
func slowShares(t *testing.T, hessian []float32, n int) [][]float64 {
	t.Helper()
	h, mean := mat.NewDense(n, n, nil), 0.0
	for i := range n {
		mean += float64(hessian[i*n+i]) / float64(n)
	}
	for i := range n {
		for j := range n {
			h.Set(i, j, float64(hessian[i*n+j]))
		}
		h.Set(i, i, h.At(i, i)+DefaultDamp*mean)
	}
	var inverse mat.Dense
	if err := inverse.Inverse(h); err != nil {
		t.Fatal(err)
	}
	shares := make([][]float64, n)
	for c := range n {
		shares[c] = mat.Row(nil, c, &inverse)
		for j := range shares[c] {
			shares[c][j] /= inverse.At(c, c)
		}
		for i := c + 1; i < n; i++ {
			factor := inverse.At(i, c)
			for j := c + 1; j < n; j++ {
				inverse.Set(i, j, inverse.At(i, j)-factor*shares[c][j])
			}
		}
	}
	return shares
}

// slowColumns fixes a row column by column.
func slowColumns(row []float32, shares [][]float64, fix func(c int, v float64) float64) []float64 {
	w := make([]float64, len(row))
	for i, v := range row {
		w[i] = float64(v)
	}
	for c := range w {
		q := fix(c, w[c])
		e := w[c] - q
		for j := c + 1; j < len(w); j++ {
			w[j] -= e * shares[c][j]
		}
		w[c] = q
	}
	return w
}

// squaredError is (w-q) H (w-q)ᵀ over all rows in float64, H damped.
func squaredError(w, q, damped []float32, cols int) float64 {
	sum := 0.0
	for at := 0; at < len(w); at += cols {
		for i := range cols {
			d := float64(w[at+i]) - float64(q[at+i])
			for j := range cols {
				sum += d * float64(damped[i*cols+j]) * (float64(w[at+j]) - float64(q[at+j]))
			}
		}
	}
	return sum
}

// TestDescent refines layers of one panel and of several, and compares in
// float64: the error is smaller, and what is packed is what was computed with.
func TestDescent(t *testing.T) {
	inputs := map[int]*Inputs{}
	for _, cols := range []int{32, 256, 512} {
		inputs[cols] = correlatedInputs(8, cols, cols)
	}
	for _, l := range blockTypes() {
		for _, cols := range []int{l.Size, 512} {
			t.Run(fmt.Sprintf("%s/%d", l.Type, cols), func(t *testing.T) {
				w, in := randomMatrix(7, 4, cols), inputs[cols]
				g, q := fedBack(t, l, w, in, 1)
				factor := &solve.Factor{Damping: DefaultDamp}
				damped := dampedHessian(in.Hessian, cols, factor)
				before := squaredError(w.data, q, damped, cols)
				d := &descent{layer: g, hessian: damped, w: w.data, q: q}
				if err := d.refine(context.Background()); err != nil {
					t.Fatal(err)
				}
				after := squaredError(w.data, q, damped, cols)
				if !(after < before) {
					t.Errorf("the error goes from %g to %g", before, after)
				}
				packed, err := g.pack()
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(kernels.Float32s(packed), q) {
					t.Error("what is packed is not what was computed with")
				}
			})
		}
	}
}

// panelOf is a descent through the only panel of a few rows, on its way.
func panelOf(t *testing.T, l *blocks.Layout, rows int) (s *stripDescent, w f32Matrix, damped []float32) {
	t.Helper()
	cols := l.Size
	w, in := randomMatrix(9, rows, cols), correlatedInputs(10, cols, 2*cols)
	g, q := fedBack(t, l, w, in, 1)
	damped = dampedHessian(in.Hessian, cols, &solve.Factor{Damping: DefaultDamp})
	cpu := kernels.NewCPU(1)
	t.Cleanup(cpu.Close)
	h := kernels.NewBlock(damped, cols, cols)
	d := &descent{layer: g, w: w.data, q: q, gradient: make([]float32, rows*cols)}
	s = newStripDescent(cpu, d, kernels.NewDescent(h, gridLevels(l)), h, 0)
	for r := range rows {
		for i := range cols {
			sum := 0.0
			for j := range cols {
				sum += (float64(w.data[r*cols+j]) - float64(q[r*cols+j])) * float64(damped[j*cols+i])
			}
			d.gradient[r*cols+i] = float32(sum)
		}
	}
	s.run(0, rows, kernels.NewBlock(make([]float32, rows*cols), rows, cols))
	return s, w, damped
}

// TestGradientFollows expects of a panel that was refined the gradient of what
// its rows became, and values that are those of their codes.
func TestGradientFollows(t *testing.T) {
	for _, l := range blockTypes() {
		t.Run(l.Type.String(), func(t *testing.T) {
			const rows = 3
			s, w, damped := panelOf(t, l, rows)
			n := l.Size
			b := l.NewBlock()
			for r := range rows {
				q := s.d.q[r*n:][:n]
				s.d.layer.view(b, r, 0)
				for i, code := range b.Codes {
					scale, low := l.Grid(b, i/l.Sub)
					if q[i] != l.Value(code, scale, low) {
						t.Fatalf("value %d is %v, its code stands for %v", i, q[i], l.Value(code, scale, low))
					}
					sum, size := 0.0, 0.0
					for j := range n {
						part := (float64(w.data[r*n+j]) - float64(q[j])) * float64(damped[j*n+i])
						sum, size = sum+part, size+math.Abs(part)
					}
					if got := float64(s.rows.Gradient.Col(i)[r]); math.Abs(got-sum) > 1e-4*size {
						t.Fatalf("the gradient at %d is %g, want %g", i, got, sum)
					}
				}
			}
		})
	}
}

// TestBestFactors compares the error under the best factors with that under
// factors around them, the codes as they are.
func TestBestFactors(t *testing.T) {
	for _, l := range blockTypes() {
		t.Run(l.Type.String(), func(t *testing.T) {
			s, w, damped := panelOf(t, l, 1)
			s.bestFactors(0)
			factor, minFactor := s.bestFactor[0], s.bestMin[0]
			b := l.NewBlock()
			s.d.layer.view(b, 0, 0)
			under := func(factor, minFactor float32) float64 {
				b.Factor, b.MinFactor = factor, minFactor
				q := make([]float32, l.Size)
				for i, code := range b.Codes {
					scale, low := l.Grid(b, i/l.Sub)
					q[i] = l.Value(code, scale, low)
				}
				return squaredError(w.data, q, damped, l.Size)
			}
			best := under(factor, minFactor)
			for _, by := range []float64{0.99, 0.998, 1.002, 1.01} {
				if e := under(moved(factor, (by-1)*float64(factor)), minFactor); e < best*(1-1e-6) {
					t.Errorf("%g of the factor has the error %g, the best %g", by, e, best)
				}
				if e := under(factor, moved(minFactor, (by-1)*float64(minFactor))); e < best*(1-1e-6) {
					t.Errorf("%g of the minimum's factor has the error %g, the best %g", by, e, best)
				}
			}
		})
	}
}

// TestGPTQBlocks solves layers of every type: the output error is well below
// the search's, as reported, in no row above it, and threads change nothing.
func TestGPTQBlocks(t *testing.T) {
	const rows, cols = 12, 512
	w, in := randomMatrix(11, rows, cols), correlatedInputs(12, cols, 1000)
	for _, l := range blockTypes() {
		t.Run(l.Type.String(), func(t *testing.T) {
			s := TypeScheme(l.Type)
			solution := &Solution{}
			layer := Layer{Name: "layer", Weight: w, Inputs: in, Solution: solution}
			q, err := GPTQSolver{Threads: 1}.Quantize(context.Background(), layer, s)
			if err != nil {
				t.Fatal(err)
			}
			again, err := GPTQSolver{Threads: 3}.Quantize(context.Background(), layer, s)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(q.(*kernels.Dense).Data, again.(*kernels.Dense).Data) {
				t.Error("threads change the result")
			}
			plain, err := RTN{}.Quantize(context.Background(), layer, s)
			if err != nil {
				t.Fatal(err)
			}
			own, searched := OutputError(w, q, in.Hessian, 1), OutputError(w, plain, in.Hessian, 1)
			if own != *solution.OutputError || searched != *solution.RTNOutputError {
				t.Errorf("errors %g and %g are reported as %g and %g", own, searched, *solution.OutputError, *solution.RTNOutputError)
			}
			if !(own < 0.7*searched) {
				t.Errorf("the output error is %g, the search's %g", own, searched)
			}
			rows, _ := solve.OutputErrors(w, in.Hessian, 1, q, plain)
			ownRows, searchedRows := rows[0], rows[1]
			for r := range ownRows {
				if ownRows[r] > searchedRows[r] {
					t.Errorf("row %d has the error %g, the search's is %g", r, ownRows[r], searchedRows[r])
				}
			}
		})
	}
}

// TestBetterRows replaces some rows of a matrix by better ones.
func TestBetterRows(t *testing.T) {
	const rows, cols = 4, 32
	encode := func(w f32Matrix) *kernels.Dense {
		q, err := RTN{}.Quantize(context.Background(), Layer{Weight: w}, TypeScheme(dtype.Q4_0))
		if err != nil {
			t.Fatal(err)
		}
		return q.(*kernels.Dense)
	}
	out, solved := encode(randomMatrix(13, rows, cols)), encode(randomMatrix(14, 2, cols))
	before := kernels.Float32s(out)
	if stay := takeBetterRows(out, solved, 1, []float64{3, 2}, []float64{2, 2.5}); stay != 1 {
		t.Errorf("%d rows stay, want 1", stay)
	}
	want := slices.Clone(before)
	solved.Row(want[2*cols:3*cols], 1)
	if !slices.Equal(kernels.Float32s(out), want) {
		t.Error("other rows than the third are replaced")
	}
}

// TestSlabs solves a layer in one piece and a few rows at a time.
func TestSlabs(t *testing.T) {
	const rows, cols = 11, 64
	layer := Layer{Weight: randomMatrix(21, rows, cols), Inputs: correlatedInputs(22, cols, 200)}
	l, _ := blocks.LayoutOf(dtype.Q5_1)
	solve := func(slab int) (*kernels.Dense, Solution) {
		out, err := RTN{}.Quantize(context.Background(), layer, TypeScheme(l.Type))
		if err != nil {
			t.Fatal(err)
		}
		var solution Solution
		if err := (GPTQSolver{}).improve(context.Background(), layer, l, out.(*kernels.Dense), slab, &solution); err != nil {
			t.Fatal(err)
		}
		return out.(*kernels.Dense), solution
	}
	whole, want := solve(blockSlab)
	for _, slab := range []int{1, 3 * cols, 4*cols + 5} {
		got, solution := solve(slab)
		if !bytes.Equal(got.Data, whole.Data) || math.Abs(*solution.OutputError / *want.OutputError - 1) > 1e-6 {
			t.Errorf("slabs of %d weights give other rows, or the error %g, not %g", slab, *solution.OutputError, *want.OutputError)
		}
	}
}

// TestGPTQBlocksSpecialCases solves what has little to solve.
func TestGPTQBlocksSpecialCases(t *testing.T) {
	const cols = 256
	in := correlatedInputs(15, cols, 300)
	dead := correlatedInputs(16, cols, 300)
	for c := range 32 { // a whole sub-block that sees nothing
		dead.MeanSquare[c] = 0
		for j := range cols {
			dead.Hessian[c*cols+j], dead.Hessian[j*cols+c] = 0, 0
		}
	}
	zeros := f32Matrix{2, cols, make([]float32, 2*cols)}
	for _, l := range blockTypes() {
		s := TypeScheme(l.Type)
		q, err := GPTQSolver{}.Quantize(context.Background(), Layer{Name: "layer", Weight: zeros, Inputs: in}, s)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range kernels.Float32s(q) {
			if v != 0 {
				t.Fatalf("%s: zero %d becomes %v", l.Type, i, v)
			}
		}
		solution := &Solution{}
		w := randomMatrix(17, 3, cols)
		q, err = GPTQSolver{}.Quantize(context.Background(), Layer{Name: "layer", Weight: w, Inputs: dead, Solution: solution}, s)
		if err != nil {
			t.Fatal(err)
		}
		if solution.Dead != 32 {
			t.Errorf("%s: %d dead channels, want 32", l.Type, solution.Dead)
		}
		for i, v := range kernels.Float32s(q) {
			if math.Abs(float64(v)) > 10 || v != v {
				t.Fatalf("%s: weight %d becomes %v", l.Type, i, v)
			}
		}
	}
	solution := &Solution{}
	layer := Layer{Name: "layer", Weight: randomMatrix(18, 2, cols), Inputs: in, Solution: solution}
	if _, err := (GPTQSolver{}).Quantize(context.Background(), layer, TypeScheme(dtype.MXFP4)); err != nil || solution.Fallback == "" {
		t.Errorf("MXFP4: %v, fallback %q", err, solution.Fallback)
	}
	if q, err := (GPTQSolver{}).Quantize(context.Background(), layer, TypeScheme(dtype.F16)); err != nil || q.(*kernels.Dense).Type != dtype.F16 {
		t.Errorf("F16: %v", err)
	}
}

// BenchmarkGPTQBlocks solves a layer of a type of each kind.
func BenchmarkGPTQBlocks(b *testing.B) {
	const rows, cols = 128, 768
	w, in := randomMatrix(19, rows, cols), correlatedInputs(20, cols, 300)
	for _, t := range []dtype.Type{dtype.Q4_0, dtype.Q2_K, dtype.Q4_K, dtype.Q6_K} {
		b.Run(t.String(), func(b *testing.B) {
			b.SetBytes(4 * rows * cols)
			for b.Loop() {
				if _, err := (GPTQSolver{Threads: 1}).Quantize(context.Background(), Layer{Name: "layer", Weight: w, Inputs: in}, TypeScheme(t)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
