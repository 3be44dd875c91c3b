package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"llmc/dtype"
)

// eachLevel runs a test at every level of this machine and with several
// numbers of threads.
func eachLevel(t *testing.T, f func(t *testing.T, o *ops)) {
	for _, o := range levels() {
		t.Run(o.level, func(t *testing.T) { f(t, o) })
	}
}

func randoms(r *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

func randomTensor(c *CPU, r *rand.Rand, rows, cols int) *Tensor {
	t := c.NewTensor(rows, cols)
	copy(t.Data, randoms(r, rows*cols))
	return t
}

// checkClose compares with a tolerance relative to scale.
func checkClose(t *testing.T, what string, got, want []float32, scale float64) {
	t.Helper()
	for i := range want {
		g, w := float64(got[i]), float64(want[i])
		if diff := math.Abs(g - w); !(diff <= scale) && !(math.IsNaN(g) && math.IsNaN(w)) && g != w {
			t.Fatalf("%s: element %d is %v, want %v", what, i, g, w)
		}
	}
}

func TestMatMul(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(1, 2))
		c := newCPU(2, o)
		defer c.Close()
		for _, s := range []struct{ n, k, out int }{
			{1, 1, 1}, {1, 5, 3}, {3, 64, 33}, {8, 255, 31}, {9, 256, 32}, {13, 257, 65},
			{14, 3, 130}, {15, 513, 47}, {29, 300, 257}, {50, 600, 16},
		} {
			x, w := randomTensor(c, r, s.n, s.k), randoms(r, s.out*s.k)
			dst := c.NewTensor(s.n, s.out)
			c.MatMul(dst, x, c.Load(FromFloat32s(s.out, s.k, w)))
			want := make([]float32, s.n*s.out)
			for i := range s.n {
				for j := range s.out {
					sum := 0.0
					for p := range s.k {
						sum += float64(x.Data[i*s.k+p]) * float64(w[j*s.k+p])
					}
					want[i*s.out+j] = float32(sum)
				}
			}
			checkClose(t, fmt.Sprint(s), dst.Data, want, 2e-6*math.Sqrt(float64(s.k))*4)
		}
	})
}

// TestMatMulDoesNotDependOnThreadsOrRows runs the same rows alone and among
// others, on several threads.
func TestMatMulDoesNotDependOnThreadsOrRows(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(3, 4))
		const n, k, out = 61, 700, 300
		x, w := randoms(r, n*k), FromFloat32s(out, k, randoms(r, out*k))
		var want []float32
		for _, threads := range []int{1, 2, 7} {
			c := newCPU(threads, o)
			for _, rows := range []int{n, maxBatchRows + 1, 30} {
				xt, dst := c.NewTensor(rows, k), c.NewTensor(rows, out)
				copy(xt.Data, x)
				c.MatMul(dst, xt, c.Load(w))
				if want == nil {
					want = dst.Data
				}
				for i, v := range dst.Data {
					if v != want[i] {
						t.Fatalf("%d threads, %d rows: element %d is %v, want %v", threads, rows, i, v, want[i])
					}
				}
			}
			c.Close()
		}
	})
}

// TestBatchOfRows multiplies few rows, which must give what each gives alone.
func TestBatchOfRows(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		for _, typ := range decodeTypes {
			k := 512
			if !typ.IsBlock() {
				k += 5 // with a rest
			}
			const out = dotRows + 3
			c := newCPU(2, o)
			defer c.Close()
			w := c.Load(randomDense(t, out, k, typ)).(*weight)
			x := randomTensor(c, rand.New(rand.NewPCG(5, 6)), maxBatchRows, k)
			one, alone := c.NewTensor(1, k), c.NewTensor(1, out)
			for n := 1; n <= w.maxDots(); n++ {
				some, dst := c.NewTensor(n, k), c.NewTensor(n, out)
				copy(some.Data, x.Data)
				c.MatMul(dst, some, w)
				for i := range n {
					copy(one.Data, x.row(i))
					c.MatMul(alone, one, w)
					if !slices.Equal(dst.row(i), alone.Data) {
						t.Fatalf("%s: row %d of %d differs from the row alone", typ, i, n)
					}
				}
			}
		}
	})
}

// naiveAttention is the definition, in float64.
func naiveAttention(q, k, v []float32, n, total int, s AttentionSpec) []float32 {
	d, kv := s.HeadDim, s.KVHeads*s.HeadDim
	dst := make([]float32, n*s.Heads*d)
	for i := range n {
		pos := total - n + i
		for h := range s.Heads {
			g := h / (s.Heads / s.KVHeads)
			lo := 0
			if s.Window > 0 {
				lo = max(0, pos+1-s.Window)
			}
			p := make([]float64, pos+1)
			sum, largest := 0.0, math.Inf(-1)
			for j := lo; j <= pos; j++ {
				for e := range d {
					p[j] += float64(q[(i*s.Heads+h)*d+e]) * float64(k[j*kv+g*d+e])
				}
				p[j] *= float64(s.Scale)
				if s.SoftCap > 0 {
					p[j] = float64(s.SoftCap) * math.Tanh(p[j]/float64(s.SoftCap))
				}
				largest = math.Max(largest, p[j])
			}
			for j := lo; j <= pos; j++ {
				p[j] = math.Exp(p[j] - largest)
				sum += p[j]
			}
			for e := range d {
				o := 0.0
				for j := lo; j <= pos; j++ {
					o += p[j] / sum * float64(v[j*kv+g*d+e])
				}
				dst[(i*s.Heads+h)*d+e] = float32(o)
			}
		}
	}
	return dst
}

func TestAttention(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(5, 6))
		for _, s := range []AttentionSpec{
			{Heads: 1, KVHeads: 1, HeadDim: 5, Scale: 1},
			{Heads: 4, KVHeads: 2, HeadDim: 64, Scale: 0.125},
			{Heads: 9, KVHeads: 3, HeadDim: 48, Scale: 0.3, Window: 7},
			{Heads: 4, KVHeads: 1, HeadDim: 33, Scale: 0.3, Window: 70, SoftCap: 2},
		} {
			c := newCPU(3, o)
			cache := c.NewCache(s.KVHeads, s.HeadDim, 0)
			const total = 150
			k, v := randoms(r, total*s.KVHeads*s.HeadDim), randoms(r, total*s.KVHeads*s.HeadDim)
			q := randoms(r, total*s.Heads*s.HeadDim)
			step := func(from, to int) []float32 {
				n := to - from
				qt, kt, vt, dst := c.NewTensor(n, s.Heads*s.HeadDim), c.NewTensor(n, s.KVHeads*s.HeadDim), c.NewTensor(n, s.KVHeads*s.HeadDim), c.NewTensor(n, s.Heads*s.HeadDim)
				copy(qt.Data, q[from*qt.Cols:])
				copy(kt.Data, k[from*kt.Cols:])
				copy(vt.Data, v[from*vt.Cols:])
				c.Attention(dst, qt, kt, vt, cache, s)
				if cache.Len() != to {
					t.Fatalf("cache holds %d, want %d", cache.Len(), to)
				}
				return dst.Data
			}
			var got []float32
			for _, to := range []int{1, 2, 60, 63, 64, 65, 66, 149, total} {
				got = append(got, step(cache.Len(), to)...)
			}
			all := naiveAttention(q, k, v, total, total, s)
			checkClose(t, fmt.Sprintf("%+v by steps", s), got, all, 3e-6)

			cache.Truncate(0)
			whole := step(0, total)
			for i := range whole {
				if whole[i] != got[i] {
					t.Fatalf("%+v: element %d is %v at once and %v by steps", s, i, whole[i], got[i])
				}
			}
			cache.Truncate(70)
			again := step(70, total)
			checkClose(t, fmt.Sprintf("%+v after Truncate", s), again, got[70*s.Heads*s.HeadDim:], 0)
			c.Close()
		}
	})
}

func TestRotate(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(7, 8))
		c := newCPU(2, o)
		defer c.Close()
		for _, interleaved := range []bool{false, true} {
			for _, half := range []int{1, 3, 16, 19} {
				const rows, heads, dim = 5, 3, 40
				rope := &Rope{Scale: 1.5, Interleaved: interleaved}
				for j := range half {
					rope.InvFreq = append(rope.InvFreq, math.Pow(100, -float64(j)/float64(half)))
				}
				for _, start := range []int{0, 7, 1000} {
					x := randomTensor(c, r, rows, heads*dim)
					want := append([]float32(nil), x.Data...)
					for i := range rows {
						for h := range heads {
							for j := range half {
								a, b := j, j+half
								if interleaved {
									a, b = 2*j, 2*j+1
								}
								a, b = (i*heads+h)*dim+a, (i*heads+h)*dim+b
								s, c := math.Sincos(float64(start+i) * rope.InvFreq[j])
								xa, xb := float64(want[a]), float64(want[b])
								want[a] = float32((xa*c - xb*s) * 1.5)
								want[b] = float32((xa*s + xb*c) * 1.5)
							}
						}
					}
					c.Rotate(x, dim, rope, start)
					checkClose(t, fmt.Sprint(interleaved, half, start), x.Data, want, 2e-6)
				}
			}
		}
	})
}

func TestRMSNorm(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(9, 10))
		c := newCPU(2, o)
		defer c.Close()
		for _, s := range []struct{ rows, n, heads int }{{1, 1, 1}, {3, 17, 1}, {4, 64, 3}, {70, 257, 2}} {
			x, w := randomTensor(c, r, s.rows, s.n*s.heads), randomTensor(c, r, 1, s.n)
			want := make([]float32, len(x.Data))
			for i := 0; i < len(want); i += s.n {
				sum := 0.0
				for _, v := range x.Data[i : i+s.n] {
					sum += float64(v) * float64(v)
				}
				for j := range s.n {
					want[i+j] = float32(float64(x.Data[i+j]) / math.Sqrt(sum/float64(s.n)+1e-3) * float64(w.Data[j]))
				}
			}
			c.RMSNorm(x, x, w, 1e-3)
			checkClose(t, fmt.Sprint(s), x.Data, want, 2e-6)
		}
	})
}

func TestElementwise(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(11, 12))
		c := newCPU(2, o)
		defer c.Close()
		const rows, cols = 37, 701
		x, y, bias := randomTensor(c, r, rows, cols), randomTensor(c, r, rows, cols), randomTensor(c, r, 1, cols)
		dst := c.NewTensor(rows, cols)
		acts := map[Activation]func(x float64) float64{
			SiLU:     func(x float64) float64 { return x / (1 + math.Exp(-x)) },
			GELUTanh: func(x float64) float64 { return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) },
			GELU:     func(x float64) float64 { return x / 2 * (1 + math.Erf(x/math.Sqrt2)) },
			ReLU:     func(x float64) float64 { return math.Max(x, 0) },
		}
		want := make([]float32, rows*cols)
		for act, f := range acts {
			c.Gate(dst, x, y, act)
			for i := range want {
				want[i] = float32(f(float64(x.Data[i])) * float64(y.Data[i]))
			}
			checkClose(t, fmt.Sprint("act ", act), dst.Data, want, 2e-6)
		}
		for i := range want {
			want[i] = (x.Data[i] + y.Data[i] + bias.Data[i%cols]) * 2.5
		}
		c.Add(x, y)
		c.Add(x, bias)
		c.Scale(x, 2.5)
		checkClose(t, "add, scale", x.Data, want, 1e-6)
		for i := range want {
			want[i] = float32(3 * math.Tanh(float64(want[i])/3))
		}
		c.SoftCap(x, 3)
		checkClose(t, "softcap", x.Data, want, 1e-6)
	})
}

func TestEmbedAndPool(t *testing.T) {
	c := NewCPU(2)
	defer c.Close()
	w := FromFloat32s(4, 3, []float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
	dst := c.NewTensor(2, 3)
	c.Embed(dst, c.LoadTable(w), []int32{3, 1})
	checkClose(t, "embed", dst.Data, []float32{9, 10, 11, 3, 4, 5}, 0)
	c.Free(dst)
	if again := c.NewTensor(1, 5); again != dst || again.Rows != 1 || again.Cols != 5 || again.Data[0] != 0 || len(again.Data) != 5 {
		t.Errorf("a freed tensor came back as %+v", again)
	}
}

// TestNoAllocation runs the operations of one decoded token.
func TestNoAllocation(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		c := newCPU(2, o)
		defer c.Close()
		r := rand.New(rand.NewPCG(13, 14))
		square := FromFloat32s(64, 64, randoms(r, 64*64))
		w, table := c.Load(square), c.LoadTable(square)
		norm := randomTensor(c, r, 1, 64)
		rope := &Rope{InvFreq: []float64{1, 0.5, 0.1}, Scale: 1}
		cache := c.NewCache(2, 16, 0)
		spec := AttentionSpec{Heads: 4, KVHeads: 2, HeadDim: 16, Scale: 0.25}
		ids := []int32{3}
		token := func() {
			x, y := c.NewTensor(1, 64), c.NewTensor(1, 64)
			k, v := c.NewTensor(1, 32), c.NewTensor(1, 32)
			c.Embed(x, table, ids)
			c.RMSNorm(y, x, norm, 1e-5)
			c.MatMul(x, y, w)
			c.Rotate(x, 16, rope, cache.Len())
			c.Attention(y, x, k, v, cache, spec)
			c.Gate(y, y, x, SiLU)
			c.Add(x, y)
			for _, t := range []*Tensor{x, y, k, v} {
				c.Free(t)
			}
		}
		token()
		// A page of the cache is two allocations in 64 tokens.
		if n := testing.AllocsPerRun(128, token); n > 0 {
			t.Errorf("%v allocations a token", n)
		}
	})
}

func TestPool(t *testing.T) {
	for _, threads := range []int{1, 2, 5} {
		p := newPool(threads)
		for parts := range 40 {
			counts := &countTask{runs: make([]int, parts)}
			p.run(parts, counts)
			for i, n := range counts.runs {
				if n != 1 {
					t.Fatalf("%d threads: part %d of %d ran %d times", threads, i, parts, n)
				}
			}
		}
		p.close()
	}
}

// TestPoolWaits has parts that take longer than the caller spins, between short
// ones, so that late workers find the next task waited for.
func TestPoolWaits(t *testing.T) {
	p := newPool(4)
	defer p.close()
	for i := range 300 {
		slow := &slowTask{runs: make([]int, 3), pause: time.Duration(i%3) * 100 * time.Microsecond}
		p.run(3, slow)
		quick := &countTask{runs: make([]int, 9)}
		p.run(9, quick)
		if slices.Min(slow.runs) != 1 || slices.Max(slow.runs) != 1 || slices.Min(quick.runs) != 1 || slices.Max(quick.runs) != 1 {
			t.Fatalf("run %d: parts ran %v and %v times", i, slow.runs, quick.runs)
		}
	}
}

type slowTask struct {
	runs  []int
	pause time.Duration
}

func (s *slowTask) run(_, part int) {
	time.Sleep(s.pause * time.Duration(part))
	s.runs[part]++
}

// TestPoolCloses waits for the workers of a closed pool to end.
func TestPoolCloses(t *testing.T) {
	before := runtime.NumGoroutine()
	p := newPool(6)
	p.run(30, &countTask{runs: make([]int, 30)})
	p.close()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

type countTask struct{ runs []int }

func (c *countTask) run(_, part int) { c.runs[part]++ }

// ulps is the distance of got from the float64 value want in units of the
// last place of a float32 of that size.
func ulps(got float32, want float64) float64 {
	_, e := math.Frexp(want)
	return math.Abs(float64(got)-want) / math.Ldexp(1, max(e-24, -149))
}

func TestExp32(t *testing.T) {
	worst, at := 0.0, float32(0)
	for x := float32(-104); x < 88.722; x += 0.00137 {
		if u := ulps(exp32(x), math.Exp(float64(x))); u > worst {
			worst, at = u, x
		}
	}
	if worst > 1.2 {
		t.Errorf("worst error is %.2f ulp at %v", worst, at)
	}
	nan := float32(math.NaN())
	inf := float32(math.Inf(1))
	if e := exp32(nan); e == e {
		t.Error("exp32(NaN) is not NaN")
	}
	if exp32(inf) != inf || exp32(-inf) != 0 || exp32(0) != 1 || exp32(-200) != 0 || exp32(100) != inf {
		t.Error("exp32 of special values")
	}
}

func TestNewDense(t *testing.T) {
	for _, bad := range []struct {
		rows, cols int
		t          dtype.Type
		bytes      int
	}{{0, 4, dtype.F32, 0}, {1, 4, dtype.F32, 15}, {1, 33, dtype.Q4_0, 18}, {1, 4, dtype.I32, 16}, {math.MaxInt / 4, 8, dtype.F32, 0}} {
		if _, err := NewDense(bad.rows, bad.cols, bad.t, make([]byte, bad.bytes)); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	if _, err := NewDense(2, 32, dtype.Q4_0, make([]byte, 36)); err != nil {
		t.Error(err)
	}
}

// TestRows takes rows apart and adds them up again, against loops.
func TestRows(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(31, 32))
		c := newCPU(3, o)
		defer c.Close()
		for _, cols := range []int{1, 7, 64, 333} {
			x, y := randomTensor(c, r, 40, cols), randomTensor(c, r, 9, cols)
			rows := []int32{39, 0, 3, 3, 12}
			some := c.NewTensor(len(rows), cols)
			c.Select(some, x, rows)
			for i, row := range rows {
				if !slices.Equal(some.Data[i*cols:][:cols], x.Data[int(row)*cols:][:cols]) {
					t.Fatalf("%d columns: row %d is not row %d", cols, i, row)
				}
			}
			to, scale := []int32{8, 2, 0, 5, 1, 30, 31, 32, 39}, []float32{1, -2, 0.5, 0, 3, 1e-3, 7, -1, 2}
			want := slices.Clone(x.Data)
			for i, row := range to {
				for j := range cols {
					at := int(row)*cols + j
					want[at] = float32(float64(want[at]) + float64(y.Data[i*cols+j])*float64(scale[i]))
				}
			}
			c.AddRows(x, y, to, scale)
			checkClose(t, fmt.Sprint(cols), x.Data, want, 1e-5)
		}
	})
}
