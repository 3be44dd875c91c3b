package dtype

import "math"

// F8E4M3ToF32 widens an 8-bit number with 4 exponent and 3 mantissa bits (OCP
// E4M3FN: no infinities, NaN is 0x7f and 0xff) exactly.
func F8E4M3ToF32(b uint8) float32 { return e4m3[b] }

// F8E5M2ToF32 widens an 8-bit number with 5 exponent and 2 mantissa bits
// exactly: the upper half of an IEEE half-precision number.
func F8E5M2ToF32(b uint8) float32 { return F16ToF32(uint16(b) << 8) }

// F32ToF8E4M3 rounds to E4M3FN, ties to even; what rounds to more than 448,
// and NaN, becomes NaN.
func F32ToF8E4M3(f float32) uint8 {
	bits := math.Float32bits(f)
	sign := uint8(bits >> 24 & 0x80)
	switch a := math.Float32frombits(bits &^ (1 << 31)); {
	case a < e4m3Normal:
		return sign | uint8(math.Float32bits(a+e4m3Steps))
	case a <= 464: // the middle between 448 and the 480 that NaN stands in place of
		return sign | uint8(e4m3Round(math.Float32bits(a))>>e4m3Dropped-(127-7)<<3)
	}
	return sign | 0x7f
}

// RoundF8E4M3 returns the number of E4M3FN that is nearest to f, ties to even:
// 448 with f's sign for all that is larger. NaN stays NaN.
func RoundF8E4M3(f float32) float32 {
	if f != f {
		return f
	}
	f = min(max(f, -448), 448)
	if f > -e4m3Normal && f < e4m3Normal {
		return f + e4m3Steps - e4m3Steps
	}
	return math.Float32frombits(e4m3Round(math.Float32bits(f)))
}

const (
	e4m3Normal  = 1.0 / (1 << 6) // the smallest number with all 3 bits of mantissa
	e4m3Steps   = 3 << 13        // a float32 with steps of 2^-9, as E4M3 has below that
	e4m3Dropped = 23 - 3         // bits of a float32's mantissa
)

// e4m3Round rounds the bits of a float32 to those that E4M3 keeps.
func e4m3Round(bits uint32) uint32 {
	bits += 1<<(e4m3Dropped-1) - 1 + bits>>e4m3Dropped&1
	return bits &^ (1<<e4m3Dropped - 1)
}

// F32ToF8E5M2 rounds to E5M2, ties to even; what rounds to more than 57344
// becomes infinite, NaN stays NaN.
func F32ToF8E5M2(f float32) uint8 {
	sign := uint8(math.Float32bits(f) >> 24 & 0x80)
	a := math.Abs(float64(f))
	switch {
	case math.IsNaN(a):
		return sign | 0x7f
	case a >= 61440: // the middle between 57344 and 65536, which is even
		return sign | 0x7c
	}
	return sign | roundFloat8(a, 2, 15)
}

// roundFloat8 encodes a >= 0, which must round to a finite number, with the
// given number of mantissa bits and exponent bias. The code is the number of
// representable steps below it, so a carry into the exponent needs no case.
func roundFloat8(a float64, mantissa, bias int) uint8 {
	if a == 0 {
		return 0
	}
	exponent := max(math.Ilogb(a), 1-bias) // subnormals share the smallest exponent
	steps := math.RoundToEven(math.Ldexp(a, mantissa-exponent))
	return uint8(int(steps) + (exponent+bias-1)<<mantissa)
}

// e4m3 holds all 256 values.
var e4m3 = func() (table [256]float32) {
	for i := range table {
		exponent, mantissa := i>>3&15, float64(i&7)
		v := math.Ldexp(8+mantissa, exponent-10)
		switch {
		case i&0x7f == 0x7f:
			v = math.NaN()
		case exponent == 0:
			v = math.Ldexp(mantissa, -9)
		}
		if i >= 128 {
			v = math.Copysign(v, -1)
		}
		table[i] = float32(v)
	}
	return table
}()
