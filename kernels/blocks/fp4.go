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

// quantizeMXFP4 rounds blocks of 32 values to 4-bit floats with a power of two
// as the scale (OCP Microscaling Formats, version 1.0).
func quantizeMXFP4(dst []byte, src, _ []float32) {
	var codes [32]uint8
	for ; len(src) > 0; src, dst = src[32:], dst[17:] {
		_, magnitude := extreme(src[:32])
		exponent := exponentFor(magnitude)
		dst[0] = exponent
		inverse := 1 / float64(halfPowerOfTwo(exponent))
		for i, v := range src[:32] {
			codes[i] = nearestFP4(float64(v) * inverse)
		}
		putNibbles(dst[1:], &codes)
	}
}

// exponentFor returns the scale's exponent for values up to magnitude: two less
// than the magnitude's, whose largest code is 6. The logarithm is rounded to
// float32 as in ggml, so that values just below a power of two count as it. For
// magnitudes below 2^-125 the exponent wraps around and all codes become zero.
func exponentFor(magnitude float32) uint8 {
	if magnitude == 0 {
		return 0
	}
	log := float32(math.Log2(float64(magnitude)))
	return uint8(int32(math.Floor(float64(log))) - 2 + 127)
}

// fp4Cells answers which code is closest to a magnitude, the smaller of two
// equally close: every middle between values is a multiple of 1/2, so all
// magnitudes in ((n-1)/2, n/2] have the same answer, at index n.
var fp4Cells = func() (cells [32]uint8) {
	var code uint8
	for n := range cells {
		if code < 7 && n > int(fp4Values[code]+fp4Values[code+1]) {
			code++
		}
		cells[n] = code
	}
	return cells
}()

// nearestFP4 returns the code whose value is closest to v.
func nearestFP4(v float64) uint8 {
	code := fp4Cells[min(31, int(math.Ceil(2*math.Abs(v))))]
	if v < 0 && code > 0 {
		code |= 8
	}
	return code
}
