package blocks

import "math"

// affineSearch is how scaleAndMin looks for a scale: inverse scales of
// (top+first+step*i)/(max-min) for i in [0, steps].
type affineSearch struct {
	top         int32 // codes are in [0, top]
	first, step float32
	steps       int
	absolute    bool // the weighted absolute error, not the squared one
	levels      *levels
}

func newAffine(top int32, first, step float32, steps int, absolute bool) affineSearch {
	return affineSearch{top, first, step, steps, absolute, newLevels(0, top)}
}

// weighted2 to weighted5 are the searches of 2 to 5 bits with an importance
// matrix.
var weighted2, weighted4, weighted5 = newAffine(3, -0.9, 0.05, 36, false), newAffine(15, -0.9, 0.05, 36, false), newAffine(31, -0.9, 0.05, 36, false)

// affineSums are what a minimum and a scale are solved from: weighted sums of
// values and of codes l.
type affineSums struct{ w, x, l, ll, xl float32 }

// scaleAndMin finds a scale and a minimum, not negative, for codes that stand
// for code*scale - minimum, and sets codes. Values count by their weights w,
// which must not be negative.
func (s *affineSearch) scaleAndMin(codes []uint8, x, w []float32) (scale, minimum float32) {
	codes, w = codes[:len(x)], w[:len(x)]
	low, high := limits(x)
	if low > 0 {
		low = 0
	}
	if high <= low {
		clear(codes)
		return 0, -low
	}
	var sums affineSums
	sums.w, sums.x = w[0], w[0]*x[0]
	for i := 1; i < len(x); i++ {
		sums.w += w[i]
		sums.x += float32(w[i] * x[i])
	}
	var buffer [maxSubBlock]float32
	trial := buffer[:len(x)]
	least, top := low, float32(s.top)
	round := func(low, inverse float32) {
		if inLevels(inverse*(least-low)) && inLevels(inverse*(high-low)) {
			s.round(trial, x, w, low, inverse, &sums)
		} else {
			s.roundAny(trial, x, w, low, inverse, &sums)
		}
	}
	inverse := top / (high - low)
	scale = 1 / inverse
	round(low, inverse)
	best := s.cost(trial, x, w, scale, low, float32(math.NaN()))
	keptLow, keptInverse := low, inverse
	for i := 0; i <= s.steps; i++ {
		// low is the best minimum so far, so later trials start from it.
		inverse = s.numerator(i) / (high - low)
		round(low, inverse)
		trialScale, trialLow, ok := sums.solve()
		if !ok {
			continue
		}
		if cost := s.cost(trial, x, w, trialScale, trialLow, best); cost < best {
			keptLow, keptInverse = low, inverse
			best, scale, low = cost, trialScale, trialLow
		}
	}
	round(keptLow, keptInverse)
	store(codes, trial)
	return scale, -low
}

// numerator is what trial i divides by the range of the values.
func (s *affineSearch) numerator(i int) float32 {
	return s.first + float32(s.step*float32(i)) + float32(s.top)
}

// round sets l to the codes of x under a minimum and an inverse scale, and the
// sums of codes.
func (s *affineSearch) round(l, x, w []float32, low, inverse float32, sums *affineSums) {
	l, w = l[:len(x)], w[:len(x)]
	var sumL, sumLL, sumXL float32
	levels := s.levels
	for i, v := range x {
		code := levels.of(inverse * (v - low))
		l[i] = code
		wl := float32(w[i] * code)
		sumL += wl
		sumLL += float32(wl * code)
		sumXL += float32(wl * v)
	}
	sums.l, sums.ll, sums.xl = sumL, sumLL, sumXL
}

// roundAny is round for inverse scales that take values beyond what levels
// holds.
func (s *affineSearch) roundAny(l, x, w []float32, low, inverse float32, sums *affineSums) {
	*sums = affineSums{w: sums.w, x: sums.x}
	for i, v := range x {
		l[i] = float32(clamp(nearest(inverse*(v-low)), 0, s.top))
		wl := float32(w[i] * l[i])
		sums.l += wl
		sums.ll += float32(wl * l[i])
		sums.xl += float32(wl * v)
	}
}

// solve returns the scale and minimum with the least weighted squared error; a
// minimum above zero is set to zero. It fails when all codes are the same.
func (s *affineSums) solve() (scale, low float32, ok bool) {
	det := float32(s.w*s.ll) - float32(s.l*s.l)
	if !(det > 0) {
		return 0, 0, false
	}
	scale = (float32(s.w*s.xl) - float32(s.x*s.l)) / det
	low = (float32(s.ll*s.x) - float32(s.l*s.xl)) / det
	if low > 0 {
		return s.xl / s.ll, 0, true
	}
	return scale, low, true
}

// costStride is after how many values cost looks whether it can stop.
const costStride = 8

// cost is the weighted error of codes l. It only grows from value to value, so
// it stops once it has reached limit; NaN is never reached.
func (s *affineSearch) cost(l, x, w []float32, scale, low, limit float32) (total float32) {
	for at := 0; at < len(x) && !(total >= limit); at += costStride {
		l, x, w := l[at:][:costStride], x[at:][:costStride], w[at:][:costStride]
		if s.absolute {
			for i, v := range x {
				total += float32(w[i] * abs32(float32(scale*l[i])+low-v))
			}
			continue
		}
		for i, v := range x {
			diff := float32(scale*l[i]) + low - v
			total += float32(w[i] * float32(diff*diff))
		}
	}
	return total
}
