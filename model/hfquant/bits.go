package hfquant

import (
	"encoding/binary"

	"llmc/formats/raw"
)

// Codes are stored as a stream of bits, lowest first, cut into little-endian
// 32-bit words: code i takes bits i*b to i*b+b-1 of the stream.

// code returns code i of a stream of b-bit codes.
func code(stream []byte, i, b int) uint8 {
	at := i * b
	v := uint(stream[at/8]) >> (at % 8)
	if at%8+b > 8 {
		v |= uint(stream[at/8+1]) << (8 - at%8)
	}
	return uint8(v & (1<<b - 1))
}

// putCode sets code i of a stream that is zero there.
func putCode(stream []byte, i, b int, v uint8) {
	at := i * b
	stream[at/8] |= v << (at % 8)
	if at%8+b > 8 {
		stream[at/8+1] |= v >> (8 - at%8)
	}
}

// words is how many 32-bit words n codes of b bits take.
func words(n, b int) int { return (n*b + 31) / 32 }

// oldWords is the same for the layout of compressed-tensors before 0.18, where
// no code crosses a word.
func oldWords(n, b int) int { return (n + 32/b - 1) / (32 / b) }

// oldCode returns code i of words that no code crosses.
func oldCode(stream []byte, i, b int) uint8 {
	per := 32 / b
	return uint8(word(stream, i/per) >> (i % per * b) & (1<<b - 1))
}

func word(data []byte, i int) uint32 { return binary.LittleEndian.Uint32(data[4*i:]) }

func putWord(data []byte, i int, v uint32) { binary.LittleEndian.PutUint32(data[4*i:], v) }

func put16(data []byte, i int, v uint16) { binary.LittleEndian.PutUint16(data[2*i:], v) }

// transpose writes the words [rows, cols] of src to dst as [cols, rows], in
// squares that fit the cache.
func transpose(dst, src []byte, rows, cols int) {
	const side = 16
	for r0 := 0; r0 < rows; r0 += side {
		for c0 := 0; c0 < cols; c0 += side {
			for r := r0; r < min(r0+side, rows); r++ {
				for c := c0; c < min(c0+side, cols); c++ {
					copy(dst[4*(c*rows+r):4*(c*rows+r)+4], src[4*(r*cols+c):])
				}
			}
		}
	}
}

// int32s decodes a tensor of 32-bit integers.
func int32s(t raw.Tensor) []int32 {
	out := make([]int32, t.Elements())
	for i := range out {
		out[i] = int32(word(t.Data, i))
	}
	return out
}
