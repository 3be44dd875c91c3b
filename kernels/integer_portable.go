package kernels

import (
	"encoding/binary"
	"math"

	"llmc/dtype"
)

// integerFormat is how rows of one type are read by integer products.
type integerFormat struct {
	blocks   int // of 32 columns in a unit, which is a block of the type
	bytes    int // of a unit
	offset   int32
	segments []segment // of a unit in a panel
	// unpack reads block i of a unit.
	unpack func(b *codeBlock, unit []byte, i int)
}

// codeBlock is 32 columns of one row: numbers are code*scale + minimum, scale
// and minimum those of the half that the column is in.
type codeBlock struct {
	codes  [32]int8
	scale  [2]float32
	minima [2]float32
	halves bool // scale and minima differ between the halves
	offset bool // minima are not zero by definition
}

// integerFormats are the types that have integer products.
var integerFormats = map[dtype.Type]*integerFormat{
	dtype.Q8_0: {blocks: 1, bytes: 34, offset: 128, segments: []segment{{2, 4, 8}, {0, 2, 1}}, unpack: codesQ8_0},
	dtype.Q4_0: {blocks: 1, bytes: 18, offset: 8, segments: []segment{{2, 4, 4}, {0, 2, 1}}, unpack: codesQ4_0},
}

// leastMagnitude is the least that is not taken for zero: of numbers below
// 2^-121 the inverse is not finite.
const leastMagnitude = 0x1p-100

// quantizePortable rounds x to records, stride records apart. A block with a
// number that is not finite has scale NaN and codes of zero.
func quantizePortable(dst []record, x []float32, stride int, offset int32) {
	for i := 0; i < len(x); i += 32 {
		quantizeBlock(&dst[i/32*stride], (*[32]float32)(x[i:]), offset)
	}
}

func quantizeBlock(dst *record, x *[32]float32, offset int32) {
	*dst = record{}
	largest := float32(0)
	for _, v := range x {
		size := float32(math.Abs(float64(v)))
		if !(size <= math.MaxFloat32) {
			size = float32(math.NaN())
			largest = size
			break
		}
		largest = max(largest, size)
	}
	switch {
	case largest != largest:
		dst.scale = largest
	case largest >= leastMagnitude:
		dst.scale = largest / 127
		inverse := 127 / largest
		for i, v := range x {
			dst.codes[i] = int8(math.RoundToEven(float64(v * inverse)))
		}
	}
	var sums [3]int32
	for i, code := range dst.codes {
		sums[0] += int32(code)
		sums[1+i/16] += int32(code)
	}
	for i, s := range sums {
		dst.bias[i] = -offset * s
		dst.sum[i] = dst.scale * float32(s)
	}
}

// multiply adds to dst the products of one row of weights and rows of x
// [blocks][len(dst)].
func (f *integerFormat) multiply(dst []float32, x []record, row []byte) {
	var b codeBlock
	for ; len(row) > 0; row = row[f.bytes:] {
		for i := range f.blocks {
			f.unpack(&b, row[:f.bytes], i)
			for r := range dst {
				dst[r] += b.product(&x[r])
			}
			x = x[len(dst):]
		}
	}
}

// product is what a block adds to a sum.
func (b *codeBlock) product(x *record) float32 {
	lower, upper := dotCodes((*[16]int8)(b.codes[:]), (*[16]int8)(x.codes[:])), dotCodes((*[16]int8)(b.codes[16:]), (*[16]int8)(x.codes[16:]))
	if b.halves {
		sum := float32(float32(float32(lower)*b.scale[0])+float32(float32(upper)*b.scale[1])) * x.scale
		if b.offset {
			sum = float32(sum) + float32(float32(b.minima[0]*x.sum[1])+float32(b.minima[1]*x.sum[2]))
		}
		return float32(sum)
	}
	sum := float32(float32(lower+upper)*b.scale[0]) * x.scale
	if b.offset {
		sum = float32(sum) + float32(b.minima[0]*x.sum[0])
	}
	return float32(sum)
}

func dotCodes(a, b *[16]int8) int32 {
	var s0, s1 int32
	for i := 0; i < len(a); i += 2 {
		s0 += int32(a[i]) * int32(b[i])
		s1 += int32(a[i+1]) * int32(b[i+1])
	}
	return s0 + s1
}

func halfAt(b []byte) float32 { return dtype.F16ToF32(binary.LittleEndian.Uint16(b)) }

func codesQ8_0(b *codeBlock, unit []byte, _ int) {
	b.scale[0] = halfAt(unit)
	for i, code := range unit[2:34] {
		b.codes[i] = int8(code)
	}
}

func codesQ4_0(b *codeBlock, unit []byte, _ int) {
	b.scale[0] = halfAt(unit)
	nibbles(b, unit[2:18], 8)
}

// nibbles unpacks 32 codes of 4 bits, the first half in the lower ones.
func nibbles(b *codeBlock, bytes []byte, offset int8) {
	for i, code := range bytes[:16] {
		b.codes[i] = int8(code&15) - offset
		b.codes[i+16] = int8(code>>4) - offset
	}
}
