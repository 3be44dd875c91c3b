package quantize

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/kernels"
)

// f32Matrix is a dense float32 matrix made of numbers.
type f32Matrix struct {
	rows, cols int
	data       []float32
}

func (m f32Matrix) Shape() (int, int)        { return m.rows, m.cols }
func (m f32Matrix) Row(dst []float32, r int) { copy(dst, m.data[r*m.cols:][:m.cols]) }
func (m f32Matrix) Bytes() int64             { return int64(4 * len(m.data)) }

func randomMatrix(seed uint64, rows, cols int) f32Matrix {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := f32Matrix{rows, cols, make([]float32, rows*cols)}
	for i := range m.data {
		m.data[i] = float32(rng.NormFloat64()) * 0.05
	}
	return m
}

// slowGrid is FitGrid's definition without clipping, in float64: the scale that is
// held, the one that codes go by, and the zero point.
func slowGrid(s Scheme, x []float32) (scale, exact float64, zero int) {
	lo, hi := 0.0, 0.0
	for _, v := range x {
		lo, hi = math.Min(lo, float64(v)), math.Max(hi, float64(v))
	}
	levels := math.Exp2(float64(s.Bits)) - 1
	if s.Symmetric {
		scale, zero = math.Max(-lo, hi)/(levels/2), 1<<(s.Bits-1)
	} else {
		scale = (hi - lo) / levels
	}
	before := scale
	switch s.ScaleType {
	case dtype.F16:
		scale = float64(dtype.F16ToF32(dtype.F32ToF16(float32(scale))))
	case dtype.BF16:
		scale = float64(dtype.BF16ToF32(dtype.F32ToBF16(float32(scale))))
	case dtype.F32:
		scale = float64(float32(scale))
	}
	if s.Symmetric {
		return scale, scale, zero
	}
	exact = before
	at := -lo * levels / (hi - lo)
	if math.Abs(before-scale)*levels > scale/16 {
		exact, at = scale, -lo/scale
	}
	zero = int(math.RoundToEven(at))
	return scale, exact, zero
}

// TestRTNDefinition compares every weight with the best code by exhaustion:
// scale and zero point as defined, and no other code closer.
func TestRTNDefinition(t *testing.T) {
	const rows, cols = 5, 96
	w := randomMatrix(1, rows, cols)
	for bits := MinBits; bits <= MaxBits; bits++ {
		for _, size := range []int{PerTensor, PerChannel, 16, 32} {
			for _, symmetric := range []bool{true, false} {
				for _, scaleType := range []dtype.Type{dtype.F16, dtype.BF16, dtype.F32} {
					s := Scheme{Bits: bits, GroupSize: size, Symmetric: symmetric, ScaleType: scaleType}
					t.Run(s.String()+":"+scaleType.String(), func(t *testing.T) { checkRTN(t, w, s) })
				}
			}
		}
	}
}

func checkRTN(t *testing.T, w f32Matrix, s Scheme) {
	t.Helper()
	out, err := RTN{Threads: 2}.Quantize(context.Background(), Layer{Name: "w", Weight: w}, s)
	if err != nil {
		t.Fatal(err)
	}
	q := out.(*kernels.Groups)
	if err := q.Validate(); err != nil {
		t.Fatal(err)
	}
	got := make([]float32, w.cols)
	for r := range w.rows {
		q.Row(got, r)
		for g := range s.groups(w.cols) {
			lo, hi := g*q.GroupSize, (g+1)*q.GroupSize
			x := w.data[r*w.cols:][lo:hi]
			if s.GroupSize == PerTensor {
				x = w.data
			}
			scale, exact, zero := slowGrid(s, x)
			if seen := q.Scales[r*s.groups(w.cols)+g]; math.Abs(float64(seen)-scale) > 1e-7*scale {
				t.Fatalf("row %d group %d: scale %v, want %v", r, g, seen, scale)
			}
			for c := lo; c < hi; c++ {
				v, step := float64(w.data[r*w.cols+c]), math.Round(float64(got[c])/scale)
				if off := math.Abs(float64(got[c]) - scale*step); off > 1e-6*math.Abs(v) {
					t.Fatalf("row %d column %d: %v is not a multiple of %v", r, c, got[c], scale)
				}
				best := math.Inf(1)
				for code := range 1 << s.Bits {
					best = math.Min(best, math.Abs(v-exact*float64(code-zero)))
				}
				if e := math.Abs(v - exact*step); e > best+1e-6*(scale+math.Abs(v)) {
					t.Fatalf("row %d column %d: %v became %v, off by %v where %v is possible", r, c, v, got[c], e, best)
				}
			}
		}
	}
}

// TestRTNFloat8 compares scales with their definition and every weight with the
// nearest number of E4M3.
func TestRTNFloat8(t *testing.T) {
	const rows, cols = 5, 96
	w := randomMatrix(6, rows, cols)
	for _, size := range []int{PerTensor, PerChannel, 32} {
		s := Scheme{Bits: 8, Float: true, GroupSize: size, Symmetric: true, ScaleType: dtype.BF16}
		out, err := RTN{Threads: 2}.Quantize(context.Background(), Layer{Name: "w", Weight: w}, s)
		if err != nil {
			t.Fatal(err)
		}
		q := out.(*kernels.Float8)
		if _, err := kernels.NewFloat8(rows, cols, q.Type, q.Codes, q.High, q.Wide, q.Scales); err != nil {
			t.Fatal(err)
		}
		for i, v := range w.data {
			part := w.data
			if size >= 0 {
				part = w.data[i/q.Wide*q.Wide:][:q.Wide]
			}
			largest := 0.0
			for _, x := range part {
				largest = math.Max(largest, math.Abs(float64(x)))
			}
			scale := float64(dtype.BF16ToF32(dtype.F32ToBF16(float32(largest / 448))))
			got, best := make([]float32, cols), math.Inf(1)
			q.Row(got, i/cols)
			for code := range 256 {
				if x := float64(dtype.F8E4M3ToF32(uint8(code))); x == x {
					best = math.Min(best, math.Abs(float64(v)-scale*x))
				}
			}
			if e := math.Abs(float64(v - got[i%cols])); e > best+1e-6*math.Abs(float64(v)) {
				t.Fatalf("%s: %v became %v, off by %v where %v is possible", s, v, got[i%cols], e, best)
			}
		}
	}
}

// TestClipMSE checks that the search finds what trying every range one by one
// in float64 finds, with and without importance, and that it pays.
func TestClipMSE(t *testing.T) {
	w := randomMatrix(2, 32, 64)
	for bits := MinBits; bits <= MaxBits; bits++ {
		for _, symmetric := range []bool{true, false} {
			for _, importance := range [][]float32{nil, ramp(64)} {
				s := Scheme{Bits: bits, GroupSize: 64, Symmetric: symmetric, ScaleType: dtype.F32}
				checkClip(t, s, w, importance)
			}
		}
	}
}

func checkClip(t *testing.T, s Scheme, w f32Matrix, importance []float32) {
	t.Helper()
	var clipped, unclipped float64
	for r := range w.rows {
		x := w.data[r*w.cols:][:w.cols]
		g, err := FitGrid(s, ClipMSE, x, importance)
		if err != nil {
			t.Fatal(err)
		}
		best := math.Inf(1)
		for i := range clipTrials {
			shrink := 1 - float32(i)/clipSteps
			best = math.Min(best, slowError(s.rangeGrid(slices.Min(x)*shrink, slices.Max(x)*shrink), x, importance))
		}
		got := slowError(g, x, importance)
		if got > best*(1+1e-4) {
			t.Errorf("%s row %d: error %v, best of the ranges %v", s, r, got, best)
		}
		clipped += got
		unclipped += slowError(s.rangeGrid(slices.Min(x), slices.Max(x)), x, importance)
	}
	if s.Bits <= 4 && clipped > 0.96*unclipped {
		t.Errorf("%s: error %v with clipping, %v without", s, clipped, unclipped)
	}
}

func ramp(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i + 1)
	}
	return x
}

func slowError(g Grid, x, importance []float32) float64 {
	sum := 0.0
	for i, v := range x {
		d := float64(v) - float64(g.Value(g.Code(v)))
		weight := 1.0
		if importance != nil {
			weight = float64(importance[i])
		}
		sum += weight * d * d
	}
	return sum
}

// TestSymmetricScale pins the convention: half a step is cut off at both ends.
func TestSymmetricScale(t *testing.T) {
	g, err := FitGrid(Scheme{Bits: 4, Symmetric: true, ScaleType: dtype.F32}, ClipNone, []float32{-7.5, 1, 7.5}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Grid{Scale: 1, Zero: 8, Max: 15, by: 1}); g != want {
		t.Errorf("got %+v, want %+v", g, want)
	}
	if low, high := g.Value(g.Code(-7.5)), g.Value(g.Code(7.5)); low != -8 || high != 7 {
		t.Errorf("ends became %v and %v, want -8 and 7", low, high)
	}
}

func TestGridSpecialCases(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	cases := []struct {
		name string
		s    Scheme
		x    []float32
		want string // of the error
	}{
		{"nan", Scheme{Bits: 4, ScaleType: dtype.F16}, []float32{0, nan}, "NaN or infinity"},
		{"infinity", Scheme{Bits: 4, ScaleType: dtype.F16}, []float32{0, -inf}, "NaN or infinity"},
		{"too large for f16", Scheme{Bits: 2, Symmetric: true, ScaleType: dtype.F16}, []float32{3e5}, "too large"},
		{"fits bf16", Scheme{Bits: 2, Symmetric: true, ScaleType: dtype.BF16}, []float32{3e5}, ""},
		{"whole range of float32", Scheme{Bits: 8, ScaleType: dtype.F32}, []float32{-3e38, 3e38}, ""},
		{"zeros", Scheme{Bits: 3, ScaleType: dtype.F16}, []float32{0, 0}, ""},
		{"below f16", Scheme{Bits: 3, Symmetric: true, ScaleType: dtype.F16}, []float32{1e-9}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g, err := FitGrid(c.s, ClipMSE, c.x, nil)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if err == nil && (!(g.Scale > 0) || math.IsInf(float64(g.Scale), 0)) {
				t.Fatalf("scale %v", g.Scale)
			}
			for _, v := range c.x {
				if err == nil && math.Abs(float64(g.Value(g.Code(v))-v)) > float64(g.Scale) {
					t.Errorf("%v became %v with scale %v", v, g.Value(g.Code(v)), g.Scale)
				}
			}
		})
	}
}

// TestThreadsDoNotMatter runs the same layer on one and on many threads.
func TestThreadsDoNotMatter(t *testing.T) {
	w := randomMatrix(3, 300, 512) // several tasks
	for _, text := range []string{"int3:g64:asym", "int5:tensor:sym", "fp8:g64", "Q4_K", "BF16"} {
		s, err := ParseScheme(text)
		if err != nil {
			t.Fatal(err)
		}
		var want kernels.Matrix
		for _, threads := range []int{1, 2, 7} {
			got, err := RTN{Clip: ClipMSE, Threads: threads}.Quantize(context.Background(), Layer{Weight: w}, s)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %d threads give another result than one", text, threads)
			}
		}
	}
}

func TestQuantizeNamesTheLayer(t *testing.T) {
	w := randomMatrix(4, 3, 32)
	w.data[2*32+5] = float32(math.NaN())
	for _, text := range []string{"int4:g32:sym", "int4:tensor:sym", "Q8_0", "F16"} {
		s, _ := ParseScheme(text)
		_, err := RTN{}.Quantize(context.Background(), Layer{Name: "blk.0.attn_q.weight", Weight: w}, s)
		if err == nil || !strings.Contains(err.Error(), "blk.0.attn_q.weight") || !strings.Contains(err.Error(), "NaN") {
			t.Errorf("%s: error %v, want one that names the layer and NaN", text, err)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := RTN{}.Quantize(ctx, Layer{Weight: randomMatrix(5, 8, 32)}, Scheme{Bits: 4, ScaleType: dtype.F16})
	if err != context.Canceled && !strings.Contains(fmt.Sprint(err), "canceled") {
		t.Errorf("error %v, want a canceled context", err)
	}
}

func TestParseScheme(t *testing.T) {
	for _, text := range []string{"int4:g128:sym", "int8:channel:asym", "int2:tensor:sym", "fp8:channel", "fp8:tensor", "fp8:g128", "Q4_K", "BF16", "MXFP4"} {
		s, err := ParseScheme(text)
		if err != nil || s.String() != text {
			t.Errorf("%q became %q, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "int4", "int9:g32:sym", "int1:g32:sym", "int4:g0:sym", "int4:g-1:sym", "int4:32:sym", "int4:g32:maybe", "I32", "Q4_K_M", "fp8", "fp4:channel", "fp8:channel:sym"} {
		if s, err := ParseScheme(text); err == nil {
			t.Errorf("%q became %+v, want an error", text, s)
		}
	}
}

func TestCompare(t *testing.T) {
	a := f32Matrix{1, 4, []float32{3, 4, 0, 0}}
	b := f32Matrix{1, 4, []float32{3, 3, 0, 0}}
	got, err := Compare(context.Background(), a, b, 1)
	if want := (Stats{MSE: 0.25, RelativeError: 0.2, MaxError: 1, ZerosBefore: 2, Zeros: 2}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
