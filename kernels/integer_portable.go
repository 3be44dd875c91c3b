package kernels

import "math"

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
				dst[r] += f.product(&b, &x[r])
			}
			x = x[len(dst):]
		}
	}
}

// product is what a block adds to a sum.
func (f *integerFormat) product(b *codeBlock, x *record) float32 {
	lower, upper := dotCodes((*[16]int8)(b.codes[:]), (*[16]int8)(x.codes[:])), dotCodes((*[16]int8)(b.codes[16:]), (*[16]int8)(x.codes[16:]))
	var sum float32
	if f.halves {
		sum = float32(float32(lower)*b.scales[0]) + float32(float32(upper)*b.scales[1])
	} else {
		sum = float32(lower+upper) * b.scales[0]
	}
	sum = float32(float32(sum) * x.scale)
	switch {
	case f.minima && f.halves:
		return sum + float32(float32(b.minima[0]*x.sum[1])+float32(b.minima[1]*x.sum[2]))
	case f.minima:
		return sum + float32(b.minima[0]*x.sum[0])
	}
	return sum
}

func dotCodes(a, b *[16]int8) int32 {
	var s0, s1 int32
	for i := 0; i < len(a); i += 2 {
		s0 += int32(a[i]) * int32(b[i])
		s1 += int32(a[i+1]) * int32(b[i+1])
	}
	return s0 + s1
}
