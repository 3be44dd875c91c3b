package main

import "github.com/mmcloughlin/avo/operand"

// moveColumns is Descent.Move for the rows of a strip, two vectors of them. Nothing
// is fused, so that it gives the bits of the portable loop.
func (g *gen) moveColumns() {
	g.begin("moveColumns",
		"func(q, gradient, level, h, inverse *float32, moves, n, stride, diagonal, at int, scale, minimum, growth, bounds *float32)",
		"moves columns of a strip to the best values of their grids. h is a row of",
		"stride bytes, with its diagonal diagonal bytes on, and at is where in",
		"gradient the first column that moves is.")
	q, level, h, inverse := g.arg("q"), g.arg("level"), g.arg("h"), g.arg("inverse")
	gradient, moves, at, diagonal := g.arg("gradient"), g.arg("moves"), g.arg("at"), g.arg("diagonal")
	const vectors = 2
	scale, low := g.vecs(vectors), g.vecs(vectors)
	up, growth := g.vecs(vectors), g.vecs(vectors)
	grids, minima, grown := g.arg("scale"), g.arg("minimum"), g.arg("growth")
	one := g.number(1)
	for i := range vectors {
		g.VMOVUPS(g.at(grids, i), scale[i])
		g.VMOVUPS(g.at(minima, i), low[i])
		g.VMOVUPS(g.at(grown, i), growth[i])
		g.VDIVPS(scale[i], one, up[i])
	}
	bounds := g.arg("bounds")
	delta := g.vecs(vectors)
	g.count("move", moves, func() {
		gk := g.GP64()
		g.MOVQ(gradient, gk)
		g.ADDQ(at, gk)
		hk := operand.Mem{Base: h, Index: diagonal, Scale: 1}
		for i := range vectors {
			v := g.vec()
			g.VMOVUPS(g.at(gk, i), v)
			g.multiply(mem(inverse, 0), v, v)
			g.VADDPS(g.at(q, i), v, v)
			g.VADDPS(low[i], v, v)
			g.VMULPS(up[i], v, v)
			// NaN becomes the lowest level: the first operand is the result.
			g.VMAXPS(g.broadcast(mem(bounds, 0)), v, v)
			g.VMINPS(g.broadcast(mem(bounds, 4)), v, v)
			round := g.number(magic)
			g.VADDPS(round, v, v)
			g.VSUBPS(round, v, v)
			g.VMOVUPS(v, g.at(level, i))
			g.VMULPS(scale[i], v, v)
			g.VSUBPS(low[i], v, v)
			g.VSUBPS(g.at(q, i), v, delta[i])
			g.VMOVUPS(v, g.at(q, i))
			twice := g.vec()
			g.VMOVUPS(g.at(gk, i), twice)
			g.VADDPS(twice, twice, twice)
			g.multiply(hk, delta[i], v)
			g.VSUBPS(twice, v, v)
			g.VMULPS(delta[i], v, v)
			g.VADDPS(v, growth[i], growth[i])
		}
		n, to, row := g.arg("n"), g.GP64(), g.GP64()
		g.MOVQ(gradient, to)
		g.MOVQ(h, row)
		g.count("spread", n, func() {
			x := g.broadcast(mem(row, 0))
			for i := range vectors {
				y, v := g.load(g.at(to, i)), g.vec()
				g.VMULPS(x, delta[i], v)
				g.VSUBPS(v, y, y)
				g.VMOVUPS(y, g.at(to, i))
			}
			g.move(row, 4)
			g.move(to, vectors*g.bytes())
		})
		for _, p := range [...]struct {
			of    operand.Op
			bytes int
		}{{q, vectors * g.bytes()}, {level, vectors * g.bytes()}, {at, vectors * g.bytes()}, {inverse, 4}, {diagonal, 4}} {
			g.ADDQ(operand.U32(uint32(p.bytes)), p.of)
		}
		stride := g.arg("stride")
		g.ADDQ(stride, h)
	})
	for i := range vectors {
		g.VMOVUPS(growth[i], g.at(grown, i))
	}
	g.end()
}
