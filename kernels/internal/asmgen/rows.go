package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rows writes the rounding of rows to the types whose scales are not searched
// for, and a check of rows.
func (g *gen) rows() {
	g.anyAbove()
	g.roundQ8_0()
	for _, bits := range []int{4, 5} {
		g.roundSymmetric(bits)
		g.roundAffine(bits)
	}
}

func (g *gen) anyAbove() {
	g.begin("anyAbove", "func(x *float32, n int, limit uint32) bool",
		"reports whether the bits of the magnitude of any number of n vectors are above limit.")
	x, n := g.arg("x"), g.arg("n")
	mask, most := g.bits(0x7fffffff), g.vec()
	g.zero(most)
	g.count("loop", n, func() {
		v := g.binary(g.VANDPS, mask, g.at(x, 0))
		g.VPMAXUD(v, most, most)
		g.next(x)
	})
	top := g.fold(most, g.VPMAXUD)
	bits, limit := g.GP32(), g.GP32()
	g.VMOVD(top, bits)
	g.Load(g.Param("limit"), limit)
	above := g.GP8()
	g.CMPL(bits, limit)
	g.SETHI(above)
	g.Store(above, g.ReturnIndex(0))
	g.end()
}

// blocksOf32 emits a loop over n blocks of 32 numbers of src, which it loads,
// and of size bytes of dst.
func (g *gen) blocksOf32(name, doc string, size int, body func(dst, src reg.GPVirtual, v []reg.VecVirtual)) {
	g.begin(name, "func(dst *byte, src *float32, n int)", doc)
	dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
	g.count("loop", n, func() {
		v := make([]reg.VecVirtual, 32/g.lanes)
		for i := range v {
			v[i] = g.load(g.at(src, i))
		}
		body(dst, src, v)
		g.move(src, 32*4)
		g.move(dst, size)
	})
	g.end()
}

// foldAll reduces vectors to one number, in the lowest lane.
func (g *gen) foldAll(v []reg.VecVirtual, op func(ops ...operand.Op)) reg.Register {
	all := g.binary(op, v[0], v[1])
	for _, x := range v[2:] {
		op(x, all, all)
	}
	return g.fold(all, op)
}

// spreadLowest copies the lowest lane to all.
func (g *gen) spreadLowest(x reg.Register) reg.VecVirtual {
	v := g.vec()
	g.VBROADCASTSS(x, v)
	return v
}

// firstEqual returns the first of the 32 numbers at src, which v holds, that
// equals value after change, in all lanes.
func (g *gen) firstEqual(src reg.GPVirtual, v []reg.VecVirtual, value reg.VecVirtual) reg.VecVirtual {
	found := g.GP32()
	g.XORL(found, found)
	for i := len(v) - 1; i >= 0; i-- {
		m, bits := g.compare(0, v[i], value), g.GP32()
		if g.wide() {
			g.KMOVW(m, bits)
		} else {
			g.VMOVMSKPS(m, bits)
		}
		g.SHLL(operand.Imm(uint64(g.lanes)), found)
		g.ORL(bits, found)
	}
	g.TZCNTL(found, found)
	return g.broadcast(operand.Mem{Base: src, Index: found.As64(), Scale: 4})
}

// putHalf writes a number of all lanes in half precision.
func (g *gen) putHalf(v reg.VecVirtual, at operand.Mem) {
	x, bits := g.XMM(), g.GP32()
	g.VCVTPS2PH(operand.Imm(0), v.AsX(), x)
	g.VMOVD(x, bits)
	g.MOVW(bits.As16(), at)
}

// inverse returns 1/d, and 0 for 0.
func (g *gen) inverse(d reg.VecVirtual) reg.VecVirtual {
	zero := g.vec()
	g.zero(zero)
	v := g.divided(g.number(1), d)
	g.choose(g.unequal(d, zero), v, zero, v)
	return v
}

// truncated replaces v by its integer part; numbers that do not fit 8 bits give
// zero.
func (g *gen) truncated(v, mask, limit reg.VecVirtual) {
	fits := g.less(g.binary(g.VANDPS, mask, v), limit)
	g.VCVTTPS2DQ(v, v)
	if g.wide() {
		g.VMOVDQU32_Z(v, fits, v)
	} else {
		g.VANDPS(fits, v, v)
	}
}

func (g *gen) roundQ8_0() {
	g.blocksOf32("roundQ8_0", "rounds n blocks of 32 numbers to Q8_0.", 34, func(dst, src reg.GPVirtual, v []reg.VecVirtual) {
		mask, limit := g.bits(0x7fffffff), g.number(128)
		sizes := make([]reg.VecVirtual, len(v))
		for i := range v {
			sizes[i] = g.binary(g.VANDPS, mask, v[i])
		}
		d := g.spreadLowest(g.foldAll(sizes, g.VPMAXUD))
		g.VDIVPS(g.number(127), d, d)
		g.putHalf(d, mem(dst, 0))
		inverse := g.inverse(d)
		sign, half := g.bits(1<<31), g.number(0.5-0x1p-25)
		for i := range v {
			g.VMULPS(inverse, v[i], v[i])
			away := g.binary(g.VANDPS, sign, v[i])
			g.VORPS(half, away, away)
			g.VADDPS(away, v[i], v[i])
			g.truncated(v[i], mask, limit)
			g.storeSigned(v[i], mem(dst, 2+i*g.lanes))
		}
	})
}

// storeSigned writes integers that fit a signed byte.
func (g *gen) storeSigned(v reg.VecVirtual, at operand.Mem) {
	if g.wide() {
		g.storeBytes(v, at)
		return
	}
	x := g.XMM()
	g.VEXTRACTI128(operand.Imm(1), v, x)
	g.VPACKSSDW(x, v.AsX(), x)
	g.VPACKSSWB(x, x, x)
	g.VMOVQ(x, at)
}

func (g *gen) roundSymmetric(bits int) {
	name, size, half := fmt.Sprintf("Q%d_0", bits), 2+4*bits, float32(int(1)<<(bits-1))
	g.blocksOf32("round"+name, "rounds n blocks of 32 numbers to "+name+".", size, func(dst, src reg.GPVirtual, v []reg.VecVirtual) {
		mask := g.bits(0x7fffffff)
		sizes := make([]reg.VecVirtual, len(v))
		for i := range v {
			sizes[i] = g.binary(g.VANDPS, mask, v[i])
		}
		top := g.spreadLowest(g.foldAll(sizes, g.VPMAXUD))
		for i := range v {
			g.VANDPS(mask, v[i], sizes[i])
		}
		d := g.firstEqual(src, sizes, top)
		g.VDIVPS(g.number(-half), d, d)
		g.putHalf(d, mem(dst, 0))
		inverse, middle := g.inverse(d), g.number(half+0.5)
		for i := range v {
			g.VMULPS(inverse, v[i], v[i])
			g.VADDPS(middle, v[i], v[i])
		}
		g.putCodes(bits, v, dst, 2)
	})
}

func (g *gen) roundAffine(bits int) {
	name, size, top := fmt.Sprintf("Q%d_1", bits), 4+4*bits, float32(int(1)<<bits-1)
	g.blocksOf32("round"+name, "rounds n blocks of 32 numbers to "+name+".", size, func(dst, src reg.GPVirtual, v []reg.VecVirtual) {
		low := g.firstEqual(src, v, g.spreadLowest(g.foldAll(v, g.VMINPS)))
		high := g.spreadLowest(g.foldAll(v, g.VMAXPS))
		zero := g.vec()
		g.zero(zero)
		d := g.difference(high, low)
		g.VADDPS(zero, d, d) // not minus zero, where zeros have different signs
		g.VDIVPS(g.number(top), d, d)
		g.putHalf(d, mem(dst, 0))
		g.putHalf(low, mem(dst, 2))
		inverse, half := g.inverse(d), g.number(0.5)
		for i := range v {
			g.VSUBPS(low, v[i], v[i])
			g.VMULPS(inverse, v[i], v[i])
			g.VADDPS(half, v[i], v[i])
		}
		g.putCodes(bits, v, dst, 4)
	})
}

// putCodes truncates 32 numbers to codes and writes them: nibbles, the first
// half in the lower ones, after the fifth bits, if any.
func (g *gen) putCodes(bits int, v []reg.VecVirtual, dst reg.GPVirtual, at int) {
	mask, limit, most := g.bits(0x7fffffff), g.number(128), g.bits(1<<bits-1)
	for i := range v {
		g.truncated(v[i], mask, limit)
		g.VPMINSD(most, v[i], v[i])
	}
	if bits == 5 {
		g.putFifthBits(v, mem(dst, at))
		at += 4
	}
	half := len(v) / 2
	for i := range half {
		g.VPSLLD(operand.Imm(4), v[i+half], v[i+half])
		g.VPADDD(v[i+half], v[i], v[i])
		g.storeBytes(v[i], mem(dst, at+i*g.lanes))
	}
}

// putFifthBits writes bit 4 of 32 codes and clears it.
func (g *gen) putFifthBits(v []reg.VecVirtual, at operand.Mem) {
	all, nibble := g.GP32(), g.bits(15)
	g.XORL(all, all)
	for i := len(v) - 1; i >= 0; i-- {
		bits, sign := g.GP32(), g.vec()
		g.VPSLLD(operand.Imm(27), v[i], sign)
		if g.wide() {
			k := g.K()
			g.VPMOVD2M(sign, k)
			g.KMOVW(k, bits)
		} else {
			g.VMOVMSKPS(sign, bits)
		}
		g.SHLL(operand.Imm(uint64(g.lanes)), all)
		g.ORL(bits, all)
		g.VANDPS(nibble, v[i], v[i])
	}
	g.MOVL(all, at)
}
