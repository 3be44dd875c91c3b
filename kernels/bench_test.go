package kernels

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"llmc/dtype"
	"llmc/internal/cputime"
)

// benchLevels runs a benchmark at every level of this machine.
func benchLevels(b *testing.B, f func(b *testing.B, o *ops)) {
	for _, o := range levels() {
		b.Run(o.level, func(b *testing.B) { f(b, o) })
	}
}

// eachCompute runs a benchmark at every level and for both ways to compute.
func eachCompute(b *testing.B, f func(b *testing.B, o *ops, c Compute)) {
	benchLevels(b, func(b *testing.B, o *ops) {
		for _, c := range []Compute{Exact, Fast} {
			b.Run(c.String(), func(b *testing.B) { f(b, o, c) })
		}
	})
}

// best runs f as often as the benchmark asks, each time next to ceiling, and
// reports the fastest of each: rate, and its share of the ceiling's rate. On a
// machine with other work the fastest run is what says something about f; with
// one thread, time is the processor's.
func best(b *testing.B, threads int, unit string, f func() float64, ceiling func() float64) {
	b.Helper()
	clock := cputime.Now
	if threads > 1 {
		clock = cputime.Wall
	}
	rate := func(g func() float64) float64 {
		start := clock()
		n := g()
		return n / (clock() - start).Seconds() / 1e9
	}
	top, most := 0.0, 0.0
	for b.Loop() {
		most = max(most, rate(ceiling))
		top = max(top, rate(f))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(top, unit)
	b.ReportMetric(most, unit+"-ceiling")
	b.ReportMetric(100*top/most, "%")
}

// onThreads runs f on every thread of a pool and adds up the results.
func onThreads(p *pool, f func() float64) float64 {
	t := &sumTask{f: f, results: make([]float64, p.threads)}
	p.run(p.threads, t)
	sum := 0.0
	for _, x := range t.results {
		sum += x
	}
	return sum
}

type sumTask struct {
	f       func() float64
	results []float64
}

func (s *sumTask) run(_, part int) { s.results[part] = s.f() }

// BenchmarkCeilings measures what the machine can do, the best of all rounds:
// multiply-adds, integer dot products, reading memory. scripts/bench runs it
// beside what it compares.
func BenchmarkCeilings(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			c := newCPU(threads, defaultOps())
			defer c.Close()
			memory := written(1 << 26)
			var most [3]float64
			for b.Loop() {
				for i, run := range []func() float64{
					func() float64 { return onThreads(c.pool, func() float64 { return multiplyAdd(c.ops) }) },
					func() float64 { return onThreads(c.pool, func() float64 { return integerPeak(c.ops) }) },
					func() float64 { return readMemory(c, memory) },
				} {
					start := time.Now()
					n := run()
					most[i] = max(most[i], n/time.Since(start).Seconds()/1e9)
				}
			}
			for i, unit := range []string{"GFLOP/s", "GOP/s", "GB/s"} {
				b.ReportMetric(most[i], unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkMicro is the micro-kernel alone, on panels in the first cache level.
func BenchmarkMicro(b *testing.B) {
	benchLevels(b, func(b *testing.B, o *ops) {
		const k = 128
		a, w, c := alignedFloats(o.mr*k), alignedFloats(k*o.nr), alignedFloats(o.mr*o.nr)
		best(b, 1, "GFLOP/s", func() float64 {
			for range 1000 {
				o.micro(o.mr, k, a, k, w, c, o.nr, false)
			}
			return 1000 * 2 * float64(o.mr) * float64(o.nr) * k
		}, func() float64 { return multiplyAdd(o) })
	})
}

func BenchmarkMatMul(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, s := range []struct{ n, k, out int }{{512, 2048, 2048}, {512, 768, 1536}, {64, 2048, 2048}, {12, 2048, 2048}, {4, 2048, 2048}} {
			for _, t := range []dtype.Type{dtype.F32, dtype.BF16, dtype.Q4_K} {
				name := fmt.Sprintf("threads=%d/%dx%dx%d/%s", threads, s.n, s.k, s.out, t)
				b.Run(name, func(b *testing.B) {
					benchLevels(b, func(b *testing.B, o *ops) {
						c := newCPU(threads, o)
						defer c.Close()
						w := randomDense(b, s.out, s.k, t)
						x, dst := c.NewTensor(s.n, s.k), c.NewTensor(s.n, s.out)
						weight := c.Load(w)
						best(b, threads, "GFLOP/s", func() float64 {
							c.MatMul(dst, x, weight)
							return 2 * float64(s.n) * float64(s.k) * float64(s.out)
						}, func() float64 { return onThreads(c.pool, func() float64 { return multiplyAdd(o) }) })
					})
				})
			}
		}
	}
}

// BenchmarkDecode multiplies one row with a matrix that does not fit the
// caches, in gigabytes of weights a second, next to reading memory.
func BenchmarkDecode(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, t := range decodeTypes {
			b.Run(fmt.Sprintf("threads=%d/%s", threads, t), func(b *testing.B) {
				eachCompute(b, func(b *testing.B, o *ops, compute Compute) {
					if o.level == "portable" && t.IsBlock() || compute == Fast && !t.IsBlock() {
						b.Skip("slow, or there is no such thing")
					}
					c := newCPU(threads, o)
					c.compute = compute
					defer c.Close()
					w := randomDense(b, 32768, 4096, t)
					memory := written(1 << 25 * threads)
					x, dst := c.NewTensor(1, 4096), c.NewTensor(1, 32768)
					weight := c.Load(w)
					best(b, threads, "GB/s", func() float64 {
						c.MatMul(dst, x, weight)
						return float64(w.Bytes())
					}, func() float64 {
						return readMemory(c, memory)
					})
				})
			})
		}
	}
}

// BenchmarkBatch multiplies a few rows with a matrix that does not fit the
// caches, in gigabytes of weights a second of one thread.
func BenchmarkBatch(b *testing.B) {
	for _, rows := range []int{1, 2, 4, 8} {
		for _, t := range []dtype.Type{dtype.F32, dtype.F16, dtype.Q8_0, dtype.Q4_0, dtype.Q4_K} {
			b.Run(fmt.Sprintf("rows=%d/%s", rows, t), func(b *testing.B) {
				eachCompute(b, func(b *testing.B, o *ops, compute Compute) {
					if o.level == "portable" || compute == Fast && !t.IsBlock() {
						b.Skip("slow, or there is no such thing")
					}
					c := newCPU(1, o)
					c.compute = compute
					defer c.Close()
					w := randomDense(b, 8192, 4096, t)
					memory := written(1 << 25)
					x, dst := c.NewTensor(rows, 4096), c.NewTensor(rows, 8192)
					weight := c.Load(w)
					best(b, 1, "GB/s", func() float64 {
						c.MatMul(dst, x, weight)
						return float64(w.Bytes())
					}, func() float64 { return readMemory(c, memory) })
				})
			})
		}
	}
}

// written returns memory that has pages of its own: those that were never
// written share one, which the first cache level holds.
func written(n int) []float32 {
	memory := alignedFloats(n)
	for i := 0; i < n; i += 1024 {
		memory[i] = 1
	}
	return memory
}

// readMemory reads memory on all threads and returns the number of bytes.
func readMemory(c *CPU, memory []float32) float64 {
	t := &readTask{o: c.ops, memory: memory}
	c.pool.run(len(memory)/readStep, t)
	return 4 * float64(len(memory))
}

const readStep = 1 << 18

type readTask struct {
	o      *ops
	memory []float32
}

func (t *readTask) run(_, part int) { t.o.sumSquares(t.memory[part*readStep:][:readStep]) }

var decodeTypes = []dtype.Type{dtype.F32, dtype.F16, dtype.BF16, dtype.F8E4M3, dtype.F8E5M2, dtype.Q8_0, dtype.Q4_0, dtype.Q4_1, dtype.Q5_0, dtype.Q5_1,
	dtype.IQ4_NL, dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K}

// randomDense returns a matrix with random bytes for blocks and codes, and
// small numbers for its scalars and scales.
func randomDense(tb testing.TB, rows, cols int, t dtype.Type) *Dense {
	tb.Helper()
	size, ok := t.RowBytes(cols)
	if !ok {
		tb.Fatalf("%s does not divide %d", t, cols)
	}
	data := make([]byte, rows*size)
	r := rand.New(rand.NewPCG(5, uint64(t)))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	plausible(data, t)
	d, err := NewDense(rows, cols, t, data)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// plausible clears the exponent bits that would make scalars or scales huge or
// not numbers.
func plausible(data []byte, t dtype.Type) {
	var scales []int // offsets of 16-bit floats in a block
	switch t {
	case dtype.F32:
		for i := 3; i < len(data); i += 4 {
			data[i] = data[i]&0x80 | 0x3e
		}
		return
	case dtype.BF16:
		for i := 1; i < len(data); i += 2 {
			data[i] = data[i]&0x80 | 0x3e
		}
		return
	case dtype.F8E4M3, dtype.F8E5M2:
		for i := range data {
			data[i] &= 0xbf
		}
		return
	case dtype.F16, dtype.Q8_0, dtype.Q4_0, dtype.Q5_0, dtype.IQ4_NL:
		scales = []int{0}
	case dtype.IQ4_XS:
		scales = []int{0}
	case dtype.Q4_1, dtype.Q5_1, dtype.Q4_K, dtype.Q5_K:
		scales = []int{0, 2}
	case dtype.Q2_K:
		scales = []int{80, 82}
	case dtype.Q3_K:
		scales = []int{108}
	case dtype.Q6_K:
		scales = []int{208}
	}
	for at := 0; at < len(data); at += t.BlockBytes() {
		for _, s := range scales {
			data[at+s+1] = data[at+s+1]&0x83 | 0x20
		}
	}
}

// BenchmarkLoad rearranges a matrix for integer products, in gigabytes of codes
// a second of one thread, next to copying memory.
func BenchmarkLoad(b *testing.B) {
	const rows, cols = 4096, 4096
	matrices := map[string]Matrix{}
	for _, t := range []dtype.Type{dtype.Q8_0, dtype.Q4_0, dtype.Q4_K, dtype.Q6_K, dtype.Q5_0} {
		matrices[t.String()] = randomDense(b, rows, cols, t)
	}
	for _, bits := range []int{2, 3, 4, 8} {
		matrices[fmt.Sprint("groups", bits)] = randomGroups(rand.New(rand.NewPCG(1, 1)), rows, cols, bits, 128, true, false)
	}
	for _, name := range slices.Sorted(maps.Keys(matrices)) {
		m := matrices[name]
		b.Run(name, func(b *testing.B) {
			all := levels()
			c := newFastCPU(1, all[len(all)-1])
			defer c.Close()
			from, to := make([]byte, m.Bytes()), make([]byte, m.Bytes())
			best(b, 1, "GB/s", func() float64 {
				c.Load(m)
				return float64(m.Bytes())
			}, func() float64 {
				copy(to, from)
				return float64(len(to))
			})
		})
	}
}

// BenchmarkDots is the fused dot products alone, from the second cache level:
// an addition and a multiplication for each weight.
func BenchmarkDots(b *testing.B) {
	for _, t := range decodeTypes {
		b.Run(t.String(), func(b *testing.B) {
			benchLevels(b, func(b *testing.B, o *ops) {
				if o.formats == nil {
					b.Skip("has none")
				}
				const rows, cols = 32, 4096
				c := newCPU(1, o)
				defer c.Close()
				w := c.Load(randomDense(b, rows, cols, t)).(*weight)
				x, dst := c.NewTensor(1, cols), c.NewTensor(1, rows)
				best(b, 1, "GFLOP/s", func() float64 {
					for range 20 {
						w.fused(dst, x, &c.scratch[0], 0, 0, rows)
					}
					return 20 * 2 * rows * cols
				}, func() float64 { return multiplyAdd(o) })
			})
		})
	}
}

// BenchmarkAttention runs a batch of queries over a long cache, and one query.
func BenchmarkAttention(b *testing.B) {
	for _, n := range []int{1, 512} {
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			benchLevels(b, func(b *testing.B, o *ops) {
				const heads, kvHeads, dim, start = 9, 3, 64, 2048
				c := newCPU(1, o)
				defer c.Close()
				r := rand.New(rand.NewPCG(1, 2))
				cache := c.NewCache(kvHeads, dim, 0)
				spec := AttentionSpec{Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: 0.125}
				run := func(n int) {
					q, dst := randomTensor(c, r, n, heads*dim), c.NewTensor(n, heads*dim)
					k, v := randomTensor(c, r, n, kvHeads*dim), randomTensor(c, r, n, kvHeads*dim)
					c.Attention(dst, q, k, v, cache, spec)
				}
				run(start)
				q, dst := randomTensor(c, r, n, heads*dim), c.NewTensor(n, heads*dim)
				k, v := randomTensor(c, r, n, kvHeads*dim), randomTensor(c, r, n, kvHeads*dim)
				best(b, 1, "GFLOP/s", func() float64 {
					cache.Truncate(start)
					c.Attention(dst, q, k, v, cache, spec)
					return 4 * float64(n) * heads * dim * (start + float64(n+1)/2)
				}, func() float64 { return multiplyAdd(o) })
			})
		})
	}
}

// BenchmarkPool is what it costs to hand out a task and wait for it.
func BenchmarkPool(b *testing.B) {
	p := newPool(2)
	defer p.close()
	task := &countTask{runs: make([]int, 2)}
	for _, pause := range []time.Duration{0, time.Millisecond} {
		b.Run(fmt.Sprintf("pause=%v", pause), func(b *testing.B) {
			var busy time.Duration
			for b.Loop() {
				time.Sleep(pause)
				start := time.Now()
				p.run(2, task)
				busy += time.Since(start)
			}
			b.ReportMetric(float64(busy.Nanoseconds())/float64(b.N), "ns/run")
		})
	}
}
