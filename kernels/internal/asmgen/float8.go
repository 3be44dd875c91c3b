package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// float8 is a format of 8-bit floats.
type float8 struct {
	name           string
	mantissa, bias int
	steps          float32 // a float32 with the steps of the smallest numbers
	most           float32 // at and above it, numbers do not fit
	above          uint32  // the code of what does not fit
}

// E4M3's most is the number after 464, which still rounds to 448; E5M2's is the
// middle between its largest number and infinity, which is even.
var (
	e4m3 = float8{"F8E4M3", 3, 7, 3 << 13, 464.00003, 0x7f}
	e5m2 = float8{"F8E5M2", 2, 15, 3 << 6, 61440, 0x7c}
)

const notNumber8 = 0x7f

// packF8 rounds numbers, ties to even, by what the definitions in package dtype
// do: small ones by adding steps, others by their bits.
func (g *gen) packF8(f float8) {
	g.begin("pack"+f.name, "func(dst *byte, src *float32, n int)", fmt.Sprintf("rounds n vectors to %s.", f.name[2:]))
	dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
	dropped := 23 - f.mantissa
	magnitude, one, half := g.bits(1<<31-1), g.bits(1), g.bits(1<<(dropped-1)-1)
	rebias, lowest, sign := g.bits(uint32(127-f.bias)<<f.mantissa), g.bits(0xff), g.bits(0x80)
	steps, normal := g.number(f.steps), g.number(float32(math.Ldexp(1, 1-f.bias)))
	most, above, nan := g.number(f.most), g.bits(f.above), g.bits(notNumber8)
	g.count("loop", n, func() {
		v, a, code := g.load(g.at(src, 0)), g.vec(), g.vec()
		g.and(v, magnitude, a)
		g.VPSRLD(operand.Imm(uint64(dropped)), a, code)
		g.and(code, one, code)
		g.VPADDD(half, code, code)
		g.VPADDD(a, code, code)
		g.VPSRLD(operand.Imm(uint64(dropped)), code, code)
		g.VPSUBD(rebias, code, code)
		small := g.sum(a, steps)
		g.and(small, lowest, small)
		g.choose(g.less(a, normal), small, code, code)
		g.choose(g.compare(13, a, most), above, code, code) // at least most
		g.choose(g.compare(3, a, a), nan, code, code)       // unordered
		g.VPSRLD(operand.Imm(24), v, v)
		g.and(v, sign, v)
		g.or(v, code, code)
		g.storeBytes(code, mem(dst, 0))
		g.next(src)
		g.move(dst, g.lanes)
	})
	g.end()
}

// prepareF8E5M2: the upper halves of half floats.
func prepareF8E5M2(g *gen) unpacker {
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		h, v := g.half(), g.vec()
		g.VPMOVZXBW(mem(src, disp), h)
		g.VPSLLW(operand.Imm(8), h, h)
		g.VCVTPH2PS(h, v)
		use(0, v)
	}
}

// prepareF8E4M3: as a half float with the bits in their places a number is 256
// times too small. What would be 480 is no number.
func prepareF8E4M3(g *gen) unpacker {
	places, scale, magnitude := g.half(), g.number(256), g.bits(1<<31-1)
	g.VBROADCASTSS(g.word(0xbf80bf80), places)
	last, nan := g.number(480), g.bits(0x7fc00000)
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		h, v, a := g.half(), g.vec(), g.vec()
		g.VPMOVSXBW(mem(src, disp), h)
		g.VPSLLW(operand.Imm(7), h, h)
		g.VPAND(places, h, h)
		g.VCVTPH2PS(h, v)
		g.VMULPS(scale, v, v)
		g.and(v, magnitude, a)
		g.choose(g.compare(0, a, last), nan, v, v) // equal
		use(0, v)
	}
}
