package blocks

// symmetricScale finds a scale for codes in [0, 2*half) that stand for
// (code-half)*scale, sets codes, and returns the scale. It tries 19 inverse
// scales around -half/extreme.
func symmetricScale(codes []uint8, x, w []float32, half int32) float32 {
	top, magnitude := extreme(x)
	if magnitude < tiny {
		clear(codes)
		return 0
	}
	wx := products(w, x)
	kept := float32(-half) / top
	first, _ := fitSymmetric(x, w, &wx, kept, kept, half)
	var scale float32
	if first.ll != 0 {
		scale = first.lx / first.ll
	}
	best := scale * first.lx
	consider := func(f fit, inverse float32) {
		if f.beats(best) {
			scale, kept = f.lx/f.ll, inverse
			best = scale * f.lx
		}
	}
	for step := int32(-9); step < 9; step += 2 {
		inverse0, inverse1 := symmetricTrial(step, half, top), symmetricTrial(step+1, half, top)
		f0, f1 := fitSymmetric(x, w, &wx, inverse0, inverse1, half)
		consider(f0, inverse0)
		consider(f1, inverse1)
	}
	for i, v := range x {
		codes[i] = uint8(half + clamp(nearest(kept*v), -half, half-1))
	}
	return scale
}

// symmetricTrial returns the inverse scale of a step in [-9, 9): they leave out
// the one in the middle, which was tried first.
func symmetricTrial(step, half int32, top float32) float32 {
	if step >= 0 {
		step++
	}
	return -(float32(half) + float32(0.1*float32(step))) / top
}

// fitSymmetric returns the fits for the codes that two inverse scales give.
// Two at a time, because each sum waits for its last addition.
func fitSymmetric(x, w []float32, wx *[maxSubBlock]float32, inverse0, inverse1 float32, half int32) (a, b fit) {
	w, products := w[:len(x)], wx[:len(x)]
	for i, v := range x {
		l0 := float32(clamp(nearest(inverse0*v), -half, half-1))
		l1 := float32(clamp(nearest(inverse1*v), -half, half-1))
		a = a.with(products[i], w[i], l0)
		b = b.with(products[i], w[i], l1)
	}
	return a, b
}

// descendSymmetric finds a scale like symmetricScale, with weights x², by
// changing one code at a time while that lowers the error, in five passes at
// most.
func descendSymmetric(codes []uint8, x []float32, half int32) float32 {
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
	for range 5 {
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
	for range 5 {
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
