package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"llmc/dtype"
)

// special are numbers that loops like to get wrong.
var special = []float32{
	0, float32(math.Copysign(0, -1)), 1, -1, 0x1p-149, -0x1p-149, 0x1p-127, 88.7, 89, 100, -87.3, -88, -103.9, -104, -200,
	math.MaxFloat32, -math.MaxFloat32, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
}

const guard = 12345.5

// guarded returns n numbers that begin off elements after an aligned address
// and have guards on both sides; check fails the test when a guard changed.
func guarded(t *testing.T, values []float32, off int) (v []float32, check func()) {
	const band = 40
	buf := alignedFloats(band + off + len(values) + band)
	for i := range buf {
		buf[i] = guard
	}
	from, to := band+off, band+off+len(values)
	copy(buf[from:], values)
	return buf[from:to:to], func() {
		t.Helper()
		for i, x := range buf {
			if (i < from || i >= to) && x != guard {
				t.Fatalf("element %d of %d was overwritten", i-from, len(values))
			}
		}
	}
}

// sameValue compares with a tolerance in units of the last place of want, or
// of floor if that is larger; NaN equals NaN.
func sameValue(got, want float32, tolerance, floor float64) bool {
	if got == want || got != got && want != want {
		return true
	}
	_, e := math.Frexp(math.Max(math.Abs(float64(want)), floor))
	return math.Abs(float64(got)-float64(want)) <= tolerance*math.Ldexp(1, max(e-24, -149))
}

// rowCase is a function of rows: it changes dst and returns a number.
type rowCase struct {
	name      string
	run       func(o *ops, dst, a, b, c []float32) float64
	tolerance float64 // of elements, in ulp
	floor     float64 // elements below are compared as if they were that large
	sum       bool    // the number is a float64 sum, else exact
}

var rowCases = []rowCase{
	{name: "add", run: func(o *ops, dst, a, _, _ []float32) float64 { o.add(dst, a); return 0 }},
	{name: "addScaled", run: func(o *ops, dst, a, _, _ []float32) float64 { o.addScaled(dst, a, -0.7); return 0 }, tolerance: 4, floor: 4},
	{name: "scale", run: func(o *ops, dst, _, _, _ []float32) float64 { o.scale(dst, -1.7); return 0 }},
	{name: "normalize", run: func(o *ops, dst, a, b, _ []float32) float64 { o.normalize(dst, a, b, 0.3); return 0 }},
	{name: "sumSquares", run: func(o *ops, _, a, _, _ []float32) float64 { return o.sumSquares(a) }, sum: true},
	{name: "largest", run: func(o *ops, _, a, _, _ []float32) float64 { return float64(o.largest(a)) }},
	{name: "dot", run: func(o *ops, _, a, b, _ []float32) float64 { return float64(o.dot(a, b)) }, sum: true},
	{name: "expSum", run: func(o *ops, dst, _, _, _ []float32) float64 { return o.expSum(dst, 1.1, 0.3) }, tolerance: 2, sum: true},
	{name: "sumExp", run: func(o *ops, _, a, _, _ []float32) float64 { return o.sumExp(a, 1.1, 0.3) }, sum: true},
	{name: "divergence", run: func(o *ops, _, a, b, _ []float32) float64 { return o.divergence(a, b, 5, 0.1) }, sum: true},
	{name: "silu", run: func(o *ops, dst, a, b, _ []float32) float64 { o.gate[SiLU](dst, a, b); return 0 }, tolerance: 4},
	{name: "geluTanh", run: func(o *ops, dst, a, b, _ []float32) float64 { o.gate[GELUTanh](dst, a, b); return 0 }, tolerance: 40},
	{name: "gelu", run: func(o *ops, dst, a, b, _ []float32) float64 { o.gate[GELU](dst, a, b); return 0 }, tolerance: 4},
	{name: "relu", run: func(o *ops, dst, a, b, _ []float32) float64 { o.gate[ReLU](dst, a, b); return 0 }},
	{name: "silu in place", run: func(o *ops, dst, a, _, _ []float32) float64 { o.gate[SiLU](dst, dst, a); return 0 }, tolerance: 4},
	{name: "slope of silu", run: func(o *ops, dst, a, b, c []float32) float64 {
		o.gateGrad[SiLU](dst, make([]float32, len(dst)), a, b, c)
		return 0
	}, tolerance: 16, floor: 1},
	{name: "value beside the slope of silu", run: func(o *ops, dst, a, b, c []float32) float64 {
		o.gateGrad[SiLU](make([]float32, len(dst)), dst, a, b, c)
		return 0
	}, tolerance: 8},
	{name: "slope of geluTanh", run: func(o *ops, dst, a, b, c []float32) float64 {
		o.gateGrad[GELUTanh](dst, make([]float32, len(dst)), a, b, c)
		return 0
	}, tolerance: 64, floor: 1},
	{name: "value beside the slope of geluTanh", run: func(o *ops, dst, a, b, c []float32) float64 {
		o.gateGrad[GELUTanh](make([]float32, len(dst)), dst, a, b, c)
		return 0
	}, tolerance: 40},
	{name: "softmaxGrad", run: func(o *ops, dst, a, _, _ []float32) float64 { o.softmaxGrad(dst, a, 0.3, 1.7); return 0 }, tolerance: 2},
	{name: "rotate", run: func(o *ops, dst, a, b, c []float32) float64 { o.rotate(dst, a, b, c); return 0 }, tolerance: 2, floor: 1},
	{name: "rotatePairs", run: func(o *ops, dst, a, b, _ []float32) float64 {
		n := len(dst) &^ 1
		for j := 1; j < n; j += 2 {
			a[j], b[j] = a[j-1], b[j-1]
		}
		o.rotatePairs(dst[:n], a[:n], b[:n])
		return 0
	}, tolerance: 2, floor: 1},
}

// TestRowsAgainstPortable compares every loop over rows with the portable one:
// all lengths, odd addresses, guards around the memory.
func TestRowsAgainstPortable(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(21, 22))
		for _, c := range rowCases {
			for n := range 100 {
				compareRows(t, c, o, [4][]float32{randoms(r, n), randoms(r, n), randoms(r, n), randoms(r, n)}, n%3)
			}
		}
	})
}

// TestRowsOfSpecialValues puts a special value at every position.
func TestRowsOfSpecialValues(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		for _, c := range rowCases {
			for _, s := range special {
				for n := range 34 {
					var in [4][]float32
					for i := range in {
						in[i] = make([]float32, 34)
						for j := range in[i] {
							in[i][j] = 0.5
						}
					}
					in[0][n], in[1][n] = s, s
					compareRows(t, c, o, in, 0)
				}
			}
		}
	})
}

func compareRows(t *testing.T, c rowCase, o *ops, in [4][]float32, off int) {
	t.Helper()
	var got, want [4][]float32
	var checks []func()
	for i := range in {
		v, check := guarded(t, in[i], off)
		got[i], checks = v, append(checks, check)
		want[i] = append([]float32(nil), in[i]...)
	}
	g := c.run(o, got[0], got[1], got[2], got[3])
	w := c.run(&portable, want[0], want[1], want[2], want[3])
	for _, check := range checks {
		check()
	}
	size := 0.0
	for i := range want {
		for j := range want[i] {
			size += math.Abs(float64(in[i][j]))
			if !sameValue(got[i][j], want[i][j], c.tolerance, c.floor) {
				t.Fatalf("%s: element %d of %d is %v, want %v (inputs %v)", c.name, j, len(want[i]), got[i][j], want[i][j],
					[]float32{in[0][j], in[1][j], in[2][j], in[3][j]})
			}
		}
	}
	tolerance := 0.0
	if c.sum {
		tolerance = 1e-6 * (math.Abs(w) + size)
	}
	if g != w && !(math.IsNaN(g) && math.IsNaN(w)) && !(math.Abs(g-w) <= tolerance) {
		t.Fatalf("%s: result is %v, want %v", c.name, g, w)
	}
}

// TestMicro compares tiles of every number of rows and depth with the
// portable kernel of the same width.
func TestMicro(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(31, 32))
		for rows := 1; rows <= o.mr; rows++ {
			for _, k := range []int{1, 2, 3, 4, 5, 7, 8, 63, 256} {
				for _, accumulate := range []bool{false, true} {
					lda, ldc := k+rows%3, o.nr+rows%5
					a, checkA := guarded(t, randoms(r, (rows-1)*lda+k), 1)
					b, checkB := guarded(t, randoms(r, k*o.nr), 3)
					before := randoms(r, (rows-1)*ldc+o.nr)
					c, checkC := guarded(t, before, 2)
					o.micro(rows, k, a, lda, b, c, ldc, accumulate)
					checkA()
					checkB()
					checkC()
					for i, x := range c {
						row, col := i/ldc, i%ldc
						want := float64(before[i])
						if col < o.nr {
							if !accumulate {
								want = 0
							}
							for p := range k {
								want += float64(a[row*lda+p]) * float64(b[p*o.nr+col])
							}
						}
						if math.Abs(float64(x)-want) > 1e-5*math.Sqrt(float64(k)) || col >= o.nr && x != before[i] {
							t.Fatalf("%d rows, depth %d: element [%d, %d] is %v, want %v", rows, k, row, col, x, want)
						}
					}
				}
			}
		}
	})
}

func TestTranspose(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(33, 34))
		for _, rows := range []int{1, o.nr - 1, o.nr} {
			for k := 1; k < 40; k++ {
				ld := k + k%3
				src := randoms(r, (rows-1)*ld+k)
				panel, check := guarded(t, randoms(r, k*o.nr), 1)
				o.panel(panel, src, ld, rows, k)
				check()
				for i, got := range panel {
					p, j := i/o.nr, i%o.nr
					want := float32(0)
					if j < rows {
						want = src[j*ld+p]
					}
					if got != want {
						t.Fatalf("%d rows of %d: panel[%d][%d] is %v, want %v", rows, k, p, j, got, want)
					}
				}
			}
		}
	})
}

// TestFormats compares unpacking of random blocks with the portable way, and
// fused dot products with those of unpacked rows: both to the last bit.
func TestFormats(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		c := newCPU(1, o)
		defer c.Close()
		r := rand.New(rand.NewPCG(41, 42))
		for _, typ := range decodeTypes {
			for units := 1; units <= 9; units++ {
				sizes := []int{units * typ.BlockSize()}
				if !typ.IsBlock() {
					sizes = []int{units, 15 + units, 61 + units}
				}
				for _, cols := range sizes {
					rows := 4 + units%2
					d := randomDense(t, rows, cols, typ)
					w := c.Load(d).(*weight)
					x, xt := randoms(r, cols), c.NewTensor(1, cols)
					copy(xt.Data, x)
					dst := c.NewTensor(1, rows)
					c.MatMul(dst, xt, w)
					want, got := make([]float32, cols), make([]float32, cols)
					for i := range rows {
						decodePortable(want, d.bytes(i, 0, cols), typ)
						w.columns(&c.scratch[0], got, i, 0)
						for j := range want {
							if math.Float32bits(got[j]) != math.Float32bits(want[j]) {
								t.Fatalf("%s [%d, %d]: number %d of row %d is %v, want %v", typ, rows, cols, j, i, got[j], want[j])
							}
						}
						if dot := o.dot(x, want); dst.Data[i] != dot {
							t.Fatalf("%s [%d, %d]: dot of row %d is %v, want %v", typ, rows, cols, i, dst.Data[i], dot)
						}
					}
				}
			}
		}
	})
}

// TestSmallFloats unpacks all 65536 codes of the 16-bit types, and pairs of all
// codes of the 8-bit ones.
func TestSmallFloats(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		c := newCPU(1, o)
		defer c.Close()
		data := make([]byte, 2<<16)
		for i := range 1 << 16 {
			binary.LittleEndian.PutUint16(data[2*i:], uint16(i))
		}
		for _, typ := range []dtype.Type{dtype.F16, dtype.BF16, dtype.F8E4M3, dtype.F8E5M2} {
			n := len(data) / typ.BlockBytes()
			d, err := NewDense(1, n, typ, data)
			if err != nil {
				t.Fatal(err)
			}
			got, want := make([]float32, n), make([]float32, n)
			c.Load(d).(*weight).columns(nil, got, 0, 0)
			decodePortable(want, data, typ)
			for i := range want {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
					t.Fatalf("%s %#04x is %v, want %v", typ, i, got[i], want[i])
				}
			}
		}
	})
}

// TestNaNPropagates puts one NaN into an operand of each operation.
func TestNaNPropagates(t *testing.T) {
	nan := float32(math.NaN())
	eachLevel(t, func(t *testing.T, o *ops) {
		c := newCPU(2, o)
		defer c.Close()
		r := rand.New(rand.NewPCG(51, 52))
		expect := func(what string, row []float32) {
			t.Helper()
			for i, v := range row {
				if v == v {
					t.Fatalf("%s: element %d is %v, want NaN", what, i, v)
				}
			}
		}
		for _, n := range []int{1, 20} {
			x, w := randomTensor(c, r, n, 70), FromFloat32s(33, 70, randoms(r, 33*70))
			x.row(n - 1)[69] = nan
			dst := c.NewTensor(n, 33)
			c.MatMul(dst, x, c.Load(w))
			expect(fmt.Sprintf("product of %d rows", n), dst.row(n-1))
			out := c.NewTensor(n, 70)
			c.RMSNorm(out, x, randomTensor(c, r, 1, 70), 1e-5)
			expect("norm", out.row(n-1))
		}
		spec := AttentionSpec{Heads: 2, KVHeads: 1, HeadDim: 20, Scale: 1}
		for which := range 3 {
			q, k, v, dst := randomTensor(c, r, 3, 40), randomTensor(c, r, 3, 20), randomTensor(c, r, 3, 20), c.NewTensor(3, 40)
			[]*Tensor{q, k, v}[which].row(2)[19] = nan
			c.Attention(dst, q, k, v, c.NewCache(1, 20, 0), spec)
			switch which {
			case 0:
				expect("attention of query", dst.row(2)[:20])
			case 1:
				expect("attention of key", dst.row(2))
			case 2:
				expect("attention of value", dst.row(2)[19:20])
			}
		}
	})
}

// TestSplitAttention: one token's attention over many positions is split
// between threads, and gives what one thread gives, to the last bit.
func TestSplitAttention(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		for _, s := range []AttentionSpec{
			{Heads: 4, KVHeads: 1, HeadDim: 80, Scale: 0.3},
			{Heads: 3, KVHeads: 1, HeadDim: 20, Scale: 0.5, Window: 260, SoftCap: 3},
			{Heads: 4, KVHeads: 2, HeadDim: 33, Scale: 0.2, Window: 600},
		} {
			var want []float32
			for _, threads := range []int{1, 2, 7} {
				c := newCPU(threads, o)
				r := rand.New(rand.NewPCG(53, 54))
				cache := c.NewCache(s.KVHeads, s.HeadDim, 0)
				var got []float32
				for _, n := range []int{700, 1, 1, 2, 1} {
					q, dst := randomTensor(c, r, n, s.Heads*s.HeadDim), c.NewTensor(n, s.Heads*s.HeadDim)
					k, v := randomTensor(c, r, n, s.KVHeads*s.HeadDim), randomTensor(c, r, n, s.KVHeads*s.HeadDim)
					q.Data[0] *= 50 // so that a later page has the largest logit
					c.Attention(dst, q, k, v, cache, s)
					got = append(got, dst.Data...)
				}
				if want == nil {
					want = got
				}
				for i := range want {
					if got[i] != want[i] {
						t.Fatalf("%+v, %d threads: element %d is %v, want %v", s, threads, i, got[i], want[i])
					}
				}
				if threads > 1 && c.split.pages == 0 {
					t.Errorf("%+v, %d threads: was not split", s, threads)
				}
				c.Close()
			}
		}
	})
}
