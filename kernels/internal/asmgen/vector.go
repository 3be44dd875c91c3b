package main

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// vectors writes the kernels that walk along rows of float32 numbers. Each
// handles n whole vectors.
func (g *gen) vectors() {
	g.add()
	g.addScaled()
	g.scale()
	g.normalize()
	g.sumSquares()
	g.largest()
	g.expSum(true)
	g.expSum(false)
	g.silu()
	g.geluTanh()
	g.siluGrad()
	g.geluTanhGrad()
	g.softmaxGrad()
	g.rotate()
	g.rotatePairs()
	g.divergence()
	g.differences()
	g.moments()
	g.adam()
	g.trials()
	g.moveColumns()
}

// next moves pointers on by a vector.
func (g *gen) next(pointers ...reg.GPVirtual) {
	for _, p := range pointers {
		g.move(p, g.bytes())
	}
}

func (g *gen) add() {
	g.begin("add", "func(dst, x *float32, n int)", "adds x to dst.")
	dst, x, n := g.arg("dst"), g.arg("x"), g.arg("n")
	g.count("loop", n, func() {
		v := g.vec()
		g.VMOVUPS(g.at(dst, 0), v)
		g.VADDPS(g.at(x, 0), v, v)
		g.VMOVUPS(v, g.at(dst, 0))
		g.next(dst, x)
	})
	g.end()
}

func (g *gen) addScaled() {
	g.begin("addScaled", "func(dst, x *float32, n int, s float32)", "adds x*s to dst, rounded once.")
	dst, x, n, s := g.arg("dst"), g.arg("x"), g.arg("n"), g.scalar("s")
	g.count("loop", n, func() {
		v := g.vec()
		g.VMOVUPS(g.at(dst, 0), v)
		g.VFMADD231PS(g.at(x, 0), s, v)
		g.VMOVUPS(v, g.at(dst, 0))
		g.next(dst, x)
	})
	g.end()
}

func (g *gen) scale() {
	g.begin("scale", "func(x *float32, n int, s float32)", "multiplies x by s.")
	x, n, s := g.arg("x"), g.arg("n"), g.scalar("s")
	g.count("loop", n, func() {
		v := g.vec()
		g.VMULPS(g.at(x, 0), s, v)
		g.VMOVUPS(v, g.at(x, 0))
		g.next(x)
	})
	g.end()
}

func (g *gen) normalize() {
	g.begin("normalize", "func(dst, x, w *float32, n int, s float32)", "sets dst to x*s*w.")
	dst, x, w, n, s := g.arg("dst"), g.arg("x"), g.arg("w"), g.arg("n"), g.scalar("s")
	g.count("loop", n, func() {
		v := g.vec()
		g.VMULPS(g.at(x, 0), s, v)
		g.VMULPS(g.at(w, 0), v, v)
		g.VMOVUPS(v, g.at(dst, 0))
		g.next(dst, x, w)
	})
	g.end()
}

// widen returns the lanes of v as float64 numbers.
func (g *gen) widen(v reg.VecVirtual) (lower, upper reg.VecVirtual) {
	lower, upper = g.vec(), g.vec()
	g.VCVTPS2PD(g.high(v), upper)
	g.VCVTPS2PD(low(v, g.wide()), lower)
	return lower, upper
}

// total adds up two vectors of float64 sums and returns the result.
func (g *gen) total(a, b reg.VecVirtual) {
	g.VADDPD(a, b, b)
	if g.wide() {
		h := g.YMM()
		g.VEXTRACTF64X4(operand.Imm(1), b, h)
		g.VADDPD(h, b.AsY(), b.AsY())
	}
	h := g.XMM()
	g.VEXTRACTF128(operand.Imm(1), b.AsY(), h)
	g.VADDPD(h, b.AsX(), b.AsX())
	g.VUNPCKHPD(b.AsX(), b.AsX(), h)
	g.VADDSD(h, b.AsX(), b.AsX())
}

func (g *gen) sumSquares() {
	g.begin("sumSquares", "func(x *float32, n int) float64", "returns the sum of the squares of x.")
	x, n := g.arg("x"), g.arg("n")
	sums := g.zeros(2)
	g.count("loop", n, func() {
		v := g.vec()
		g.VMOVUPS(g.at(x, 0), v)
		a, b := g.widen(v)
		g.VFMADD231PD(a, a, sums[0])
		g.VFMADD231PD(b, b, sums[1])
		g.next(x)
	})
	g.total(sums[0], sums[1])
	g.Store(sums[1].AsX(), g.ReturnIndex(0))
	g.end()
}

func (g *gen) largest() {
	g.begin("largest", "func(x *float32, n int) float32", "returns the largest number of x, passing over NaN.")
	x, n := g.arg("x"), g.arg("n")
	top := g.number(float32(math.Inf(-1)))
	g.count("loop", n, func() {
		// When one is NaN, the first operand is the result.
		v := g.vec()
		g.VMOVUPS(g.at(x, 0), v)
		g.VMAXPS(top, v, top)
		g.next(x)
	})
	g.Store(g.fold(top, g.VMAXPS), g.ReturnIndex(0))
	g.end()
}

// exponential is what exp needs in registers.
type exponential struct {
	least, most, log2e, ln2High, ln2Low, one reg.VecVirtual
}

func (g *gen) exponential() *exponential {
	e := &exponential{
		least: g.number(-104), most: g.number(89),
		log2e:   g.number(math.Log2E),
		ln2High: g.number(0.693359375), ln2Low: g.number(-2.12194440e-4),
		one: g.number(1),
	}
	return e
}

var expCoefficients = [5]float32{0.4999999403953552, 0.16666515171527863, 0.04166845604777336, 0.008369418792426586, 0.0013813144760206342}

// exp replaces x by e^x, as exp32 of the portable level does.
func (g *gen) exp(e *exponential, x reg.VecVirtual) {
	// NaN passes both, since it is the first operand.
	g.VMAXPS(x, e.least, x)
	g.VMINPS(x, e.most, x)
	n, p := g.vec(), g.vec()
	g.VMULPS(e.log2e, x, n)
	if g.wide() {
		g.VRNDSCALEPS(operand.Imm(0), n, n)
	} else {
		g.VROUNDPS(operand.Imm(0), n, n)
	}
	g.VFNMADD231PS(e.ln2High, n, x)
	g.VFNMADD231PS(e.ln2Low, n, x)
	g.VBROADCASTSS(g.word(math.Float32bits(expCoefficients[4])), p)
	for i := 3; i >= 0; i-- {
		c := g.word(math.Float32bits(expCoefficients[i]))
		if g.wide() {
			g.VFMADD213PS_BCST(c, x, p)
		} else {
			b := g.vec()
			g.VBROADCASTSS(c, b)
			g.VFMADD213PS(b, x, p)
		}
	}
	g.VFMADD213PS(e.one, x, p)
	g.VFMADD213PS(e.one, x, p)
	if g.wide() {
		g.VSCALEFPS(n, p, x)
		return
	}
	// 2^n in two factors, since n may be below the least exponent.
	whole, half, bias := g.vec(), g.vec(), g.bits(127)
	g.VCVTPS2DQ(n, whole)
	g.VPSRAD(operand.Imm(1), whole, half)
	g.VPSUBD(half, whole, whole)
	for _, v := range []reg.VecVirtual{half, whole} {
		g.VPADDD(bias, v, v)
		g.VPSLLD(operand.Imm(23), v, v)
		g.VMULPS(v, p, p)
	}
	g.VMOVAPS(p, x)
}

// expSum exponentiates; keep tells whether x is replaced.
func (g *gen) expSum(keep bool) {
	name, doc := "sumExp", "returns the sum of exp(x*s - shift)."
	if keep {
		name, doc = "expSum", "sets x to exp(x*s - shift) and returns the sum of that."
	}
	g.begin(name, "func(x *float32, n int, s, shift float32) float64", doc)
	x, n, s, shift := g.arg("x"), g.arg("n"), g.scalar("s"), g.scalar("shift")
	sums := g.zeros(2)
	e := g.exponential()
	g.count("loop", n, func() {
		v := g.vec()
		g.VMULPS(g.at(x, 0), s, v)
		g.VSUBPS(shift, v, v)
		g.exp(e, v)
		if keep {
			g.VMOVUPS(v, g.at(x, 0))
		}
		a, b := g.widen(v)
		g.VADDPD(a, sums[0], sums[0])
		g.VADDPD(b, sums[1], sums[1])
		g.next(x)
	})
	g.total(sums[0], sums[1])
	g.Store(sums[1].AsX(), g.ReturnIndex(0))
	g.end()
}

// negate flips the sign of v.
func (g *gen) negate(v, dst reg.VecVirtual) { g.VXORPS(g.bits(1<<31), v, dst) }

func (g *gen) silu() {
	g.begin("silu", "func(dst, gate, up *float32, n int)", "sets dst to gate/(1+exp(-gate))*up.")
	g.gate(func(x, minus reg.VecVirtual) { g.negate(x, minus) })
}

// The exponent of the tanh approximation of GELU is x*(geluLinear + geluCubic*x*x).
const (
	geluLinear = 2 * 0.79788456080286535588
	geluCubic  = geluLinear * 0.044715
)

func (g *gen) geluTanh() {
	g.begin("geluTanh", "func(dst, gate, up *float32, n int)",
		"sets dst to gate/(1+exp(-u))*up, u = gate*(1.5957691 + 0.0713548*gate*gate).")
	g.gate(g.geluExponent())
}

// geluExponent returns what negates the exponent of GELU.
func (g *gen) geluExponent() func(x, minus reg.VecVirtual) {
	a, b := g.number(geluLinear), g.number(geluCubic)
	return func(x, minus reg.VecVirtual) {
		g.VMULPS(b, x, minus)
		g.VFMADD213PS(a, x, minus)
		g.VMULPS(x, minus, minus)
		g.negate(minus, minus)
	}
}

// gate divides by 1+exp of what exponent makes of x.
func (g *gen) gate(exponent func(x, minus reg.VecVirtual)) {
	dst, gate, up, n := g.arg("dst"), g.arg("gate"), g.arg("up"), g.arg("n")
	e := g.exponential()
	g.count("loop", n, func() {
		x, v := g.vec(), g.vec()
		g.VMOVUPS(g.at(gate, 0), x)
		exponent(x, v)
		g.exp(e, v)
		g.VADDPS(e.one, v, v)
		g.VDIVPS(v, x, x)
		g.VMULPS(g.at(up, 0), x, x)
		g.VMOVUPS(x, g.at(dst, 0))
		g.next(dst, gate, up)
	})
	g.end()
}

func (g *gen) siluGrad() {
	g.begin("siluGrad", "func(dg, dup, dy, gate, up *float32, n int)",
		"sets dup to dy*gate*s and dg to dy*up*(s + gate*s*(1-s)), s = 1/(1+exp(-gate)).")
	g.gateGrad(func(x, minus reg.VecVirtual) { g.negate(x, minus) }, nil)
}

func (g *gen) geluTanhGrad() {
	g.begin("geluTanhGrad", "func(dg, dup, dy, gate, up *float32, n int)",
		"sets dup to dy*gate*s and dg to dy*up*(s + gate*s*(1-s)*u'), s = 1/(1+exp(-u)), u as in geluTanh.")
	g.gateGrad(g.geluExponent(), func(x reg.VecVirtual) {
		// x becomes geluLinear + 3*geluCubic*x*x.
		c := g.vec()
		g.VMULPS(x, x, x)
		g.VBROADCASTSS(g.word(math.Float32bits(3*geluCubic)), c)
		g.VMULPS(c, x, x)
		g.VBROADCASTSS(g.word(math.Float32bits(geluLinear)), c)
		g.VADDPS(c, x, x)
	})
}

// gateGrad is the gradient of gate; slope turns x into the derivative of the
// exponent, which is 1 where it is nil.
func (g *gen) gateGrad(exponent func(x, minus reg.VecVirtual), slope func(x reg.VecVirtual)) {
	dg, dup, dy, gate, up, n := g.arg("dg"), g.arg("dup"), g.arg("dy"), g.arg("gate"), g.arg("up"), g.arg("n")
	e := g.exponential()
	g.count("loop", n, func() {
		x, s, rest := g.vec(), g.vec(), g.vec()
		g.VMOVUPS(g.at(gate, 0), x)
		exponent(x, s)
		g.exp(e, s)
		g.VADDPS(e.one, s, s)
		g.VDIVPS(s, e.one, s)
		g.VSUBPS(s, e.one, rest)
		value, grad := g.vec(), g.vec()
		g.VMULPS(x, s, value)
		g.VMULPS(value, rest, rest)
		if slope != nil {
			slope(x)
			g.VMULPS(x, rest, rest)
		}
		g.VADDPS(s, rest, rest)
		g.VMOVUPS(g.at(dy, 0), grad)
		g.VMULPS(grad, value, value)
		g.VMULPS(g.at(up, 0), grad, grad)
		g.VMULPS(rest, grad, grad)
		g.VMOVUPS(value, g.at(dup, 0))
		g.VMOVUPS(grad, g.at(dg, 0))
		g.next(dg, dup, dy, gate, up)
	})
	g.end()
}

func (g *gen) softmaxGrad() {
	g.begin("softmaxGrad", "func(dp, p *float32, n int, dot, s float32)", "sets dp to p*(dp-dot)*s.")
	dp, p, n, dot, s := g.arg("dp"), g.arg("p"), g.arg("n"), g.scalar("dot"), g.scalar("s")
	g.count("loop", n, func() {
		v := g.vec()
		g.VMOVUPS(g.at(dp, 0), v)
		g.VSUBPS(dot, v, v)
		g.VMULPS(g.at(p, 0), v, v)
		g.VMULPS(s, v, v)
		g.VMOVUPS(v, g.at(dp, 0))
		g.next(dp, p)
	})
	g.end()
}

func (g *gen) rotate() {
	g.begin("rotate", "func(lo, hi, cos, sin *float32, n int)", "turns the pairs (lo[j], hi[j]).")
	lo, hi, cos, sin, n := g.arg("lo"), g.arg("hi"), g.arg("cos"), g.arg("sin"), g.arg("n")
	g.count("loop", n, func() {
		a, b, c, s, t := g.vec(), g.vec(), g.vec(), g.vec(), g.vec()
		g.VMOVUPS(g.at(lo, 0), a)
		g.VMOVUPS(g.at(hi, 0), b)
		g.VMOVUPS(g.at(cos, 0), c)
		g.VMOVUPS(g.at(sin, 0), s)
		g.VMULPS(b, s, t)
		g.VFMSUB231PS(a, c, t) // a*c - b*s
		g.VMULPS(b, c, b)
		g.VFMADD231PS(a, s, b) // a*s + b*c
		g.VMOVUPS(t, g.at(lo, 0))
		g.VMOVUPS(b, g.at(hi, 0))
		g.next(lo, hi, cos, sin)
	})
	g.end()
}

func (g *gen) rotatePairs() {
	g.begin("rotatePairs", "func(x, cos, sin *float32, n int)",
		"turns the pairs (x[2j], x[2j+1]); cos and sin have every number twice.")
	x, cos, sin, n := g.arg("x"), g.arg("cos"), g.arg("sin"), g.arg("n")
	g.count("loop", n, func() {
		v, t := g.vec(), g.vec()
		g.VMOVUPS(g.at(x, 0), v)
		g.VPERMILPS(operand.Imm(0b10110001), v, t) // neighbours swapped
		g.VMULPS(g.at(sin, 0), t, t)
		g.VFMADDSUB132PS(g.at(cos, 0), t, v) // v*cos -+ t: minus in even lanes
		g.VMOVUPS(v, g.at(x, 0))
		g.next(x, cos, sin)
	})
	g.end()
}

func (g *gen) divergence() {
	g.begin("divergence", "func(p, q *float32, n int, lse float32, offset float64) float64",
		"returns the sum of exp(p-lse) * (p-q-offset), differences in float64.")
	p, q, n, lse := g.arg("p"), g.arg("q"), g.arg("n"), g.scalar("lse")
	m, err := g.Param("offset").Resolve()
	if err != nil {
		panic(err)
	}
	offset := g.vec()
	g.VBROADCASTSD(m.Addr, offset)
	sums := g.zeros(2)
	e := g.exponential()
	g.count("loop", n, func() {
		v := g.vec()
		g.VMOVUPS(g.at(p, 0), v)
		g.VSUBPS(lse, v, v)
		g.exp(e, v)
		var weight [2]reg.VecVirtual
		weight[0], weight[1] = g.widen(v)
		for i := range weight {
			d, minus := g.vec(), g.vec()
			g.VCVTPS2PD(mem(p, i*g.bytes()/2), d)
			g.VCVTPS2PD(mem(q, i*g.bytes()/2), minus)
			g.VSUBPD(minus, d, d)
			g.VSUBPD(offset, d, d)
			g.VFMADD231PD(weight[i], d, sums[i])
		}
		g.next(p, q)
	})
	g.total(sums[0], sums[1])
	g.Store(sums[1].AsX(), g.ReturnIndex(0))
	g.end()
}

// differences keeps two sums of each kind, of the lower and the upper halves of
// vectors.
func (g *gen) differences() {
	g.begin("difference", "func(x, y *float32, n int, sums *float64) (zerosX, zerosY int)",
		"adds to sums, in float64, the sum of x*x and of (x-y)*(x-y), sets the third to",
		"the largest |x-y|, if that is larger, and counts zeros.")
	x, y, n := g.arg("x"), g.arg("y"), g.arg("n")
	square, wrong, most := g.zeros(2), g.zeros(2), g.zeros(1)[0]
	zero, mask := g.vec(), g.vec()
	g.zero(zero)
	g.VBROADCASTSD(g.table("magnitude64", 0xffffffff, 0x7fffffff), mask)
	zerosX, zerosY := g.GP64(), g.GP64()
	g.XORQ(zerosX, zerosX)
	g.XORQ(zerosY, zerosY)
	g.count("loop", n, func() {
		for i, half := range []int{0, g.bytes() / 2} {
			a, d := g.vec(), g.vec()
			g.VCVTPS2PD(mem(x, half), a)
			g.VCVTPS2PD(mem(y, half), d)
			g.VSUBPD(d, a, d)
			g.VFMADD231PD(a, a, square[i])
			g.VFMADD231PD(d, d, wrong[i])
			g.VANDPD(mask, d, d)
			g.VMAXPD(d, most, most)
		}
		g.countEqual(g.at(x, 0), zero, zerosX)
		g.countEqual(g.at(y, 0), zero, zerosY)
		g.next(x, y)
	})
	g.Store(zerosX, g.Return("zerosX"))
	g.Store(zerosY, g.Return("zerosY"))
	sums := g.arg("sums")
	for i, v := range [][]reg.VecVirtual{square, wrong} {
		g.total(v[0], v[1])
		g.VADDSD(mem(sums, 8*i), v[1].AsX(), v[1].AsX())
		g.VMOVSD(v[1].AsX(), mem(sums, 8*i))
	}
	if g.wide() {
		h := g.YMM()
		g.VEXTRACTF64X4(operand.Imm(1), most, h)
		g.VMAXPD(h, most.AsY(), most.AsY())
	}
	h := g.XMM()
	g.VEXTRACTF128(operand.Imm(1), most.AsY(), h)
	g.VMAXPD(h, most.AsX(), most.AsX())
	g.VUNPCKHPD(most.AsX(), most.AsX(), h)
	g.VMAXSD(h, most.AsX(), most.AsX())
	g.VMAXSD(mem(sums, 16), most.AsX(), most.AsX())
	g.VMOVSD(most.AsX(), mem(sums, 16))
	g.end()
}

func (g *gen) moments() {
	g.begin("moments", "func(squares, sums *float64, largest, x *float32, n int)",
		"adds x*x to squares and |x| to sums, in float64, and sets largest to |x| where",
		"that is larger.")
	squares, sums, largest, x, n := g.arg("squares"), g.arg("sums"), g.arg("largest"), g.arg("x"), g.arg("n")
	mask, mask64 := g.bits(0x7fffffff), g.vec()
	g.VBROADCASTSD(g.table("magnitude64", 0xffffffff, 0x7fffffff), mask64)
	g.count("loop", n, func() {
		v := g.vec()
		g.VANDPS(g.at(x, 0), mask, v)
		g.VMAXPS(g.at(largest, 0), v, v)
		g.VMOVUPS(v, g.at(largest, 0))
		for i, half := range []int{0, g.bytes() / 2} {
			a, s := g.vec(), g.vec()
			g.VCVTPS2PD(mem(x, half), a)
			g.VMOVUPD(g.at(squares, i), s)
			g.VFMADD231PD(a, a, s)
			g.VMOVUPD(s, g.at(squares, i))
			g.VANDPD(mask64, a, a)
			g.VADDPD(g.at(sums, i), a, a)
			g.VMOVUPD(a, g.at(sums, i))
		}
		g.next(largest, x)
		g.move(squares, 2*g.bytes())
		g.move(sums, 2*g.bytes())
	})
	g.end()
}

func (g *gen) adam() {
	g.begin("adam", "func(x, grad, m, v *float32, n int, scale, beta1, rest1, beta2, rest2, keep, size, root, epsilon, fixed float32)",
		"takes a step of AdamW; numbers that are fixed stay. Nothing is fused.")
	x, grad, m, v, n := g.arg("x"), g.arg("grad"), g.arg("m"), g.arg("v"), g.arg("n")
	c := map[string]reg.VecVirtual{}
	for _, name := range []string{"scale", "beta1", "rest1", "beta2", "rest2", "keep", "size", "root", "epsilon", "fixed"} {
		c[name] = g.scalar(name)
	}
	g.count("loop", n, func() {
		d := g.times(c["scale"], g.at(grad, 0))
		first := g.sum(g.times(c["beta1"], g.at(m, 0)), g.times(c["rest1"], d))
		g.VMOVUPS(first, g.at(m, 0))
		g.VMULPS(c["size"], first, first)
		second := g.times(c["rest2"], d)
		g.VMULPS(d, second, second)
		g.VADDPS(g.times(c["beta2"], g.at(v, 0)), second, second)
		g.VMOVUPS(second, g.at(v, 0))
		g.VSQRTPS(second, second)
		g.VMULPS(c["root"], second, second)
		g.VADDPS(c["epsilon"], second, second)
		g.VDIVPS(second, first, first)
		old := g.load(g.at(x, 0))
		g.update(g.unequal(old, c["fixed"]), g.difference(g.times(c["keep"], old), first), g.at(x, 0))
		g.next(x, grad, m, v)
	})
	g.end()
}

// countEqual adds to n how many numbers in memory are equal to v.
func (g *gen) countEqual(m operand.Mem, v reg.VecVirtual, n reg.GPVirtual) {
	where, bits := g.compare(0, v, m), g.GP32()
	if g.wide() {
		g.KMOVW(where, bits)
	} else {
		g.VMOVMSKPS(where, bits)
	}
	g.POPCNTL(bits, bits)
	g.ADDQ(bits.As64(), n)
}
