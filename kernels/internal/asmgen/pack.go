package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// packs writes the rounding of rows to numbers of 16 and 8 bits.
func (g *gen) packs() {
	g.packF16()
	g.packBF16()
	g.packF8(e4m3)
	g.packF8(e5m2)
}

func (g *gen) packF16() {
	g.begin("packF16", "func(dst *byte, src *float32, n int)", "rounds n vectors to half precision.")
	dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
	g.count("loop", n, func() {
		h := g.half()
		g.VCVTPS2PH(operand.Imm(0), g.load(g.at(src, 0)), h)
		g.VMOVDQU(h, mem(dst, 0))
		g.next(src)
		g.move(dst, 2*g.lanes)
	})
	g.end()
}

func (g *gen) packBF16() {
	g.begin("packBF16", "func(dst *byte, src *float32, n int)", "rounds n vectors to bfloat16.")
	dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
	one, half, quiet := g.bits(1), g.bits(0x7fff), g.bits(0x40)
	g.count("loop", n, func() {
		v, high, nan := g.load(g.at(src, 0)), g.vec(), g.vec()
		g.VPSRLD(operand.Imm(16), v, high)
		odd := g.binary(g.VANDPS, one, high)
		g.VPADDD(half, odd, odd)
		g.VPADDD(v, odd, odd)
		g.VPSRLD(operand.Imm(16), odd, odd)
		g.VORPS(quiet, high, nan)
		g.choose(g.compare(3, v, v), nan, odd, odd) // unordered: NaN
		g.storeWords(odd, mem(dst, 0))
		g.next(src)
		g.move(dst, 2*g.lanes)
	})
	g.end()
}

// storeWords writes the lower halves of integers that fit them.
func (g *gen) storeWords(v reg.VecVirtual, at operand.Mem) {
	if g.wide() {
		y := g.YMM()
		g.VPMOVDW(v, y)
		g.VMOVDQU(y, at)
		return
	}
	x := g.XMM()
	g.VEXTRACTI128(operand.Imm(1), v, x)
	g.VPACKUSDW(x, v.AsX(), x)
	g.VMOVDQU(x, at)
}
