package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The vectors that the searches of symmetric codes return, as in package
// blocks.
const (
	symmetricScale = iota
	symmetricSumW
)

// extreme returns the numbers of the largest magnitudes, the first of equals,
// and those.
func (g *gen) extreme(x, n reg.GPVirtual) (top, magnitude reg.VecVirtual) {
	top, magnitude = g.vec(), g.vec()
	g.zero(top)
	g.zero(magnitude)
	mask := g.bits(0x7fffffff)
	g.each("extreme", n, []reg.GPVirtual{x}, func() {
		v := g.load(g.at(x, 0))
		a := g.binary(g.VANDPS, mask, v)
		g.choose(g.less(magnitude, a), v, top, top)
		g.VMAXPS(a, magnitude, magnitude)
	})
	return top, magnitude
}

// withoutTiny sets dst to zero where magnitudes count as zero.
func (g *gen) withoutTiny(magnitude reg.VecVirtual, dst ...reg.VecVirtual) {
	zero := g.vec()
	g.zero(zero)
	m := g.less(magnitude, g.number(1e-15))
	for _, v := range dst {
		g.choose(m, zero, v, v)
	}
}

// symmetricFit holds sums for the codes that an inverse scale gives.
type symmetricFit struct{ lx, ll reg.VecVirtual }

func (g *gen) symmetric() {
	g.begin("symmetric", "func(x, w, l, result, numerators *float32, n, trials int, least, most float32)",
		"finds scales for codes between least and most, to which 1.5*2^23 is added. The",
		"inverse scales that it tries are numerators by the extreme values. It sets l to",
		"codes - least.")
	x, w, l, n := g.arg("x"), g.arg("w"), g.arg("l"), g.arg("n")
	numerators, trials := g.arg("numerators"), g.arg("trials")
	r := &rounder{magic: g.number(magic), least: g.scalar("least"), most: g.scalar("most")}
	top, magnitude := g.extreme(x, n)
	// Until the codes are known, l holds w*x.
	sumW := g.vec()
	g.zero(sumW)
	g.each("products", n, []reg.GPVirtual{x, w, l}, func() {
		v := g.load(g.at(w, 0))
		g.VADDPS(v, sumW, sumW)
		g.VMULPS(g.at(x, 0), v, v)
		g.VMOVUPS(v, g.at(l, 0))
	})
	result := g.arg("result")
	g.VMOVUPS(sumW, g.at(result, symmetricSumW))
	fit := func(label string, inverse reg.VecVirtual) symmetricFit {
		f := symmetricFit{g.vec(), g.vec()}
		g.zero(f.lx)
		g.zero(f.ll)
		g.each(label, n, []reg.GPVirtual{x, w, l}, func() {
			code := g.times(inverse, g.at(x, 0))
			g.withinRange(r, code)
			g.VADDPS(g.times(code, g.at(l, 0)), f.lx, f.lx)
			wl := g.times(code, g.at(w, 0))
			g.VMULPS(code, wl, wl)
			g.VADDPS(wl, f.ll, f.ll)
		})
		return f
	}
	next := func() reg.VecVirtual {
		v := g.broadcast(mem(numerators, 0))
		g.VDIVPS(top, v, v)
		g.move(numerators, 4)
		return v
	}
	zero := g.vec()
	g.zero(zero)
	kept := next()
	f := fit("first", kept)
	scale := g.vec()
	g.zero(scale)
	g.choose(g.unequal(f.ll, zero), g.divided(f.lx, f.ll), scale, scale)
	best := g.times(scale, f.lx)
	g.DECQ(trials)
	g.count("trials", trials, func() {
		inverse := next()
		f := fit("fit", inverse)
		m := g.both(g.less(zero, f.ll), g.less(g.times(best, f.ll), g.times(f.lx, f.lx)))
		g.choose(m, inverse, kept, kept)
		g.choose(m, g.divided(f.lx, f.ll), scale, scale)
		g.choose(m, g.times(scale, f.lx), best, best)
	})
	g.withoutTiny(magnitude, scale)
	g.VMOVUPS(scale, g.at(result, symmetricScale))
	g.each("codes", n, []reg.GPVirtual{x, l}, func() {
		code := g.times(kept, g.at(x, 0))
		g.withinRange(r, code)
		g.fromLeast(r, code)
		g.withoutTiny(magnitude, code)
		g.VMOVUPS(code, g.at(l, 0))
	})
	g.end()
}

// fromLeast adds to integers what makes the least of them zero.
func (g *gen) fromLeast(r *rounder, v reg.VecVirtual) {
	offset := g.vec()
	g.VMOVUPS(r.magic, offset)
	g.VSUBPS(r.least, offset, offset)
	g.VADDPS(offset, v, v)
}

// withinRange is round for numbers that are not too large for nearest.
func (g *gen) withinRange(r *rounder, v reg.VecVirtual) {
	g.VADDPS(r.magic, v, v)
	g.VPMAXSD(r.least, v, v)
	g.VPMINSD(r.most, v, v)
	g.VSUBPS(r.magic, v, v)
}

func (g *gen) descend() {
	g.begin("descend", "func(x, l, result *float32, n, passes int, least, most, numerator float32)",
		"finds scales for codes between least and most, to which 1.5*2^23 is added, with",
		"weights x*x: first the inverse scale numerator by the extreme value, then passes",
		"that change one code at a time. It sets l to codes - least.")
	x, l, n, passes := g.arg("x"), g.arg("l"), g.arg("n"), g.arg("passes")
	top, magnitude := g.extreme(x, n)
	tiny := g.AllocLocal(g.bytes())
	g.VMOVUPS(magnitude, tiny)
	r := g.inMemory(g.rounder(g.scalar("least"), g.scalar("most")))
	f := symmetricFit{g.vec(), g.vec()}
	g.zero(f.lx)
	g.zero(f.ll)
	inverse := g.divided(g.scalar("numerator"), top)
	g.each("start", n, []reg.GPVirtual{x, l}, func() {
		v := g.load(g.at(x, 0))
		code := g.times(inverse, v)
		g.withinRange(r, code)
		g.VMOVUPS(code, g.at(l, 0))
		g.include(f, f, v, code)
	})
	zero := g.vec()
	g.zero(zero)
	changed := g.GP64()
	g.Label("passes")
	g.XORQ(changed, changed)
	g.each("pass", n, []reg.GPVirtual{x, l}, func() {
		v, old := g.load(g.at(x, 0)), g.load(g.at(l, 0))
		rest := g.exclude(f, v, old)
		code := g.times(v, rest.ll)
		g.VDIVPS(rest.lx, code, code)
		g.round(r, code)
		m := g.both(g.less(zero, rest.lx), g.unequal(code, old))
		g.include(rest, rest, v, code)
		m = g.both(m, g.less(zero, rest.ll))
		kept, tried := g.times(f.lx, f.lx), g.times(rest.lx, rest.lx)
		g.VMULPS(rest.ll, kept, kept)
		g.VMULPS(f.ll, tried, tried)
		m = g.both(m, g.less(kept, tried))
		g.choose(m, code, old, old)
		g.VMOVUPS(old, g.at(l, 0))
		g.choose(m, rest.lx, f.lx, f.lx)
		g.choose(m, rest.ll, f.ll, f.ll)
		bits := g.GP32()
		if g.wide() {
			g.KMOVW(m, bits)
		} else {
			g.VMOVMSKPS(m, bits)
		}
		g.ORL(bits, changed.As32())
	})
	g.TESTQ(changed, changed)
	g.JZ(operand.LabelRef("done"))
	g.DECQ(passes)
	g.JNZ(operand.LabelRef("passes"))
	g.Label("done")
	scale := g.vec()
	g.zero(scale)
	g.choose(g.less(zero, f.ll), g.divided(f.lx, f.ll), scale, scale)
	g.VMOVUPS(tiny, magnitude)
	g.withoutTiny(magnitude, scale)
	g.VMOVUPS(scale, g.at(g.arg("result"), symmetricScale))
	g.each("codes", n, []reg.GPVirtual{l}, func() {
		code := g.load(g.at(l, 0))
		g.fromLeast(r, code)
		g.withoutTiny(magnitude, code)
		g.VMOVUPS(code, g.at(l, 0))
	})
	g.end()
}

// include sets dst to f with one more value v of weight v*v and its code.
func (g *gen) include(f, dst symmetricFit, v, code reg.VecVirtual) {
	lx, ll := g.squareProducts(v, code)
	g.VADDPS(lx, f.lx, dst.lx)
	g.VADDPS(ll, f.ll, dst.ll)
}

// exclude returns f without a value.
func (g *gen) exclude(f symmetricFit, v, code reg.VecVirtual) symmetricFit {
	lx, ll := g.squareProducts(v, code)
	return symmetricFit{g.difference(f.lx, lx), g.difference(f.ll, ll)}
}

// squareProducts returns (w*v)*code and (w*code)*code for w = v*v.
func (g *gen) squareProducts(v, code reg.VecVirtual) (lx, ll reg.VecVirtual) {
	w := g.times(v, v)
	lx, ll = g.times(w, v), g.times(w, code)
	g.VMULPS(code, lx, lx)
	g.VMULPS(code, ll, ll)
	return lx, ll
}
