package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"llmc/dtype"
)

// newFastCPU returns a device that computes with integers.
func newFastCPU(threads int, o *ops) *CPU {
	c := newCPU(threads, o)
	c.compute = Fast
	return c
}

var integerTypes = func() (types []dtype.Type) {
	for t := range integerFormats {
		types = append(types, t)
	}
	slices.Sort(types)
	return types
}()

// TestQuantizeDefinition checks what records hold: codes that are nearest to
// the numbers, at the largest possible scale, and the sums.
func TestQuantizeDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(61, 62))
	for range 50 {
		x := randoms(r, 64)
		got := make([]record, 2)
		quantizePortable(got, x, 1, 8)
		for b, rec := range got {
			largest, sums := 0.0, [3]float64{}
			for i, v := range x[32*b:][:32] {
				largest = max(largest, math.Abs(float64(v)))
				code := float64(rec.codes[i])
				sums[0] += code
				sums[1+i/16] += code
				if diff := math.Abs(code*float64(rec.scale) - float64(v)); diff > 0.50001*float64(rec.scale) {
					t.Fatalf("%v becomes %v times %v", v, code, rec.scale)
				}
			}
			if float64(rec.scale)*127 > largest*(1+1e-6) || float64(rec.scale)*127 < largest*(1-1e-6) {
				t.Fatalf("the scale of numbers up to %v is %v", largest, rec.scale)
			}
			for i, s := range sums {
				if rec.bias[i] != int32(-8*s) || rec.sum[i] != rec.scale*float32(s) {
					t.Fatalf("sum %d is %v, but the record has %d and %v", i, s, rec.bias[i], rec.sum[i])
				}
			}
		}
	}
}

// TestQuantize compares with portable Go, to the last bit: special values at
// every position, odd addresses, strides, sizes of numbers.
func TestQuantize(t *testing.T) {
	if unsafe.Sizeof(record{}) != 64 {
		t.Fatalf("a record has %d bytes, assembly reckons with 64", unsafe.Sizeof(record{}))
	}
	eachLevel(t, func(t *testing.T, o *ops) {
		if o.integer == nil {
			t.Skip("is the definition")
		}
		r := rand.New(rand.NewPCG(63, 64))
		compare := func(x []float32, stride int) {
			t.Helper()
			blocks := len(x) / 32
			got, want := make([]record, blocks*stride+1), make([]record, blocks*stride+1)
			quantizePortable(want, x, stride, 32)
			o.integer.quantize(recordBytes(got), &x[0], blocks, 64*stride, 32)
			for i := range want {
				if !sameRecord(got[i], want[i]) {
					t.Fatalf("stride %d: record %d is\n%+v, want\n%+v\nof %v", stride, i, got[i], want[i], x)
				}
			}
		}
		for blocks := 1; blocks < 9; blocks++ {
			for stride := 1; stride < 4; stride++ {
				compare(randoms(r, 32*blocks+1)[1:], stride)
			}
		}
		for _, s := range append(special, 0x1p-100, 0x1.fffffep-101, 0x1p-121, 2.5/127, -3.5/127) {
			for n := range 32 {
				x := make([]float32, 32)
				compare(slices.Replace(x, n, n+1, s), 1)
				for i := range x {
					x[i] = 1 / float32(i-7)
				}
				compare(slices.Replace(x, n, n+1, s), 1)
			}
		}
		for exponent := -149; exponent < 128; exponent++ {
			x := randoms(r, 32)
			for i := range x {
				x[i] = float32(math.Ldexp(float64(x[i]), exponent))
			}
			compare(x, 1)
		}
	})
}

func sameRecord(a, b record) bool {
	for i := range a.sum {
		if !sameValue(a.sum[i], b.sum[i], 0, 0) || math.Signbit(float64(a.sum[i])) != math.Signbit(float64(b.sum[i])) && a.sum[i] == a.sum[i] {
			return false
		}
	}
	return a.codes == b.codes && a.bias == b.bias && sameValue(a.scale, b.scale, 0, 0)
}

// TestIntegerProducts compares every level with portable Go, to the last bit,
// on random bytes: scales that are NaN, infinite and denormal are among them.
func TestIntegerProducts(t *testing.T) {
	r := rand.New(rand.NewPCG(65, 66))
	compare := func(name string, x []float32, n int, w Matrix) {
		t.Helper()
		want := fastProduct(&portable, 1, x, n, w)
		for _, o := range levels() {
			for _, threads := range []int{1, 2, 7} {
				got := fastProduct(o, threads, x, n, w)
				for i := range want {
					if !sameValue(got[i], want[i], 0, 0) {
						t.Fatalf("%s, %s, %d threads: element %d is %v, want %v", name, o.level, threads, i, got[i], want[i])
					}
				}
			}
		}
	}
	for _, typ := range integerTypes {
		for _, s := range []struct{ n, rows, units int }{{1, 1, 1}, {2, 7, 2}, {3, 16, 3}, {5, 33, 1}, {64, 8, 1}, {67, 17, 2}, {130, 50, 1}} {
			cols := s.units * typ.BlockSize()
			w := randomDense(t, s.rows, cols, typ)
			if s.units == 3 {
				for i := range w.Data {
					w.Data[i] = byte(r.Uint32())
				}
			}
			x := randoms(r, s.n*cols)
			if s.n > 64 {
				x[3], x[len(x)-1] = float32(math.NaN()), float32(math.Inf(1))
			}
			compare(fmt.Sprint(typ, s), x, s.n, w)
		}
	}
	for bits := 2; bits <= 8; bits++ {
		for _, s := range []struct{ n, rows, cols, size int }{{1, 1, 32, 32}, {3, 17, 192, 64}, {66, 35, 256, 128}, {5, 8, 96, 200}} {
			g := randomGroups(r, s.rows, s.cols, bits, s.size, s.n != 5, false)
			for i := range g.Codes {
				g.Codes[i] = byte(r.Uint32())
			}
			compare(fmt.Sprint(bits, s), randoms(r, s.n*s.cols), s.n, g)
		}
	}
}

func fastProduct(o *ops, threads int, x []float32, n int, w Matrix) []float32 {
	c := newFastCPU(threads, o)
	defer c.Close()
	rows, cols := w.Shape()
	xt, dst := c.NewTensor(n, cols), c.NewTensor(n, rows)
	c.Write(xt, x)
	loaded := c.Load(w)
	if loaded.(*weight).integer == nil {
		panic("the matrix has no integer products")
	}
	c.MatMul(dst, xt, loaded)
	return dst.Data
}

// TestIntegerDefinition compares with products of dequantized weights and
// dequantized activations, in float64.
func TestIntegerDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(67, 68))
	const rows, n = 9, 3
	var matrices []Matrix
	for _, typ := range integerTypes {
		matrices = append(matrices, randomDense(t, rows, 2*typ.BlockSize(), typ))
	}
	for bits := 2; bits <= 8; bits++ {
		for _, zeros := range []bool{false, true} {
			g := randomGroups(r, rows, 256, bits, 64, zeros, false)
			for i := range g.Codes {
				g.Codes[i] = byte(r.Uint32())
			}
			matrices = append(matrices, g)
		}
	}
	for _, w := range matrices {
		_, cols := w.Shape()
		x := randoms(r, n*cols)
		got := fastProduct(&portable, 1, x, n, w)
		row, records := make([]float32, cols), make([]record, cols/32)
		for i := range n {
			quantizePortable(records, x[i*cols:][:cols], 1, 0)
			for j := range rows {
				w.Row(row, j)
				sum, size := 0.0, 0.0
				for k, v := range row {
					p := float64(v) * float64(records[k/32].codes[k%32]) * float64(records[k/32].scale)
					sum += p
					size += math.Abs(p)
				}
				if v := float64(got[i*rows+j]); !(math.Abs(v-sum) <= 1e-6*size) {
					t.Errorf("%T, %d bytes: product is %v, want %v", w, w.Bytes(), v, sum)
				}
			}
		}
	}
}

// TestCopiedLetsGo: what was rearranged is not kept alive by its copy.
func TestCopiedLetsGo(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		c := newFastCPU(1, o)
		defer c.Close()
		freed := make(chan bool, 1)
		m := randomGroups(rand.New(rand.NewPCG(1, 1)), 32, 64, 4, 32, true, false)
		runtime.AddCleanup(m, func(int) { freed <- true }, 0)
		w := c.Load(m)
		copied := w.Copied()
		if !copied {
			runtime.KeepAlive(m)
			return
		}
		runtime.GC()
		select {
		case <-freed:
		case <-time.After(10 * time.Second):
			t.Error("a copied matrix is still in use")
		}
		runtime.KeepAlive(w)
	})
}

// TestFastFallsBack: matrices without integer products are multiplied exactly.
func TestFastFallsBack(t *testing.T) {
	r := rand.New(rand.NewPCG(69, 70))
	short, wide := randomGroups(r, 5, 256, 4, 48, false, false), randomGroups(r, 5, 256, 4, 64, true, false)
	wide.Zeros[3] = 200
	for _, w := range []Matrix{
		randomGroups(r, 5, 256, 4, 64, true, true), short, wide, FromFloat32s(5, 256, randoms(r, 5*256)),
		randomDense(t, 5, 256, dtype.F16), randomDense(t, 5, 256, dtype.IQ2_XS),
	} {
		x := randoms(r, 256)
		var got [2][]float32
		for compute := Exact; compute <= Fast; compute++ {
			c := newCPU(2, &portable)
			c.compute = compute
			xt, dst := c.NewTensor(1, 256), c.NewTensor(1, 5)
			c.Write(xt, x)
			c.MatMul(dst, xt, c.Load(w))
			got[compute] = dst.Data
			c.Close()
		}
		checkClose(t, fmt.Sprintf("%T of %d bytes", w, w.Bytes()), got[1], got[0], 0)
	}
}

// integerPeak runs integer products in registers on one thread and returns how
// many operations they are.
func integerPeak(o *ops) float64 {
	if o.integer == nil {
		return 1
	}
	const n = 200000
	return o.integer.peak(n) * n
}

// BenchmarkIntegerProduct is a fast product next to what the machine's integer
// dot products can do.
func BenchmarkIntegerProduct(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, s := range []struct{ n, k, out int }{{512, 2048, 2048}, {512, 2048, 256}, {64, 2048, 2048}, {8, 2048, 5632}} {
			for _, t := range []dtype.Type{dtype.Q8_0, dtype.Q4_0, dtype.Q4_K, dtype.Q6_K} {
				b.Run(fmt.Sprintf("threads=%d/%dx%dx%d/%s", threads, s.n, s.k, s.out, t), func(b *testing.B) {
					benchLevels(b, func(b *testing.B, o *ops) {
						c := newFastCPU(threads, o)
						defer c.Close()
						x, dst := randomTensor(c, rand.New(rand.NewPCG(1, 1)), s.n, s.k), c.NewTensor(s.n, s.out)
						weight := c.Load(randomDense(b, s.out, s.k, t))
						best(b, threads, "GOP/s", func() float64 {
							c.MatMul(dst, x, weight)
							return 2 * float64(s.n) * float64(s.k) * float64(s.out)
						}, func() float64 { return onThreads(c.pool, func() float64 { return integerPeak(o) }) })
					})
				})
			}
		}
	}
}

// TestCopied: matrices that were rearranged need not be kept, tables are not
// rearranged.
func TestCopied(t *testing.T) {
	w := randomDense(t, 40, 64, dtype.Q4_0)
	for _, o := range levels() {
		c := newFastCPU(1, o)
		if got, want := c.Load(w).Copied(), o.integer != nil; got != want {
			t.Errorf("%s: a loaded matrix says it is copied: %v, want %v", o.level, got, want)
		}
		if c.LoadTable(w).Copied() || c.Load(FromFloat32s(1, 2, []float32{1, 2})).Copied() {
			t.Errorf("%s: a matrix that stays where it is says it is copied", o.level)
		}
		dst := c.NewTensor(1, 64)
		c.Embed(dst, c.LoadTable(w), []int32{39})
		want := make([]float32, 64)
		w.Row(want, 39)
		checkClose(t, "embed", dst.Data, want, 0)
		c.Close()
	}
}
