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

// numbers returns what turns codes, one a lane, into numbers; offset may be
// nil. Product and sum are rounded one after the other, as the reference does.
func (n *nibbles) numbers(scale, offset reg.VecVirtual) func(v reg.VecVirtual) {
	g := n.g
	apply := func(from, to reg.VecVirtual) {
		g.VMULPS(scale, from, to)
		if offset != nil {
			g.VADDPS(offset, to, to)
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
	n := g.nibbles(8)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		number := n.numbers(g.half16(mem(src, disp)), nil)
		n.halves(src, disp+2, 16, number, number, use)
	}
}

// prepareQ4_1: half floats d and m and 16 bytes; numbers are code*d + m.
func prepareQ4_1(g *gen) unpacker {
	n := g.nibbles(0)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		number := n.numbers(g.half16(mem(src, disp)), g.half16(mem(src, disp+2)))
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
	// d*scale and -dmin*minimum of the 8 sub-blocks.
	factors := g.AllocLocal(64)
	sign := g.YMM()
	g.VBROADCASTSS(g.word(1<<31), sign)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		scales, minima := g.sixBits(src, disp+4)
		for i, packed := range []reg.GPVirtual{scales, minima} {
			x, d := g.XMM(), g.XMM()
			f, all := g.YMM(), g.YMM()
			g.VMOVQ(packed, x)
			g.VPMOVZXBD(x, f)
			g.VCVTDQ2PS(f, f)
			g.VPBROADCASTW(mem(src, disp+2*i), d)
			g.VCVTPH2PS(d, all)
			if i == 1 {
				g.VXORPS(sign, all, all)
			}
			g.VMULPS(all, f, f)
			g.VMOVUPS(f, factors.Offset(32*i))
		}
		perQuarter := 64 / g.lanes
		for quarter := range 4 {
			sub := func(i int) func(reg.VecVirtual) {
				scale, minimum := g.vec(), g.vec()
				g.VBROADCASTSS(factors.Offset(8*quarter+4*i), scale)
				g.VBROADCASTSS(factors.Offset(32+8*quarter+4*i), minimum)
				return n.numbers(scale, minimum)
			}
			n.halves(src, disp+16+32*quarter, 32, sub(0), sub(1), func(i int, v reg.VecVirtual) {
				use(quarter*perQuarter+i, v)
			})
		}
	}
}

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

// prepareQ6_K: twice 64 bytes of lower codes, twice 32 bytes of upper 2 bits,
// 16 signed scales and a half float d. Numbers are (d*scale)*(code-32).
func prepareQ6_K(g *gen) unpacker {
	// 32 codes are made at once, in bytes.
	low, high, bias := g.YMM(), g.YMM(), g.YMM()
	g.VBROADCASTSS(g.word(0x0f0f0f0f), low)
	g.VBROADCASTSS(g.word(0x30303030), high)
	g.VBROADCASTSS(g.word(0x20202020), bias)
	factors := g.AllocLocal(64)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		g.scales16(src, disp, factors)
		perGroup := 32 / g.lanes
		for half := range 2 {
			bits := g.YMM()
			g.VMOVDQU(mem(src, disp+128+32*half), bits)
			for group := range 4 {
				codes, upper := g.YMM(), g.YMM()
				g.VMOVDQU(mem(src, disp+64*half+32*(group%2)), codes)
				if group >= 2 {
					g.VPSRLW(operand.Imm(4), codes, codes)
				}
				g.VPAND(low, codes, codes)
				switch group {
				case 0:
					g.VPSLLW(operand.Imm(4), bits, upper)
				case 1:
					g.VPSLLW(operand.Imm(2), bits, upper)
				case 2:
					g.VMOVDQU(bits, upper)
				case 3:
					g.VPSRLW(operand.Imm(2), bits, upper)
				}
				g.VPAND(high, upper, upper)
				g.VPOR(upper, codes, codes)
				g.VPSUBB(bias, codes, codes)
				at := 8*half + 2*group
				g.signed(codes, factors.Offset(4*at), func(i int, v reg.VecVirtual) {
					use((4*half+group)*perGroup+i, v)
				})
			}
		}
	}
}

// scales16 stores d*scale of the 16 sub-blocks of a Q6_K block.
func (g *gen) scales16(src reg.GPVirtual, disp int, factors operand.Mem) {
	d := g.half16(mem(src, disp+208))
	for i := range 16 / g.lanes {
		v := g.vec()
		g.VPMOVSXBD(mem(src, disp+192+i*g.lanes), v)
		g.VCVTDQ2PS(v, v)
		g.VMULPS(d, v, v)
		g.VMOVUPS(v, factors.Offset(i*g.bytes()))
	}
}

// signed makes numbers of 32 signed bytes; 16 share a scale.
func (g *gen) signed(codes reg.VecVirtual, scales operand.Mem, use func(i int, v reg.VecVirtual)) {
	for i := range 32 / g.lanes {
		part := codes.AsX()
		if at := i * g.lanes; at > 0 {
			x := g.XMM()
			if at >= 16 {
				g.VEXTRACTI128(operand.Imm(1), codes, x)
			} else {
				g.VMOVDQU(codes.AsX(), x)
			}
			if at%16 == 8 {
				g.VPSRLDQ(operand.Imm(8), x, x)
			}
			part = x
		}
		v, scale := g.vec(), g.vec()
		g.VPMOVSXBD(part, v)
		g.VCVTDQ2PS(v, v)
		g.VBROADCASTSS(scales.Offset(4*(i*g.lanes/16)), scale)
		g.VMULPS(scale, v, v)
		use(i, v)
	}
}
