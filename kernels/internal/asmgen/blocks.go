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
		{"F8E4M3", g.lanes, g.lanes, prepareF8E4M3},
		{"F8E5M2", g.lanes, g.lanes, prepareF8E5M2},
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
		if g.wide() && f.name != "F32" { // which needs no unpacking
			g.dotsBatch(f)
		}
	}
	if g.wide() {
		g.totals()
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

// batch is how many rows of x dot products take at once, where there are
// registers for their sums: weights are unpacked once for all of them.
const batch = 4

// dots multiplies rows with a vector: one after the other, or from both halves of
// them in step.
func (g *gen) dots(f format) {
	g.begin("dots"+f.name, "func(dst, x *float32, w *byte, n, rows, stride int)",
		fmt.Sprintf("sets dst[r] to the dot product of x and n times %d numbers", f.values),
		fmt.Sprintf("of type %s at w + r*stride, for r < rows.", f.name))
	dst, w, rows := g.arg("dst"), g.arg("w"), g.arg("rows")
	emit := f.prepare(g)
	row, result := []operand.Mem{{Base: w}}, []operand.Mem{{Base: dst}}
	if f.inStep() {
		half, far := g.GP64(), g.GP64()
		// The middle one of an odd number, or the only one, is in both halves.
		g.MOVQ(rows, half)
		g.SHRQ(operand.Imm(1), half)
		g.SUBQ(half, rows)
		g.Load(g.Param("stride"), far)
		g.IMULQ(half, far)
		row = append(row, operand.Mem{Base: w, Index: far, Scale: 1})
		result = append(result, operand.Mem{Base: dst, Index: half, Scale: 4})
	}
	acc := g.partialSums(len(row))
	g.count("rows", rows, func() {
		for _, v := range acc {
			g.VXORPS(v, v, v)
		}
		g.dotRows(f, emit, row, nil, acc, f.ahead())
		for i, m := range result {
			g.VMOVSS(g.partialTotal(acc[i*sums:]), m)
		}
		g.move(dst, 4)
		g.addParam("stride", w)
	})
	g.end()
}

// dotsBatch multiplies rows with a batch of vectors, by a part of their columns.
func (g *gen) dotsBatch(f format) {
	g.begin("batch"+f.name, "func(sums, x *float32, w *byte, n, rows, stride, ldx int)",
		fmt.Sprintf("adds to sums [rows, %d, %d] vectors the products of x[i*ldx:], i < %d,", batch, sums, batch),
		fmt.Sprintf("and n times %d numbers of type %s at w + r*stride, for r < rows.", f.values, f.name))
	to, w, rows, ldx := g.arg("sums"), g.arg("w"), g.arg("rows"), g.arg("ldx")
	g.SHLQ(operand.Imm(2), ldx)
	emit := f.prepare(g)
	acc := g.partialSums(batch)
	g.count("rows", rows, func() {
		for i, v := range acc {
			g.VMOVUPS(g.at(to, i), v)
		}
		g.dotRows(f, emit, []operand.Mem{{Base: w}}, ldx, acc, batchNumbers/batch/f.values*f.bytes)
		for i, v := range acc {
			g.VMOVUPS(v, g.at(to, i))
		}
		g.move(to, len(acc)*g.bytes())
		g.addParam("stride", w)
	})
	g.end()
}

// addParam adds an argument, which is loaded when it is needed: formats take
// many registers.
func (g *gen) addParam(name string, to reg.GPVirtual) {
	v := g.GP64()
	g.Load(g.Param(name), v)
	g.ADDQ(v, to)
}

// dotRows adds the products of the rows at w and rows of x to their sums, and asks
// for what comes ahead bytes later.
func (g *gen) dotRows(f format, emit unpacker, w []operand.Mem, ldx reg.GPVirtual, acc []reg.VecPhysical, ahead int) {
	vectors := f.values / g.lanes
	unroll := max(1, sums/vectors)
	at := make([]reg.GPVirtual, len(w))
	for i, m := range w {
		at[i] = g.GP64()
		g.LEAQ(m, at[i])
	}
	from, left := g.GP64(), g.GP64()
	g.Load(g.Param("x"), from)
	g.Load(g.Param("n"), left)
	x, pointers := g.rowPointers(from, ldx, len(acc)/sums/len(w))
	unit := func(u int) {
		for j, row := range at {
			emit(row, u*f.bytes, func(i int, v reg.VecVirtual) {
				i += u * vectors
				for r, m := range x {
					g.VFMADD231PS(m.Offset(i*g.bytes()), v, acc[(j*len(x)+r)*sums+i%sums])
				}
			})
		}
	}
	advance := func(units int) {
		for _, row := range at {
			g.move(row, units*f.bytes)
		}
		for _, p := range pointers {
			g.move(p, units*f.values*4)
		}
	}
	if unroll == 1 {
		g.count("units", left, func() {
			g.prefetch(f, at[0], 1, ahead)
			unit(0)
			advance(1)
		})
		return
	}
	g.SUBQ(operand.Imm(uint64(unroll)), left)
	g.JLT(operand.LabelRef("rest"))
	g.Label("units")
	g.prefetch(f, at[0], unroll, ahead)
	for u := range unroll {
		unit(u)
	}
	advance(unroll)
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
}

// partialSums are the registers of sums for some rows. AVX-512 has them at
// the end, since many instructions that unpack know only the first 16.
func (g *gen) partialSums(rows int) (acc []reg.VecPhysical) {
	last := []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7}
	if g.wide() {
		last = []reg.VecPhysical{reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
			reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}
	}
	return last[:rows*sums]
}

// partialTotal adds up the partial sums of one row.
func (g *gen) partialTotal(s []reg.VecPhysical) reg.Register {
	sum := g.vec()
	g.VADDPS(s[1], s[0], sum)
	g.VADDPS(s[3], s[2], s[2])
	g.VADDPS(s[2], sum, sum)
	return g.fold(sum, g.VADDPS)
}

// totals adds up the partial sums that dotsBatch leaves.
func (g *gen) totals() {
	g.begin("totals", "func(dst, sums *float32, n int)",
		fmt.Sprintf("sets dst[i] to the sum of the %d vectors at sums + i times as many, for i < n.", sums))
	dst, from, n := g.arg("dst"), g.arg("sums"), g.arg("n")
	s := g.partialSums(1)
	g.count("loop", n, func() {
		for i, v := range s {
			g.VMOVUPS(g.at(from, i), v)
		}
		g.VMOVSS(g.partialTotal(s), operand.Mem{Base: dst})
		g.move(dst, 4)
		g.move(from, len(s)*g.bytes())
	})
	g.end()
}

// batchNumbers is what one call takes of the rows of x in a batch; see batch.go
// in package kernels. The next call's part of a row is asked for meanwhile: calls
// go through a part of many rows, which no prefetching of the machine's follows.
const batchNumbers = 4096

// ahead is how far before they are used weights are asked for. The machine's own
// prefetching stops at the end of each page of 4096 bytes, and begins anew. Types
// of 8 bits and more are read so fast that asking would be in the way.
func (f format) ahead() int {
	if f.bytes >= f.values {
		return 0
	}
	return 2048
}

// inStep reports whether rows are read two at a time, far apart: the machine's
// prefetching, which stops at the end of each page, then still works in the
// other. Types of 16 bits and more wait for memory rather than for unpacking.
func (f format) inStep() bool { return f.bytes >= 2*f.values }

// prefetch asks for the units that come ahead bytes after those at a pointer.
func (g *gen) prefetch(f format, at reg.GPVirtual, units, ahead int) {
	if ahead == 0 {
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
