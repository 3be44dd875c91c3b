package main

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The formats here have codes of other widths than 4 and 8 bits: 32 codes are
// put together in the bytes of a 256-bit register, whatever the instruction
// set, and then widened.

// byteMask returns a register with the same byte everywhere.
func (g *gen) byteMask(b uint32) reg.VecVirtual {
	v := g.YMM()
	g.VBROADCASTSS(g.word(b*0x01010101), v)
	return v
}

// align moves bit from of every byte to bit to, in a new register; other bits
// are not cleared.
func (g *gen) align(v reg.VecVirtual, from, to int) reg.VecVirtual {
	moved := g.YMM()
	switch {
	case from > to:
		g.VPSRLW(operand.Imm(uint64(from-to)), v, moved)
	case from < to:
		g.VPSLLW(operand.Imm(uint64(to-from)), v, moved)
	default:
		g.VMOVDQU(v, moved)
	}
	return moved
}

// widened makes numbers code*scale + offset of 32 signed bytes; scale and
// offset are given for the first and the last 16, offset nil means none.
func (g *gen) widened(codes reg.VecVirtual, scale, offset func(half int) operand.Op, use func(i int, v reg.VecVirtual)) {
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
		v, half := g.vec(), i*g.lanes/16
		g.VPMOVSXBD(part, v)
		g.VCVTDQ2PS(v, v)
		g.multiply(scale(half), v, v)
		if offset != nil {
			g.plus(offset(half), v, v)
		}
		use(i, v)
	}
}

// same is a scale or offset that all numbers share.
func same(v operand.Op) func(int) operand.Op {
	return func(int) operand.Op { return v }
}

// nibbles32 loads 16 bytes and puts their lower codes into the first 16 bytes
// and their upper codes into the last.
func (g *gen) nibbles32(at operand.Mem, mask reg.VecVirtual) reg.VecVirtual {
	codes, upper := g.YMM(), g.XMM()
	g.VMOVDQU(at, codes.AsX())
	g.VPSRLW(operand.Imm(4), codes.AsX(), upper)
	g.VINSERTI128(operand.Imm(1), upper, codes, codes)
	g.VPAND(mask, codes, codes)
	return codes
}

// fifthBits spreads 32 bits over the bytes of a register.
type fifthBits struct {
	g             *gen
	spread, which reg.VecVirtual
}

func (g *gen) fifthBits() *fifthBits {
	f := &fifthBits{g: g, spread: g.YMM(), which: g.YMM()}
	// Byte i/8 of the word goes to byte i, of which bit i%8 counts.
	g.VMOVDQU(g.table("bytesOfBits", 0, 0, 0x01010101, 0x01010101, 0x02020202, 0x02020202, 0x03030303, 0x03030303), f.spread)
	g.VMOVDQU(g.table("bitsOfBytes", 0x08040201, 0x80402010, 0x08040201, 0x80402010, 0x08040201, 0x80402010, 0x08040201, 0x80402010), f.which)
	return f
}

// clear returns 255 in the bytes whose bit is not set, else 0; zero is a
// register of zeros.
func (f *fifthBits) clear(at operand.Mem, zero reg.VecVirtual) reg.VecVirtual {
	g, v := f.g, f.g.YMM()
	g.VPBROADCASTD(at, v)
	g.VPSHUFB(f.spread, v, v)
	g.VPAND(f.which, v, v)
	g.VPCMPEQB(zero, v, v)
	return v
}

// prepareQ5_0: a half float d, 32 fifth bits, 16 bytes as in Q4_0; numbers are
// (code-16)*d. Upper bits are set where the fifth bit is not, which subtracts
// 16 from the byte.
func prepareQ5_0(g *gen) unpacker {
	mask, upper, zero, bits := g.byteMask(0x0f), g.byteMask(0xf0), g.byteMask(0), g.fifthBits()
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		codes := g.nibbles32(mem(src, disp+6), mask)
		clear := bits.clear(mem(src, disp+2), zero)
		g.VPAND(upper, clear, clear)
		g.VPOR(clear, codes, codes)
		g.widened(codes, same(g.half16(mem(src, disp))), nil, use)
	}
}

// prepareQ5_1: half floats d and m, 32 fifth bits, 16 bytes; numbers are
// code*d + m.
func prepareQ5_1(g *gen) unpacker {
	mask, fifth, zero, bits := g.byteMask(0x0f), g.byteMask(0x10), g.byteMask(0), g.fifthBits()
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		codes := g.nibbles32(mem(src, disp+8), mask)
		clear := bits.clear(mem(src, disp+4), zero)
		g.VPANDN(fifth, clear, clear)
		g.VPOR(clear, codes, codes)
		g.widened(codes, same(g.half16(mem(src, disp))), same(g.half16(mem(src, disp+2))), use)
	}
}

// iq4NL are the numbers that the codes of IQ4_NL stand for.
var iq4NL = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// prepareIQ4_NL: as Q4_0, but codes stand for the numbers of a table.
func prepareIQ4_NL(g *gen) unpacker {
	if g.wide() {
		n := &nibbles{g: g, codes: g.vec()}
		var words [16]uint32
		for i, v := range iq4NL {
			words[i] = math.Float32bits(float32(v))
		}
		g.VMOVUPS(g.table("iq4NLNumbers", words[:]...), n.codes)
		local := g.AllocLocal(8)
		return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
			number := n.numbers(g.halfFloat(mem(src, disp), local), nil)
			n.halves(src, disp+2, 16, number, number, use)
		}
	}
	var words [4]uint32
	for i, v := range iq4NL {
		words[i/4] |= uint32(uint8(v)) << (i % 4 * 8)
	}
	numbers, mask := g.YMM(), g.byteMask(0x0f)
	g.VBROADCASTI128(g.table("iq4NLBytes", words[:]...), numbers)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		codes := g.nibbles32(mem(src, disp+2), mask)
		g.VPSHUFB(codes, numbers, codes)
		g.widened(codes, same(g.half16(mem(src, disp))), nil, use)
	}
}

// prepareQ5_K: as Q4_K, with 32 bytes of fifth bits before the codes, a bit
// for each sub-block.
func prepareQ5_K(g *gen) unpacker {
	factors := g.subBlocks()
	mask, fifth := g.byteMask(0x0f), g.byteMask(0x10)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		factors.load(src, disp)
		bits := g.YMM()
		g.VMOVDQU(mem(src, disp+16), bits)
		for sub := range 8 {
			raw := g.YMM()
			g.VMOVDQU(mem(src, disp+48+32*(sub/2)), raw)
			codes := g.align(raw, 4*(sub%2), 0)
			g.VPAND(mask, codes, codes)
			high := g.align(bits, sub, 4)
			g.VPAND(fifth, high, high)
			g.VPOR(high, codes, codes)
			g.widened(codes, same(factors.scale(sub)), same(factors.offset(sub)), func(i int, v reg.VecVirtual) {
				use(sub*32/g.lanes+i, v)
			})
		}
	}
}

// prepareQ6_K: twice 64 bytes of lower codes, twice 32 bytes of upper 2 bits,
// 16 signed scales and a half float d. Numbers are (d*scale)*(code-32).
func prepareQ6_K(g *gen) unpacker {
	low, high, bias := g.byteMask(0x0f), g.byteMask(0x30), g.byteMask(32)
	factors := g.AllocLocal(64)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		scales := g.XMM()
		g.VMOVDQU(mem(src, disp+192), scales)
		g.factors16(scales, g.half16(mem(src, disp+208)), factors)
		for group := range 8 {
			raw, bits := g.YMM(), g.YMM()
			g.VMOVDQU(mem(src, disp+64*(group/4)+32*(group%2)), raw)
			codes := g.align(raw, group%4/2*4, 0)
			g.VPAND(low, codes, codes)
			g.VMOVDQU(mem(src, disp+128+32*(group/4)), bits)
			upper := g.align(bits, group%4*2, 4)
			g.VPAND(high, upper, upper)
			g.VPOR(upper, codes, codes)
			g.VPSUBB(bias, codes, codes)
			g.widened(codes, g.pair(factors, 0, group), nil, func(i int, v reg.VecVirtual) {
				use(group*32/g.lanes+i, v)
			})
		}
	}
}

// factors16 stores d times 16 signed bytes.
func (g *gen) factors16(bytes, d reg.VecVirtual, to operand.Mem) {
	for i := range 16 / g.lanes {
		v, part := g.vec(), bytes
		if i > 0 {
			part = g.XMM()
			g.VPSRLDQ(operand.Imm(8), bytes, part)
		}
		g.VPMOVSXBD(part, v)
		g.VCVTDQ2PS(v, v)
		g.VMULPS(d, v, v)
		g.VMOVUPS(v, to.Offset(i*g.bytes()))
	}
}

// pair returns the two factors of 32 numbers, from the 16 at offset from on.
func (g *gen) pair(factors operand.Mem, from, group int) func(half int) operand.Op {
	return func(half int) operand.Op { return factors.Offset(from + 8*group + 4*half) }
}

// prepareQ2_K: 16 bytes with a scale in the lower and a minimum in the upper
// code, 64 bytes of 2-bit codes, half floats d and dmin. Numbers are
// (d*scale)*code - dmin*minimum. 32 bytes hold 4 times 32 codes.
func prepareQ2_K(g *gen) unpacker {
	factors := g.AllocLocal(128)
	nibble, mask := g.byteMask(0x0f), g.byteMask(3)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		scales, minima := g.XMM(), g.XMM()
		g.VMOVDQU(mem(src, disp), scales)
		g.VPSRLW(operand.Imm(4), scales, minima)
		g.VPAND(nibble.AsX(), scales, scales)
		g.VPAND(nibble.AsX(), minima, minima)
		g.factors16(scales, g.half16(mem(src, disp+80)), factors)
		minus := g.half16(mem(src, disp+82))
		g.negate(minus, minus)
		g.factors16(minima, minus, factors.Offset(64))
		for group := range 8 {
			raw := g.YMM()
			g.VMOVDQU(mem(src, disp+16+32*(group/4)), raw)
			codes := g.align(raw, group%4*2, 0)
			g.VPAND(mask, codes, codes)
			g.widened(codes, g.pair(factors, 0, group), g.pair(factors, 64, group), func(i int, v reg.VecVirtual) {
				use(group*32/g.lanes+i, v)
			})
		}
	}
}

// prepareQ3_K: 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of
// scales, a half float d. Numbers are d*(scale-32) * (code-4).
func prepareQ3_K(g *gen) unpacker {
	factors := g.AllocLocal(64)
	mask, third, bias := g.byteMask(3), g.byteMask(4), g.byteMask(32)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		scales := g.scalesQ3K(src, disp+96)
		g.VPSUBB(bias.AsX(), scales, scales)
		g.factors16(scales, g.half16(mem(src, disp+108)), factors)
		bits := g.YMM()
		g.VMOVDQU(mem(src, disp), bits)
		for group := range 8 {
			raw := g.YMM()
			g.VMOVDQU(mem(src, disp+32+32*(group/4)), raw)
			codes := g.align(raw, group%4*2, 0)
			g.VPAND(mask, codes, codes)
			high := g.align(bits, group, 2)
			g.VPAND(third, high, high)
			g.VPOR(high, codes, codes)
			g.VPSUBB(third, codes, codes)
			g.widened(codes, g.pair(factors, 0, group), nil, func(i int, v reg.VecVirtual) {
				use(group*32/g.lanes+i, v)
			})
		}
	}
}

// scalesQ3K unpacks 16 scales of 6 bits: scale i has its lower 4 bits in the
// lower (i < 8) or upper code of byte i%8, and its upper 2 in bits 2*(i/4) on
// of byte 8 + i%4.
func (g *gen) scalesQ3K(src reg.GPVirtual, disp int) reg.VecVirtual {
	word := func(i int) reg.GPVirtual {
		low, high := g.GP64(), g.GP64()
		g.MOVL(mem(src, disp+i%2*4), low.As32())
		if i >= 2 {
			g.SHRL(operand.Imm(4), low.As32())
		}
		g.ANDL(operand.U32(0x0f0f0f0f), low.As32())
		g.MOVL(mem(src, disp+8), high.As32())
		if i < 2 {
			g.SHLL(operand.Imm(uint64(4-2*i)), high.As32())
		} else if i == 3 {
			g.SHRL(operand.Imm(2), high.As32())
		}
		g.ANDL(operand.U32(0x30303030), high.As32())
		g.ORL(high.As32(), low.As32())
		return low
	}
	scales := g.XMM()
	for i := range 2 {
		low, high := word(2*i), word(2*i+1)
		g.SHLQ(operand.Imm(32), high)
		g.ORQ(high, low)
		if i == 0 {
			g.VMOVQ(low, scales)
		} else {
			g.VPINSRQ(operand.Imm(1), low, scales, scales)
		}
	}
	return scales
}
