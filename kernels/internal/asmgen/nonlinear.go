package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// nonlinear4 is the codebook of IQ4_NL and IQ4_XS.
var nonlinear4 = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// codebook16 are constants to look up the level closest to a number.
type codebook16 struct {
	levels, middles operand.Mem // 16 numbers; middle i is between levels i and i+1
	zero            reg.VecVirtual
	steps           map[int]operand.Mem // vectors of integers
}

func (g *gen) codebook16() *codebook16 {
	var levels, middles [16]uint32
	for i, v := range nonlinear4 {
		levels[i] = math.Float32bits(v)
		if i < 15 {
			middles[i] = math.Float32bits((v + nonlinear4[i+1]) / 2)
		}
	}
	c := &codebook16{
		levels:  g.table("nonlinearLevels", levels[:]...),
		middles: g.table("nonlinearMiddles", middles[:]...),
		zero:    g.vec(), steps: map[int]operand.Mem{},
	}
	g.zero(c.zero)
	for _, n := range []int{1, 2, 3, 4, 8} {
		var words [16]uint32
		for i := range words {
			words[i] = uint32(n)
		}
		c.steps[n] = g.table(fmt.Sprintf("sixteen%d", n), words[:]...)
	}
	return c
}

// look16 returns the numbers of a table of 16 at indices.
func (g *gen) look16(table operand.Mem, index reg.VecVirtual) reg.VecVirtual {
	v := g.vec()
	g.VPERMPS(table, index, v)
	if g.wide() {
		return v
	}
	upper, where := g.vec(), g.vec()
	g.VPERMPS(table.Offset(32), index, upper)
	g.VPSLLD(operand.Imm(28), index, where) // bit 3 decides
	g.VBLENDVPS(where, upper, v, v)
	return v
}

// code16 returns the code of the level closest to v, the upper of two equally
// close ones and for NaN, by halving.
func (g *gen) code16(c *codebook16, v reg.VecVirtual) reg.VecVirtual {
	code := g.vec()
	for _, step := range []int{8, 4, 2, 1} {
		var middle reg.VecVirtual
		if step == 8 {
			g.zero(code)
			middle = g.broadcast(c.middles.Offset(4 * 7))
		} else if step == 1 {
			middle = g.look16(c.middles, code)
		} else {
			middle = g.look16(c.middles, g.binary(g.VPADDD, code, c.steps[step-1]))
		}
		more := g.vec()
		g.choose(g.compare(5, v, middle), c.steps[step], c.zero, more) // not less
		g.VPADDD(more, code, code)
	}
	return code
}

func (g *gen) nonlinear() {
	g.begin("nonlinear", "func(x, w, result, numerators *float32, n, trials int)",
		"finds scales for the codebook of IQ4_NL: the inverse scale that maps extreme values",
		"to the lowest level, then numerators by the extreme values.")
	x, w, n := g.arg("x"), g.arg("w"), g.arg("n")
	numerators, trials := g.arg("numerators"), g.arg("trials")
	top, magnitude := g.extreme(x, n)
	local := g.AllocLocal(g.bytes())
	g.VMOVUPS(magnitude, local)
	c := g.codebook16()
	fit := func(label string, inverse reg.VecVirtual) symmetricFit {
		f := symmetricFit{g.vec(), g.vec()}
		g.zero(f.lx)
		g.zero(f.ll)
		g.each(label, n, []reg.GPVirtual{x, w}, func() {
			v := g.load(g.at(x, 0))
			level := g.look16(c.levels, g.code16(c, g.times(inverse, v)))
			wl := g.times(level, g.at(w, 0))
			g.VMULPS(wl, v, v)
			g.VADDPS(v, f.lx, f.lx)
			g.VMULPS(wl, level, level)
			g.VADDPS(level, f.ll, f.ll)
		})
		return f
	}
	inverse := g.difference(c.zero, top)
	g.VDIVPS(g.number(nonlinear4[0]), inverse, inverse)
	g.VDIVPS(inverse, g.number(1), inverse)
	f := fit("first", inverse)
	scale := g.vec()
	g.zero(scale)
	g.choose(g.less(c.zero, f.ll), g.divided(f.lx, f.ll), scale, scale)
	best := g.times(scale, f.lx)
	g.count("trials", trials, func() {
		inverse := g.divided(g.broadcast(mem(numerators, 0)), top)
		g.move(numerators, 4)
		f := fit("fit", inverse)
		m := g.both(g.less(c.zero, f.ll), g.less(g.times(best, f.ll), g.times(f.lx, f.lx)))
		g.choose(m, g.divided(f.lx, f.ll), scale, scale)
		g.choose(m, g.times(scale, f.lx), best, best)
	})
	g.VMOVUPS(local, magnitude)
	g.withoutTiny(magnitude, scale)
	g.VMOVUPS(scale, g.at(g.arg("result"), symmetricScale))
	g.end()
}

func (g *gen) nonlinearCodes() {
	g.begin("nonlinearCodes", "func(codes *byte, x *float32, n int, inverse float32)",
		"sets codes to those whose levels are closest to x*inverse, n vectors.")
	codes, x, n, inverse := g.arg("codes"), g.arg("x"), g.arg("n"), g.scalar("inverse")
	c := g.codebook16()
	g.count("loop", n, func() {
		g.storeBytes(g.code16(c, g.times(inverse, g.at(x, 0))), mem(codes, 0))
		g.next(x)
		g.move(codes, g.lanes)
	})
	g.end()
}
