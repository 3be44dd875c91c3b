package quantize

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"llmc/dtype"
	"llmc/kernels"
	"llmc/model"
	"llmc/prune"
)

// sparseMatrix is a random matrix in which every other weight, about, is zero.
func sparseMatrix(seed uint64, rows, cols int) f32Matrix {
	w := randomMatrix(seed, rows, cols)
	for i := range w.data {
		if (i*i+i/cols)%7 < 3 {
			w.data[i] = 0
		}
	}
	return w
}

// revived counts the weights that are zero in w and not in q.
func revived(w, q kernels.Matrix) (n int) {
	a, b := kernels.Float32s(w), kernels.Float32s(q)
	for i, v := range a {
		if v == 0 && b[i] != 0 {
			n++
		}
	}
	return n
}

// TestZerosStay rounds a sparse matrix to every scheme that has a zero, by
// every method, and to those that have none.
func TestZerosStay(t *testing.T) {
	const rows, cols = 3, 256
	w, in := sparseMatrix(3, rows, cols), correlatedInputs(4, cols, 400)
	var schemes []Scheme
	for _, bits := range []int{2, 3, 4, 8} {
		for _, group := range []int{PerTensor, PerChannel, 32, 160} {
			for _, symmetric := range []bool{true, false} {
				schemes = append(schemes, Scheme{Bits: bits, GroupSize: group, Symmetric: symmetric, ScaleType: dtype.F16})
			}
		}
	}
	schemes = append(schemes, Scheme{Bits: 8, Float: true, GroupSize: PerChannel, Symmetric: true, ScaleType: dtype.BF16})
	for t := range dtype.Type(255) {
		if t.IsFloat() || slices.ContainsFunc(MixNames(), func(name string) bool { return name == t.String() }) || t == dtype.IQ4_NL || t == dtype.Q2_K || t == dtype.Q4_K || t == dtype.Q5_K {
			schemes = append(schemes, TypeScheme(t))
		}
	}
	methods := []Method{
		RTN{}, RTN{Clip: ClipMSE}, GPTQSolver{Threads: 2}, GPTQSolver{Clip: ClipMSE}, GPTQSolver{ActOrder: true}, GPTQSolver{ActOrder: true, StaticGroups: true},
		AWQScaler{Clip: ClipOutput},
	}
	tried := map[bool]int{}
	for _, s := range schemes {
		for _, m := range methods {
			q, err := m.Quantize(context.Background(), Layer{Name: "layer", Weight: w, Inputs: in, Solution: &Solution{}}, s)
			if err != nil {
				t.Fatalf("%s %s: %v", m.Name(), s, err)
			}
			n := revived(w, q)
			if s.HoldsZeros() && n > 0 {
				t.Errorf("%s %s: %d zeros are not zero any more", m.Name(), s, n)
			} else if !s.HoldsZeros() && n == 0 {
				t.Errorf("%s %s: said to hold no zeros, and holds all", m.Name(), s)
			}
			tried[s.HoldsZeros()]++
		}
	}
	if tried[true] == 0 || tried[false] == 0 {
		t.Errorf("tried %v", tried)
	}
}

// TestWhichZerosStay: without being told otherwise only those of linears that
// look pruned.
func TestWhichZerosStay(t *testing.T) {
	const rows, cols = 8, 96
	few, in := randomMatrix(5, rows, cols), correlatedInputs(6, cols, 300)
	for i := 0; i < len(few.data); i += 7 {
		few.data[i] = 0
	}
	many := sparseMatrix(5, rows, cols)
	s := Scheme{Bits: 4, GroupSize: 32, Symmetric: true, ScaleType: dtype.F16}
	for _, try := range []struct {
		w     f32Matrix
		zeros Zeros
		stay  bool
	}{{few, ZerosOfPruned, false}, {many, ZerosOfPruned, true}, {few, ZerosAll, true}, {many, ZerosNone, false}} {
		g, _ := solved(t, GPTQSolver{Zeros: try.zeros}, try.w, in, s)
		if stay := revived(try.w, g) == 0; stay != try.stay {
			t.Errorf("zeros %s of %d: all stay is %v", try.zeros, countZeros(try.w), stay)
		}
	}
}

// TestKeptZerosEqualColumnByColumn compares with the reference in float64 whose
// zeros are fixed.
func TestKeptZerosEqualColumnByColumn(t *testing.T) {
	const rows, cols = 16, 200
	w, in := sparseMatrix(8, rows, cols), correlatedInputs(9, cols, 600)
	for _, m := range []GPTQSolver{{}, {ActOrder: true}, {ActOrder: true, StaticGroups: true}} {
		for _, group := range []int{PerChannel, 32, 160} {
			for _, symmetric := range []bool{true, false} {
				s := Scheme{Bits: 3, GroupSize: group, Symmetric: symmetric, ScaleType: dtype.F16}
				got, _ := solved(t, m, w, in, s)
				want, tied := slowGPTQ(t, w, in, s, m, keepZeros(w))
				compareCodes(t, fmt.Sprintf("%s act-order=%v static=%v", s, m.ActOrder, m.StaticGroups), got, want, tied)
			}
		}
	}
}

// keepZeros is a slowMask of the zeros that there are.
func keepZeros(w f32Matrix) slowMask {
	return func(p int, order []int, s *slowState) {
		for i, v := range w.data {
			s.zero[i] = v == 0
		}
	}
}

// slowSparseGPT is a slowMask that drops what costs least by w² over the
// diagonal of the inverse of the Hessian of the columns that are free by then:
// of 128 positions of all rows at a time, or of every group of a row (sections
// 3.2 to 3.5 of arXiv 2301.00774).
func slowSparseGPT(w f32Matrix, pattern prune.Pattern) slowMask {
	n, never := w.cols, make([]bool, len(w.data))
	mask := 5*countZeros(w) >= len(w.data) // fewer zeros are chance
	for i, v := range w.data {
		never[i] = mask && v == 0
	}
	return func(p int, order []int, s *slowState) {
		span := 128
		if pattern.Of > 0 {
			span = pattern.Of
		}
		if p%span != 0 {
			return
		}
		end := min(p+span, n)
		left := mat.DenseCopyOf(s.inverse)
		costs := make([]float64, n)
		for _, c := range order[p:end] {
			costs[c] = left.At(c, c)
			row := mat.Row(nil, c, left)
			for _, i := range order[p:] {
				for _, j := range order[p:] {
					if i != c && j != c {
						left.Set(i, j, left.At(i, j)-row[i]*row[j]/costs[c])
					}
				}
			}
		}
		score := func(i int) float64 {
			if never[i] {
				return -1
			}
			return s.values[i] * s.values[i] / costs[i%n]
		}
		choose := func(at []int, k int) {
			slices.SortStableFunc(at, func(a, b int) int { return cmp.Compare(score(a), score(b)) })
			for i, at := range at {
				s.zero[at] = i < k || never[at]
			}
		}
		var all []int
		for r := range w.rows {
			var row []int
			for _, c := range order[p:end] {
				row = append(row, r*n+c)
			}
			if all = append(all, row...); pattern.Of > 0 {
				choose(row, pattern.Of-pattern.Keep)
			}
		}
		if pattern.Of == 0 {
			choose(all, int(pattern.Sparsity*float64(len(all))))
		}
	}
}

// TestJointEqualsColumnByColumn compares pruning and rounding in one pass with
// the reference in float64.
func TestJointEqualsColumnByColumn(t *testing.T) {
	for _, pattern := range []prune.Pattern{{Sparsity: 0.5}, {Sparsity: 0.3}, {Sparsity: 0.5, Keep: 2, Of: 4}, {Sparsity: 0.5, Keep: 4, Of: 8}} {
		for _, shape := range []struct{ rows, cols, zeros int }{{16, 48, 9}, {5, 200, 3}} {
			w, in := randomMatrix(11, shape.rows, shape.cols), correlatedInputs(12, shape.cols, 3*shape.cols)
			for i := 0; i < len(w.data); i += shape.zeros {
				w.data[i] = 0
			}
			for _, s := range []Scheme{
				{Bits: 4, GroupSize: PerChannel, Symmetric: true, ScaleType: dtype.F16},
				{Bits: 3, GroupSize: PerChannel, ScaleType: dtype.F16},
				{Bits: 4, GroupSize: 40, Symmetric: true, ScaleType: dtype.F16},
			} {
				m := GPTQSolver{Threads: 2, Pruner: prune.Joint{Pattern: func(model.ID) prune.Pattern { return pattern }}}
				got, _ := solved(t, m, w, in, s)
				want, tied := slowGPTQ(t, w, in, s, m, slowSparseGPT(w, pattern))
				compareCodes(t, fmt.Sprintf("%s %s %dx%d", pattern, s, shape.rows, shape.cols), got, want, tied)
				if least := int(pattern.Sparsity * 0.99 * float64(len(w.data))); countZeros(got) < least {
					t.Errorf("%s %s: %d zeros of %d", pattern, s, countZeros(got), len(w.data))
				}
			}
		}
	}
}

// TestJointBlocks prunes and rounds to GGUF types in one pass: the share of
// zeros is there, the pattern holds, and the output is nearer than that of two
// passes.
func TestJointBlocks(t *testing.T) {
	const rows, cols = 8, 512
	w, in := randomMatrix(13, rows, cols), correlatedInputs(14, cols, 800)
	pattern := prune.Pattern{Sparsity: 0.5, Keep: 2, Of: 4}
	joint := prune.Joint{Pattern: func(model.ID) prune.Pattern { return pattern }}
	for _, typ := range []dtype.Type{dtype.Q8_0, dtype.Q4_0, dtype.Q6_K, dtype.Q3_K} {
		q, err := GPTQSolver{Pruner: joint}.Quantize(context.Background(), Layer{Name: "layer", Weight: w, Inputs: in}, TypeScheme(typ))
		if err != nil {
			t.Fatal(err)
		}
		values := kernels.Float32s(q)
		for at := 0; at < len(values); at += 4 {
			if n := countZeros(f32Matrix{1, 4, values[at : at+4]}); n < 2 {
				t.Fatalf("%s: %v has more than two weights that are not zero", typ, values[at:at+4])
			}
		}
		two := prune.Layer{Name: "layer", Rows: rows, Cols: cols, Weight: slices.Clone(w.data), Inputs: in, Solution: &prune.Solution{}}
		if err := (prune.SparseGPT{}).Prune(context.Background(), two, pattern); err != nil {
			t.Fatal(err)
		}
		after, err := GPTQSolver{}.Quantize(context.Background(), Layer{Name: "layer", Weight: f32Matrix{rows, cols, two.Weight}, Inputs: in}, TypeScheme(typ))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := OutputError(w, q, in.Hessian, 1), OutputError(w, after, in.Hessian, 1); !(a < 1.05*b) {
			t.Errorf("%s: output error %.4f in one pass, %.4f in two", typ, a, b)
		} else {
			t.Logf("%s: output error %.4f in one pass, %.4f in two", typ, a, b)
		}
	}
	// Nothing to solve against.
	dead := *in
	dead.Hessian = make([]float32, cols*cols)
	for _, s := range []Scheme{TypeScheme(dtype.Q4_0), {Bits: 4, GroupSize: 32, Symmetric: true, ScaleType: dtype.F16}} {
		solution := &Solution{}
		q, err := GPTQSolver{Pruner: joint}.Quantize(context.Background(), Layer{Name: "layer", Weight: w, Inputs: &dead, Solution: solution}, s)
		if err != nil || solution.Fallback == "" || countZeros(q) < rows*cols/2 {
			t.Errorf("%s: %+v, %v, %d zeros", s, solution, err, countZeros(q))
		}
	}
}

// TestJointInSteps expects what a gradual schedule, and then GPTQ over its zeros,
// make of a layer, nearer to its output than one pass.
func TestJointInSteps(t *testing.T) {
	const rows, cols = 12, 256
	w, in := randomMatrix(15, rows, cols), correlatedInputs(16, cols, 800)
	pattern := prune.Pattern{Sparsity: 0.5, Keep: 2, Of: 4}
	joint := prune.Joint{Pattern: func(model.ID) prune.Pattern { return pattern }}
	steps := joint
	steps.Steps, steps.Solver.Damp = 2, 0.02
	for _, s := range []Scheme{TypeScheme(dtype.Q4_0), {Bits: 4, GroupSize: 32, Symmetric: true, ScaleType: dtype.F16}} {
		quantize := func(m GPTQSolver, w kernels.Matrix) (kernels.Matrix, *Solution) {
			solution := &Solution{}
			q, err := m.Quantize(context.Background(), Layer{Name: "layer", Weight: w, Inputs: in, Solution: solution}, s)
			if err != nil {
				t.Fatal(err)
			}
			return q, solution
		}
		got, solution := quantize(GPTQSolver{Pruner: steps}, w)
		fitted := prune.Layer{Name: "layer", Rows: rows, Cols: cols, Weight: slices.Clone(w.data), Inputs: in, Solution: &prune.Solution{}}
		if err := (prune.Gradual{Method: prune.SparseGPT{Damp: 0.02}, Steps: 2, Damp: 0.02}).Prune(context.Background(), fitted, pattern); err != nil {
			t.Fatal(err)
		}
		want, _ := quantize(GPTQSolver{Zeros: ZerosAll}, f32Matrix{rows, cols, fitted.Weight})
		if !slices.Equal(kernels.Float32s(got), kernels.Float32s(want)) {
			t.Errorf("%s: not what two steps and GPTQ make", s)
		}
		one, _ := quantize(GPTQSolver{Pruner: joint}, w)
		a, b := OutputError(w, got, in.Hessian, 1), OutputError(w, one, in.Hessian, 1)
		if !(a < b) || *solution.OutputError != a {
			t.Errorf("%s: output error %.4f (reported %.4f) in steps, %.4f in one pass", s, a, *solution.OutputError, b)
		}
		t.Logf("%s: output error %.4f in steps, %.4f in one pass", s, a, b)
	}
}
