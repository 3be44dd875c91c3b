package kernels

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"llmc/dtype"
)

// TestDifference compares every level with the portable one, in rows of all
// lengths around whole vectors, added one after the other.
func TestDifference(t *testing.T) {
	for _, o := range levels() {
		r := rand.New(rand.NewPCG(61, 62))
		var got, want Difference
		for n := range 70 {
			x, y := randoms(r, n), randoms(r, n)
			for i := range x {
				switch r.IntN(5) {
				case 0:
					x[i] = 0
				case 1:
					y[i] = float32(math.Copysign(0, -1))
				case 2:
					y[i] = x[i]
				}
			}
			o.difference(&got, x, y)
			differencePortable(&want, x, y)
			close := func(a, b float64) bool { return math.Abs(a-b) <= 1e-14*b }
			if !close(got.Square, want.Square) || !close(got.Error, want.Error) {
				t.Fatalf("%s, %d numbers: sums are %g and %g, want %g and %g", o.level, n, got.Square, got.Error, want.Square, want.Error)
			}
			if got.Max != want.Max || got.ZerosX != want.ZerosX || got.ZerosY != want.ZerosY {
				t.Fatalf("%s, %d numbers: %+v, want %+v", o.level, n, got, want)
			}
		}
	}
}

// TestEncode compares every level with package dtype, on bits of all kinds and
// those beside the middles between numbers, in rows of all lengths.
func TestEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(63, 64))
	src := make([]float32, 1<<14)
	for i := range src {
		bits := r.Uint32()
		switch r.IntN(5) {
		case 0: // halves and what is beside them
			bits = bits&^0x1fff | 0x1000 + uint32(r.IntN(3)) - 1
		case 1:
			bits = bits&^0xffff | 0x8000 + uint32(r.IntN(3)) - 1
		case 2: // 8-bit floats, from their smallest to beyond their largest
			dropped := 20 + r.IntN(2)
			exponent := uint32(127 - 19 + r.IntN(37))
			bits = bits&(1<<31|1<<23-1)&^(1<<dropped-1) | exponent<<23 | 1<<(dropped-1) + uint32(r.IntN(3)) - 1
		}
		src[i] = math.Float32frombits(bits)
	}
	for _, o := range levels() {
		for _, typ := range []dtype.Type{dtype.F16, dtype.BF16, dtype.F8E4M3, dtype.F8E5M2, dtype.F32} {
			for from := range 40 {
				row := src[from*(from+1)/2 : len(src)-from]
				got, want := make([]byte, len(row)*typ.BlockBytes()), make([]byte, len(row)*typ.BlockBytes())
				if err := encode(o, got, row, typ); err != nil {
					t.Fatal(err)
				}
				if err := dtype.Encode(want, row, typ); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("%s: %d numbers as %s differ", o.level, len(row), typ)
				}
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	src := randoms(rand.New(rand.NewPCG(65, 66)), 4096)
	for _, typ := range []dtype.Type{dtype.F16, dtype.BF16, dtype.F8E4M3, dtype.F8E5M2} {
		for _, o := range levels() {
			b.Run(typ.String()+"/"+o.level, func(b *testing.B) {
				dst := make([]byte, len(src)*typ.BlockBytes())
				b.SetBytes(int64(4 * len(src)))
				for b.Loop() {
					_ = encode(o, dst, src, typ)
				}
			})
		}
	}
}

// TestAdam compares every level with the portable one, bit for bit, in rows of all
// lengths, with zeros that stay and without.
func TestAdam(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(5, 5))
		for n := range 100 {
			s := AdamStep{Beta1: 0.9, Rest1: 0.1, Beta2: 0.95, Rest2: 0.05, GradScale: 0.7, Keep: 0.999, Size: 0.01, Root: 1.3, Epsilon: 1e-8, KeepZeros: n%2 == 0}
			x, grad, m, v := randoms(r, n), randoms(r, n), randoms(r, n), randoms(r, n)
			for i := range v {
				v[i] *= v[i]
				switch i % 7 {
				case 1:
					x[i] = 0
				case 2:
					x[i] = float32(math.Copysign(0, -1))
				case 3:
					grad[i], m[i], v[i] = 0, 0, 0
				}
			}
			wantX, wantM, wantV := slices.Clone(x), slices.Clone(m), slices.Clone(v)
			adamPortable(&s, wantX, grad, wantM, wantV)
			o.adam(&s, x, grad, m, v)
			if !slices.Equal(x, wantX) || !slices.Equal(m, wantM) || !slices.Equal(v, wantV) {
				t.Fatalf("%d weights: got %v, %v, %v, want %v, %v, %v", n, x, m, v, wantX, wantM, wantV)
			}
			for i := range x {
				if moved := x[i] != 0; i%7 == 1 && moved == s.KeepZeros {
					t.Fatalf("a zero became %g, zeros stay is %v", x[i], s.KeepZeros)
				}
			}
		}
	})
}

// TestMoments compares every level with the portable one, bit for bit, in rows
// of all lengths: sums in float64 are added in the same order.
func TestMoments(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(4, 4))
		for n := range 100 {
			got, want := NewMoments(n), NewMoments(n)
			for range 5 {
				x := randoms(r, n)
				o.moments(got, x)
				momentsPortable(want, x)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%d columns: got %+v, want %+v", n, got, want)
			}
			for c := range n {
				for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
					x, m := randoms(r, n), NewMoments(n)
					x[c] = bad
					o.moments(m, x)
					o.moments(m, randoms(r, n))
					if s := m.Squares[c]; s-s == 0 {
						t.Fatalf("%v in column %d of %d gives the square %v", bad, c, n, s)
					}
				}
			}
		}
	})
}
