package blocks

import "math"

// The searches for scales. Each tries a list of scales near the obvious one
// and keeps the one with the least weighted squared error after the best scale
// for its codes has been solved for. Their order of operations is part of the
// result.

// tiny is the absolute maximum below which a run of values counts as zero.
const tiny = 1e-15

// maxSubBlock is the largest number of values that share a scale.
const maxSubBlock = 32

// nearest rounds to an integer, ties to even, by adding a number so large that
// the sum has no fraction bits. Valid for |v| below 2^22.
func nearest(v float32) int {
	return int(math.Float32bits(v+12582912)&0x007fffff) - 0x00400000
}

func clamp(v, low, high int) int { return max(low, min(high, v)) }

func abs32(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }

func sqrt32(v float32) float32 { return float32(math.Sqrt(float64(v))) }

// extreme returns the value with the largest magnitude, the first of equals.
func extreme(x []float32) (value, magnitude float32) {
	for _, v := range x {
		if a := abs32(v); a > magnitude {
			value, magnitude = v, a
		}
	}
	return value, magnitude
}

// sumSquares adds up x² in order.
func sumSquares(x []float32) (sum float32) {
	for _, v := range x {
		sum += float32(v * v)
	}
	return sum
}

// weigh sets w to importance * sqrt(sigma2 + x²), how much an error of x
// matters: the importance of its column, more for large values.
func weigh(w, x, importance []float32, sigma2 float32) {
	for i, v := range x {
		w[i] = importance[i] * sqrt32(sigma2+float32(v*v))
	}
}

// sum adds up w in order.
func sum(w []float32) (total float32) {
	for _, v := range w {
		total += v
	}
	return total
}

// symmetricScale finds a scale for codes in [0, 2*half) that stand for
// (code-half)*scale, sets codes, and returns the scale. It tries 19 inverse
// scales around -half/extreme.
func symmetricScale(codes []uint8, x, w []float32, half int) float32 {
	codes, w = codes[:len(x)], w[:len(x)]
	top, magnitude := extreme(x)
	if magnitude < tiny {
		clear(codes)
		return 0
	}
	inverse := float32(-half) / top
	sumLX, sumLL := fitSymmetric(x, w, inverse, half)
	roundSymmetric(codes, x, inverse, half)
	var scale float32
	if sumLL != 0 {
		scale = sumLX / sumLL
	}
	best := scale * sumLX
	for step := -9; step <= 9; step++ {
		if step == 0 {
			continue
		}
		inverse = -(float32(half) + float32(0.1*float32(step))) / top
		sumLX, sumLL = fitSymmetric(x, w, inverse, half)
		if sumLL > 0 && float32(sumLX*sumLX) > float32(best*sumLL) {
			roundSymmetric(codes, x, inverse, half)
			scale = sumLX / sumLL
			best = scale * sumLX
		}
	}
	return scale
}

// fitSymmetric returns the weighted sums of l*x and l*l for the codes l that
// an inverse scale gives: their quotient is the best scale for these codes.
func fitSymmetric(x, w []float32, inverse float32, half int) (sumLX, sumLL float32) {
	w = w[:len(x)]
	for i, v := range x {
		l := float32(clamp(nearest(inverse*v), -half, half-1))
		sumLX += float32(float32(w[i]*v) * l)
		sumLL += float32(float32(w[i]*l) * l)
	}
	return sumLX, sumLL
}

func roundSymmetric(codes []uint8, x []float32, inverse float32, half int) {
	for i, v := range x {
		codes[i] = uint8(half + clamp(nearest(inverse*v), -half, half-1))
	}
}

// descendSymmetric finds a scale like symmetricScale, with weights x², by
// changing one code at a time while that lowers the error, in five passes at
// most.
func descendSymmetric(codes []uint8, x []float32, half int) float32 {
	codes = codes[:len(x)]
	top, magnitude := extreme(x)
	if magnitude < tiny {
		clear(codes)
		return 0
	}
	var w, l [maxSubBlock]float32
	for i, v := range x {
		w[i] = v * v
	}
	inverse := float32(-half) / top
	sumLX, sumLL := fitSymmetric(x, w[:], inverse, half)
	for i, v := range x {
		l[i] = float32(clamp(nearest(inverse*v), -half, half-1))
	}
	for range 5 {
		changed := false
		for i, v := range x {
			restLX := sumLX - float32(float32(w[i]*v)*l[i])
			if restLX <= 0 {
				continue
			}
			restLL := sumLL - float32(float32(w[i]*l[i])*l[i])
			code := float32(clamp(nearest(float32(v*restLL)/restLX), -half, half-1))
			if code == l[i] {
				continue
			}
			restLX += float32(float32(w[i]*v) * code)
			restLL += float32(float32(w[i]*code) * code)
			if restLL > 0 && float32(float32(restLX*restLX)*sumLL) > float32(float32(sumLX*sumLX)*restLL) {
				l[i], sumLX, sumLL, changed = code, restLX, restLL, true
			}
		}
		if !changed {
			break
		}
	}
	for i := range codes {
		codes[i] = uint8(int(l[i]) + half)
	}
	if sumLL > 0 {
		return sumLX / sumLL
	}
	return 0
}

// affineSearch is how scaleAndMin looks for a scale: inverse scales of
// (top+first+step*i)/(max-min) for i in [0, steps].
type affineSearch struct {
	top         int // codes are in [0, top]
	first, step float32
	steps       int
	absolute    bool // the weighted absolute error, not the squared one
}

// scaleAndMin finds a scale and a minimum, not negative, for codes that stand
// for code*scale - minimum, and sets codes. Values count by their weights w.
func (s *affineSearch) scaleAndMin(codes []uint8, x, w []float32) (scale, minimum float32) {
	codes, w = codes[:len(x)], w[:len(x)]
	low, high := x[0], x[0]
	sumW := w[0]
	sumX := sumW * x[0]
	for i := 1; i < len(x); i++ {
		low, high = min(low, x[i]), max(high, x[i])
		sumW += w[i]
		sumX += float32(w[i] * x[i])
	}
	low = min(low, 0)
	if high <= low {
		clear(codes)
		return 0, -low
	}
	top := float32(s.top)
	scale = 1 / (top / (high - low))
	var buffer [maxSubBlock]float32
	trial := buffer[:len(x)]
	s.round(trial, x, low, top/(high-low))
	best := s.cost(trial, x, w, scale, low)
	store(codes, trial)
	for i := 0; i <= s.steps; i++ {
		// low is the best minimum so far, so later trials start from it.
		inverse := (s.first + float32(s.step*float32(i)) + top) / (high - low)
		s.round(trial, x, low, inverse)
		trialScale, trialLow, ok := solveAffine(trial, x, w, sumW, sumX)
		if !ok {
			continue
		}
		if cost := s.cost(trial, x, w, trialScale, trialLow); cost < best {
			store(codes, trial)
			best, scale, low = cost, trialScale, trialLow
		}
	}
	return scale, -low
}

// round sets l to the codes of x under a minimum and an inverse scale.
func (s *affineSearch) round(l, x []float32, low, inverse float32) {
	l = l[:len(x)]
	for i, v := range x {
		l[i] = float32(clamp(nearest(inverse*(v-low)), 0, s.top))
	}
}

// cost is the weighted error of codes l.
func (s *affineSearch) cost(l, x, w []float32, scale, low float32) (total float32) {
	l, w = l[:len(x)], w[:len(x)]
	if s.absolute {
		for i, v := range x {
			total += float32(w[i] * abs32(float32(scale*l[i])+low-v))
		}
		return total
	}
	for i, v := range x {
		diff := float32(scale*l[i]) + low - v
		total += float32(w[i] * float32(diff*diff))
	}
	return total
}

// solveAffine returns the scale and minimum with the least weighted squared
// error for codes l; a minimum above zero is set to zero. It fails when all
// codes are the same.
func solveAffine(l, x, w []float32, sumW, sumX float32) (scale, low float32, ok bool) {
	x, w = x[:len(l)], w[:len(l)]
	var sumL, sumLL, sumXL float32
	for i, code := range l {
		wl := w[i] * code
		sumL += wl
		sumLL += float32(wl * code)
		sumXL += float32(wl * x[i])
	}
	det := float32(sumW*sumLL) - float32(sumL*sumL)
	if det <= 0 {
		return 0, 0, false
	}
	scale = (float32(sumW*sumXL) - float32(sumX*sumL)) / det
	low = (float32(sumLL*sumX) - float32(sumL*sumXL)) / det
	if low > 0 {
		return sumXL / sumLL, 0, true
	}
	return scale, low, true
}

func store(codes []uint8, l []float32) {
	for i, v := range l {
		codes[i] = uint8(v)
	}
}

// positiveScale finds a scale for codes in [0, top] of values that are not
// negative, and sets codes: nine inverse scales around top/maximum, then one
// code at a time while that lowers the error.
func positiveScale(codes []uint8, x, w []float32, top int) float32 {
	codes, w = codes[:len(x)], w[:len(x)]
	highest := float32(0)
	for _, v := range x {
		highest = max(highest, v)
	}
	if highest < tiny {
		clear(codes)
		return 0
	}
	inverse := float32(top) / highest
	best := positiveCost(x, w, inverse, math.MaxInt32)
	for step := -4; step <= 4; step++ {
		if step == 0 {
			continue
		}
		trial := (float32(0.1*float32(step)) + float32(top)) / highest
		if cost := positiveCost(x, w, trial, top); cost < best {
			best, inverse = cost, trial
		}
	}
	var l [maxSubBlock]float32
	var sumLX, sumLL float32
	for i, v := range x {
		l[i] = float32(min(top, nearest(inverse*v)))
		sumLX += float32(float32(w[i]*v) * l[i])
		sumLL += float32(float32(w[i]*l[i]) * l[i])
	}
	for range 5 {
		changed := false
		for i, v := range x {
			restLX := sumLX - float32(float32(w[i]*v)*l[i])
			restLL := sumLL - float32(float32(w[i]*l[i])*l[i])
			if restLX <= 0 || restLL <= 0 {
				continue
			}
			code := float32(min(top, nearest(float32(v*restLL)/restLX)))
			if code == l[i] {
				continue
			}
			restLX += float32(float32(w[i]*v) * code)
			restLL += float32(float32(w[i]*code) * code)
			if float32(float32(restLX*restLX)*sumLL) > float32(float32(sumLX*sumLX)*restLL) {
				l[i], sumLX, sumLL, changed = code, restLX, restLL, true
			}
		}
		if !changed {
			break
		}
	}
	store(codes, l[:len(x)])
	if sumLL > 0 {
		return sumLX / sumLL
	}
	return 0
}

func positiveCost(x, w []float32, inverse float32, top int) (cost float32) {
	scale := 1 / inverse
	for i, v := range x {
		diff := v - float32(scale*float32(min(top, nearest(inverse*v))))
		cost += float32(float32(w[i]*diff) * diff)
	}
	return cost
}
