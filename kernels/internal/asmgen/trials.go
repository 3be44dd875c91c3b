package main

// trials are the loops of trialErrors: every lane is a grid that is tried, so that
// each sees the numbers in the order of the portable loop. Nothing is fused.
func (g *gen) trials() {
	g.trialErrors("trialErrors", false)
	g.trialErrors("weighedTrialErrors", true)
}

func (g *gen) trialErrors(name string, weighed bool) {
	signature, what := "func(sums, x *float32, n int, scales, lows, highs *float32)", "the squared errors"
	if weighed {
		signature, what = "func(sums, x, w *float32, n int, scales, lows, highs *float32)", "w times the squared errors"
	}
	g.begin(name, signature, "sets a vector of sums to "+what+" of n numbers on as many grids.")
	x, n := g.arg("x"), g.arg("n")
	w := x
	if weighed {
		w = g.arg("w")
	}
	scale, low, high := g.load(g.at(g.arg("scales"), 0)), g.load(g.at(g.arg("lows"), 0)), g.load(g.at(g.arg("highs"), 0))
	round, sum := g.number(magic), g.vec()
	g.zero(sum)
	g.count("loop", n, func() {
		v := g.broadcast(mem(x, 0))
		q := g.divided(v, scale)
		g.VMAXPS(low, q, q)
		g.VMINPS(high, q, q)
		g.VADDPS(round, q, q)
		g.VSUBPS(round, q, q)
		g.VMULPS(scale, q, q)
		g.VSUBPS(q, v, v)
		g.VMULPS(v, v, v)
		if weighed {
			g.multiply(mem(w, 0), v, v)
			g.move(w, 4)
		}
		g.VADDPS(v, sum, sum)
		g.move(x, 4)
	})
	g.VMOVUPS(sum, g.at(g.arg("sums"), 0))
	g.end()
}
