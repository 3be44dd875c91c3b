package blocks

import (
	"encoding/binary"
	"math"
)

// superBlock is the number of values in one block of the K types. Each is made
// of sub-blocks of 16 or 32 values whose scales are themselves quantized.
const superBlock = 256

// Q2_K: 16 scales and minima of 4 bits, 64 bytes of 2-bit codes, d, dmin.
func dequantizeQ2K(dst []float32, src []byte) {
	for ; len(src) >= 84; src, dst = src[84:], dst[superBlock:] {
		scales, codes := src[:16], src[16:80]
		d, dmin := half(src[80:]), half(src[82:])
		for sub := range 16 {
			level, minLevel := scaleMinQ2K(sub, scales)
			scale, low := d*float32(level), float32(dmin*float32(minLevel))
			q := codes[sub/8*32+sub%2*16:][:16]
			shift := sub / 2 % 4 * 2
			y := dst[sub*16:][:16]
			for i, b := range q {
				y[i] = float32(scale*float32(b>>shift&3)) - low
			}
		}
	}
}

// scaleMinQ2K returns scale and minimum j of 16, packed as nibbles.
func scaleMinQ2K(j int, packed []byte) (scale, low uint8) { return packed[j] & 15, packed[j] >> 4 }

// Q3_K: 32 bytes of high bits, 64 bytes of low 2-bit codes, 16 scales of 6
// bits, d. A high bit that is not set subtracts 4.
func dequantizeQ3K(dst []float32, src []byte) {
	for ; len(src) >= 110; src, dst = src[110:], dst[superBlock:] {
		high, codes := src[:32], src[32:96]
		scales := unpackScalesQ3K(src[96:108])
		d := half(src[108:])
		for sub := range 16 {
			scale := d * float32(int(scales[sub])-32)
			q := codes[sub/8*32+sub%2*16:][:16]
			h := high[sub%2*16:][:16]
			shift, bit := sub/2%4*2, sub/2
			y := dst[sub*16:][:16]
			for i, b := range q {
				y[i] = scale * float32(int(b>>shift&3)+int(h[i]>>bit&1)*4-4)
			}
		}
	}
}

// unpackScalesQ3K returns 16 scales of 6 bits, offset by 32: the low nibbles
// are in the first 8 bytes, the upper two bits of all in the last 4.
func unpackScalesQ3K(packed []byte) (scales [16]uint8) {
	for i := range 16 {
		low := packed[i%8] >> (i / 8 * 4) & 15
		scales[i] = low | packed[8+i%4]>>(i/4*2)&3<<4
	}
	return scales
}

// Q4_K: d, dmin, 8 scales and minima of 6 bits, 128 bytes of nibbles.
func dequantizeQ4K(dst []float32, src []byte) {
	for ; len(src) >= 144; src, dst = src[144:], dst[superBlock:] {
		d, dmin := half(src), half(src[2:])
		for pair := range 4 {
			scale0, min0 := scaleMinK4(2*pair, src[4:16])
			scale1, min1 := scaleMinK4(2*pair+1, src[4:16])
			d0, m0 := d*float32(scale0), float32(dmin*float32(min0))
			d1, m1 := d*float32(scale1), float32(dmin*float32(min1))
			q, y := src[16+32*pair:][:32], dst[64*pair:][:64]
			for i, b := range q {
				y[i] = float32(d0*float32(b&15)) - m0
				y[i+32] = float32(d1*float32(b>>4)) - m1
			}
		}
	}
}

// scaleMinK4 returns scale and minimum j of 8, which Q4_K and Q5_K pack into
// 12 bytes: the first four whole in 6 bits each, the others as nibbles whose
// upper two bits fill the first four's bytes.
func scaleMinK4(j int, packed []byte) (scale, low uint8) {
	if j < 4 {
		return packed[j] & 63, packed[j+4] & 63
	}
	return packed[j+4]&15 | packed[j-4]>>6<<4, packed[j+4]>>4 | packed[j]>>6<<4
}

// Q5_K: d, dmin, scales and minima as Q4_K, 32 bytes of high bits, 128 bytes
// of nibbles.
func dequantizeQ5K(dst []float32, src []byte) {
	for ; len(src) >= 176; src, dst = src[176:], dst[superBlock:] {
		d, dmin := half(src), half(src[2:])
		high := src[16:48]
		for pair := range 4 {
			scale0, min0 := scaleMinK4(2*pair, src[4:16])
			scale1, min1 := scaleMinK4(2*pair+1, src[4:16])
			d0, m0 := d*float32(scale0), float32(dmin*float32(min0))
			d1, m1 := d*float32(scale1), float32(dmin*float32(min1))
			q, y := src[48+32*pair:][:32], dst[64*pair:][:64]
			for i, b := range q {
				h := high[i] >> (2 * pair)
				y[i] = float32(d0*float32(b&15|h&1<<4)) - m0
				y[i+32] = float32(d1*float32(b>>4|h&2<<3)) - m1
			}
		}
	}
}

// Q6_K: 128 bytes of low nibbles, 64 bytes of upper 2-bit parts, 16 signed
// scales of 8 bits, d.
func dequantizeQ6K(dst []float32, src []byte) {
	for ; len(src) >= 210; src, dst = src[210:], dst[superBlock:] {
		d := half(src[208:])
		for part := range 2 {
			low, high := src[64*part:][:64], src[128+32*part:][:32]
			scales, y := src[192+8*part:][:8], dst[128*part:][:128]
			for i, h := range high {
				s := i / 16
				y[i] = sixBits(d, scales[s], low[i]&15, h)
				y[i+32] = sixBits(d, scales[s+2], low[i+32]&15, h>>2)
				y[i+64] = sixBits(d, scales[s+4], low[i]>>4, h>>4)
				y[i+96] = sixBits(d, scales[s+6], low[i+32]>>4, h>>6)
			}
		}
	}
}

func sixBits(d float32, scale, low, high uint8) float32 {
	return float32(d*float32(int8(scale))) * float32(int(low|high&3<<4)-32)
}

// Q8_K: a float32 scale, 256 signed bytes, 16 sums that dot products use.
func dequantizeQ8K(dst []float32, src []byte) {
	for ; len(src) >= 292; src, dst = src[292:], dst[superBlock:] {
		scaleInt8(dst[:superBlock], src[4:260], math.Float32frombits(binary.LittleEndian.Uint32(src)))
	}
}
