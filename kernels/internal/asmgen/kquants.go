package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// unpacker emits the code for one unit; see format.
type unpacker = func(src reg.GPVirtual, disp int, use func(i int, v reg.VecVirtual))

// nibbles turns 4-bit codes into numbers (code-bias)*scale + offset. AVX-512
// looks them up in a register of the 16 numbers that there are, by the lowest
// 4 bits of each lane; AVX2 computes each.
type nibbles struct {
	g     *gen
	codes reg.VecVirtual // AVX-512: the numbers -bias to 15-bias
	mask  reg.VecVirtual // AVX2: 15
	bias  reg.VecVirtual // AVX2: bias, nil for 0
}

func (g *gen) nibbles(bias int) *nibbles {
	n := &nibbles{g: g}
	if g.wide() {
		words := make([]uint32, 16)
		for i := range words {
			words[i] = math.Float32bits(float32(i - bias))
		}
		n.codes = g.vec()
		g.VMOVUPS(g.table(fmt.Sprintf("codesFrom%d", bias), words...), n.codes)
		return n
	}
	n.mask = g.bits(15)
	if bias != 0 {
		n.bias = g.bits(uint32(bias))
	}
	return n
}

// numbers returns what turns codes, one a lane, into numbers; scale and offset
// are vectors or numbers in memory, offset may be nil. Product and sum are
// rounded one after the other, as the reference does.
func (n *nibbles) numbers(scale, offset operand.Op) func(v reg.VecVirtual) {
	g := n.g
	if !g.wide() {
		// Loaded once for all vectors.
		scale, offset = g.inRegister(scale), g.inRegister(offset)
	}
	apply := func(from, to reg.VecVirtual) {
		g.multiply(scale, from, to)
		if offset != nil {
			g.plus(offset, to, to)
		}
	}
	if g.wide() {
		table := g.vec()
		apply(n.codes, table)
		return func(v reg.VecVirtual) { g.VPERMPS(table, v, v) }
	}
	return func(v reg.VecVirtual) {
		if n.bias != nil {
			g.VPSUBD(n.bias, v, v)
		}
		g.VCVTDQ2PS(v, v)
		apply(v, v)
	}
}

// split loads a vector of bytes and returns their lower and upper codes.
func (n *nibbles) split(at operand.Mem) (lower, upper reg.VecVirtual) {
	g := n.g
	lower, upper = g.vec(), g.vec()
	g.VPMOVZXBD(at, lower)
	g.VPSRLD(operand.Imm(4), lower, upper)
	if !g.wide() {
		g.VPAND(n.mask, lower, lower)
	}
	return lower, upper
}

// prepareQ4_0: a half float d and 16 bytes; byte j holds the codes of numbers
// j and j+16, which are (code-8)*d.
func prepareQ4_0(g *gen) unpacker {
	n, local := g.nibbles(8), g.AllocLocal(8)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		number := n.numbers(g.halfFloat(mem(src, disp), local), nil)
		n.halves(src, disp+2, 16, number, number, use)
	}
}

// prepareQ4_1: half floats d and m and 16 bytes; numbers are code*d + m.
func prepareQ4_1(g *gen) unpacker {
	n, local := g.nibbles(0), g.AllocLocal(8)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		number := n.numbers(g.halfFloat(mem(src, disp), local), g.halfFloat(mem(src, disp+2), local.Offset(4)))
		n.halves(src, disp+4, 16, number, number, use)
	}
}

// halves unpacks bytes whose lower codes are consecutive numbers, followed by
// those of the upper codes.
func (n *nibbles) halves(src reg.GPVirtual, disp, bytes int, lower, upper func(reg.VecVirtual), use func(int, reg.VecVirtual)) {
	vectors := bytes / n.g.lanes
	for i := range vectors {
		a, b := n.split(mem(src, disp+i*n.g.lanes))
		lower(a)
		use(i, a)
		upper(b)
		use(vectors+i, b)
	}
}

// prepareQ4_K: half floats d and dmin, 12 bytes with 8 scales and 8 minima of
// 6 bits, and 4 times 32 bytes, which hold 32 numbers in their lower codes and
// 32 in their upper ones. Numbers are (d*scale)*code - dmin*minimum.
func prepareQ4_K(g *gen) unpacker {
	n := g.nibbles(0)
	factors := g.subBlocks()
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		factors.load(src, disp)
		perQuarter := 64 / g.lanes
		for quarter := range 4 {
			lower := n.numbers(factors.scale(2*quarter), factors.offset(2*quarter))
			upper := n.numbers(factors.scale(2*quarter+1), factors.offset(2*quarter+1))
			n.halves(src, disp+16+32*quarter, 32, lower, upper, func(i int, v reg.VecVirtual) {
				use(quarter*perQuarter+i, v)
			})
		}
	}
}

// subBlocks are the factors of the sub-blocks of one block, in memory.
type subBlocks struct {
	g     *gen
	local operand.Mem
	sign  reg.VecVirtual
}

// subBlocks makes room for d*scale and -dmin*minimum of 8 sub-blocks.
func (g *gen) subBlocks() *subBlocks {
	f := &subBlocks{g: g, local: g.AllocLocal(64), sign: g.YMM()}
	g.VBROADCASTSS(g.word(1<<31), f.sign)
	return f
}

// load computes the factors of the Q4_K or Q5_K block at disp.
func (f *subBlocks) load(src reg.GPVirtual, disp int) {
	g := f.g
	scales, minima := g.sixBits(src, disp+4)
	for i, packed := range []reg.GPVirtual{scales, minima} {
		x, d := g.XMM(), g.XMM()
		v, all := g.YMM(), g.YMM()
		g.VMOVQ(packed, x)
		g.VPMOVZXBD(x, v)
		g.VCVTDQ2PS(v, v)
		g.VPBROADCASTW(mem(src, disp+2*i), d)
		g.VCVTPH2PS(d, all)
		if i == 1 {
			g.VXORPS(f.sign, all, all)
		}
		g.VMULPS(all, v, v)
		g.VMOVUPS(v, f.local.Offset(32*i))
	}
}

// scale is d*scale of a sub-block.
func (f *subBlocks) scale(i int) operand.Op { return f.local.Offset(4 * i) }

// offset is -dmin*minimum of a sub-block.
func (f *subBlocks) offset(i int) operand.Op { return f.local.Offset(32 + 4*i) }

// sixBits unpacks the 8 scales and 8 minima of a Q4_K block into the bytes of
// two registers. The first four of each are the lower 6 bits of bytes 0 to 3
// and 4 to 7; the others have their lower 4 bits in bytes 8 to 11 and their
// upper 2 in the upper bits of the former.
func (g *gen) sixBits(src reg.GPVirtual, disp int) (scales, minima reg.GPVirtual) {
	last := g.GP32()
	g.MOVL(mem(src, disp+8), last)
	unpack := func(from, shift int) reg.GPVirtual {
		word, low, high, nibble := g.GP64(), g.GP64(), g.GP64(), g.GP64()
		g.MOVL(mem(src, disp+from), word.As32())
		g.MOVL(word.As32(), low.As32())
		g.ANDL(operand.U32(0x3f3f3f3f), low.As32())
		g.MOVL(word.As32(), high.As32())
		g.SHRL(operand.Imm(2), high.As32())
		g.ANDL(operand.U32(0x30303030), high.As32())
		g.MOVL(last, nibble.As32())
		if shift > 0 {
			g.SHRL(operand.Imm(uint64(shift)), nibble.As32())
		}
		g.ANDL(operand.U32(0x0f0f0f0f), nibble.As32())
		g.ORL(nibble.As32(), high.As32())
		g.SHLQ(operand.Imm(32), high)
		g.ORQ(high, low)
		return low
	}
	return unpack(0, 0), unpack(4, 4)
}
