package blocks

import (
	"encoding/binary"
	"math"

	"llmc/dtype"
)

func putHalf(dst []byte, v float32) { binary.LittleEndian.PutUint16(dst, dtype.F32ToF16(v)) }

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
	quantizeSymmetric(dst, src, importance, symmetric4, 18, func(block []byte, codes *[32]uint8) {
		putNibbles(block[2:], codes)
	})
}

func quantizeQ5_0(dst []byte, src, importance []float32) {
	quantizeSymmetric(dst, src, importance, symmetric5, 22, func(block []byte, codes *[32]uint8) {
		putHighBits(block[2:], codes)
		putNibbles(block[6:], codes)
	})
}

// quantizeSymmetric rounds blocks of 32 values to codes in [0, 2*half): with
// importance by search, without by mapping the extreme value to code 0.
func quantizeSymmetric(dst []byte, src, importance []float32, symmetric *symmetricCodes, size int, pack func([]byte, *[32]uint8)) {
	if importance != nil {
		search := &search32{
			lanes: func(b *batch) { b.symmetric(symmetric) },
			portable: func(codes []uint8, x, w []float32) (scale, minimum float32) {
				return symmetric.scale(codes, x, w), 0
			},
		}
		search.row(src, importance, func(i int, scale, _ float32, codes *[32]uint8) {
			block := dst[i*size:][:size]
			putHalf(block, scale)
			pack(block, codes)
		})
		return
	}
	var codes [32]uint8
	for b := 0; b*32 < len(src); b++ {
		x, block := src[b*32:][:32], dst[b*size:][:size]
		top, _ := extreme(x)
		half := symmetric.half
		d := top / float32(-half)
		putHalf(block, d)
		inverse, middle := inverseOf(d), float32(half)+0.5
		for i, v := range x {
			codes[i] = uint8(min(2*half-1, int32(truncate(float32(v*inverse)+middle))))
		}
		pack(block, &codes)
	}
}

// search32 is a search of blocks of 32 values by importance.
type search32 struct {
	lanes    func(b *batch)
	portable func(codes []uint8, x, w []float32) (scale, minimum float32)
}

// row searches the blocks of a row and gives what it finds to put.
func (s *search32) row(src, importance []float32, put func(i int, scale, minimum float32, codes *[32]uint8)) {
	sigma2 := float32(sumSquares(src) / float32(len(src)))
	var codes [32]uint8
	if native == nil {
		var w [32]float32
		for i := 0; i*32 < len(src); i++ {
			x := src[i*32:][:32]
			weigh(w[:], x, importance[i*32:][:32], sigma2)
			scale, minimum := s.portable(codes[:], x, w[:])
			put(i, scale, minimum, &codes)
		}
		return
	}
	b := newBatch(32)
	defer b.free()
	for at := 0; at < len(src); at += batchSubs * 32 {
		end := min(at+batchSubs*32, len(src))
		b.load(&b.x, src[at:end])
		b.weighAll(importance[at:end], sigma2)
		s.lanes(b)
		for j := range (end - at) / 32 {
			b.codes(codes[:], j)
			put(at/32+j, b.scales[j], b.mins[j], &codes)
		}
	}
}

// truncate drops the fraction of a value that fits 8 bits. Others, which come
// of values so small that their scale has no inverse, give 0: their scale is
// stored as 0 as well.
func truncate(v float32) int8 {
	if !(abs32(v) < 128) {
		return 0
	}
	return int8(v)
}

func quantizeQ4_1(dst []byte, src, importance []float32) {
	quantizeAffine(dst, src, importance, &weighted4, 20, func(block []byte, codes *[32]uint8) {
		putNibbles(block[4:], codes)
	})
}

func quantizeQ5_1(dst []byte, src, importance []float32) {
	quantizeAffine(dst, src, importance, &weighted5, 24, func(block []byte, codes *[32]uint8) {
		putHighBits(block[4:], codes)
		putNibbles(block[8:], codes)
	})
}

// quantizeAffine rounds blocks of 32 values to codes in [0, top] above a
// minimum: with importance by search, without by mapping the range of the
// values.
func quantizeAffine(dst []byte, src, importance []float32, affine *affineSearch, size int, pack func([]byte, *[32]uint8)) {
	if importance != nil {
		search := &search32{lanes: func(b *batch) { b.affine(affine) }, portable: affine.scaleAndMin}
		search.row(src, importance, func(i int, scale, minimum float32, codes *[32]uint8) {
			block := dst[i*size:][:size]
			putHalf(block, scale)
			putHalf(block[2:], -minimum)
			pack(block, codes)
		})
		return
	}
	var codes [32]uint8
	top := affine.top
	for b := 0; b*32 < len(src); b++ {
		x, block := src[b*32:][:32], dst[b*size:][:size]
		low, high := limits(x)
		d := (high - low) / float32(top)
		putHalf(block, d)
		putHalf(block[2:], low)
		inverse := inverseOf(d)
		for i, v := range x {
			codes[i] = uint8(min(top, int32(truncate(float32((v-low)*inverse)+0.5))))
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
			q[i] = uint8(roundAway(v * inverse))
		}
	}
}

// roundAway rounds a value that fits 8 bits to an integer, ties away from
// zero; others give 0, as truncate.
func roundAway(v float32) int8 {
	const belowHalf = 0.5 - 0x1p-25 // so that the sum does not round up what is below a half
	return truncate(float32(v) + math.Float32frombits(math.Float32bits(belowHalf)|math.Float32bits(v)&(1<<31)))
}
