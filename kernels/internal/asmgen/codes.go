package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// codes writes the kernels of integer codes in groups of columns, whose
// numbers are (code-zero)*scale.
func (g *gen) codes() {
	for _, bits := range []int{4, 8} {
		g.unpackCodes(bits)
		g.dotCodes(bits)
	}
}

// decoder turns one vector of codes into numbers.
type decoder struct {
	g     *gen
	bits  int
	codes reg.VecVirtual // AVX-512, 4 bits: the numbers 0 to 15
	mask  reg.VecVirtual // AVX2, 4 bits: 15
}

func (g *gen) decoder(bits int) *decoder {
	d := &decoder{g: g, bits: bits}
	if bits == 4 {
		n := g.nibbles(0)
		d.codes, d.mask = n.codes, n.mask
	}
	return d
}

// bytes is the size of one vector's codes.
func (d *decoder) bytes() int { return d.g.lanes * d.bits / 8 }

// group prepares for codes that share a zero point and a scale, and returns
// what loads and decodes a vector of them.
func (d *decoder) group(zero, scale reg.VecVirtual) func(at operand.Mem) reg.VecVirtual {
	g := d.g
	if d.codes != nil {
		table := g.vec()
		g.VSUBPS(zero, d.codes, table)
		g.VMULPS(scale, table, table)
		return func(at operand.Mem) reg.VecVirtual {
			v := d.spread(at)
			g.VPERMPS(table, v, v)
			return v
		}
	}
	return func(at operand.Mem) reg.VecVirtual {
		var v reg.VecVirtual
		if d.bits == 4 {
			v = d.spread(at)
			g.VPAND(d.mask, v, v)
		} else {
			v = g.vec()
			g.VPMOVZXBD(at, v)
		}
		g.VCVTDQ2PS(v, v)
		g.VSUBPS(zero, v, v)
		g.VMULPS(scale, v, v)
		return v
	}
}

// spread loads half as many bytes as there are lanes and puts their lower
// codes into the lowest bits of even lanes, the upper ones into those of odd
// lanes; other bits are not cleared.
func (d *decoder) spread(at operand.Mem) reg.VecVirtual {
	g := d.g
	v, upper := g.vec(), g.vec()
	g.VPMOVZXBQ(at, v)
	g.VPSLLQ(operand.Imm(28), v, upper)
	if g.wide() {
		g.VPORQ(upper, v, v)
	} else {
		g.VPOR(upper, v, v)
	}
	return v
}

func (g *gen) unpackCodes(bits int) {
	g.begin(fmt.Sprintf("unpackCodes%d", bits), "func(dst *float32, src *byte, n int, zero, scale float32)",
		fmt.Sprintf("sets dst to (code-zero)*scale of n vectors of %d-bit codes.", bits))
	dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
	d := g.decoder(bits)
	number := d.group(g.scalar("zero"), g.scalar("scale"))
	g.count("loop", n, func() {
		g.VMOVUPS(number(mem(src, 0)), g.at(dst, 0))
		g.move(src, d.bytes())
		g.move(dst, g.bytes())
	})
	g.end()
}

// dotCodes adds in the order that dots has.
func (g *gen) dotCodes(bits int) {
	g.begin(fmt.Sprintf("dotCodes%d", bits), "func(x *float32, codes *byte, scales *float32, zeros *byte, step, groups, n int) float32",
		fmt.Sprintf("returns the dot product of x and groups of n times %d vectors of", sums),
		fmt.Sprintf("%d-bit codes; the zero points of consecutive groups are step bytes apart.", bits))
	x, codes, scales, zeros := g.arg("x"), g.arg("codes"), g.arg("scales"), g.arg("zeros")
	step, groups, n := g.arg("step"), g.arg("groups"), g.arg("n")
	d := g.decoder(bits)
	acc := g.zeros(sums)
	left, code := g.GP64(), g.GP64()
	g.count("groups", groups, func() {
		zero, scale := g.vec(), g.vec()
		g.MOVBLZX(mem(zeros, 0), code.As32())
		g.VMOVD(code.As32(), zero.AsX())
		g.VPBROADCASTD(zero.AsX(), zero)
		g.VCVTDQ2PS(zero, zero)
		g.VBROADCASTSS(mem(scales, 0), scale)
		number := d.group(zero, scale)
		g.MOVQ(n, left)
		g.count("vectors", left, func() {
			for i := range sums {
				g.VFMADD231PS(g.at(x, i), number(mem(codes, i*d.bytes())), acc[i])
			}
			g.move(codes, sums*d.bytes())
			g.move(x, sums*g.bytes())
		})
		g.move(scales, 4)
		g.ADDQ(step, zeros)
	})
	g.VADDPS(acc[1], acc[0], acc[0])
	g.VADDPS(acc[3], acc[2], acc[2])
	g.VADDPS(acc[2], acc[0], acc[0])
	g.Store(g.fold(acc[0], g.VADDPS), g.ReturnIndex(0))
	g.end()
}
