package quantize

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"llmc/dtype"
	"llmc/kernels"
)

// correlatedInputs is X Xᵀ and the means of correlatedSamples.
func correlatedInputs(seed uint64, cols, tokens int) *Inputs {
	return inputsOf(correlatedSamples(seed, cols, tokens))
}

// correlatedSamples are tokens inputs that share two directions and differ in
// size from channel to channel.
func correlatedSamples(seed uint64, cols, tokens int) [][]float64 {
	rng := rand.New(rand.NewPCG(seed, 2))
	sizes, mix := make([]float64, cols), make([]float64, 2*cols)
	for i := range sizes {
		sizes[i] = math.Exp(rng.NormFloat64() / 2)
		mix[i], mix[cols+i] = rng.NormFloat64(), rng.NormFloat64()
	}
	all := make([][]float64, tokens)
	for t := range all {
		a, b := rng.NormFloat64(), rng.NormFloat64()
		all[t] = make([]float64, cols)
		for i := range all[t] {
			all[t][i] = sizes[i] * (rng.NormFloat64()/2 + a*mix[i] + b*mix[cols+i])
		}
	}
	return all
}

// inputsOf is what calibration gathers of samples.
func inputsOf(samples [][]float64) *Inputs {
	cols := len(samples[0])
	in := &Inputs{Tokens: len(samples), MeanSquare: make([]float32, cols), MeanAbs: make([]float32, cols), Hessian: make([]float32, cols*cols)}
	for _, x := range samples {
		for i := range cols {
			in.MeanAbs[i] += float32(math.Abs(x[i]) / float64(len(samples)))
			for j := range cols {
				in.Hessian[i*cols+j] += float32(x[i] * x[j])
			}
		}
	}
	for i := range cols {
		in.MeanSquare[i] = in.Hessian[i*cols+i] / float32(in.Tokens)
	}
	return in
}

// slowMask chooses weights to be zero when a position is reached.
type slowMask func(p int, order []int, s *slowState)

// slowState is how far slowGPTQ has come.
type slowState struct {
	values  []float64  // [rows, cols] with all errors so far
	zero    []bool     // [rows, cols] what becomes zero, for a slowMask to change
	inverse *mat.Dense // of the Hessian of the free columns
}

// slowGPTQ is section 3 of arXiv 2210.17323 column by column in float64: each
// error is spread over all free columns by the inverse of the Hessian, which
// then loses the column by Gaussian elimination (equations 2 and 3). No Cholesky
// factor, no lazy updates, columns stay in their places. Ranges are chosen from
// the weights as they were when the block of 128 positions was reached. tied
// are the rows where a weight was within 1e-4 of a step of the middle between
// two codes, so that float32 may choose the other one.
func slowGPTQ(t *testing.T, w f32Matrix, in *Inputs, s Scheme, m GPTQSolver, masks ...slowMask) (codes [][]uint8, tied []bool) {
	t.Helper()
	n := w.cols
	damped := mat.NewDense(n, n, nil)
	order, mean := make([]int, n), 0.0
	for i := range n {
		order[i] = i
		mean += float64(in.Hessian[i*n+i]) / float64(n)
		for j := range n {
			damped.Set(i, j, float64(in.Hessian[i*n+j]))
		}
	}
	if m.ActOrder {
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(in.MeanAbs[b], in.MeanAbs[a]) })
	}
	for i := range n {
		damped.Set(i, i, damped.At(i, i)+cmp.Or(m.Damp, DefaultDamp)*mean)
	}
	var inverse mat.Dense
	if err := inverse.Inverse(damped); err != nil {
		t.Fatal(err)
	}
	values := make([]float64, len(w.data))
	for i, v := range w.data {
		values[i] = float64(v)
	}
	settled := slices.Clone(values)
	state := &slowState{values, make([]bool, len(values)), &inverse}
	pick := func(r int, columns []int) []float32 {
		var x []float32
		for _, c := range columns {
			x = append(x, float32(settled[r*n+c]))
		}
		return x
	}
	natural := make([]int, n)
	for i := range natural {
		natural[i] = i
	}
	type grid struct {
		scale, exact float64
		zero         int
	}
	fit := func(x []float32) grid {
		if m.Clip == ClipMSE {
			g, err := FitGrid(s, m.Clip, x, nil)
			if err != nil {
				t.Fatal(err)
			}
			return grid{float64(g.Scale), float64(g.by), int(g.Zero)}
		}
		scale, exact, zero := slowGrid(s, x)
		return grid{scale, exact, zero}
	}
	// grids[r][group], filled before any column is fixed where ranges are
	// static; the members of a group are columns, or positions with act-order.
	size := s.GroupSize
	if size <= 0 {
		size = n
	}
	static := s.GroupSize <= 0 || m.ActOrder && m.StaticGroups
	grids := make([][]grid, w.rows)
	for r := range grids {
		grids[r] = make([]grid, (n+size-1)/size)
		for g := range grids[r] {
			if s.GroupSize == PerTensor {
				grids[r][g] = fit(w.data)
			} else if static {
				grids[r][g] = fit(pick(r, natural[g*size:min((g+1)*size, n)]))
			}
		}
	}
	codes, tied = make([][]uint8, w.rows), make([]bool, w.rows)
	for r := range codes {
		codes[r] = make([]uint8, n)
	}
	for p, c := range order {
		for _, mask := range masks {
			mask(p, order, state)
		}
		if p%128 == 0 {
			copy(settled, values)
			for i, zero := range state.zero {
				if zero {
					settled[i] = 0
				}
			}
		}
		group := p / size
		if static {
			group = c / size
		}
		diagonal := inverse.At(c, c)
		for r := range w.rows {
			if !static && p%size == 0 {
				grids[r][group] = fit(pick(r, order[p:min(p+size, n)]))
			}
			g := grids[r][group]
			steps := values[r*n+c] / g.exact
			if state.zero[r*n+c] {
				steps = 0
			}
			code := math.RoundToEven(steps) + float64(g.zero)
			tied[r] = tied[r] || math.Abs(math.Abs(steps-math.RoundToEven(steps))-0.5) < 1e-4
			code = min(max(code, 0), math.Exp2(float64(s.Bits))-1)
			codes[r][c] = uint8(code)
			e := (values[r*n+c] - g.scale*(code-float64(g.zero))) / diagonal
			for _, free := range order[p+1:] {
				values[r*n+free] -= e * inverse.At(c, free)
			}
		}
		for _, i := range order[p+1:] {
			for _, j := range order[p+1:] {
				inverse.Set(i, j, inverse.At(i, j)-inverse.At(i, c)*inverse.At(c, j)/diagonal)
			}
		}
	}
	return codes, tied
}

func solved(t *testing.T, m GPTQSolver, w kernels.Matrix, in *Inputs, s Scheme) (*kernels.Groups, Solution) {
	t.Helper()
	var solution Solution
	q, err := m.Quantize(context.Background(), Layer{Name: "layer", Weight: w, Inputs: in, Solution: &solution}, s)
	if err != nil {
		t.Fatal(err)
	}
	g, ok := q.(*kernels.Groups)
	if !ok {
		t.Fatalf("got a %T, want *kernels.Groups", q)
	}
	if err := g.Validate(); err != nil {
		t.Fatal(err)
	}
	return g, solution
}

func TestGPTQEqualsColumnByColumn(t *testing.T) {
	shapes := []struct {
		rows, cols int
		groups     []int
	}{
		{8, 6, []int{PerTensor, PerChannel, 2, 4, 100}},
		{64, 48, []int{PerTensor, PerChannel, 16, 32}},
		{5, 200, []int{PerChannel, 32, 96, 160}}, // several blocks of columns
	}
	orders := []GPTQSolver{{}, {ActOrder: true}, {ActOrder: true, StaticGroups: true}}
	for _, shape := range shapes {
		w := randomMatrix(uint64(shape.cols), shape.rows, shape.cols)
		in := correlatedInputs(7, shape.cols, 3*shape.cols)
		for _, group := range shape.groups {
			for i, bits := range []int{2, 3, 4, 8} {
				if bits == 8 && shape.cols > 100 {
					continue // so many fine codes meet ties that float32 breaks differently
				}
				for _, m := range orders {
					s := Scheme{Bits: bits, GroupSize: group, Symmetric: i%2 == 0, ScaleType: dtype.F16}
					for range 2 {
						s.Symmetric = !s.Symmetric
						name := fmt.Sprintf("%dx%d %s act-order=%v static=%v", shape.rows, shape.cols, s, m.ActOrder, m.StaticGroups)
						if shape.cols < 100 {
							m.Clip = Clip(i % 2)
						}
						got, _ := solved(t, m, w, in, s)
						want, tied := slowGPTQ(t, w, in, s, m)
						compareCodes(t, name, got, want, tied)
					}
				}
			}
		}
	}
}

// TestGPTQFloat8: with inputs that have nothing to do with each other the
// result is round-to-nearest's, with others the outputs are nearer.
func TestGPTQFloat8(t *testing.T) {
	const cols = 96
	w := randomMatrix(9, 16, cols)
	in, alone := correlatedInputs(4, cols, 300), &Inputs{Hessian: make([]float32, cols*cols)}
	for i := range cols {
		alone.Hessian[i*cols+i] = 1
	}
	for _, size := range []int{PerTensor, PerChannel, 32} {
		s := Scheme{Bits: 8, Float: true, GroupSize: size, Symmetric: true, ScaleType: dtype.BF16}
		rtn, err := RTN{}.Quantize(context.Background(), Layer{Weight: w}, s)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := GPTQSolver{}.Quantize(context.Background(), Layer{Weight: w, Inputs: alone}, s)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(plain, rtn) {
			t.Errorf("%s: without correlation another result than round-to-nearest's", s)
		}
		var solution Solution
		if _, err := (GPTQSolver{}).Quantize(context.Background(), Layer{Weight: w, Inputs: in, Solution: &solution}, s); err != nil {
			t.Fatal(err)
		}
		if own, plain := *solution.OutputError, *solution.RTNOutputError; !(own < 0.8*plain) {
			t.Errorf("%s: output error %g, round-to-nearest's %g", s, own, plain)
		}
	}
}

func compareCodes(t *testing.T, name string, got *kernels.Groups, want [][]uint8, tied []bool) {
	t.Helper()
	forgiven := 0
	row := make([]uint8, got.Cols)
	for r := range got.Rows {
		got.RowCodes(row, r)
		switch {
		case slices.Equal(row, want[r]):
		case tied[r]:
			forgiven++
		default:
			t.Errorf("%s: row %d has codes\n%d, want\n%d", name, r, row, want[r])
			return
		}
	}
	if forgiven > 1 {
		t.Errorf("%s: %d rows of %d differ after a tie, more than chance gives", name, forgiven, got.Rows)
	}
}

// TestGPTQGroupsOfColumns checks which matrices name the group of each column,
// and that each column's group is that of its position.
func TestGPTQGroupsOfColumns(t *testing.T) {
	w, in := randomMatrix(1, 8, 48), correlatedInputs(3, 48, 200)
	s := Scheme{Bits: 4, GroupSize: 16, Symmetric: true, ScaleType: dtype.F16}
	if g, _ := solved(t, GPTQSolver{}, w, in, s); g.GroupOf != nil {
		t.Error("groups of columns are named without act-order")
	}
	if g, _ := solved(t, GPTQSolver{ActOrder: true, StaticGroups: true}, w, in, s); g.GroupOf != nil {
		t.Error("groups of columns are named with static groups")
	}
	g, _ := solved(t, GPTQSolver{ActOrder: true}, w, in, s)
	for c := range 48 {
		larger := 0
		for other := range 48 {
			if in.MeanAbs[other] > in.MeanAbs[c] {
				larger++
			}
		}
		if int(g.GroupOf[c]) != larger/16 {
			t.Fatalf("column %d with %d larger ones is in group %d, want %d", c, larger, g.GroupOf[c], larger/16)
		}
	}
}

func TestGPTQBeatsRTN(t *testing.T) {
	for seed := range uint64(8) {
		w, in := randomMatrix(seed, 32, 96), correlatedInputs(seed, 96, 400)
		for _, bits := range []int{2, 3, 4} {
			s := Scheme{Bits: bits, GroupSize: 32, Symmetric: seed%2 == 0, ScaleType: dtype.F16}
			rtn, err := RTN{}.Quantize(context.Background(), Layer{Weight: w}, s)
			if err != nil {
				t.Fatal(err)
			}
			gptq, _ := solved(t, GPTQSolver{ActOrder: seed%3 == 0, StaticGroups: true}, w, in, s)
			a, b := OutputError(w, gptq, in.Hessian, 1), OutputError(w, rtn, in.Hessian, 1)
			if !(a < b) {
				t.Errorf("seed %d, %s: GPTQ's output error is %.4f, RTN's %.4f", seed, s, a, b)
			}
		}
	}
}

func TestOutputError(t *testing.T) {
	w, q := f32Matrix{1, 2, []float32{3, 4}}, f32Matrix{1, 2, []float32{3, 3}}
	// One input (1, 2): outputs 11 and 9.
	if got := OutputError(w, q, []float32{1, 2, 2, 4}, 1); math.Abs(got-2.0/11) > 1e-6 {
		t.Errorf("got %g, want %g", got, 2.0/11)
	}
	if got := OutputError(w, q, make([]float32, 4), 1); got != 0 {
		t.Errorf("got %g for inputs of zero, want 0", got)
	}
}

func TestGPTQDoesNotDependOnThreads(t *testing.T) {
	w, in := randomMatrix(4, 300, 300), correlatedInputs(4, 300, 500)
	s := Scheme{Bits: 3, GroupSize: 64, ScaleType: dtype.F16}
	one, _ := solved(t, GPTQSolver{Threads: 1}, w, in, s)
	four, _ := solved(t, GPTQSolver{Threads: 4}, w, in, s)
	if !bytes.Equal(one.Codes, four.Codes) || !slices.Equal(one.Scales, four.Scales) || !bytes.Equal(one.Zeros, four.Zeros) {
		t.Error("1 and 4 threads differ")
	}
}

func sameAsRTN(t *testing.T, got *kernels.Groups, w kernels.Matrix, s Scheme) {
	t.Helper()
	want, err := RTN{}.Quantize(context.Background(), Layer{Weight: w}, s)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Codes, want.(*kernels.Groups).Codes) || !slices.Equal(got.Scales, want.(*kernels.Groups).Scales) {
		t.Error("the codes are not RTN's")
	}
}

func TestGPTQFallsBack(t *testing.T) {
	w := randomMatrix(1, 8, 16)
	s := Scheme{Bits: 4, GroupSize: 8, Symmetric: true, ScaleType: dtype.F16}
	indefinite := correlatedInputs(1, 16, 50)
	indefinite.Hessian[1], indefinite.Hessian[16] = 1e6, 1e6
	for want, in := range map[string]*Inputs{
		"all inputs are zero":                  {Hessian: make([]float32, 256)},
		"the Hessian is not positive definite": indefinite,
		"not calibrated":                       nil,
	} {
		got, solution := solved(t, GPTQSolver{}, w, in, s)
		if solution.Fallback != want || solution.Damping != 0 {
			t.Errorf("got %+v, want the fallback %q", solution, want)
		}
		sameAsRTN(t, got, w, s)
	}
}

// TestGPTQRaisesDamping gives a Hessian whose smallest eigenvalue is below
// zero by 5% of its mean diagonal.
func TestGPTQRaisesDamping(t *testing.T) {
	in := &Inputs{Hessian: []float32{1, 1.05, 1.05, 1}}
	s := Scheme{Bits: 4, Symmetric: true, ScaleType: dtype.F16}
	if _, solution := solved(t, GPTQSolver{}, randomMatrix(1, 4, 2), in, s); solution.Damping != 0.08 || solution.Fallback != "" {
		t.Errorf("got %+v, want damping 0.01 * 2³", solution)
	}
	if _, solution := solved(t, GPTQSolver{Damp: 0.3}, randomMatrix(1, 4, 2), in, s); solution.Damping != 0.3 {
		t.Errorf("got %+v, want damping 0.3", solution)
	}
}

// TestGPTQDeadChannels: channels that calibration never saw keep their weights,
// rounded to nearest, and the others come out as without them.
func TestGPTQDeadChannels(t *testing.T) {
	w, in := randomMatrix(2, 8, 12), correlatedInputs(2, 12, 60)
	for _, dead := range []int{3, 7} {
		for i := range 12 {
			in.Hessian[dead*12+i], in.Hessian[i*12+dead] = 0, 0
		}
	}
	s := Scheme{Bits: 4, ScaleType: dtype.F16} // per channel: ranges do not move
	got, solution := solved(t, GPTQSolver{}, w, in, s)
	if solution.Dead != 2 {
		t.Errorf("got %+v, want 2 dead channels", solution)
	}
	rtn, err := RTN{}.Quantize(context.Background(), Layer{Weight: w}, s)
	if err != nil {
		t.Fatal(err)
	}
	different := false
	for r := range 8 {
		for c := range 12 {
			a, b := got.Code(r, c), rtn.(*kernels.Groups).Code(r, c)
			if (c == 3 || c == 7) && a != b {
				t.Errorf("row %d: the dead column %d has code %d, rounded to nearest %d", r, c, a, b)
			}
			different = different || a != b
		}
	}
	if !different {
		t.Error("GPTQ gave RTN's codes everywhere")
	}
}

func TestGPTQRefuses(t *testing.T) {
	w := randomMatrix(1, 4, 8)
	s := Scheme{Bits: 4, ScaleType: dtype.F16}
	if _, err := (GPTQSolver{}).Quantize(context.Background(), Layer{Name: "x", Weight: w, Inputs: correlatedInputs(1, 7, 20)}, s); err == nil {
		t.Error("a Hessian of another width is taken")
	}
	w.data[3] = float32(math.Inf(1))
	if _, err := (GPTQSolver{}).Quantize(context.Background(), Layer{Name: "x", Weight: w, Inputs: correlatedInputs(1, 8, 20)}, s); err == nil {
		t.Error("an infinite weight is taken")
	}
}
