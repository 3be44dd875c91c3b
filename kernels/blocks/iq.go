package blocks

import (
	"encoding/binary"

	"llmc/dtype"
)

// quarterScale is the scale of 2-bit points: a 4-bit level l stands for
// d*(l+1/2)/4.
func quarterScale(d float32, level uint8) float32 {
	return float32(d*(0.5+float32(level))) * 0.25
}

// IQ2_XXS: d, then for each 32 values four 8-bit codes, four 7-bit sign indices
// and a 4-bit scale.
func dequantizeIQ2XXS(dst []float32, src []byte) {
	g := grids()
	for ; len(src) >= 66; src, dst = src[66:], dst[superBlock:] {
		d := half(src)
		for sub := range 8 {
			codes := src[2+8*sub:][:8]
			signs := binary.LittleEndian.Uint32(codes[4:])
			scale := quarterScale(d, uint8(signs>>28))
			for i := range 4 {
				signed(dst[32*sub+8*i:][:8], g.iq2xxs[codes[i]][:], scale, evenSigns(signs>>(7*i)))
			}
		}
	}
}

// IQ2_XS: d, 32 codes of 9 bits with 7-bit sign indices above them, 16 scales
// of 4 bits.
func dequantizeIQ2XS(dst []float32, src []byte) {
	g := grids()
	for ; len(src) >= 74; src, dst = src[74:], dst[superBlock:] {
		d := half(src)
		for i := range 32 {
			code := binary.LittleEndian.Uint16(src[2+2*i:])
			scale := quarterScale(d, src[66+i/4]>>(i/2%2*4)&15)
			signed(dst[8*i:][:8], g.iq2xs[code&511][:], scale, evenSigns(uint32(code>>9)))
		}
	}
}

// IQ2_S: d, 32 low bytes of codes, 32 bytes of signs, 8 bytes with the upper 2
// bits of codes, 16 scales of 4 bits.
func dequantizeIQ2S(dst []float32, src []byte) {
	g := grids()
	for ; len(src) >= 82; src, dst = src[82:], dst[superBlock:] {
		d := half(src)
		for i := range 32 {
			code := int(src[2+i]) | int(src[66+i/4]>>(i%4*2)&3)<<8
			scale := quarterScale(d, src[74+i/4]>>(i/2%2*4)&15)
			signed(dst[8*i:][:8], g.iq2s[code][:], scale, src[34+i])
		}
	}
}

// IQ3_XXS: d, 64 codes of 8 bits, then for each 32 values four 7-bit sign
// indices and a 4-bit scale.
func dequantizeIQ3XXS(dst []float32, src []byte) {
	g := grids()
	for ; len(src) >= 98; src, dst = src[98:], dst[superBlock:] {
		d := half(src)
		for sub := range 8 {
			codes := src[2+8*sub:][:8]
			packed := binary.LittleEndian.Uint32(src[66+4*sub:])
			scale := float32(d*(0.5+float32(packed>>28))) * 0.5
			for i := range 4 {
				signs := evenSigns(packed >> (7 * i))
				y := dst[32*sub+8*i:][:8]
				signed(y[:4], g.iq3xxs[codes[2*i]][:], scale, signs)
				signed(y[4:], g.iq3xxs[codes[2*i+1]][:], scale, signs>>4)
			}
		}
	}
}

// IQ3_S: d, 64 low bytes of codes, 8 bytes with their ninth bits, 32 bytes of
// signs, 8 scales of 4 bits.
func dequantizeIQ3S(dst []float32, src []byte) {
	g := grids()
	for ; len(src) >= 110; src, dst = src[110:], dst[superBlock:] {
		d := half(src)
		for i := range 64 {
			code := int(src[2+i]) | int(src[66+i/8]>>(i%8)&1)<<8
			level := src[106+i/16] >> (i / 8 % 2 * 4) & 15
			scale := d * float32(1+2*int(level))
			signed(dst[4*i:][:4], g.iq3s[code][:], scale, src[74+i/2]>>(i%2*4))
		}
	}
}

// oneBitDelta shifts the points of IQ1_S and IQ1_M away from zero.
const oneBitDelta = 0.125

// IQ1_S: d, 32 low bytes of codes, then for each 32 values a word with the
// upper 3 bits of four codes, a 3-bit scale and the sign of the shift.
func dequantizeIQ1S(dst []float32, src []byte) {
	g := grids()
	for ; len(src) >= 50; src, dst = src[50:], dst[superBlock:] {
		d := half(src)
		for i := range 32 {
			word := binary.LittleEndian.Uint16(src[34+i/4*2:])
			code := int(src[2+i]) | int(word>>(i%4*3)&7)<<8
			scale := d * float32(2*(word>>12&7)+1)
			shifted(dst[8*i:][:8], &g.iq1s[code], scale, word&0x8000 != 0)
		}
	}
}

// IQ1_M: 32 low bytes of codes, 16 bytes of nibbles with their upper 3 bits and
// the sign of the shift, four words with 3-bit scales for each 16 values whose
// top nibbles make up d.
func dequantizeIQ1M(dst []float32, src []byte) {
	g := grids()
	for ; len(src) >= 56; src, dst = src[56:], dst[superBlock:] {
		var bits uint16
		for i := range 4 {
			bits |= binary.LittleEndian.Uint16(src[48+2*i:]) >> 12 << (4 * i)
		}
		d := dtype.F16ToF32(bits)
		for i := range 32 {
			nibble := src[32+i/2] >> (i % 2 * 4)
			code := int(src[i]) | int(nibble&7)<<8
			scales := binary.LittleEndian.Uint16(src[48+i/8*2:])
			scale := d * float32(2*(scales>>(i/2%4*3)&7)+1)
			shifted(dst[8*i:][:8], &g.iq1s[code], scale, nibble&8 != 0)
		}
	}
}

func shifted(y []float32, point *[8]float32, scale float32, negative bool) {
	delta := float32(oneBitDelta)
	if negative {
		delta = -delta
	}
	for i, v := range point {
		y[i] = scale * (v + delta)
	}
}
