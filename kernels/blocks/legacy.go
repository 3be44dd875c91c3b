package blocks

import "encoding/binary"

// The first generation of types: 32 values with one scale d and, in the _1
// types, one minimum m. The low half of the values is in the low nibbles.

func dequantizeQ4_0(dst []float32, src []byte) {
	for ; len(src) >= 18; src, dst = src[18:], dst[32:] {
		d := half(src)
		q, y := src[2:18], dst[:32]
		for i, b := range q {
			y[i] = float32(int(b&15)-8) * d
			y[i+16] = float32(int(b>>4)-8) * d
		}
	}
}

func dequantizeQ4_1(dst []float32, src []byte) {
	for ; len(src) >= 20; src, dst = src[20:], dst[32:] {
		d, m := half(src), half(src[2:])
		q, y := src[4:20], dst[:32]
		for i, b := range q {
			y[i] = float32(float32(b&15)*d) + m
			y[i+16] = float32(float32(b>>4)*d) + m
		}
	}
}

func dequantizeQ5_0(dst []float32, src []byte) {
	for ; len(src) >= 22; src, dst = src[22:], dst[32:] {
		d, high := half(src), binary.LittleEndian.Uint32(src[2:])
		q, y := src[6:22], dst[:32]
		for i, b := range q {
			y[i] = float32(int(uint32(b&15)|high>>i&1<<4)-16) * d
			y[i+16] = float32(int(uint32(b>>4)|high>>(i+16)&1<<4)-16) * d
		}
	}
}

func dequantizeQ5_1(dst []float32, src []byte) {
	for ; len(src) >= 24; src, dst = src[24:], dst[32:] {
		d, m, high := half(src), half(src[2:]), binary.LittleEndian.Uint32(src[4:])
		q, y := src[8:24], dst[:32]
		for i, b := range q {
			y[i] = float32(float32(uint32(b&15)|high>>i&1<<4)*d) + m
			y[i+16] = float32(float32(uint32(b>>4)|high>>(i+16)&1<<4)*d) + m
		}
	}
}

func dequantizeQ8_0(dst []float32, src []byte) {
	for ; len(src) >= 34; src, dst = src[34:], dst[32:] {
		scaleInt8(dst[:32], src[2:34], half(src))
	}
}

// Q8_1 is Q8_0 with the sum of the values kept beside the scale.
func dequantizeQ8_1(dst []float32, src []byte) {
	for ; len(src) >= 36; src, dst = src[36:], dst[32:] {
		scaleInt8(dst[:32], src[4:36], half(src))
	}
}

// scaleInt8 sets y to the signed bytes q times d.
func scaleInt8(y []float32, q []byte, d float32) {
	for i := range y {
		y[i] = float32(int8(q[i])) * d
	}
}
