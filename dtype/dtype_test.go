package dtype

import (
	"math"
	"testing"
)

// slow16 is the definition of a 16-bit binary number, in float64.
func slow16(bits uint16, mantissaBits int) float64 {
	mantissa := float64(bits & (1<<mantissaBits - 1))
	exponentBits := 15 - mantissaBits
	exponent := int(bits>>mantissaBits) & (1<<exponentBits - 1)
	bias := 1<<(exponentBits-1) - 1
	unit := math.Ldexp(1, -mantissaBits)
	v := math.Ldexp(1+mantissa*unit, exponent-bias)
	switch {
	case exponent == 0:
		v = math.Ldexp(mantissa*unit, 1-bias)
	case exponent == 1<<exponentBits-1 && mantissa == 0:
		v = math.Inf(1)
	case exponent == 1<<exponentBits-1:
		v = math.NaN()
	}
	if bits&0x8000 != 0 {
		v = math.Copysign(v, -1)
	}
	return v
}

func same(a, b float64) bool {
	return a == b && math.Signbit(a) == math.Signbit(b) || math.IsNaN(a) && math.IsNaN(b)
}

// TestHalfExhaustive checks every 16-bit number against the definition, and
// that rounding gives the number itself, its neighbour on either side of the
// middle, and the even one in the middle.
func TestHalfExhaustive(t *testing.T) {
	for _, f := range []struct {
		name     string
		mantissa int
		widen    func(uint16) float32
		round    func(float32) uint16
	}{
		{"F16", 10, F16ToF32, F32ToF16},
		{"BF16", 7, BF16ToF32, F32ToBF16},
	} {
		t.Run(f.name, func(t *testing.T) {
			for i := range 1 << 16 {
				h := uint16(i)
				v := f.widen(h)
				if want := slow16(h, f.mantissa); !same(float64(v), want) {
					t.Fatalf("%#04x widens to %g, want %g", h, v, want)
				}
				back := f.round(v)
				if v != v {
					if w := f.widen(back); w == w {
						t.Fatalf("NaN %#04x rounds to the number %#04x", h, back)
					}
					continue
				}
				if back != h {
					t.Fatalf("%#04x (%g) rounds to %#04x", h, v, back)
				}
				next := float64(f.widen(h + 1))
				if h&0x7fff == 0x7fff || math.IsInf(float64(v), 0) || next != next {
					continue
				}
				checkMiddle(t, h, float64(v), next, f.mantissa, f.round)
			}
		})
	}
}

// checkMiddle rounds the middle of two neighbours and the float32 numbers
// beside it.
func checkMiddle(t *testing.T, h uint16, v, next float64, mantissa int, round func(float32) uint16) {
	t.Helper()
	if math.IsInf(next, 0) { // as if the exponent had room for one more
		exponent := math.Ilogb(math.Abs(v))
		next = math.Copysign(math.Ldexp(1, exponent+1), v)
	}
	middle := float32((v + next) / 2)
	if float64(middle) != (v+next)/2 {
		return // bfloat16 subnormals at the end of float32's range
	}
	even := h + h&1
	if got := round(middle); got != even {
		t.Fatalf("the middle above %#04x (%g) rounds to %#04x, want %#04x", h, middle, got, even)
	}
	if got := round(math.Nextafter32(middle, float32(v))); got != h {
		t.Fatalf("just below the middle above %#04x rounds to %#04x", h, got)
	}
	if got := round(math.Nextafter32(middle, float32(math.Copysign(math.Inf(1), v)))); got != h+1 {
		t.Fatalf("just above the middle above %#04x rounds to %#04x", h, got)
	}
}

func TestFloat8(t *testing.T) {
	for _, f := range []struct {
		name  string
		widen func(uint8) float32
		round func(float32) uint8
	}{
		{"E4M3", F8E4M3ToF32, F32ToF8E4M3},
		{"E5M2", F8E5M2ToF32, F32ToF8E5M2},
	} {
		for i := range 256 {
			b := uint8(i)
			v := f.widen(b)
			back := f.round(v)
			if v != v {
				if w := f.widen(back); w == w {
					t.Errorf("%s: NaN %#02x rounds to a number", f.name, b)
				}
				continue
			}
			if back != b {
				t.Errorf("%s: %#02x (%g) rounds to %#02x", f.name, b, v, back)
			}
			next := f.widen(b + 1)
			if b&0x7f == 0x7f || next != next || math.IsInf(float64(next), 0) {
				continue
			}
			if got, even := f.round((v+next)/2), b+b&1; got != even {
				t.Errorf("%s: the middle above %#02x rounds to %#02x, want %#02x", f.name, b, got, even)
			}
		}
	}
	for _, c := range []struct {
		f    float32
		want uint8
	}{{448, 0x7e}, {463.9, 0x7e}, {464, 0x7e}, {464.1, 0x7f}, {float32(math.Inf(-1)), 0xff}, {0x1p-9, 1}, {0x1p-10, 0}} {
		if got := F32ToF8E4M3(c.f); got != c.want {
			t.Errorf("E4M3 of %g is %#02x, want %#02x", c.f, got, c.want)
		}
	}
}

func TestSlices(t *testing.T) {
	values := []float32{0, 1, -2, 0.5, 96}
	for _, typ := range []Type{F64, F32, F16, BF16, F8E4M3, F8E5M2} {
		data := make([]byte, len(values)*typ.BlockBytes())
		if err := Encode(data, values, typ); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(values))
		if err := Decode(got, data, typ); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i] != values[i] {
				t.Errorf("%s: %g came back as %g", typ, values[i], got[i])
			}
		}
	}
	for typ, want := range map[Type]float32{I64: -1, I32: -1, I16: -1, I8: -1, U64: 0x1p64, U32: 0x1p32, U16: 65535, U8: 255} {
		got := make([]float32, 1)
		if err := Decode(got, []byte{255, 255, 255, 255, 255, 255, 255, 255}[:typ.BlockBytes()], typ); err != nil || got[0] != want {
			t.Errorf("%s of all ones is %g, %v; want %g", typ, got[0], err, want)
		}
	}
	if err := Decode(make([]float32, 2), make([]byte, 5), F16); err == nil {
		t.Error("five bytes decode as two F16 numbers")
	}
	if err := Decode(make([]float32, 32), make([]byte, 18), Q4_0); err == nil {
		t.Error("a block type decodes number by number")
	}
	if err := Encode(make([]byte, 4), make([]float32, 1), I32); err == nil {
		t.Error("float32 encodes as an integer type")
	}
}

func TestParse(t *testing.T) {
	for typ := Invalid + 1; typ < numTypes; typ++ {
		if got, ok := Parse(typ.String()); !ok || got != typ {
			t.Errorf("%s parses as %s, %v", typ, got, ok)
		}
		if typ.BlockSize() < 1 || typ.BlockBytes() < 1 {
			t.Errorf("%s has no size", typ)
		}
	}
	if _, ok := Parse("Q9_9"); ok {
		t.Error("Q9_9 is a type")
	}
	if n, ok := Q4_K.RowBytes(512); n != 288 || !ok {
		t.Errorf("512 values of Q4_K take %d bytes, %v", n, ok)
	}
	if _, ok := Q4_K.RowBytes(100); ok {
		t.Error("100 values make whole blocks of Q4_K")
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, typ := range []Type{F16, BF16, F8E4M3, F8E5M2} {
		b.Run(typ.String(), func(b *testing.B) {
			dst := make([]float32, 4096)
			src := make([]byte, len(dst)*typ.BlockBytes())
			for i := range src {
				src[i] = byte(i*151 + i>>8) // subnormals among them
			}
			b.SetBytes(int64(4 * len(dst)))
			for b.Loop() {
				if err := Decode(dst, src, typ); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, typ := range []Type{F16, BF16, F8E4M3} {
		b.Run(typ.String(), func(b *testing.B) {
			src := make([]float32, 4096)
			for i := range src {
				src[i] = float32(i-2048) / 1024
			}
			dst := make([]byte, len(src)*typ.BlockBytes())
			b.SetBytes(int64(4 * len(src)))
			for b.Loop() {
				if err := Encode(dst, src, typ); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestRoundF8E4M3 rounds all numbers of E4M3, the middles between them and the
// float32 numbers beside those.
func TestRoundF8E4M3(t *testing.T) {
	check := func(x, want float32, code uint8) {
		t.Helper()
		if got := RoundF8E4M3(x); got != want {
			t.Errorf("%g is rounded to %g, want %g", x, got, want)
		}
		if got := RoundF8E4M3(-x); got != -want {
			t.Errorf("%g is rounded to %g, want %g", -x, got, -want)
		}
		if got := F32ToF8E4M3(x); got != code {
			t.Errorf("%g becomes %#02x, want %#02x", x, got, code)
		}
	}
	for code := range uint8(0x7f) {
		v, next := F8E4M3ToF32(code), F8E4M3ToF32(code+1)
		check(v, v, code)
		if next != next {
			continue
		}
		middle := (v + next) / 2
		check(math.Nextafter32(middle, 0), v, code)
		check(math.Nextafter32(middle, 500), next, code+1)
		if code%2 == 0 {
			check(middle, v, code)
		} else {
			check(middle, next, code+1)
		}
	}
	check(464, 448, 0x7e)
	check(math.Nextafter32(464, 500), 448, 0x7f)
	check(float32(math.Inf(1)), 448, 0x7f)
	for _, bits := range []uint32{0x7fc00000, 0x7fffffff, 0xffffffff} {
		if got := RoundF8E4M3(math.Float32frombits(bits)); got == got {
			t.Errorf("NaN %#x is rounded to %g", bits, got)
		}
	}
}
