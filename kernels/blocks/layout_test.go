package blocks

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"llmc/dtype"
)

// eachLayout runs a test for every type with a layout.
func eachLayout(t *testing.T, test func(t *testing.T, l *Layout)) {
	n := 0
	for typ := range layouts {
		if l, ok := LayoutOf(dtype.Type(typ)); ok {
			n++
			t.Run(l.Type.String(), func(t *testing.T) { test(t, l) })
		}
	}
	if n != 12 {
		t.Errorf("%d types have a layout, want 12", n)
	}
}

// TestLayoutPacks packs random blocks and compares what Dequantize makes of
// them with the formula of the layout.
func TestLayoutPacks(t *testing.T) {
	eachLayout(t, func(t *testing.T, l *Layout) {
		rng := rand.New(rand.NewPCG(1, uint64(l.Type)))
		between := func(r Range) int8 { return int8(r.Low + rng.IntN(r.High-r.Low+1)) }
		packed, again := make([]byte, l.Type.BlockBytes()), make([]byte, l.Type.BlockBytes())
		values := make([]float32, l.Size)
		for range 200 {
			b := l.NewBlock()
			b.Factor = halfOf(rng.NormFloat64())
			if l.Mins != none {
				b.MinFactor = halfOf(rng.NormFloat64())
			}
			for j := range l.Size / l.Sub {
				b.Scales[j], b.Mins[j] = between(l.Scales), between(l.Mins)
			}
			for i := range l.Size {
				b.Codes[i] = uint8(rng.IntN(len(l.Levels)))
			}
			l.Pack(packed, b)
			Dequantize(l.Type, values, packed)
			for i, v := range values {
				scale, low := l.Grid(b, i/l.Sub)
				if want := l.Value(b.Codes[i], scale, low); math.Float32bits(v) != math.Float32bits(want) && v != want {
					t.Fatalf("value %d is %v, the layout says %v", i, v, want)
				}
			}
			back := l.NewBlock()
			l.Unpack(back, packed)
			l.Pack(again, back)
			Dequantize(l.Type, values, again)
			for i, v := range values {
				scale, low := l.Grid(b, i/l.Sub)
				if want := l.Value(b.Codes[i], scale, low); v != want {
					t.Fatalf("value %d is %v when packed again, was %v", i, v, want)
				}
			}
		}
	})
}

func halfOf(v float64) float32 { return dtype.F16ToF32(dtype.F32ToF16(float32(v))) }

// TestLayoutUnpacks takes apart what Quantize writes and puts it together
// again: the same bytes.
func TestLayoutUnpacks(t *testing.T) {
	eachLayout(t, func(t *testing.T, l *Layout) {
		rng := rand.New(rand.NewPCG(2, uint64(l.Type)))
		x := make([]float32, l.Size)
		packed, again := make([]byte, l.Type.BlockBytes()), make([]byte, l.Type.BlockBytes())
		for range 50 {
			for i := range x {
				x[i] = float32(rng.NormFloat64())
			}
			if err := Quantize(l.Type, packed, x, l.Size, nil); err != nil {
				t.Fatal(err)
			}
			b := l.NewBlock()
			l.Unpack(b, packed)
			l.Pack(again, b)
			if !bytes.Equal(again, packed) {
				t.Fatalf("packed again it is\n%x, was\n%x", again, packed)
			}
		}
	})
}

// TestLayoutCode compares with a search among all levels.
func TestLayoutCode(t *testing.T) {
	eachLayout(t, func(t *testing.T, l *Layout) {
		rng := rand.New(rand.NewPCG(3, uint64(l.Type)))
		for range 2000 {
			scale, low := float32(rng.NormFloat64()), float32(0)
			if l.Mins != none {
				low = float32(rng.NormFloat64())
			}
			v := float32(100 * rng.NormFloat64())
			code := l.Code(v, scale, low)
			off := func(c uint8) float64 {
				return math.Abs(float64(v) + float64(low) - float64(scale)*float64(l.Levels[c]))
			}
			for c := range l.Levels {
				if off(uint8(c)) < off(code)*(1-1e-5) {
					t.Fatalf("%v under %v, %v has code %d (off by %v), %d is nearer (%v)", v, scale, low, code, off(code), c, off(uint8(c)))
				}
			}
		}
		if l.Code(5, 0, 1) != 0 {
			t.Error("a scale of zero has another code than 0")
		}
	})
}
