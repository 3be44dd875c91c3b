package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// quantize writes the rounding of activations to records.
func (g *gen) quantize() {
	g.begin("quantize", "func(dst *byte, x *float32, blocks, stride int, offset int32)",
		"rounds blocks of 32 numbers to records that are stride bytes apart.")
	dst, x, blocks, stride := g.arg("dst"), g.arg("x"), g.arg("blocks"), g.arg("stride")
	offset := g.GP32()
	g.Load(g.Param("offset"), offset)
	g.NEGL(offset)
	magnitude := g.bits(0x7fffffff)
	largest := g.YMM()
	top := g.XMM()
	g.VMOVSS(g.word(0x42fe0000), top) // 127
	flip, zero := g.YMM(), g.YMM()
	g.VBROADCASTSS(g.word(0x80808080), flip)
	g.VPXOR(zero, zero, zero)
	g.count("blocks", blocks, func() {
		v := g.vecs(32 / g.lanes)
		for i := range v {
			g.VMOVUPS(g.at(x, i), v[i])
		}
		g.magnitude(v, magnitude, largest)
		size := largest.AsX()
		// Blocks with a number that is not finite have scale NaN, tiny ones 0,
		// and both codes of 0.
		bits := g.GP32()
		g.VMOVD(size, bits)
		scale, inverse := g.XMM(), g.XMM()
		g.VDIVSS(top, size, scale)
		g.VDIVSS(size, top, inverse)
		g.CMPL(bits, operand.U32(0x7f800000))
		g.JGE(operand.LabelRef("infinite"))
		g.CMPL(bits, operand.U32(tiny))
		g.JLT(operand.LabelRef("tiny"))
		codes := g.YMM()
		g.rounded(v, inverse, codes)
		g.Label("store")
		g.VMOVDQU(codes, mem(dst, 0))
		g.VMOVSS(scale, mem(dst, recordScale))
		g.recordSums(dst, codes, flip, zero, scale, offset)
		g.ADDQ(stride, dst)
		g.move(x, 32*4)
		g.JMP(operand.LabelRef("next"))
		g.Label("infinite")
		g.VMOVSS(g.word(0x7fc00000), scale)
		g.VPXOR(codes, codes, codes)
		g.JMP(operand.LabelRef("store"))
		g.Label("tiny")
		g.VXORPS(scale, scale, scale)
		g.VPXOR(codes, codes, codes)
		g.JMP(operand.LabelRef("store"))
		g.Label("next")
	})
	g.end()
}

// tiny is the least magnitude that is not taken for zero, 2^-100: of those
// below 2^-121, the inverse is not finite.
const tiny = (127 - 100) << 23

// magnitude sets the lowest lane of dst to the largest magnitude, as bits: so
// NaN is the largest.
func (g *gen) magnitude(v []reg.VecVirtual, mask, dst reg.VecVirtual) {
	m := g.vecs(len(v))
	for i := range v {
		g.and(mask, v[i], m[i])
	}
	for n := len(m); n > 1; n /= 2 {
		for i := range n / 2 {
			g.VPMAXUD(m[i+n/2], m[i], m[i])
		}
	}
	g.VMOVAPS(m[0].AsY(), dst)
	if g.wide() {
		h := g.YMM()
		g.VEXTRACTI64X4(operand.Imm(1), m[0], h)
		g.VPMAXUD(h, dst, dst)
	}
	h := g.XMM()
	g.VEXTRACTI128(operand.Imm(1), dst, h)
	g.VPMAXUD(h, dst.AsX(), dst.AsX())
	g.VPSHUFD(operand.Imm(0x4e), dst.AsX(), h)
	g.VPMAXUD(h, dst.AsX(), dst.AsX())
	g.VPSHUFD(operand.Imm(0xb1), dst.AsX(), h)
	g.VPMAXUD(h, dst.AsX(), dst.AsX())
}

// rounded sets codes to 32 bytes of v times inverse, to nearest even.
func (g *gen) rounded(v []reg.VecVirtual, inverse, codes reg.VecVirtual) {
	factor := g.vec()
	g.VBROADCASTSS(inverse, factor)
	for i := range v {
		g.VMULPS(factor, v[i], v[i])
		g.VCVTPS2DQ(v[i], v[i])
	}
	if g.wide() {
		x := g.XMM()
		g.VPMOVDB(v[0], codes.AsX())
		g.VPMOVDB(v[1], x)
		g.VINSERTI128(operand.Imm(1), x, codes, codes)
		return
	}
	a, b := g.YMM(), g.YMM()
	g.VPACKSSDW(v[1], v[0], a)
	g.VPACKSSDW(v[3], v[2], b)
	g.VPACKSSWB(b, a, a)
	order := g.YMM()
	g.VMOVDQU(g.table("packOrder", 0, 4, 1, 5, 2, 6, 3, 7), order)
	g.VPERMD(a, order, codes)
}

// recordSums writes what a record says of the sum of its bytes. VPSADBW adds
// up unsigned bytes by eights.
func (g *gen) recordSums(dst reg.GPVirtual, codes, flip, zero, scale reg.VecVirtual, offset reg.GPVirtual) {
	sums, high := g.YMM(), g.YMM()
	g.VPXOR(flip, codes, sums)
	g.VPSADBW(zero, sums, sums)
	g.VPSHUFD(operand.Imm(0x4e), sums, high)
	g.VPADDD(high, sums, sums)
	upper := g.XMM()
	g.VEXTRACTI128(operand.Imm(1), sums, upper)
	var n [3]reg.GPVirtual // all, first half, last half
	for i := range n {
		n[i] = g.GP32()
	}
	g.VMOVD(sums.AsX(), n[1])
	g.VMOVD(upper, n[2])
	for i := 1; i < 3; i++ {
		g.SUBL(operand.U32(16*128), n[i])
	}
	g.MOVL(n[1], n[0])
	g.ADDL(n[2], n[0])
	for i := range n {
		f := g.XMM()
		g.VXORPS(f, f, f)
		g.VCVTSI2SSL(n[i], f, f)
		g.VMULSS(scale, f, f)
		g.VMOVSS(f, mem(dst, recordSum+4*i))
		g.IMULL(offset, n[i])
		g.MOVL(n[i], mem(dst, recordBias+4*i))
	}
}
