package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomBlock is a block in the middle of a larger matrix of random numbers.
func randomBlock(r *rand.Rand, rows, cols int) Block {
	return NewBlock(randoms(r, (rows+2)*(cols+5)), rows+2, cols+5).Slice(1, rows+1, 3, cols+3)
}

// at is element [i, j] of b or of its transpose.
func (b Block) at(i, j int, transposed bool) float64 {
	if transposed {
		i, j = j, i
	}
	return float64(b.Data[i*b.Stride+j])
}

// TestUpdate compares with sums in float64: every form, sizes on both sides of
// the tiles' and blocks' edges, and nothing around the result overwritten.
func TestUpdate(t *testing.T) {
	forms := []Update{
		{Alpha: 1}, {Alpha: -1}, {Alpha: 1, TransA: true}, {Alpha: -0.5, TransB: true}, {Alpha: 1, TransA: true, TransB: true},
		{Alpha: 1, UpperA: true}, {Alpha: 1, UpperB: true}, {Alpha: -1, UpperA: true, UpperB: true}, {Alpha: 1, UpperA: true, TransA: true}, {Alpha: 1, UpperB: true, TransB: true},
		{Alpha: 1, TransA: true, Upper: true}, {Alpha: -1, TransB: true, Upper: true},
	}
	sizes := [][3]int{{1, 1, 1}, {3, 2, 5}, {14, 32, 4}, {15, 33, 255}, {40, 40, 257}, {260, 131, 37}, {30, 129, 1030}}
	eachLevel(t, func(t *testing.T, o *ops) {
		c, several := newCPU(1, o), newCPU(7, o)
		defer c.Close()
		defer several.Close()
		r := rand.New(rand.NewPCG(51, 52))
		for _, form := range forms {
			for _, s := range sizes {
				m, n, k := s[0], s[1], s[2]
				if o.level == "portable" && m*n*k > 1e6 {
					continue
				}
				u := form
				rowsA, colsA, rowsB, colsB := m, k, k, n
				if u.TransA {
					rowsA, colsA = k, m
				}
				if u.TransB {
					rowsB, colsB = n, k
				}
				u.A, u.B = randomBlock(r, rowsA, colsA), randomBlock(r, rowsB, colsB)
				before := randoms(r, (m+2)*(n+6))
				after, again := slices.Clone(before), slices.Clone(before)
				u.Dst = NewBlock(after, m+2, n+6).Slice(1, m+1, 2, n+2)
				c.Update(u)
				u.Dst = NewBlock(again, m+2, n+6).Slice(1, m+1, 2, n+2)
				several.Update(u)
				if !slices.Equal(after, again) {
					t.Fatalf("%+v of %v depends on the number of threads", form, s)
				}
				for i, got := range after {
					row, col := i/(n+6)-1, i%(n+6)-2
					inside := row >= 0 && row < m && col >= 0 && col < n
					if inside && u.Upper && row > col {
						continue
					}
					want, size := float64(before[i]), 1.0
					for p := 0; inside && p < k; p++ {
						if u.UpperA && p < row || u.UpperB && col < p {
							continue
						}
						x := float64(u.Alpha) * u.A.at(row, p, u.TransA) * u.B.at(p, col, u.TransB)
						want, size = want+x, size+math.Abs(x)
					}
					if !(math.Abs(float64(got)-want) <= 1e-6*size) || !inside && got != before[i] {
						t.Fatalf("%v: element [%d, %d] is %v, want %v", s, row, col, got, want)
					}
				}
			}
		}
	})
}

func TestAddGram(t *testing.T) {
	c := NewCPU(2)
	r := rand.New(rand.NewPCG(53, 54))
	const n, cols = 21, 70
	x, h := randomTensor(c, r, n, cols), c.NewTensor(cols, cols)
	c.AddGram(h, x)
	c.AddGram(h, x)
	Mirror(NewBlock(h.Data, cols, cols))
	for i := range cols {
		for j := range cols {
			want := 0.0
			for p := range n {
				want += 2 * float64(x.Data[p*cols+i]) * float64(x.Data[p*cols+j])
			}
			if math.Abs(float64(h.Data[i*cols+j])-want) > 1e-4 {
				t.Fatalf("element [%d, %d] is %v, want %v", i, j, h.Data[i*cols+j], want)
			}
		}
	}
}

// BenchmarkUpdate counts only the operations that a form needs.
func BenchmarkUpdate(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, s := range []struct{ m, n, k int }{{512, 2048, 2048}, {2048, 2048, 2048}, {576, 1536, 128}, {256, 256, 256}, {64, 64, 64}} {
			b.Run(fmt.Sprintf("threads=%d/%dx%dx%d", threads, s.m, s.k, s.n), func(b *testing.B) {
				benchLevels(b, func(b *testing.B, o *ops) {
					c := newCPU(threads, o)
					defer c.Close()
					r := rand.New(rand.NewPCG(1, 2))
					u := Update{Dst: randomBlock(r, s.m, s.n), Alpha: -1, A: randomBlock(r, s.m, s.k), B: randomBlock(r, s.k, s.n)}
					best(b, threads, "GFLOP/s", func() float64 {
						c.Update(u)
						return 2 * float64(s.m) * float64(s.n) * float64(s.k)
					}, func() float64 { return onThreads(c.pool, func() float64 { return multiplyAdd(o) }) })
				})
			})
		}
	}
}

// BenchmarkGram is a window of inputs added to a Hessian: half a product.
func BenchmarkGram(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, cols := range []int{576, 1536, 4096} {
			b.Run(fmt.Sprintf("threads=%d/%d", threads, cols), func(b *testing.B) {
				benchLevels(b, func(b *testing.B, o *ops) {
					c := newCPU(threads, o)
					defer c.Close()
					const n = 512
					x, h := randomTensor(c, rand.New(rand.NewPCG(1, 2)), n, cols), c.NewTensor(cols, cols)
					best(b, threads, "GFLOP/s", func() float64 {
						c.AddGram(h, x)
						return n * float64(cols) * float64(cols+1)
					}, func() float64 { return onThreads(c.pool, func() float64 { return multiplyAdd(o) }) })
				})
			})
		}
	}
}
