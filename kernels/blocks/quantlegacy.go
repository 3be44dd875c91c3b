package blocks

import (
	"encoding/binary"
	"math"

	"llmc/dtype"
)

func putHalf(dst []byte, v float32) { binary.LittleEndian.PutUint16(dst, dtype.F32ToF16(v)) }

// inverseOf is 1/d, and 0 for 0.
func inverseOf(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

// putNibbles packs 32 codes below 16 into 16 bytes, the first half in the low
// nibbles.
func putNibbles(dst []byte, codes *[32]uint8) {
	for i := range 16 {
		dst[i] = codes[i]&15 | codes[i+16]<<4
	}
}

// putHighBits packs bit 4 of 32 codes into 4 bytes.
func putHighBits(dst []byte, codes *[32]uint8) {
	var high uint32
	for i, c := range codes {
		high |= uint32(c>>4&1) << i
	}
	binary.LittleEndian.PutUint32(dst, high)
}

func quantizeQ4_0(dst []byte, src, importance []float32) {
	quantizeSymmetric(dst, src, importance, 8, 18, func(block []byte, codes *[32]uint8) {
		putNibbles(block[2:], codes)
	})
}

func quantizeQ5_0(dst []byte, src, importance []float32) {
	quantizeSymmetric(dst, src, importance, 16, 22, func(block []byte, codes *[32]uint8) {
		putHighBits(block[2:], codes)
		putNibbles(block[6:], codes)
	})
}

// quantizeSymmetric rounds blocks of 32 values to codes in [0, 2*half): with
// importance by search, without by mapping the extreme value to code 0.
func quantizeSymmetric(dst []byte, src, importance []float32, half, size int, pack func([]byte, *[32]uint8)) {
	var codes [32]uint8
	var w [32]float32
	sigma2 := sumSquares(src) / float32(len(src))
	for b := 0; b*32 < len(src); b++ {
		x, block := src[b*32:][:32], dst[b*size:][:size]
		if importance != nil {
			weigh(w[:], x, importance[b*32:][:32], sigma2)
			putHalf(block, symmetricScale(codes[:], x, w[:], half))
			pack(block, &codes)
			continue
		}
		top, _ := extreme(x)
		d := top / float32(-half)
		putHalf(block, d)
		inverse := inverseOf(d)
		for i, v := range x {
			codes[i] = uint8(min(2*half-1, int(int8(int32(float32(v*inverse)+float32(half)+0.5)))))
		}
		pack(block, &codes)
	}
}

func quantizeQ4_1(dst []byte, src, importance []float32) {
	quantizeAffine(dst, src, importance, 15, 20, func(block []byte, codes *[32]uint8) {
		putNibbles(block[4:], codes)
	})
}

func quantizeQ5_1(dst []byte, src, importance []float32) {
	quantizeAffine(dst, src, importance, 31, 24, func(block []byte, codes *[32]uint8) {
		putHighBits(block[4:], codes)
		putNibbles(block[8:], codes)
	})
}

// quantizeAffine rounds blocks of 32 values to codes in [0, top] above a
// minimum: with importance by search, without by mapping the range of the
// values.
func quantizeAffine(dst []byte, src, importance []float32, top, size int, pack func([]byte, *[32]uint8)) {
	var codes [32]uint8
	var w [32]float32
	search := affineSearch{top: top, first: -0.9, step: 0.05, steps: 36}
	sigma2 := sumSquares(src) / float32(len(src))
	for b := 0; b*32 < len(src); b++ {
		x, block := src[b*32:][:32], dst[b*size:][:size]
		if importance != nil {
			weigh(w[:], x, importance[b*32:][:32], sigma2)
			d, m := search.scaleAndMin(codes[:], x, w[:])
			putHalf(block, d)
			putHalf(block[2:], -m)
			pack(block, &codes)
			continue
		}
		low, high := x[0], x[0]
		for _, v := range x {
			low, high = min(low, v), max(high, v)
		}
		d := (high - low) / float32(top)
		putHalf(block, d)
		putHalf(block[2:], low)
		inverse := inverseOf(d)
		for i, v := range x {
			codes[i] = uint8(min(top, int(int8(int32(float32((v-low)*inverse)+0.5)))))
		}
		pack(block, &codes)
	}
}

func quantizeQ8_0(dst []byte, src, _ []float32) {
	for ; len(src) > 0; src, dst = src[32:], dst[34:] {
		x, q := src[:32], dst[2:34]
		_, magnitude := extreme(x)
		d := magnitude / 127
		putHalf(dst, d)
		inverse := inverseOf(d)
		for i, v := range x {
			q[i] = uint8(int8(roundAway(v * inverse)))
		}
	}
}

// roundAway rounds to an integer, ties away from zero.
func roundAway(v float32) int32 {
	whole := int32(v)
	switch rest := v - float32(whole); {
	case rest >= 0.5:
		return whole + 1
	case rest <= -0.5:
		return whole - 1
	}
	return whole
}

// quantizeMXFP4 rounds blocks of 32 values to 4-bit floats (E2M1) with a power
// of two as the scale (OCP Microscaling Formats, version 1.0).
func quantizeMXFP4(dst []byte, src, _ []float32) {
	var codes [32]uint8
	for ; len(src) > 0; src, dst = src[32:], dst[17:] {
		_, magnitude := extreme(src[:32])
		var exponent uint8
		if magnitude > 0 {
			log := float32(math.Log2(float64(magnitude)))
			exponent = uint8(int32(math.Floor(float64(log)) - 2 + 127))
		}
		dst[0] = exponent
		scale := halfPowerOfTwo(exponent)
		for i, v := range src[:32] {
			codes[i] = nearestFP4(v, scale)
		}
		putNibbles(dst[1:], &codes)
	}
}

// nearestFP4 returns the code whose value is closest to v, the first of equals.
func nearestFP4(v, scale float32) uint8 {
	best, code := abs32(float32(float32(fp4Values[0])*scale)-v), 0
	for i := 1; i < 16; i++ {
		if e := abs32(float32(float32(fp4Values[i])*scale) - v); e < best {
			best, code = e, i
		}
	}
	return uint8(code)
}
