package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// products writes the micro-kernels of the matrix product, one for each number
// of rows, and the packing of their panels.
func (g *gen) products() {
	rows := 6
	if g.wide() {
		rows = 14
	}
	for r := 1; r <= rows; r++ {
		g.micro(r)
	}
	g.transpose()
	g.peak()
}

// rowPointers returns the address of element 0 of each of some rows that are
// stride bytes apart, and the pointers that move them all.
func (g *gen) rowPointers(base, stride reg.GPVirtual, rows int) (row []operand.Mem, pointers []reg.GPVirtual) {
	for r := range rows {
		if r%3 == 0 {
			p := base
			if r > 0 {
				p = g.GP64()
				g.LEAQ(operand.Mem{Base: pointers[len(pointers)-1], Index: stride, Scale: 2}, p)
				g.ADDQ(stride, p)
			}
			pointers = append(pointers, p)
		}
		m := operand.Mem{Base: pointers[len(pointers)-1]}
		if r%3 > 0 {
			m.Index, m.Scale = stride, uint8(r%3)
		}
		row = append(row, m)
	}
	return row, pointers
}

// micro keeps a tile of rows by two vectors of sums in registers: each step
// multiplies one number of every row of a, in all lanes, by one row of b.
func (g *gen) micro(rows int) {
	g.begin(fmt.Sprintf("micro%d", rows), "func(k int, a *float32, lda int, b, c *float32, ldc int, accumulate bool)",
		fmt.Sprintf("sets c, or adds to it, to the product of a [%d, k] and b [k, %d].", rows, 2*g.lanes))
	k, a, lda, b := g.arg("k"), g.arg("a"), g.arg("lda"), g.arg("b")
	g.SHLQ(operand.Imm(2), lda)
	row, pointers := g.rowPointers(a, lda, rows)
	sums := g.zeros(2 * rows)
	b0, b1 := g.vec(), g.vec()
	x := g.vecs(2)
	step := func(i int) {
		g.VMOVUPS(g.at(b, 2*i), b0)
		g.VMOVUPS(g.at(b, 2*i+1), b1)
		for r := range rows {
			g.VBROADCASTSS(row[r].Offset(4*i), x[r%2])
			g.VFMADD231PS(b0, x[r%2], sums[2*r])
			g.VFMADD231PS(b1, x[r%2], sums[2*r+1])
		}
	}
	advance := func(n int) {
		for _, p := range pointers {
			g.move(p, 4*n)
		}
		g.move(b, 2*n*g.bytes())
	}
	const unroll = 4
	whole := g.GP64()
	g.MOVQ(k, whole)
	g.SHRQ(operand.Imm(2), whole)
	g.count("steps", whole, func() {
		for i := range unroll {
			step(i)
		}
		advance(unroll)
	})
	g.ANDQ(operand.Imm(unroll-1), k)
	g.count("rest", k, func() {
		step(0)
		advance(1)
	})
	g.storeTile(sums, rows)
	g.end()
}

// storeTile writes the sums, after adding what is there when accumulate is
// true.
func (g *gen) storeTile(sums []reg.VecVirtual, rows int) {
	c, ldc := g.arg("c"), g.arg("ldc")
	g.SHLQ(operand.Imm(2), ldc)
	accumulate := g.GP8()
	g.Load(g.Param("accumulate"), accumulate)
	g.TESTB(accumulate, accumulate)
	g.JZ(operand.LabelRef("store"))
	to := g.GP64()
	g.MOVQ(c, to)
	for r := range rows {
		g.VADDPS(g.at(to, 0), sums[2*r], sums[2*r])
		g.VADDPS(g.at(to, 1), sums[2*r+1], sums[2*r+1])
		if r < rows-1 {
			g.ADDQ(ldc, to)
		}
	}
	g.Label("store")
	for r := range rows {
		g.VMOVUPS(sums[2*r], g.at(c, 0))
		g.VMOVUPS(sums[2*r+1], g.at(c, 1))
		if r < rows-1 {
			g.ADDQ(ldc, c)
		}
	}
}

// transpose moves 4 columns of as many rows as a vector has lanes at a time.
// A register takes 4 columns of every fourth row, one in each 128-bit lane, so
// that transposing 4x4 within the lanes leaves the rows in order.
func (g *gen) transpose() {
	g.begin("transpose", "func(panel, src *float32, ld, steps, stride int)",
		"sets panel[p*stride+j] to src[j*ld+p] for p < 4*steps",
		fmt.Sprintf("and j < %d.", g.lanes))
	panel, src, ld := g.arg("panel"), g.arg("src"), g.arg("ld")
	steps, stride := g.arg("steps"), g.arg("stride")
	g.SHLQ(operand.Imm(2), ld)
	g.SHLQ(operand.Imm(2), stride)
	row, pointers := g.rowPointers(src, ld, g.lanes)
	g.count("steps", steps, func() {
		t := g.vecs(4)
		for i := range t {
			g.VMOVUPS(row[i], t[i].AsX())
			for lane := 1; lane < g.lanes/4; lane++ {
				if g.wide() {
					g.VINSERTF32X4(operand.Imm(uint64(lane)), row[4*lane+i], t[i], t[i])
				} else {
					g.VINSERTF128(operand.Imm(uint64(lane)), row[4*lane+i], t[i], t[i])
				}
			}
		}
		u := g.vecs(4)
		g.VUNPCKLPS(t[1], t[0], u[0]) // columns 0 and 1 of rows 0, 1
		g.VUNPCKHPS(t[1], t[0], u[1]) // columns 2 and 3 of rows 0, 1
		g.VUNPCKLPS(t[3], t[2], u[2])
		g.VUNPCKHPS(t[3], t[2], u[3])
		for i := range 2 {
			even, odd := g.vec(), g.vec()
			g.VUNPCKLPD(u[2+i], u[i], even)
			g.VUNPCKHPD(u[2+i], u[i], odd)
			g.VMOVUPS(even, g.at(panel, 0))
			g.ADDQ(stride, panel)
			g.VMOVUPS(odd, g.at(panel, 0))
			g.ADDQ(stride, panel)
		}
		for _, p := range pointers {
			g.move(p, 16)
		}
	})
	g.end()
}

// peak does nothing but multiply and add, to measure what the machine can do.
func (g *gen) peak() {
	const sums = 12
	g.begin("peak", "func(n int)", fmt.Sprintf("does n times %d vector operations of multiply and add.", sums))
	n := g.arg("n")
	a := g.zeros(1)[0]
	v := g.zeros(sums)
	g.count("loop", n, func() {
		for i := range v {
			g.VFMADD231PS(a, a, v[i])
		}
	})
	g.end()
}
