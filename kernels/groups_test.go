package kernels

import (
	"math/rand/v2"
	"testing"
)

func randomGroups(r *rand.Rand, rows, cols, bits, size int, zeros, order bool) *Groups {
	g := &Groups{Rows: rows, Cols: cols, Bits: bits, GroupSize: size}
	g.Codes = make([]byte, rows*g.CodeBytes())
	g.Scales = randoms(r, rows*g.Groups())
	if zeros {
		g.Zeros = make([]uint8, rows*g.Groups())
		for i := range g.Zeros {
			g.Zeros[i] = uint8(r.IntN(1 << bits))
		}
	}
	if order {
		for range cols {
			g.GroupOf = append(g.GroupOf, int32(r.IntN(g.Groups())))
		}
	}
	return g
}

// TestGroups packs random codes of every width and reads them back, one by
// one, by row, and as numbers.
func TestGroups(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for bits := 2; bits <= 8; bits++ {
		for _, cols := range []int{1, 7, 64, 300, 515} {
			for kind := range 4 {
				g := randomGroups(r, 3, cols, bits, 32, kind&1 != 0, kind&2 != 0)
				if err := g.Validate(); err != nil {
					t.Fatal(err)
				}
				codes, row := make([]uint8, cols), make([]float32, cols)
				for i := range 3 {
					for c := range codes {
						codes[c] = uint8(r.IntN(1 << bits))
					}
					g.SetRow(i, codes)
					read := make([]uint8, cols)
					g.RowCodes(read, i)
					g.Row(row, i)
					for c, code := range codes {
						group := c / 32
						if g.GroupOf != nil {
							group = int(g.GroupOf[c])
						}
						zero := 1 << (bits - 1)
						if g.Zeros != nil {
							zero = int(g.Zeros[i*g.Groups()+group])
						}
						want := g.Scales[i*g.Groups()+group] * float32(int(code)-zero)
						if read[c] != code || g.Code(i, c) != code || row[c] != want {
							t.Fatalf("%d bits, row %d, column %d of %d: %d, %d, %v, want %d, %v", bits, i, c, cols, read[c], g.Code(i, c), row[c], code, want)
						}
					}
					if cols > columnStep {
						part := make([]float32, cols-columnStep)
						g.columns(part, i, columnStep)
						checkClose(t, "columns", part, row[columnStep:], 0)
					}
				}
			}
		}
	}
}

func TestGroupsValidate(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for name, spoil := range map[string]func(g *Groups){
		"rows":   func(g *Groups) { g.Rows = 0 },
		"bits":   func(g *Groups) { g.Bits = 9 },
		"size":   func(g *Groups) { g.GroupSize = 0 },
		"codes":  func(g *Groups) { g.Codes = g.Codes[1:] },
		"scales": func(g *Groups) { g.Scales = g.Scales[1:] },
		"zeros":  func(g *Groups) { g.Zeros = g.Zeros[1:] },
		"order":  func(g *Groups) { g.GroupOf = g.GroupOf[1:] },
		"group":  func(g *Groups) { g.GroupOf[3] = int32(g.Groups()) },
		"minus":  func(g *Groups) { g.GroupOf[3] = -1 },
	} {
		g := randomGroups(r, 3, 100, 4, 32, true, true)
		spoil(g)
		if g.Validate() == nil {
			t.Errorf("wrong %s is accepted", name)
		}
	}
}

// TestGroupLoops compares unpacking with the portable way and dot products
// with those of unpacked rows, both to the last bit.
func TestGroupLoops(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		c := newCPU(1, o)
		defer c.Close()
		r := rand.New(rand.NewPCG(3, 3))
		for bits := 2; bits <= 8; bits++ {
			for _, s := range []struct{ cols, size int }{{1, 1}, {7, 3}, {64, 64}, {128, 32}, {256, 64}, {300, 300}, {384, 128}, {640, 640}, {200, 1000}, {515, 34}, {777, 128}} {
				for kind := range 4 {
					const rows = 3
					g := randomGroups(r, rows, s.cols, bits, s.size, kind&1 != 0, kind&2 != 0)
					for i := range g.Codes {
						g.Codes[i] = byte(r.Uint32())
					}
					w := c.Load(g).(*weight)
					x, dst := randomTensor(c, r, 1, s.cols), c.NewTensor(1, rows)
					c.MatMul(dst, x, w)
					got, want := make([]float32, s.cols), make([]float32, s.cols)
					for i := range rows {
						g.Row(want, i)
						w.columns(&c.scratch[0], got, i, 0)
						checkClose(t, "columns", got, want, 0)
						if s.cols > columnStep {
							w.columns(&c.scratch[0], got[columnStep:], i, columnStep)
							checkClose(t, "later columns", got, want, 0)
						}
						if dot := o.dot(x.Data, want); dst.Data[i] != dot {
							t.Fatalf("%d bits, %+v, kind %d: dot of row %d is %v, want %v", bits, s, kind, i, dst.Data[i], dot)
						}
					}
				}
			}
		}
	})
}
