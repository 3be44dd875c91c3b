package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A unit of a panel holds the elements of a block type in the order of
// integerFormats in package kernels, for each element one of every row. What is
// at byte p of a row of the unit then begins p*lanes bytes after w. Half floats
// come first, then packed scales, then codes in the order in which blocks need
// them, since the memory's prefetchers like it so.
var panelFormats = []panelFormat{
	{name: "Q8_0", blocks: 1, bytes: 34, most: signed, prepare: panelQ8_0},
	{name: "Q4_0", blocks: 1, bytes: 18, most: 15, prepare: panelQ4_0},
	{name: "Q4_1", blocks: 1, bytes: 20, most: 15, minima: true, prepare: panelQ4_1},
	{name: "Q5_0", blocks: 1, bytes: 22, most: 31, prepare: panelQ5_0},
	{name: "Q5_1", blocks: 1, bytes: 24, most: 31, minima: true, prepare: panelQ5_1},
	{name: "IQ4_NL", blocks: 1, bytes: 18, most: signed, prepare: panelIQ4_NL},
	{name: "IQ4_XS", blocks: 8, bytes: 136, most: signed, prepare: panelIQ4_XS},
	{name: "Q2_K", blocks: 8, bytes: 84, most: 3, halves: true, minima: true, prepare: panelQ2_K},
	{name: "Q3_K", blocks: 8, bytes: 110, most: 7, halves: true, prepare: panelQ3_K},
	{name: "Q4_K", blocks: 8, bytes: 144, most: 15, minima: true, prepare: panelQ4_K},
	{name: "Q5_K", blocks: 8, bytes: 176, most: 31, minima: true, prepare: panelQ5_K},
	{name: "Q6_K", blocks: 8, bytes: 210, most: 63, halves: true, prepare: panelQ6_K},
}

// groupFormats are codes in groups of columns: bytes are of the codes of 32
// columns of a row.
var groupFormats = []panelFormat{
	{name: "Groups2", bytes: 8, most: 3, minima: true, prepare: panelGroups2},
	{name: "Groups3", bytes: 12, most: 7, minima: true, prepare: panelGroups3},
	{name: "Groups4", bytes: 16, most: 15, minima: true, prepare: panelGroups4},
	{name: "Groups8", bytes: 32, most: signed, minima: true, prepare: panelGroups8},
}

// element is the address of what is at byte p of a row of a unit, of all rows.
func (g *gen) element(w reg.GPVirtual, p int) operand.Mem { return mem(w, p*g.lanes) }

// halves converts the half floats at byte p.
func (g *gen) halves(w reg.GPVirtual, p int) reg.VecVirtual {
	v := g.vec()
	g.halvesTo(w, p, v)
	return v
}

func (g *gen) halvesTo(w reg.GPVirtual, p int, dst operand.Op) {
	g.VCVTPH2PS(g.element(w, p), dst)
}

// minusHalves is halves with the other sign.
func (g *gen) minusHalves(w reg.GPVirtual, p int) reg.VecVirtual {
	v := g.halves(w, p)
	g.minus(v)
	return v
}

// minus changes the sign of v.
func (g *gen) minus(v reg.VecVirtual) {
	sign := g.word(1 << 31)
	if g.wide() {
		g.VPXORD_BCST(sign, v, v)
		return
	}
	s := g.YMM()
	g.VBROADCASTSS(sign, s)
	g.VXORPS(s, v, v)
}

// byteSet returns a register with the same byte everywhere.
func (g *gen) byteSet(b uint32) reg.VecVirtual { return g.bits(b * 0x01010101) }

// and sets dst to a & b.
func (g *gen) and(a operand.Op, b, dst reg.VecVirtual) {
	if g.wide() {
		g.VPANDD(a, b, dst)
		return
	}
	g.VPAND(a, b, dst)
}

// or sets dst to a | b.
func (g *gen) or(a operand.Op, b, dst reg.VecVirtual) {
	if g.wide() {
		g.VPORD(a, b, dst)
		return
	}
	g.VPOR(a, b, dst)
}

// shifted loads a vector and moves bit from of every byte to bit to; other
// bits are not cleared.
func (g *gen) shifted(m operand.Mem, from, to int, v reg.VecVirtual) {
	g.VMOVUPS(m, v)
	switch {
	case from > to:
		g.VPSRLW(operand.Imm(uint64(from-to)), v, v)
	case from < to:
		g.VPSLLW(operand.Imm(uint64(to-from)), v, v)
	}
}

// merge ors into codes the bits that begin at bit from of the bytes at m,
// moved to bit to; mask clears the others.
func (g *gen) merge(codes reg.VecVirtual, m operand.Mem, from, to int, mask reg.VecVirtual) {
	v := g.vec()
	g.shifted(m, from, to, v)
	if g.wide() {
		g.VPTERNLOGD(operand.Imm(0xf8), mask, v, codes) // codes | v&mask
		return
	}
	g.VPAND(mask, v, v)
	g.VPOR(v, codes, codes)
}

// nibbles unpacks the 16 bytes from byte p on, whose lower halves are the codes
// of the first 16 columns.
func (b *block) nibbles(g *gen, w reg.GPVirtual, p int, mask reg.VecVirtual) {
	for i := range 4 {
		v := b.codes[4+i]
		g.VMOVUPS(g.element(w, p+4*i), v)
		g.and(v, mask, b.codes[i])
		g.VPSRLW(operand.Imm(4), v, v)
		g.and(v, mask, v)
	}
}

// part unpacks the 32 bytes from byte p on, of which the codes of 32 columns
// are the bits from bit from on.
func (b *block) part(g *gen, w reg.GPVirtual, p, from int, mask reg.VecVirtual) {
	for i, v := range b.codes {
		g.shifted(g.element(w, p+4*i), from, 0, v)
		g.and(v, mask, v)
	}
}

// factor sets a factor of the block to d times integers, which it converts.
func (g *gen) factor(integers, d reg.VecVirtual, dst operand.Op) {
	v := integers
	g.VCVTDQ2PS(v, v)
	if to, ok := dst.(reg.VecVirtual); ok {
		g.VMULPS(d, v, to)
		return
	}
	g.VMULPS(d, v, v)
	g.VMOVUPS(v, dst)
}

// bytes32 loads the 32 signed codes from byte p on.
func (g *gen) bytes32(p int) panelUnpacker {
	var flip reg.VecVirtual
	if g.wide() {
		flip = g.byteSet(128)
	}
	return func(w reg.GPVirtual, _ int, b *block) {
		for i, v := range b.codes {
			if g.wide() {
				g.VPXORD(g.element(w, p+4*i), flip, v)
			} else {
				g.VMOVUPS(g.element(w, p+4*i), v)
			}
		}
	}
}

// panelQ8_0: d, 32 signed codes.
func panelQ8_0(g *gen) panelUnpacker {
	unpack := g.bytes32(2)
	return func(w reg.GPVirtual, i int, b *block) {
		unpack(w, i, b)
		g.halvesTo(w, 0, b.scales[0])
	}
}

// panelQ4_0: d, 16 bytes of codes.
func panelQ4_0(g *gen) panelUnpacker {
	mask := g.byteSet(15)
	return func(w reg.GPVirtual, _ int, b *block) {
		g.halvesTo(w, 0, b.scales[0])
		b.nibbles(g, w, 2, mask)
	}
}

// panelQ4_1: d, m, 16 bytes of codes.
func panelQ4_1(g *gen) panelUnpacker {
	mask := g.byteSet(15)
	return func(w reg.GPVirtual, _ int, b *block) {
		g.halvesTo(w, 0, b.scales[0])
		g.halvesTo(w, 2, b.minima[0])
		b.nibbles(g, w, 4, mask)
	}
}

// fifths adds fifth bits to the codes; bit i of byte j, counted from byte p of
// the row, belongs to column 4i+j.
func (b *block) fifths(g *gen, w reg.GPVirtual, p int, fifth reg.VecVirtual) {
	for i, v := range b.codes {
		g.merge(v, g.element(w, p), i, 4, fifth)
	}
}

// panelQ5_0: d, 4 bytes of fifth bits, 16 of codes.
func panelQ5_0(g *gen) panelUnpacker {
	mask, fifth := g.byteSet(15), g.byteSet(16)
	return func(w reg.GPVirtual, _ int, b *block) {
		g.halvesTo(w, 0, b.scales[0])
		b.nibbles(g, w, 6, mask)
		b.fifths(g, w, 2, fifth)
	}
}

// panelQ5_1: d, m, 4 bytes of fifth bits, 16 of codes.
func panelQ5_1(g *gen) panelUnpacker {
	mask, fifth := g.byteSet(15), g.byteSet(16)
	return func(w reg.GPVirtual, _ int, b *block) {
		g.halvesTo(w, 0, b.scales[0])
		g.halvesTo(w, 2, b.minima[0])
		b.nibbles(g, w, 8, mask)
		b.fifths(g, w, 4, fifth)
	}
}

// lookup returns what replaces codes of 4 bits by the numbers of IQ4_NL, moved
// up by 128 for AVX-512.
func (g *gen) lookup() func(b *block) {
	name, offset := "iq4NLSigned", 0
	if g.wide() {
		name, offset = "iq4NLUnsigned", 128
	}
	var words [4]uint32
	for i, v := range iq4NL {
		words[i/4] |= uint32(uint8(int(v)+offset)) << (i % 4 * 8)
	}
	numbers, m := g.vec(), g.table(name, words[:]...)
	if g.wide() {
		g.VBROADCASTI32X4(m, numbers)
	} else {
		g.VBROADCASTI128(m, numbers)
	}
	return func(b *block) {
		for _, v := range b.codes {
			g.VPSHUFB(v, numbers, v)
		}
	}
}

// panelIQ4_NL: as Q4_0, with codes that stand for the numbers of a table.
func panelIQ4_NL(g *gen) panelUnpacker {
	unpack, lookup := panelQ4_0(g), g.lookup()
	return func(w reg.GPVirtual, i int, b *block) {
		unpack(w, i, b)
		lookup(b)
	}
}

// bitsOf returns bits from bit from on of the 32-bit lanes at m, moved to bit
// to.
func (g *gen) bitsOf(m operand.Mem, from, bits, to int) reg.VecVirtual {
	v := g.vec()
	g.VMOVUPS(m, v)
	g.field(v, from, bits, to)
	return v
}

func (g *gen) field(v reg.VecVirtual, from, bits, to int) {
	switch {
	case from > to:
		g.VPSRLD(operand.Imm(uint64(from-to)), v, v)
	case from < to:
		g.VPSLLD(operand.Imm(uint64(to-from)), v, v)
	}
	mask := g.word(uint32(1<<bits-1) << to)
	if g.wide() {
		g.VPANDD_BCST(mask, v, v)
		return
	}
	m := g.YMM()
	g.VBROADCASTSS(mask, m)
	g.VPAND(m, v, v)
}

// minus32 takes 32 from the 32-bit lanes.
func (g *gen) minus32(v reg.VecVirtual) {
	m := g.word(32)
	if g.wide() {
		g.VPSUBD_BCST(m, v, v)
		return
	}
	b := g.YMM()
	g.VBROADCASTSS(m, b)
	g.VPSUBD(b, v, v)
}

// panelIQ4_XS: d, upper 2 bits of 8 scales, 4 bytes of their lower codes, 8
// times 16 bytes of codes.
func panelIQ4_XS(g *gen) panelUnpacker {
	mask, lookup := g.byteSet(15), g.lookup()
	return func(w reg.GPVirtual, i int, b *block) {
		scale, high := g.bitsOf(g.element(w, 4), 4*i, 4, 0), g.vec()
		g.VPMOVZXWD(g.element(w, 2), high)
		g.field(high, 2*i, 2, 4)
		g.or(high, scale, scale)
		g.minus32(scale)
		g.factor(scale, g.halves(w, 0), b.scales[0])
		b.nibbles(g, w, 8+16*i, mask)
		lookup(b)
	}
}

// sixBitFactors unpacks scale and minimum i of 8 of Q4_K and Q5_K: d, dmin, 12
// bytes with 6 bits for each.
func (b *block) sixBitFactors(g *gen, w reg.GPVirtual, i int) {
	get := func(which int) reg.VecVirtual {
		from := g.element(w, 4+4*which)
		if i < 4 {
			return g.bitsOf(from, 8*i, 6, 0)
		}
		v := g.bitsOf(g.element(w, 12), 8*(i-4)+4*which, 4, 0)
		g.or(g.bitsOf(from, 8*(i-4)+6, 2, 4), v, v)
		return v
	}
	g.factor(get(0), g.halves(w, 0), b.scales[0])
	g.factor(get(1), g.minusHalves(w, 2), b.minima[0])
}

// panelQ4_K: scales and minima, 4 times 32 bytes of codes of 64 columns.
func panelQ4_K(g *gen) panelUnpacker {
	mask := g.byteSet(15)
	return func(w reg.GPVirtual, i int, b *block) {
		b.sixBitFactors(g, w, i)
		b.part(g, w, 16+i/2*32, i%2*4, mask)
	}
}

// panelQ5_K: scales and minima, 32 bytes of fifth bits, codes as Q4_K.
func panelQ5_K(g *gen) panelUnpacker {
	mask, fifth := g.byteSet(15), g.byteSet(16)
	return func(w reg.GPVirtual, i int, b *block) {
		b.sixBitFactors(g, w, i)
		b.part(g, w, 48+i/2*32, i%2*4, mask)
		for j, v := range b.codes {
			g.merge(v, g.element(w, 16+4*j), i, 4, fifth)
		}
	}
}

// panelQ6_K: d, 16 signed scales, twice for 128 columns 32 bytes of lower codes,
// 32 of upper 2 bits, and 32 of lower codes.
func panelQ6_K(g *gen) panelUnpacker {
	mask, upper := g.byteSet(15), g.byteSet(0x30)
	return func(w reg.GPVirtual, i int, b *block) {
		for half, scale := range b.scales {
			s := 2*i + half
			v := g.vec()
			g.VMOVUPS(g.element(w, 2+s&^3), v)
			if s%4 < 3 {
				g.VPSLLD(operand.Imm(uint64(24-8*(s%4))), v, v)
			}
			g.VPSRAD(operand.Imm(24), v, v)
			g.factor(v, g.halves(w, 0), scale)
		}
		b.part(g, w, 18+i/4*96+i%2*64, i%4/2*4, mask)
		for j, v := range b.codes {
			g.merge(v, g.element(w, 18+i/4*96+32+4*j), i%4*2, 4, upper)
		}
	}
}

// panelQ3_K: d, 12 bytes of scales, 32 bytes of third bits, twice 32 bytes of
// lower codes of 128 columns.
func panelQ3_K(g *gen) panelUnpacker {
	mask, third := g.byteSet(3), g.byteSet(4)
	return func(w reg.GPVirtual, i int, b *block) {
		for half, scale := range b.scales {
			s := 2*i + half
			v := g.bitsOf(g.element(w, 2+s%8&^3), s%4*8+s/8*4, 4, 0)
			g.or(g.bitsOf(g.element(w, 10), s%4*8+s/4*2, 2, 4), v, v)
			g.minus32(v)
			g.factor(v, g.halves(w, 0), scale)
		}
		b.part(g, w, 46+i/4*32, i%4*2, mask)
		for j, v := range b.codes {
			g.merge(v, g.element(w, 14+4*j), i, 2, third)
		}
	}
}

// panelQ2_K: d, dmin, 16 bytes of scales and minima, twice 32 bytes of codes of
// 128 columns.
func panelQ2_K(g *gen) panelUnpacker {
	mask := g.byteSet(3)
	return func(w reg.GPVirtual, i int, b *block) {
		for half := range b.scales {
			s := 2*i + half
			from := g.element(w, 4+s&^3)
			g.factor(g.bitsOf(from, s%4*8, 4, 0), g.halves(w, 0), b.scales[half])
			g.factor(g.bitsOf(from, s%4*8+4, 4, 0), g.minusHalves(w, 2), b.minima[half])
		}
		b.part(g, w, 20+i/4*32, i%4*2, mask)
	}
}

// panelGroups8: 32 signed codes.
func panelGroups8(g *gen) panelUnpacker { return g.bytes32(0) }

// panelGroups4: 16 bytes of codes, as in Q4_0.
func panelGroups4(g *gen) panelUnpacker {
	mask := g.byteSet(15)
	return func(w reg.GPVirtual, _ int, b *block) { b.nibbles(g, w, 0, mask) }
}

// panelGroups2: 8 bytes of codes; byte i has those of columns i, i+8, i+16 and
// i+24.
func panelGroups2(g *gen) panelUnpacker {
	mask := g.byteSet(3)
	return func(w reg.GPVirtual, _ int, b *block) {
		for i, v := range b.codes {
			g.shifted(g.element(w, i%2*4), i/2*2, 0, v)
			g.and(v, mask, v)
		}
	}
}

// panelGroups3: as Groups2, then third bits as the fifth ones of Q5_0.
func panelGroups3(g *gen) panelUnpacker {
	unpack, third := panelGroups2(g), g.byteSet(4)
	return func(w reg.GPVirtual, i int, b *block) {
		unpack(w, i, b)
		for i, v := range b.codes {
			g.merge(v, g.element(w, 8), i, 2, third)
		}
	}
}
