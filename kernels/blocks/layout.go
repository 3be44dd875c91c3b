package blocks

import (
	"encoding/binary"
	"slices"

	"llmc/dtype"
)

// Layout describes a block type to those who choose its numbers themselves. A
// block is made of sub-blocks that have a scale and, in some types, a minimum,
// whole multiples of two factors that the block has in half precision:
//
//	value = (factor * scale) * level - (minFactor * min)
//
// each product rounded to float32, as [Dequantize] does it. Types without
// sub-blocks are those whose scale, and minimum, can only be 1.
type Layout struct {
	Type   dtype.Type
	Size   int       // values in a block
	Sub    int       // values in a sub-block
	Levels []float32 // what codes stand for, ascending
	Scales Range     // of the multiples
	Mins   Range     // 0 only, where there are no minima

	nonlinear bool // levels are those of nonlinear4, not neighbouring integers
	pack      func(dst []byte, b *Block)
	unpack    func(b *Block, src []byte)
}

// Range is the integers from Low to High.
type Range struct{ Low, High int }

// Fixed reports whether there is nothing to choose.
func (r Range) Fixed() bool { return r.Low == r.High }

// Block is one block taken apart. What a type has less of is not looked at.
type Block struct {
	Factor, MinFactor float32 // half-precision numbers
	Scales, Mins      []int8  // [Size/Sub] multiples
	Codes             []uint8 // [Size] indices of Levels
}

// NewBlock returns a block of zeros.
func (l *Layout) NewBlock() *Block {
	n := l.Size / l.Sub
	b := &Block{Scales: make([]int8, n), Mins: make([]int8, n), Codes: make([]uint8, l.Size)}
	for j := range n {
		b.Scales[j], b.Mins[j] = int8(l.Scales.High), int8(l.Mins.High)
	}
	return b
}

var (
	one, none = Range{1, 1}, Range{0, 0}

	layouts = [...]Layout{
		dtype.Q4_0: {Size: 32, Sub: 32, Levels: span(-8, 7), Scales: one, pack: packQ4_0, unpack: unpackHalf(0)},
		dtype.Q4_1: {Size: 32, Sub: 32, Levels: span(0, 15), Scales: one, Mins: one, pack: packQ4_1, unpack: unpackHalves},
		dtype.Q5_0: {Size: 32, Sub: 32, Levels: span(-16, 15), Scales: one, pack: packQ5_0, unpack: unpackHalf(0)},
		dtype.Q5_1: {Size: 32, Sub: 32, Levels: span(0, 31), Scales: one, Mins: one, pack: packQ5_1, unpack: unpackHalves},
		// -128 is left out, as ggml leaves it out.
		dtype.Q8_0:   {Size: 32, Sub: 32, Levels: span(-127, 127), Scales: one, pack: packQ8_0, unpack: unpackHalf(0)},
		dtype.IQ4_NL: {Size: 32, Sub: 32, Levels: nonlinearLevels(), Scales: one, nonlinear: true, pack: packQ4_0, unpack: unpackHalf(0)},
		dtype.IQ4_XS: {Size: superBlock, Sub: 32, Levels: nonlinearLevels(), Scales: Range{-32, 31}, nonlinear: true, pack: packIQ4XS, unpack: unpackIQ4XS},
		dtype.Q2_K:   {Size: superBlock, Sub: 16, Levels: span(0, 3), Scales: Range{0, 15}, Mins: Range{0, 15}, pack: packQ2K, unpack: unpackQ2K},
		dtype.Q3_K:   {Size: superBlock, Sub: 16, Levels: span(-4, 3), Scales: Range{-32, 31}, pack: packQ3K, unpack: unpackQ3K},
		dtype.Q4_K:   {Size: superBlock, Sub: 32, Levels: span(0, 15), Scales: Range{0, 63}, Mins: Range{0, 63}, pack: packQ4K, unpack: unpackK4},
		dtype.Q5_K:   {Size: superBlock, Sub: 32, Levels: span(0, 31), Scales: Range{0, 63}, Mins: Range{0, 63}, pack: packQ5K, unpack: unpackK4},
		dtype.Q6_K:   {Size: superBlock, Sub: 16, Levels: span(-32, 31), Scales: Range{-128, 127}, pack: packQ6K, unpack: unpackQ6K},
	}
)

// LayoutOf returns the layout of a type, false for those that have none: their
// numbers are not scales times levels, or they are not written.
func LayoutOf(t dtype.Type) (*Layout, bool) {
	if int(t) >= len(layouts) || layouts[t].pack == nil {
		return nil, false
	}
	l := layouts[t]
	l.Type = t
	return &l, true
}

// span is the integers from low to high.
func span(low, high int) []float32 {
	var levels []float32
	for n := low; n <= high; n++ {
		levels = append(levels, float32(n))
	}
	return levels
}

func nonlinearLevels() []float32 {
	var levels []float32
	for _, v := range nonlinear4 {
		levels = append(levels, float32(v))
	}
	return levels
}

// Zero returns the code that is zero whatever the scale, false for types that
// have none.
func (l *Layout) Zero() (code uint8, ok bool) {
	i := slices.Index(l.Levels, 0)
	return uint8(max(i, 0)), i >= 0 && l.Mins.High == 0
}

// Grid returns what the values of a sub-block are made of: they are
// scale * level - low.
func (l *Layout) Grid(b *Block, sub int) (scale, low float32) {
	return b.Factor * float32(b.Scales[sub]), b.MinFactor * float32(b.Mins[sub])
}

// Value returns what a code stands for under a grid.
func (l *Layout) Value(code uint8, scale, low float32) float32 {
	return float32(scale*l.Levels[code]) - low
}

// Code returns the code whose value under a grid is nearest to a finite v; 0
// when the scale is.
func (l *Layout) Code(v, scale, low float32) uint8 {
	if scale == 0 {
		return 0
	}
	x := (v + low) / scale
	if l.nonlinear {
		return nearestNonlinear(x)
	}
	first, top := l.Levels[0], l.Levels[len(l.Levels)-1]
	return uint8(nearest(min(max(x, first), top)) - int32(first))
}

// Nearest returns the level nearest to x, some level to NaN.
func (l *Layout) Nearest(x float32) float32 { return l.Levels[l.Code(x, 1, 0)] }

// Linear reports whether the levels are neighbouring integers.
func (l *Layout) Linear() bool { return !l.nonlinear }

// Pack writes a block to dst, of the type's size in bytes. What [Dequantize]
// makes of it are the values of its codes, bit for bit.
func (l *Layout) Pack(dst []byte, b *Block) { l.pack(dst, b) }

// Unpack takes the first block of src apart into one that NewBlock made.
func (l *Layout) Unpack(b *Block, src []byte) {
	l.unpack(b, src)
	var buffer [superBlock]float32
	values := buffer[:l.Size]
	Dequantize(l.Type, values, src[:l.Type.BlockBytes()])
	for i, v := range values {
		scale, low := l.Grid(b, i/l.Sub)
		b.Codes[i] = l.Code(v, scale, low)
	}
}

// unpackHalf reads a factor that is a scale itself.
func unpackHalf(offset int) func(b *Block, src []byte) {
	return func(b *Block, src []byte) { b.Factor = half(src[offset:]) }
}

// unpackHalves reads a scale and a minimum, which these types add.
func unpackHalves(b *Block, src []byte) { b.Factor, b.MinFactor = half(src), -half(src[2:]) }

func (b *Block) codes32() *[32]uint8 { return (*[32]uint8)(b.Codes) }

func packQ4_0(dst []byte, b *Block) {
	putHalf(dst, b.Factor)
	putNibbles(dst[2:], b.codes32())
}

func packQ4_1(dst []byte, b *Block) {
	putHalf(dst, b.Factor)
	putHalf(dst[2:], -b.MinFactor)
	putNibbles(dst[4:], b.codes32())
}

func packQ5_0(dst []byte, b *Block) {
	putHalf(dst, b.Factor)
	putHighBits(dst[2:], b.codes32())
	putNibbles(dst[6:], b.codes32())
}

func packQ5_1(dst []byte, b *Block) {
	putHalf(dst, b.Factor)
	putHalf(dst[2:], -b.MinFactor)
	putHighBits(dst[4:], b.codes32())
	putNibbles(dst[8:], b.codes32())
}

func packQ8_0(dst []byte, b *Block) {
	putHalf(dst, b.Factor)
	for i, c := range b.codes32() {
		dst[2+i] = c - 127
	}
}

func packIQ4XS(dst []byte, b *Block) {
	putHalf(dst, b.Factor)
	packScalesIQ4XS(dst[2:8], b.Scales)
	for j := range 8 {
		putNibbles(dst[8+16*j:], (*[32]uint8)(b.Codes[32*j:][:32]))
	}
}

func unpackIQ4XS(b *Block, src []byte) {
	b.Factor = half(src)
	high := binary.LittleEndian.Uint16(src[2:])
	for j := range 8 {
		level := src[4+j/2]>>(j%2*4)&15 | uint8(high>>(2*j)&3)<<4
		b.Scales[j] = int8(level) - 32
	}
}

// unsigned returns the multiples, offset, as they are packed.
func unsigned(multiples []int8, offset int8) *[16]uint8 {
	var u [16]uint8
	for j, v := range multiples {
		u[j] = uint8(v + offset)
	}
	return &u
}

func packQ2K(dst []byte, b *Block) {
	packScalesQ2K(dst[:16], unsigned(b.Scales, 0), unsigned(b.Mins, 0))
	putCodes2(dst[16:80], b.Codes)
	putHalf(dst[80:], b.Factor)
	putHalf(dst[82:], b.MinFactor)
}

func unpackQ2K(b *Block, src []byte) {
	b.Factor, b.MinFactor = half(src[80:]), half(src[82:])
	for j := range 16 {
		scale, low := scaleMinQ2K(j, src[:16])
		b.Scales[j], b.Mins[j] = int8(scale), int8(low)
	}
}

func packQ3K(dst []byte, b *Block) {
	codes := [superBlock]uint8(b.Codes)
	putCodesQ3K(dst[:96], codes[:])
	packScalesQ3K(dst[96:108], unsigned(b.Scales, 32))
	putHalf(dst[108:], b.Factor)
}

func unpackQ3K(b *Block, src []byte) {
	b.Factor = half(src[108:])
	for j, level := range unpackScalesQ3K(src[96:108]) {
		b.Scales[j] = int8(level) - 32
	}
}

func packQ4K(dst []byte, b *Block) {
	packFactorsK4(dst, b)
	putCodesQ4K(dst[16:144], b.Codes)
}

func packQ5K(dst []byte, b *Block) {
	packFactorsK4(dst, b)
	putCodesQ5K(dst[16:176], b.Codes)
}

func packFactorsK4(dst []byte, b *Block) {
	putHalf(dst, b.Factor)
	putHalf(dst[2:], b.MinFactor)
	packScalesK4(dst[4:16], unsigned(b.Scales, 0), unsigned(b.Mins, 0))
}

func unpackK4(b *Block, src []byte) {
	b.Factor, b.MinFactor = half(src), half(src[2:])
	for j := range 8 {
		scale, low := scaleMinK4(j, src[4:16])
		b.Scales[j], b.Mins[j] = int8(scale), int8(low)
	}
}

func packQ6K(dst []byte, b *Block) {
	putCodesQ6K(dst[:192], b.Codes)
	for j, s := range b.Scales {
		dst[192+j] = uint8(s)
	}
	putHalf(dst[208:], b.Factor)
}

func unpackQ6K(b *Block, src []byte) {
	b.Factor = half(src[208:])
	for j := range b.Scales {
		b.Scales[j] = int8(src[192+j])
	}
}
