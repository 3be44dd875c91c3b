package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// format is how numbers of one type are unpacked.
type format struct {
	name   string
	values int // of one unit
	bytes  int // of one unit
	// prepare loads constants and returns a function that emits the code for
	// the unit at offset disp from src: it calls use with each vector of
	// numbers in order, which may overwrite it.
	prepare func(g *gen) unpacker
}

// blocks writes, for each number format, the dequantization of a row and the
// dot products of rows with a vector.
func (g *gen) blocks() {
	for _, f := range []format{
		{"F32", g.lanes, 4 * g.lanes, prepareF32},
		{"F16", g.lanes, 2 * g.lanes, prepareF16},
		{"BF16", g.lanes, 2 * g.lanes, prepareBF16},
		{"Q8_0", 32, 34, prepareQ8_0},
		{"Q4_0", 32, 18, prepareQ4_0},
		{"Q4_1", 32, 20, prepareQ4_1},
		{"Q5_0", 32, 22, prepareQ5_0},
		{"Q5_1", 32, 24, prepareQ5_1},
		{"IQ4_NL", 32, 18, prepareIQ4_NL},
		{"Q2_K", 256, 84, prepareQ2_K},
		{"Q3_K", 256, 110, prepareQ3_K},
		{"Q4_K", 256, 144, prepareQ4_K},
		{"Q5_K", 256, 176, prepareQ5_K},
		{"Q6_K", 256, 210, prepareQ6_K},
	} {
		if f.name != "F32" {
			g.unpack(f)
		}
		g.dots(f)
	}
}

// unpack writes the numbers out.
func (g *gen) unpack(f format) {
	g.begin("unpack"+f.name, "func(dst *float32, src *byte, n int)",
		fmt.Sprintf("sets dst to n times %d numbers of type %s.", f.values, f.name))
	dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
	emit := f.prepare(g)
	g.count("loop", n, func() {
		emit(src, 0, func(i int, v reg.VecVirtual) { g.VMOVUPS(v, g.at(dst, i)) })
		g.move(src, f.bytes)
		g.move(dst, 4*f.values)
	})
	g.end()
}

// sums is how many vectors of partial sums a dot product has: vector i of a
// row is added to sum i%sums, in every format, so that the result does not
// depend on the format that holds the numbers.
const sums = 4

// dots multiplies rows with a vector.
func (g *gen) dots(f format) {
	g.begin("dots"+f.name, "func(dst, x *float32, w *byte, n, rows, stride int)",
		fmt.Sprintf("sets dst[r] to the dot product of x and n times %d numbers", f.values),
		fmt.Sprintf("of type %s at w + r*stride, for r < rows.", f.name))
	dst, x, w := g.arg("dst"), g.arg("x"), g.arg("w")
	n, rows, stride := g.arg("n"), g.arg("rows"), g.arg("stride")
	emit := f.prepare(g)
	vectors := f.values / g.lanes
	unroll := max(1, sums/vectors)
	acc := g.vecs(sums)
	at, from, left := g.GP64(), g.GP64(), g.GP64()
	unit := func(u int) {
		emit(at, u*f.bytes, func(i int, v reg.VecVirtual) {
			i += u * vectors
			g.VFMADD231PS(g.at(from, i), v, acc[i%sums])
		})
	}
	g.count("rows", rows, func() {
		for _, v := range acc {
			g.zero(v)
		}
		g.MOVQ(w, at)
		g.MOVQ(x, from)
		g.MOVQ(n, left)
		if unroll > 1 {
			g.SUBQ(operand.Imm(uint64(unroll)), left)
			g.JLT(operand.LabelRef("rest"))
			g.Label("units")
			g.prefetch(f, at, unroll)
			for u := range unroll {
				unit(u)
			}
			g.move(at, unroll*f.bytes)
			g.move(from, unroll*f.values*4)
			g.SUBQ(operand.Imm(uint64(unroll)), left)
			g.JGE(operand.LabelRef("units"))
			g.Label("rest")
			g.move(left, unroll)
			for u := range unroll - 1 {
				g.JZ(operand.LabelRef("sum"))
				unit(u)
				g.DECQ(left)
			}
			g.Label("sum")
		} else {
			g.count("units", left, func() {
				g.prefetch(f, at, 1)
				unit(0)
				g.move(at, f.bytes)
				g.move(from, f.values*4)
			})
		}
		g.VADDPS(acc[1], acc[0], acc[0])
		g.VADDPS(acc[3], acc[2], acc[2])
		g.VADDPS(acc[2], acc[0], acc[0])
		g.VMOVSS(g.fold(acc[0], g.VADDPS), operand.Mem{Base: dst})
		g.move(dst, 4)
		g.ADDQ(stride, w)
	})
	g.end()
}

// ahead is how far before they are used weights are asked for. The machine's own
// prefetching stops at the end of each page of 4096 bytes, and begins anew.
const ahead = 2048

// prefetch asks for the units that come ahead bytes after those at a pointer.
// Types of 8 bits and more are read so fast that it would be in the way.
func (g *gen) prefetch(f format, at reg.GPVirtual, units int) {
	if f.bytes >= f.values {
		return
	}
	for i := 0; i < units*f.bytes; i += 64 {
		g.PREFETCHT0(mem(at, ahead+i))
	}
}

func mem(p reg.Register, disp int) operand.Mem { return operand.Mem{Base: p, Disp: disp} }

func prepareF32(g *gen) unpacker {
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		v := g.vec()
		g.VMOVUPS(mem(src, disp), v)
		use(0, v)
	}
}

func prepareF16(g *gen) unpacker {
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		v := g.vec()
		g.VCVTPH2PS(mem(src, disp), v)
		use(0, v)
	}
}

func prepareBF16(g *gen) unpacker {
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		v := g.vec()
		g.VPMOVZXWD(mem(src, disp), v)
		g.VPSLLD(operand.Imm(16), v, v)
		use(0, v)
	}
}

// half16 loads a half float into all lanes.
func (g *gen) half16(m operand.Mem) reg.VecVirtual {
	h, v := g.half(), g.vec()
	g.VPBROADCASTW(m, h)
	g.VCVTPH2PS(h, v)
	return v
}

// halfFloat converts a half float and returns where the number is: in all
// lanes of a vector, or in memory where it can be broadcast on the way.
func (g *gen) halfFloat(m operand.Mem, local operand.Mem) operand.Op {
	if !g.wide() {
		return g.half16(m)
	}
	x := g.XMM()
	g.VPBROADCASTW(m, x)
	g.VCVTPH2PS(x, x)
	g.VMOVSS(x, local)
	return local
}

func prepareQ8_0(g *gen) unpacker {
	return func(src reg.GPVirtual, disp int, use func(int, reg.VecVirtual)) {
		d := g.half16(mem(src, disp))
		for i := range 32 / g.lanes {
			v := g.vec()
			g.VPMOVSXBD(mem(src, disp+2+i*g.lanes), v)
			g.VCVTDQ2PS(v, v)
			g.VMULPS(d, v, v)
			use(i, v)
		}
	}
}
