package quantize

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"llmc/dtype"
	"llmc/kernels"
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
				want, tied := slowGPTQ(t, w, in.Hessian, s, m, keepZeros(w))
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
