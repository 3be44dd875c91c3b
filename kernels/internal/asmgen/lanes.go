package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The searches of package blocks run on as many sub-blocks as a vector has
// lanes: vector i holds value i of each, so that every lane sees the operations
// of the portable search in their order. Nothing is fused.

// compare returns where a is less than b; false for NaN.
func (g *gen) less(a, b operand.Op) reg.Register { return g.compare(17, a, b) }

// unequal returns where a is not b.
func (g *gen) unequal(a, b operand.Op) reg.Register { return g.compare(4, a, b) }

func (g *gen) compare(predicate int, a, b operand.Op) reg.Register {
	var m reg.Register = g.vec()
	if g.wide() {
		m = g.K()
	}
	g.VCMPPS(operand.Imm(uint64(predicate)), b, a, m)
	return m
}

// both returns where a and b hold, in a.
func (g *gen) both(a, b reg.Register) reg.Register {
	if g.wide() {
		g.KANDW(a, b, a)
	} else {
		g.VANDPS(a, b, a)
	}
	return a
}

// choose sets dst to yes where m holds, else to no.
func (g *gen) choose(m reg.Register, yes operand.Op, no, dst reg.Register) {
	if g.wide() {
		g.VBLENDMPS(yes, no, m, dst)
	} else {
		g.VBLENDVPS(m, yes, no, dst)
	}
}

// update replaces a number in memory where m holds.
func (g *gen) update(m reg.Register, v reg.VecVirtual, at operand.Mem) {
	if g.wide() {
		g.VMOVUPS(v, m, at)
		return
	}
	old := g.vec()
	g.VMOVUPS(at, old)
	g.VBLENDVPS(m, v, old, old)
	g.VMOVUPS(old, at)
}

// load returns a vector in memory.
func (g *gen) load(m operand.Mem) reg.VecVirtual {
	v := g.vec()
	g.VMOVUPS(m, v)
	return v
}

// binary returns the result of an instruction of (b, a, result).
func (g *gen) binary(op func(ops ...operand.Op), a, b operand.Op) reg.VecVirtual {
	v := g.vec()
	op(b, a, v)
	return v
}

func (g *gen) times(a, b operand.Op) reg.VecVirtual      { return g.binary(g.VMULPS, a, b) }
func (g *gen) sum(a, b operand.Op) reg.VecVirtual        { return g.binary(g.VADDPS, a, b) }
func (g *gen) difference(a, b operand.Op) reg.VecVirtual { return g.binary(g.VSUBPS, a, b) }
func (g *gen) divided(a, b operand.Op) reg.VecVirtual    { return g.binary(g.VDIVPS, a, b) }

// magic is added to a number to round it: 1.5 * 2^23.
const magic = 12582912

// rounder rounds numbers to integers and clamps them, as nearest and clamp of
// package blocks do, also for numbers that are too large for nearest.
type rounder struct {
	magic, field, exponent, least, most operand.Op
}

// rounder takes the limits, to each of which magic has been added: as bits,
// such numbers are in the order of the integers. No least means zero.
func (g *gen) rounder(least, most reg.VecVirtual) *rounder {
	r := &rounder{g.number(magic), g.bits(0x007fffff), g.bits(0x4b000000), least, most}
	if least == nil {
		r.least = r.magic
	}
	return r
}

// round replaces v by an integer.
func (g *gen) round(r *rounder, v reg.VecVirtual) {
	g.clamped(r, v)
	g.VSUBPS(r.magic, v, v)
}

// clamped is round with magic still added.
func (g *gen) clamped(r *rounder, v reg.VecVirtual) {
	g.VADDPS(r.magic, v, v)
	if g.wide() {
		g.VPTERNLOGD(operand.Imm(0xea), r.exponent, r.field, v) // v & field | exponent
	} else {
		g.VPAND(r.field, v, v)
		g.VPOR(r.exponent, v, v)
	}
	g.VPMAXSD(r.least, v, v)
	g.VPMINSD(r.most, v, v)
}

// inMemory moves the constants to memory where there are few registers.
func (g *gen) inMemory(r *rounder) *rounder {
	if !g.wide() {
		for _, op := range []*operand.Op{&r.magic, &r.field, &r.exponent, &r.least, &r.most} {
			local := g.AllocLocal(g.bytes())
			g.VMOVUPS(*op, local)
			*op = local
		}
	}
	return r
}

// searches writes the searches for scales.
func (g *gen) searches() {
	g.transpose()
	g.magnitudes()
	g.squares()
	g.spread()
	g.weigh()
	for _, absolute := range []bool{false, true} {
		g.affineStart(absolute)
		g.affineTrial(absolute)
	}
	g.affineCodes()
	g.symmetric()
	g.descend()
	g.nonlinear()
	g.nonlinearCodes()
	g.requantize()
}

// each emits a loop over the n vectors that pointers point to; afterwards they
// are where they were.
func (g *gen) each(label string, n reg.GPVirtual, pointers []reg.GPVirtual, body func()) {
	left := g.GP64()
	g.MOVQ(n, left)
	g.Label(label)
	body()
	g.next(pointers...)
	g.DECQ(left)
	g.JNZ(operand.LabelRef(label))
	g.back(n, pointers...)
}

// back moves pointers back by n vectors.
func (g *gen) back(n reg.GPVirtual, pointers ...reg.GPVirtual) {
	bytes := g.GP64()
	g.IMUL3Q(operand.U32(uint32(g.bytes())), n, bytes)
	for _, p := range pointers {
		g.SUBQ(bytes, p)
	}
}

func (g *gen) magnitudes() {
	g.begin("magnitudes", "func(w, x *float32, n int)", "sets w to |x|, n vectors.")
	w, x, n := g.arg("w"), g.arg("x"), g.arg("n")
	mask := g.bits(0x7fffffff)
	g.count("loop", n, func() {
		g.VMOVUPS(g.binary(g.VANDPS, mask, g.at(x, 0)), g.at(w, 0))
		g.next(w, x)
	})
	g.end()
}

func (g *gen) squares() {
	g.begin("squares", "func(w, x *float32, n int)", "sets w to x*x, n vectors.")
	w, x, n := g.arg("w"), g.arg("x"), g.arg("n")
	g.count("loop", n, func() {
		v := g.load(g.at(x, 0))
		g.VMULPS(v, v, v)
		g.VMOVUPS(v, g.at(w, 0))
		g.next(w, x)
	})
	g.end()
}

func (g *gen) spread() {
	g.begin("spread", "func(w, x *float32, n int, count float32)",
		"sets w to |x| plus the root of the mean square of the n vectors; count is n.")
	w, x, n, count := g.arg("w"), g.arg("x"), g.arg("n"), g.scalar("count")
	mask := g.bits(0x7fffffff)
	mean := g.vec()
	g.zero(mean)
	g.each("squares", n, []reg.GPVirtual{x}, func() {
		v := g.load(g.at(x, 0))
		g.VMULPS(v, v, v)
		g.VADDPS(v, mean, mean)
	})
	g.VDIVPS(count, mean, mean)
	g.VSQRTPS(mean, mean)
	g.count("loop", n, func() {
		v := g.binary(g.VANDPS, mask, g.at(x, 0))
		g.VADDPS(v, mean, v)
		g.VMOVUPS(v, g.at(w, 0))
		g.next(w, x)
	})
	g.end()
}

func (g *gen) weigh() {
	g.begin("weigh", "func(w, x, importance, sigma2 *float32, n int)",
		"sets w to importance * sqrt(sigma2 + x*x), n vectors; sigma2 is one.")
	w, x, importance, n := g.arg("w"), g.arg("x"), g.arg("importance"), g.arg("n")
	sigma2 := g.load(g.at(g.arg("sigma2"), 0))
	g.count("loop", n, func() {
		v := g.load(g.at(x, 0))
		g.VMULPS(v, v, v)
		g.VADDPS(v, sigma2, v)
		g.VSQRTPS(v, v)
		g.VMULPS(g.at(importance, 0), v, v)
		g.VMOVUPS(v, g.at(w, 0))
		g.next(w, x, importance)
	})
	g.end()
}

// The vectors of an affine search's state, as affineState in package blocks.
const (
	affineLow = iota
	affineHigh
	affineSumW
	affineSumX
	affineBest
	affineScale
	affineKeptLow
	affineKeptInverse
)

// affine is what the parts of an affine search have in registers.
type affine struct {
	x, w, l, state, n reg.GPVirtual
	absolute          bool
}

func (g *gen) affine(absolute bool) *affine {
	return &affine{absolute: absolute, x: g.arg("x"), w: g.arg("w"), l: g.arg("l"), state: g.arg("state"), n: g.arg("n")}
}

// affineSums rounds to l and returns the weighted sums of l, l*l and l*x.
func (g *gen) affineSums(a *affine, low, inverse reg.VecVirtual) (sumL, sumLL, sumXL reg.VecVirtual) {
	r := g.rounder(nil, g.scalar("most"))
	s := g.zeros(3)
	g.each("round", a.n, []reg.GPVirtual{a.x, a.w, a.l}, func() {
		v := g.load(g.at(a.x, 0))
		l := g.difference(v, low)
		g.VMULPS(inverse, l, l)
		g.round(r, l)
		g.VMOVUPS(l, g.at(a.l, 0))
		wl := g.times(l, g.at(a.w, 0))
		g.VADDPS(wl, s[0], s[0])
		g.VMULPS(wl, l, l)
		g.VADDPS(l, s[1], s[1])
		g.VMULPS(wl, v, v)
		g.VADDPS(v, s[2], s[2])
	})
	return s[0], s[1], s[2]
}

// affineCost returns the weighted error of l.
func (g *gen) affineCost(a *affine, scale, low reg.VecVirtual) reg.VecVirtual {
	total, mask := g.vec(), g.bits(0x7fffffff)
	g.zero(total)
	g.each("cost", a.n, []reg.GPVirtual{a.x, a.w, a.l}, func() {
		d := g.times(scale, g.at(a.l, 0))
		g.VADDPS(low, d, d)
		g.VSUBPS(g.at(a.x, 0), d, d)
		if a.absolute {
			g.VANDPS(mask, d, d)
		} else {
			g.VMULPS(d, d, d)
		}
		g.VMULPS(g.at(a.w, 0), d, d)
		g.VADDPS(d, total, total)
	})
	return total
}

// affineName is the name of a part of the search for a kind of error.
func affineName(part string, absolute bool) string {
	if absolute {
		return part + "Absolute"
	}
	return part + "Squared"
}

func (g *gen) affineStart(absolute bool) {
	g.begin(affineName("affineStart", absolute), "func(x, w, l, state *float32, n int, most, top float32)",
		"begins a search with codes from 0 to top; most is top + 1.5*2^23.")
	a := g.affine(absolute)
	low, high, sumW := g.load(g.at(a.x, 0)), g.load(g.at(a.x, 0)), g.load(g.at(a.w, 0))
	sumX := g.times(low, sumW)
	left := g.GP64()
	g.MOVQ(a.n, left)
	g.DECQ(left)
	g.count("limits", left, func() {
		v, w := g.load(g.at(a.x, 1)), g.load(g.at(a.w, 1))
		g.VMINPS(low, v, low) // of equals, as they are
		g.VMAXPS(high, v, high)
		g.VADDPS(w, sumW, sumW)
		g.VMULPS(w, v, v)
		g.VADDPS(v, sumX, sumX)
		g.next(a.x, a.w)
	})
	g.next(a.x, a.w)
	g.back(a.n, a.x, a.w)
	zero := g.vec()
	g.zero(zero)
	g.VMINPS(low, zero, low)
	for i, v := range []reg.VecVirtual{affineLow: low, affineHigh: high, affineSumW: sumW, affineSumX: sumX} {
		g.VMOVUPS(v, g.at(a.state, i))
	}
	inverse := g.divided(g.scalar("top"), g.difference(high, low))
	scale := g.divided(g.number(1), inverse)
	g.VMOVUPS(low, g.at(a.state, affineKeptLow))
	g.VMOVUPS(inverse, g.at(a.state, affineKeptInverse))
	g.VMOVUPS(scale, g.at(a.state, affineScale))
	g.affineSums(a, low, inverse)
	g.VMOVUPS(g.affineCost(a, scale, low), g.at(a.state, affineBest))
	g.end()
}

func (g *gen) affineTrial(absolute bool) {
	g.begin(affineName("affineTrial", absolute), "func(x, w, l, state *float32, n int, most, numerator float32)",
		"tries inverse scales of numerator/(high-low) and keeps those that are better.")
	a := g.affine(absolute)
	low, high := g.load(g.at(a.state, affineLow)), g.load(g.at(a.state, affineHigh))
	inverse := g.divided(g.scalar("numerator"), g.difference(high, low))
	l, ll, xl := g.affineSums(a, low, inverse)
	sumW, sumX := g.load(g.at(a.state, affineSumW)), g.load(g.at(a.state, affineSumX))
	zero := g.vec()
	g.zero(zero)
	det := g.difference(g.times(sumW, ll), g.times(l, l))
	scale := g.divided(g.difference(g.times(sumW, xl), g.times(sumX, l)), det)
	solved := g.divided(g.difference(g.times(ll, sumX), g.times(l, xl)), det)
	above := g.less(zero, solved)
	g.choose(above, g.divided(xl, ll), scale, scale)
	g.choose(above, zero, solved, solved)
	better := g.less(zero, det)
	cost := g.affineCost(a, scale, solved)
	g.both(better, g.less(cost, g.at(a.state, affineBest)))
	g.update(better, low, g.at(a.state, affineKeptLow))
	g.update(better, inverse, g.at(a.state, affineKeptInverse))
	g.update(better, cost, g.at(a.state, affineBest))
	g.update(better, scale, g.at(a.state, affineScale))
	g.update(better, solved, g.at(a.state, affineLow))
	g.end()
}

func (g *gen) affineCodes() {
	g.begin("affineCodes", "func(x, l, state *float32, n int, most float32)", "sets l to the codes of the best trial.")
	x, l, state, n := g.arg("x"), g.arg("l"), g.arg("state"), g.arg("n")
	low, inverse := g.load(g.at(state, affineKeptLow)), g.load(g.at(state, affineKeptInverse))
	r := g.rounder(nil, g.scalar("most"))
	g.count("loop", n, func() {
		v := g.load(g.at(x, 0))
		g.VSUBPS(low, v, v)
		g.VMULPS(inverse, v, v)
		g.round(r, v)
		g.VMOVUPS(v, g.at(l, 0))
		g.next(x, l)
	})
	g.end()
}

func (g *gen) requantize() {
	g.begin("requantize", "func(codes *byte, x, scales, lows *float32, subs, n int, least, most float32)",
		"sets codes to (x+low)/scale - least, rounded and clamped, for subs sub-blocks of n",
		"vectors; least and most are 1.5*2^23 more.")
	codes, x, scales, lows, subs, n := g.arg("codes"), g.arg("x"), g.arg("scales"), g.arg("lows"), g.arg("subs"), g.arg("n")
	r := g.rounder(g.scalar("least"), g.scalar("most"))
	left := g.GP64()
	g.count("subs", subs, func() {
		scale, low := g.broadcast(mem(scales, 0)), g.broadcast(mem(lows, 0))
		g.MOVQ(n, left)
		g.count("loop", left, func() {
			v := g.sum(low, g.at(x, 0))
			g.VDIVPS(scale, v, v)
			g.clamped(r, v)
			g.VPSUBD(r.least, v, v)
			g.storeBytes(v, mem(codes, 0))
			g.next(x)
			g.move(codes, g.lanes)
		})
		g.move(scales, 4)
		g.move(lows, 4)
	})
	g.end()
}

// storeBytes writes the lowest byte of integers that fit it.
func (g *gen) storeBytes(v reg.VecVirtual, at operand.Mem) {
	if g.wide() {
		x := g.XMM()
		g.VPMOVDB(v, x)
		g.VMOVDQU(x, at)
		return
	}
	x := g.XMM()
	g.VEXTRACTI128(operand.Imm(1), v, x)
	g.VPACKUSDW(x, v.AsX(), x)
	g.VPACKUSWB(x, x, x)
	g.VMOVQ(x, at)
}
