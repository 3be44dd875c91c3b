package blocks

import "math"

// fp4Values are the 4-bit floats with 2 exponent and 1 mantissa bits (E2M1),
// doubled to be whole: the scale is halved instead.
var fp4Values = [16]int8{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// halfPowerOfTwo is half of 2^(e-127), the 8-bit exponent scale (E8M0).
func halfPowerOfTwo(e uint8) float32 {
	if e < 2 { // subnormal
		return math.Float32frombits(0x00200000 << e)
	}
	return math.Float32frombits(uint32(e-1) << 23)
}

// MXFP4: an exponent, 16 bytes of nibbles.
func dequantizeMXFP4(dst []float32, src []byte) {
	for ; len(src) >= 17; src, dst = src[17:], dst[32:] {
		lookUp(dst[:32], src[1:17], &fp4Values, halfPowerOfTwo(src[0]))
	}
}

// lookUp expands 16 bytes of nibbles through a codebook, the low nibbles first.
func lookUp(y []float32, q []byte, values *[16]int8, d float32) {
	for i, b := range q {
		y[i] = d * float32(values[b&15])
		y[i+16] = d * float32(values[b>>4])
	}
}

// unsignedE4M3Half is half of an unsigned 8-bit float with 4 exponent and 3
// mantissa bits; 0 and the code of NaN give 0.
func unsignedE4M3Half(b uint8) float32 {
	if b == 0 || b == 0x7f {
		return 0
	}
	exponent, mantissa := int(b>>3&15), float64(b&7)
	if exponent == 0 {
		return float32(math.Ldexp(mantissa, -10))
	}
	return float32(math.Ldexp(8+mantissa, exponent-11))
}

// NVFP4: four scales in E4M3, one for each 16 of 64 values, and 32 bytes of
// nibbles, 8 bytes for each scale.
func dequantizeNVFP4(dst []float32, src []byte) {
	for ; len(src) >= 36; src, dst = src[36:], dst[64:] {
		for sub := range 4 {
			d := unsignedE4M3Half(src[sub])
			q, y := src[4+8*sub:][:8], dst[16*sub:][:16]
			for i, b := range q {
				y[i] = float32(fp4Values[b&15]) * d
				y[i+8] = float32(fp4Values[b>>4]) * d
			}
		}
	}
}
