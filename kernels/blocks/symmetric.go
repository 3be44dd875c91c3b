package blocks

// symmetricCodes are codes in [0, 2*half) that stand for (code-half)*scale.
type symmetricCodes struct {
	half       int32
	levels     *levels                 // code-half
	numerators [symmetricTries]float32 // the inverse scales to try, times the extreme value
}

// symmetricTries is how many inverse scales are tried around -half/extreme.
const symmetricTries = 19

func newSymmetric(half int32) *symmetricCodes {
	s := &symmetricCodes{half: half, levels: newLevels(-half, half-1)}
	steps := [symmetricTries]int32{0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	for i, step := range steps {
		s.numerators[i] = -(float32(half) + float32(0.1*float32(step)))
	}
	return s
}

// symmetric3 to symmetric6 are the codes of 3 to 6 bits.
var symmetric3, symmetric4, symmetric5, symmetric6 = newSymmetric(4), newSymmetric(8), newSymmetric(16), newSymmetric(32)

// scale finds a scale, sets codes, and returns the scale.
func (s *symmetricCodes) scale(codes []uint8, x, w []float32) float32 {
	top, magnitude := extreme(x)
	if magnitude < tiny {
		clear(codes)
		return 0
	}
	wx := products(w, x)
	kept := s.numerators[0] / top
	first, _ := s.fit(x, w, &wx, kept, kept)
	var scale float32
	if first.ll != 0 {
		scale = first.lx / first.ll
	}
	best := scale * first.lx
	for try := 1; try < symmetricTries; try += 2 {
		inverses := [2]float32{s.numerators[try] / top, s.numerators[try+1] / top}
		f0, f1 := s.fit(x, w, &wx, inverses[0], inverses[1])
		for i, f := range [2]fit{f0, f1} {
			if f.beats(best) {
				scale, kept = f.lx/f.ll, inverses[i]
				best = scale * f.lx
			}
		}
	}
	for i, v := range x {
		codes[i] = uint8(s.half + clamp(nearest(kept*v), -s.half, s.half-1))
	}
	return scale
}

// fit returns the fits for the codes that two inverse scales give. Two at a
// time, because each sum waits for its last addition. The inverse scales take
// no value further than half+1.
func (s *symmetricCodes) fit(x, w []float32, wx *[maxSubBlock]float32, inverse0, inverse1 float32) (a, b fit) {
	w, products, levels := w[:len(x)], wx[:len(x)], s.levels
	for i, v := range x {
		a = a.with(products[i], w[i], levels.of(inverse0*v))
		b = b.with(products[i], w[i], levels.of(inverse1*v))
	}
	return a, b
}

// descentPasses is how often all codes are looked at, at most.
const descentPasses = 5

// descend finds a scale like scale, with weights x², by changing one code at a
// time while that lowers the error.
func (s *symmetricCodes) descend(codes []uint8, x []float32) float32 {
	half := s.half
	top, magnitude := extreme(x)
	if magnitude < tiny {
		clear(codes)
		return 0
	}
	inverse := float32(-half) / top
	var w, l [maxSubBlock]float32
	var f fit
	for i, v := range x {
		w[i] = v * v
		l[i] = float32(clamp(nearest(inverse*v), -half, half-1))
		f = f.with(float32(w[i]*v), w[i], l[i])
	}
	for range descentPasses {
		changed := false
		for i, v := range x {
			wx := float32(w[i] * v)
			rest := f.without(wx, w[i], l[i])
			if !(rest.lx > 0) {
				continue
			}
			code := float32(clamp(nearest(float32(v*rest.ll)/rest.lx), -half, half-1))
			if code == l[i] {
				continue
			}
			if g := rest.with(wx, w[i], code); g.ll > 0 && g.better(f) {
				l[i], f, changed = code, g, true
			}
		}
		if !changed {
			break
		}
	}
	for i := range codes {
		codes[i] = uint8(int32(l[i]) + half)
	}
	return f.scale()
}

// positiveScale finds a scale for codes in [0, top] of values that are not
// negative, and sets codes: nine inverse scales around top/maximum, then one
// code at a time while that lowers the error. Codes are bytes throughout, as in
// C: a negative value wraps around.
func positiveScale(codes []uint8, x, w []float32, top int32) float32 {
	codes, w = codes[:len(x)], w[:len(x)]
	highest := largest(x)
	if highest < tiny {
		clear(codes)
		return 0
	}
	inverse := positiveInverse(x, w, highest, top)
	var f fit
	for i, v := range x {
		l := min(top, nearest(inverse*v))
		codes[i] = uint8(l)
		f = f.with(float32(w[i]*v), w[i], float32(l))
	}
	for range descentPasses {
		changed := false
		for i, v := range x {
			wx := float32(w[i] * v)
			rest := f.without(wx, w[i], float32(codes[i]))
			if !(rest.lx > 0 && rest.ll > 0) {
				continue
			}
			code := min(top, nearest(float32(v*rest.ll)/rest.lx))
			if code == int32(codes[i]) {
				continue
			}
			if g := rest.with(wx, w[i], float32(code)); g.better(f) {
				codes[i], f, changed = uint8(code), g, true
			}
		}
		if !changed {
			break
		}
	}
	return f.scale()
}

// positiveInverse returns the inverse scale with the least weighted squared
// error, of nine around top/highest.
func positiveInverse(x, w []float32, highest float32, top int32) float32 {
	inverse := float32(top) / highest
	scale := 1 / inverse
	var best float32
	for i, v := range x {
		diff := v - float32(scale*float32(uint8(nearest(inverse*v))))
		best += float32(float32(w[i]*diff) * diff)
	}
	for step := -4; step <= 4; step++ {
		if step == 0 {
			continue
		}
		trial := (float32(0.1*float32(step)) + float32(top)) / highest
		scale = 1 / trial
		var cost float32
		for i, v := range x {
			diff := v - float32(scale*float32(min(top, nearest(trial*v))))
			cost += float32(float32(w[i]*diff) * diff)
		}
		if cost < best {
			best, inverse = cost, trial
		}
	}
	return inverse
}
