package kernels

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestStrip loads rows, adds products to their columns, and compares with sums
// in float64.
func TestStrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, o := range levels() {
		cpu := newCPU(1, o)
		for _, rows := range []int{1, 3, cpu.StripRows()} {
			const cols = 37
			random := func(rows, cols int) Block {
				b := NewBlock(make([]float32, rows*(cols+3)), rows, cols+3)
				for i := range b.Data {
					b.Data[i] = float32(rng.NormFloat64())
				}
				return b.Slice(0, rows, 2, cols+2)
			}
			a, e, f := random(rows, cols), random(rows, cols), random(cols, cols)
			x, y := cpu.NewStrip(cols), cpu.NewStrip(cols)
			for i := range x.data { // what an earlier load left
				x.data[i] = float32(math.NaN())
			}
			x.Load(a)
			y.Load(e)
			for _, v := range x.Col(cols - 1)[rows:] {
				if v != 0 {
					t.Fatalf("%s: a row that is not there holds %g", o.level, v)
				}
			}
			const from, to = 9, 33
			x.AddProducts(from, y, f.Slice(from, to, 0, from))
			got := random(rows, cols)
			x.Store(got)
			for r := range rows {
				for c := range cols {
					want := float64(a.Row(r)[c])
					for k := 0; c >= from && c < to && k < from; k++ {
						want += float64(f.Row(c)[k]) * float64(e.Row(r)[k])
					}
					if math.Abs(float64(got.Row(r)[c])-want) > 1e-5 {
						t.Fatalf("%s, %d rows: row %d column %d is %g, want %g", o.level, rows, r, c, got.Row(r)[c], want)
					}
				}
			}
		}
		cpu.Close()
	}
}
