package kernels

import (
	"encoding/binary"

	"llmc/dtype"
	"llmc/kernels/blocks"
)

// integerFormat is how rows of one type are read by integer products.
type integerFormat struct {
	blocks   int       // of 32 columns in a unit, which is a block of the type
	bytes    int       // of a unit
	offset   int32     // by how much assembly moves codes up, see record
	halves   bool      // the first and the last 16 columns have scales of their own
	minima   bool      // numbers are code*scale + minimum
	segments []segment // the order of a unit's bytes in a panel
	// unpack reads block i of a unit.
	unpack func(b *codeBlock, unit []byte, i int)
}

// codeBlock is 32 columns of one row: numbers are code*scale + minimum, of the
// half that the column is in where these differ.
type codeBlock struct {
	codes  [32]int8
	scales [2]float32
	minima [2]float32
}

// integerFormats are the types that have integer products. Codes of the table
// of IQ4_NL and of Q8_0 are signed, which AVX-512 moves up by 128.
var integerFormats = map[dtype.Type]*integerFormat{
	dtype.Q8_0:   {blocks: 1, bytes: 34, offset: 128, segments: []segment{{0, 2, 1}, {2, 4, 8}}, unpack: codesQ8_0},
	dtype.Q4_0:   {blocks: 1, bytes: 18, offset: 8, segments: []segment{{0, 2, 1}, {2, 4, 4}}, unpack: codesQ4_0},
	dtype.Q4_1:   {blocks: 1, bytes: 20, minima: true, segments: []segment{{0, 2, 2}, {4, 4, 4}}, unpack: codesQ4_1},
	dtype.Q5_0:   {blocks: 1, bytes: 22, offset: 16, segments: []segment{{0, 2, 1}, {2, turned, 1}, {6, 4, 4}}, unpack: codesQ5_0},
	dtype.Q5_1:   {blocks: 1, bytes: 24, minima: true, segments: []segment{{0, 2, 2}, {4, turned, 1}, {8, 4, 4}}, unpack: codesQ5_1},
	dtype.IQ4_NL: {blocks: 1, bytes: 18, offset: 128, segments: []segment{{0, 2, 1}, {2, 4, 4}}, unpack: codesIQ4NL},
	dtype.IQ4_XS: {blocks: 8, bytes: 136, offset: 128, segments: []segment{{0, 2, 2}, {4, 4, 33}}, unpack: codesIQ4XS},
	dtype.Q2_K:   {blocks: 8, bytes: 84, halves: true, minima: true, segments: []segment{{80, 2, 2}, {0, 4, 20}}, unpack: codesQ2K},
	dtype.Q3_K:   {blocks: 8, bytes: 110, offset: 4, halves: true, segments: []segment{{108, 2, 1}, {96, 4, 3}, {0, 4, 24}}, unpack: codesQ3K},
	dtype.Q4_K:   {blocks: 8, bytes: 144, minima: true, segments: []segment{{0, 2, 2}, {4, 4, 35}}, unpack: codesQ4K},
	dtype.Q5_K:   {blocks: 8, bytes: 176, minima: true, segments: []segment{{0, 2, 2}, {4, 4, 43}}, unpack: codesQ5K},
	dtype.Q6_K:   {blocks: 8, bytes: 210, offset: 32, halves: true, segments: []segment{{208, 2, 1}, {192, 4, 4}, {0, 4, 8}, {128, 4, 8}, {32, 4, 8}, {64, 4, 8}, {160, 4, 8}, {96, 4, 8}}, unpack: codesQ6K},
}

func halfAt(b []byte) float32 { return dtype.F16ToF32(binary.LittleEndian.Uint16(b)) }

func codesQ8_0(b *codeBlock, unit []byte, _ int) {
	b.scales[0] = halfAt(unit)
	for i, code := range unit[2:34] {
		b.codes[i] = int8(code)
	}
}

func codesQ4_0(b *codeBlock, unit []byte, _ int) {
	b.scales[0] = halfAt(unit)
	b.nibbles(unit[2:18], 8)
}

func codesQ4_1(b *codeBlock, unit []byte, _ int) {
	b.scales[0], b.minima[0] = halfAt(unit), halfAt(unit[2:])
	b.nibbles(unit[4:20], 0)
}

// nibbles sets codes to those of 4 bits, the first half the lower ones.
func (b *codeBlock) nibbles(codes []byte, offset int8) {
	for i, code := range codes[:16] {
		b.codes[i] = int8(code&15) - offset
		b.codes[i+16] = int8(code>>4) - offset
	}
}

func codesQ5_0(b *codeBlock, unit []byte, _ int) {
	b.scales[0] = halfAt(unit)
	b.nibbles(unit[6:22], 16)
	b.fifths(binary.LittleEndian.Uint32(unit[2:]))
}

func codesQ5_1(b *codeBlock, unit []byte, _ int) {
	b.scales[0], b.minima[0] = halfAt(unit), halfAt(unit[2:])
	b.nibbles(unit[8:24], 0)
	b.fifths(binary.LittleEndian.Uint32(unit[4:]))
}

// fifths adds 16 to the codes whose bit is set.
func (b *codeBlock) fifths(bits uint32) {
	for i := range b.codes {
		b.codes[i] += int8(bits >> i & 1 << 4)
	}
}

func codesIQ4NL(b *codeBlock, unit []byte, _ int) {
	b.scales[0] = halfAt(unit)
	b.nibbles(unit[2:18], 0)
	b.lookup()
}

func codesIQ4XS(b *codeBlock, unit []byte, i int) {
	level := int(unit[4+i/2]>>(i%2*4)&15) | int(binary.LittleEndian.Uint16(unit[2:])>>(2*i)&3)<<4
	b.scales[0] = halfAt(unit) * float32(level-32)
	b.nibbles(unit[8+16*i:], 0)
	b.lookup()
}

// lookup replaces codes by the levels of IQ4_NL.
func (b *codeBlock) lookup() {
	for i, code := range b.codes {
		b.codes[i] = nonlinear4[code]
	}
}

var nonlinear4 = blocks.Nonlinear4()

// part sets codes to the bits from bit shift on of 32 bytes.
func (b *codeBlock) part(bytes []byte, shift int, mask byte) {
	for i, code := range bytes[:32] {
		b.codes[i] = int8(code >> shift & mask)
	}
}

// merge adds to codes the bits from bit shift on of 32 bytes, moved to bit to,
// and takes off an offset.
func (b *codeBlock) merge(bytes []byte, shift int, mask byte, to int, offset int8) {
	for i, code := range bytes[:32] {
		b.codes[i] += int8(code>>shift&mask<<to) - offset
	}
}

func codesQ2K(b *codeBlock, unit []byte, i int) {
	d, dmin := halfAt(unit[80:]), halfAt(unit[82:])
	for half, packed := range unit[2*i : 2*i+2] {
		b.scales[half], b.minima[half] = d*float32(packed&15), -dmin*float32(packed>>4)
	}
	b.part(unit[16+i/4*32:], i%4*2, 3)
}

func codesQ3K(b *codeBlock, unit []byte, i int) {
	d := halfAt(unit[108:])
	for half := range b.scales {
		s := 2*i + half
		level := unit[96+s%8]>>(s/8*4)&15 | unit[104+s%4]>>(s/4*2)&3<<4
		b.scales[half] = d * float32(int(level)-32)
	}
	b.part(unit[32+i/4*32:], i%4*2, 3)
	b.merge(unit, i, 1, 2, 4)
}

func codesQ4K(b *codeBlock, unit []byte, i int) {
	b.sixBitFactors(unit, i)
	b.part(unit[16+i/2*32:], i%2*4, 15)
}

func codesQ5K(b *codeBlock, unit []byte, i int) {
	b.sixBitFactors(unit, i)
	b.part(unit[48+i/2*32:], i%2*4, 15)
	b.merge(unit[16:], i, 1, 4, 0)
}

// sixBitFactors reads scale and minimum i of 8, which Q4_K and Q5_K pack into
// 12 bytes after d and dmin: the first four in 6 bits each, of the others the
// lower 4 bits in the last 4 bytes, the upper 2 in the bits that are left.
func (b *codeBlock) sixBitFactors(unit []byte, i int) {
	p := unit[4:16]
	scale, low := p[i%4]&63, p[4+i%4]&63
	if i >= 4 {
		scale, low = p[4+i]&15|p[i-4]>>6<<4, p[4+i]>>4|p[i]>>6<<4
	}
	b.scales[0], b.minima[0] = halfAt(unit)*float32(scale), -halfAt(unit[2:])*float32(low)
}

func codesQ6K(b *codeBlock, unit []byte, i int) {
	d := halfAt(unit[208:])
	for half := range b.scales {
		b.scales[half] = d * float32(int8(unit[192+2*i+half]))
	}
	b.part(unit[i/4*64+i%2*32:], i%4/2*4, 15)
	b.merge(unit[128+i/4*32:], i%4*2, 3, 4, 32)
}
