package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The integer kernels multiply activations of 8 bits, in blocks of 32, with
// panels of as many rows of packed weights as a vector has lanes: each lane of
// a vector of codes holds 4 consecutive columns of one row. One call takes
// some units of a panel's rows through all rows of activations, so that codes
// are unpacked once for all of them.

// A record is one block of activations in memory: 32 signed bytes, then these
// numbers. The offset is what the kernel's codes have been moved up by.
const (
	recordScale = 32     // float32: what the bytes are multiplied by
	recordBias  = 36     // int32: -offset times the sum of the bytes
	recordBiasL = 40     // int32: of the first 16
	recordBiasU = 44     // int32: of the last 16
	recordSum   = 48     // float32: scale times the sum of the bytes
	recordSumL  = 52     // float32: of the first 16
	recordSumU  = 56     // float32: of the last 16
	recordBytes = 32 * 2 // a cache line
)

// panelFormat is how panels of one number format are read.
type panelFormat struct {
	name   string
	blocks int  // of 32 columns in a unit
	bytes  int  // of one row of a unit
	most   int  // the largest code; signed for signed bytes
	halves bool // the first and the last 16 columns have scales of their own
	minima bool
	// prepare loads constants and returns what emits the unpacking of block i
	// of the unit at w into b.
	prepare func(g *gen) panelUnpacker
}

type panelUnpacker = func(w reg.GPVirtual, i int, b *block)

// signed is the most of formats of signed bytes. AVX-512 moves them up by 128.
const signed = -1

// block is 32 columns of a panel. Vectors have one lane for each row.
type block struct {
	codes  []reg.VecVirtual // 8: columns 4i to 4i+3
	most   int
	scales []operand.Op // one, or one for each half of the columns
	minima []operand.Op // as scales, added to the products; nil for none
}

// newBlock returns the places of a block: registers, or memory for factors of
// halves where registers are few.
func (g *gen) newBlock(f panelFormat) *block {
	b := &block{codes: g.vecs(8), most: f.most}
	factors := func(n int) (ops []operand.Op) {
		if f.halves && !g.wide() {
			local := g.AllocLocal(n * g.bytes())
			for i := range n {
				ops = append(ops, local.Offset(i*g.bytes()))
			}
			return ops
		}
		for range n {
			ops = append(ops, g.vec())
		}
		return ops
	}
	n := 1
	if f.halves {
		n = 2
	}
	b.scales = factors(n)
	if f.minima {
		b.minima = factors(n)
	}
	return b
}

// halves reports whether the first and the last 16 columns have scales of
// their own.
func (b *block) halves() bool { return len(b.scales) == 2 }

// integers writes the integer kernels.
func (g *gen) integers() {
	g.quantize()
	g.integerPeak()
	for _, f := range panelFormats {
		g.panel(f)
	}
	for _, f := range groupFormats {
		g.groupPanel(f)
	}
}

// panel writes the kernel of a format.
func (g *gen) panel(f panelFormat) {
	g.begin("panel"+f.name, "func(c *float32, x, w *byte, rows, units int)",
		"adds to c [rows, lanes] the products of activations x [columns/32, rows]",
		fmt.Sprintf("and the lanes of a panel of %s with units times %d columns.", f.name, 32*f.blocks))
	c, x, w := g.arg("c"), g.arg("x"), g.arg("w")
	rows, units := g.arg("rows"), g.arg("units")
	unpack, data := f.prepare(g), g.newBlock(f)
	p := g.panelRows()
	which := g.GP32()
	label := func(i int) string { return fmt.Sprintf("block%d", i) }
	g.count("units", units, func() {
		// Each block of a unit is unpacked by code of its own and then taken
		// through the rows by the same.
		for i := range f.blocks {
			g.Label(label(i))
			g.announce(f, w, i)
			unpack(w, i, data)
			g.MOVL(operand.U32(uint32(i)), which)
			if i < f.blocks-1 {
				g.JMP(operand.LabelRef("rows"))
			}
		}
		g.Label("rows")
		p.rows(data, c, x, rows)
		for i := 1; i < f.blocks; i++ {
			g.CMPL(which, operand.Imm(uint64(i)))
			g.JLT(operand.LabelRef(label(i)))
		}
		g.move(w, f.bytes*g.lanes)
	})
	g.end()
}

// groupPanel writes the kernel of codes in groups of columns: a unit is a group,
// which begins with a float32 scale and a signed byte, the zero point, of every
// row.
func (g *gen) groupPanel(f panelFormat) {
	g.begin("panel"+f.name, "func(c *float32, x, w *byte, rows, units, blocks int)",
		"adds to c [rows, lanes] the products of activations x [columns/32, rows]",
		"and the lanes of a panel with units of blocks times 32 columns.")
	c, x, w := g.arg("c"), g.arg("x"), g.arg("w")
	rows, units, blocks := g.arg("rows"), g.arg("units"), g.arg("blocks")
	unpack, data := f.prepare(g), g.newBlock(f)
	p := g.panelRows()
	left := g.GP64()
	g.count("units", units, func() {
		scale, zero := data.scales[0].(reg.VecVirtual), data.minima[0].(reg.VecVirtual)
		g.VMOVUPS(g.element(w, 0), scale)
		g.VPMOVSXBD(g.element(w, 4), zero)
		g.VCVTDQ2PS(zero, zero)
		g.VMULPS(scale, zero, zero)
		g.minus(zero)
		g.move(w, 5*g.lanes)
		g.MOVQ(blocks, left)
		g.count("blocks", left, func() {
			unpack(w, 0, data)
			p.rows(data, c, x, rows)
			g.move(w, f.bytes*g.lanes)
		})
	})
	g.end()
}

// announce asks for the share of block i in a unit's memory, in order. Blocks
// read here and there in their unit; the processor's own prefetching follows
// lines that are asked for one after the other, and no distance by hand came
// near it.
func (g *gen) announce(f panelFormat, w reg.GPVirtual, i int) {
	if f.blocks == 1 {
		return
	}
	size := f.bytes * g.lanes
	from, to := size*i/f.blocks, size*(i+1)/f.blocks
	for at := (from + 63) &^ 63; at < to; at += 64 {
		g.PREFETCHT0(mem(w, at))
	}
}

// panelRows multiplies a block with rows of activations.
type panelRows struct {
	g    *gen
	ones reg.VecVirtual // AVX2: 16-bit ones
}

func (g *gen) panelRows() *panelRows {
	p := &panelRows{g: g}
	if !g.wide() {
		p.ones = g.YMM()
		g.VBROADCASTSS(g.word(0x00010001), p.ones)
	}
	return p
}

// group is how many rows one round of the loop multiplies.
func (p *panelRows) group() int {
	if p.g.wide() {
		return 4
	}
	return 2
}

// rows multiplies a block with all rows and moves x past them.
func (p *panelRows) rows(b *block, c, x, rows reg.GPVirtual) {
	g, n := p.g, p.group()
	left, to := g.GP64(), g.GP64()
	g.MOVQ(c, to)
	g.MOVQ(rows, left)
	g.SUBQ(operand.Imm(uint64(n)), left)
	g.JLT(operand.LabelRef("few"))
	g.Label("group")
	p.multiply(b, x, to, n)
	g.SUBQ(operand.Imm(uint64(n)), left)
	g.JGE(operand.LabelRef("group"))
	g.Label("few")
	g.ADDQ(operand.Imm(uint64(n)), left)
	g.JZ(operand.LabelRef("rowsdone"))
	g.Label("single")
	p.multiply(b, x, to, 1)
	g.DECQ(left)
	g.JNZ(operand.LabelRef("single"))
	g.Label("rowsdone")
}

// multiply multiplies n rows and moves x and c past them. Where there are
// registers for it, the rows' instructions alternate, so that few wait for the
// one before.
func (p *panelRows) multiply(b *block, x, c reg.GPVirtual, n int) {
	var rows [][]func()
	for r := range n {
		rows = append(rows, p.row(b, x, r*recordBytes, p.g.at(c, r)))
	}
	if p.g.wide() {
		for i := range rows[0] {
			for _, steps := range rows {
				steps[i]()
			}
		}
	} else {
		for _, steps := range rows {
			for _, step := range steps {
				step()
			}
		}
	}
	p.g.move(x, n*recordBytes)
	p.g.move(c, n*p.g.bytes())
}

// row returns the steps that add the products of one row to the sums at c. The
// order of operations is that of portable Go:
//
//	c += (float(products of codes) * scale) * x.scale + minimum * x.sum
func (p *panelRows) row(b *block, x reg.GPVirtual, disp int, c operand.Mem) (steps []func()) {
	g, sum := p.g, p.g.vec()
	do := func(step func()) { steps = append(steps, step) }
	scaled := func(sum reg.VecVirtual, from, to, bias int, scale operand.Op) {
		steps = append(steps, p.dot(sum, b, from, to, x, disp, bias)...)
		do(func() { g.VCVTDQ2PS(sum, sum) })
		do(func() { g.VMULPS(scale, sum, sum) })
	}
	if b.halves() {
		upper := g.vec()
		scaled(sum, 0, 4, recordBiasL, b.scales[0])
		scaled(upper, 4, 8, recordBiasU, b.scales[1])
		do(func() { g.VADDPS(upper, sum, sum) })
	} else {
		scaled(sum, 0, 8, recordBias, b.scales[0])
	}
	do(func() { g.multiply(mem(x, disp+recordScale), sum, sum) })
	if b.minima != nil {
		do(func() { g.VADDPS(p.offset(b, x, disp), sum, sum) })
	}
	do(func() { g.VADDPS(c, sum, sum) })
	do(func() { g.VMOVUPS(sum, c) })
	return steps
}

// offset is what the minima contribute to a row.
func (p *panelRows) offset(b *block, x reg.GPVirtual, disp int) reg.VecVirtual {
	g := p.g
	product := func(minimum operand.Op, at int) reg.VecVirtual {
		v := g.vec()
		if g.wide() {
			g.VMULPS_BCST(mem(x, disp+at), minimum, v)
			return v
		}
		g.VBROADCASTSS(mem(x, disp+at), v)
		g.VMULPS(minimum, v, v)
		return v
	}
	if !b.halves() {
		return product(b.minima[0], recordSum)
	}
	lower, upper := product(b.minima[0], recordSumL), product(b.minima[1], recordSumU)
	g.VADDPS(upper, lower, lower)
	return lower
}

// dot returns the steps that set sum to the products of columns [4*from, 4*to)
// of a block with a row of activations, for each lane, the offset of the codes
// taken out.
func (p *panelRows) dot(sum reg.VecVirtual, b *block, from, to int, x reg.GPVirtual, disp, bias int) (steps []func()) {
	g := p.g
	if !g.wide() {
		return []func(){func() { p.dotPairs(sum, b, from, to, x, disp, bias) }}
	}
	steps = append(steps, func() { g.VPBROADCASTD(mem(x, disp+bias), sum) })
	for i := from; i < to; i++ {
		steps = append(steps, func() { g.VPDPBUSD_BCST(mem(x, disp+4*i), b.codes[i], sum) })
	}
	return steps
}

// dotPairs is dot without VPDPBUSD: by sums of pairs in 16 bits, as many as
// these hold.
func (p *panelRows) dotPairs(sum reg.VecVirtual, b *block, from, to int, x reg.GPVirtual, disp, bias int) {
	g := p.g
	if b.most == signed {
		p.dotSigned(sum, b, from, to, x, disp)
		return
	}
	g.VPBROADCASTD(mem(x, disp+bias), sum)
	most := 32767 / (2 * 127 * b.most)
	for i := from; i < to; {
		pairs := g.YMM()
		for n := range min(most, to-i) {
			v := pairs
			if n > 0 {
				v = g.YMM()
			}
			g.VPBROADCASTD(mem(x, disp+4*i), v)
			g.VPMADDUBSW(v, b.codes[i], v)
			if n > 0 {
				g.VPADDW(v, pairs, pairs)
			}
			i++
		}
		g.VPMADDWD(p.ones, pairs, pairs)
		g.VPADDD(pairs, sum, sum)
	}
}

// dotSigned multiplies signed codes by their absolute values and activations
// of their sign, since AVX2 multiplies unsigned with signed bytes. Activations
// are at least -127, so that their sign can change.
func (p *panelRows) dotSigned(sum reg.VecVirtual, b *block, from, to int, x reg.GPVirtual, disp int) {
	g := p.g
	g.zero(sum)
	for i := from; i < to; i++ {
		v, size := g.YMM(), g.YMM()
		g.VPBROADCASTD(mem(x, disp+4*i), v)
		g.VPSIGNB(b.codes[i], v, v)
		g.VPABSB(b.codes[i], size)
		g.VPMADDUBSW(v, size, v)
		g.VPMADDWD(p.ones, v, v)
		g.VPADDD(v, sum, sum)
	}
}

// integerPeak does nothing but integer dot products, to measure what the
// machine can do.
func (g *gen) integerPeak() {
	const sums = 12
	g.begin("integerPeak", "func(n int)", fmt.Sprintf("does n times %d vector operations of integer dot products.", sums))
	n := g.arg("n")
	a := g.zeros(1)[0]
	v := g.zeros(sums)
	g.count("loop", n, func() {
		for i := range v {
			if g.wide() {
				g.VPDPBUSD(a, a, v[i])
				continue
			}
			t := g.YMM()
			g.VPMADDUBSW(a, a, t)
			g.VPMADDWD(a, t, t)
			g.VPADDD(t, v[i], v[i])
		}
	})
	g.end()
}
