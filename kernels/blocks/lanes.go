package blocks

import (
	"sync"

	"llmc/dtype"
	"llmc/kernels/internal/level"
)

// lanes are the loops of one CPU level over as many sub-blocks as a vector has
// lanes, side by side: vector i holds value i of each. Every lane computes what
// the portable search computes, operation by operation.
type lanes struct {
	n int // lanes of a vector
	// transpose sets dst[c*stride+r] to src[r*ld+c] for r < n and c < 4*steps.
	transpose func(dst, src *float32, ld, steps, stride int)
	// magnitudes, squares, spread and weigh set the weights of values: |x|, x*x,
	// and as plainWeights and weigh.
	magnitudes func(w, x *float32, n int)
	squares    func(w, x *float32, n int)
	spread     func(w, x *float32, n int, count float32)
	weigh      func(w, x, importance, sigma2 *float32, n int)
	// affineStart and affineTrial are the parts of scaleAndMin, for squared and
	// absolute errors; affineCodes sets l to the codes of the best trial.
	affineStart, affineTrial [2]affinePart
	affineCodes              func(x, l, state *float32, n int, most float32)
	// symmetric and descend are scale and descend of symmetricCodes: scales and
	// sums of weights go to result, codes to l.
	symmetric func(x, w, l, result, numerators *float32, n, trials int, least, most float32)
	descend   func(x, l, result *float32, n, passes int, least, most, numerator float32)
	// nonlinear is nonlinearScale, nonlinearCodes is nearestNonlinear of x*inverse
	// for n vectors of one sub-block.
	nonlinear      func(x, w, result, numerators *float32, n, trials int)
	nonlinearCodes func(codes *byte, x *float32, n int, inverse float32)
	// requantize sets codes to clamp(nearest((x+low)/scale), least, most) - least
	// for some sub-blocks of n vectors. Magic is added to least and most.
	requantize func(codes *byte, x, scales, lows *float32, subs, n int, least, most float32)

	// rows round n blocks of 32 values to types whose scales are not searched for.
	rows map[dtype.Type]func(dst *byte, src *float32, n int)
	// anyAbove reports whether the bits of the magnitude of a value of n vectors
	// are above limit.
	anyAbove func(x *float32, n int, limit uint32) bool
}

type affinePart = func(x, w, l, state *float32, n int, most, numerator float32)

// magic is the number whose addition rounds; see nearest.
const magic = 12582912

// native are the lanes of the chosen level, nil for portable Go.
var native = lanesOf(level.Chosen())

// batchSubs is how many sub-blocks are searched at a time.
const batchSubs = 16

// batch holds sub-blocks on their way through lanes, transposed: value i of
// sub-block j is at j/n*sub*n + i*n + j%n.
type batch struct {
	*lanes
	sub                  int // values in a sub-block, at most maxSubBlock
	x, w, l, importance  [batchSubs * maxSubBlock]float32
	padded               [batchSubs * maxSubBlock]float32
	state                [2][affineState * batchSubs]float32
	sigma2               [batchSubs]float32
	scales, mins, sumW   [batchSubs]float32 // what the search has found
	affineBlock          affineBlock        // the super-block that is written
	gridScales, gridMins [batchSubs]float32 // of it, as they are stored
}

// newBatch returns a batch of sub-blocks of sub values.
func newBatch(sub int) *batch {
	b := batches.Get().(*batch)
	b.lanes, b.sub = native, sub
	clear(b.gridMins[:])
	return b
}

func (b *batch) free() { batches.Put(b) }

var batches = sync.Pool{New: func() any { return new(batch) }}

// load transposes up to batchSubs sub-blocks.
func (b *batch) load(dst *[batchSubs * maxSubBlock]float32, src []float32) {
	if len(src) < batchSubs*b.sub {
		n := copy(b.padded[:], src)
		clear(b.padded[n : batchSubs*b.sub])
		src = b.padded[:]
	}
	step := b.n * b.sub
	for at := 0; at < batchSubs*b.sub; at += step {
		b.transpose(&dst[at], &src[at], b.sub, b.sub/4, b.n)
	}
}

// codes writes the codes that the search has left for sub-block j.
func (b *batch) codes(dst []uint8, j int) {
	l := b.l[j/b.n*b.sub*b.n+j%b.n:]
	for i := range dst {
		dst[i] = uint8(l[i*b.n])
	}
}

// The vectors of the state of an affine search.
const (
	affineLow   = 0
	affineSumW  = 2
	affineScale = 5
	affineState = 8
)

// affine is scaleAndMin for all sub-blocks.
func (b *batch) affine(s *affineSearch) {
	kind := 0
	if s.absolute {
		kind = 1
	}
	top := float32(s.top)
	for part := range batchSubs / b.n {
		at := part * b.n * b.sub
		x, w, l, state := &b.x[at], &b.w[at], &b.l[at], &b.state[part]
		b.affineStart[kind](x, w, l, &state[0], b.sub, magic+top, top)
		for i := 0; i <= s.steps; i++ {
			b.affineTrial[kind](x, w, l, &state[0], b.sub, magic+top, s.numerator(i))
		}
		b.affineCodes(x, l, &state[0], b.sub, magic+top)
		copy(b.scales[part*b.n:], state[affineScale*b.n:][:b.n])
		copy(b.sumW[part*b.n:], state[affineSumW*b.n:][:b.n])
		for j, low := range state[affineLow*b.n:][:b.n] {
			b.mins[part*b.n+j] = -low
		}
	}
}

// The vectors that searches of symmetric codes return.
const (
	symmetricScale = 0
	symmetricSumW  = 1
)

// symmetric is scale for all sub-blocks.
func (b *batch) symmetric(s *symmetricCodes) {
	half := float32(s.half)
	for part := range batchSubs / b.n {
		at, state := part*b.n*b.sub, b.state[part][:]
		b.lanes.symmetric(&b.x[at], &b.w[at], &b.l[at], &state[0], &s.numerators[0], b.sub, symmetricTries, magic-half, magic+half-1)
		copy(b.scales[part*b.n:], state[symmetricScale*b.n:][:b.n])
		copy(b.sumW[part*b.n:], state[symmetricSumW*b.n:][:b.n])
	}
}

// nonlinear is nonlinearScale for all sub-blocks.
func (b *batch) nonlinear() {
	for part := range batchSubs / b.n {
		at, state := part*b.n*b.sub, b.state[part][:]
		b.lanes.nonlinear(&b.x[at], &b.w[at], &state[0], &nonlinearNumerators[0], b.sub, len(nonlinearNumerators))
		copy(b.scales[part*b.n:], state[symmetricScale*b.n:][:b.n])
	}
}

// descend is descend for all sub-blocks.
func (b *batch) descend(s *symmetricCodes) {
	half := float32(s.half)
	for part := range batchSubs / b.n {
		at, state := part*b.n*b.sub, b.state[part][:]
		b.lanes.descend(&b.x[at], &b.l[at], &state[0], b.sub, descentPasses, magic-half, magic+half-1, s.numerators[0])
		copy(b.scales[part*b.n:], state[symmetricScale*b.n:][:b.n])
	}
}

// weighAll weighs values by the importance of their columns and one sigma2.
func (b *batch) weighAll(importance []float32, sigma2 float32) {
	b.load(&b.importance, importance)
	for j := range b.sigma2 {
		b.sigma2[j] = sigma2
	}
	b.weighed()
}

// weighed is weigh with the importance and sigma2 of the batch.
func (b *batch) weighed() {
	for part := range batchSubs / b.n {
		at := part * b.n * b.sub
		b.weigh(&b.w[at], &b.x[at], &b.importance[at], &b.sigma2[part*b.n], b.sub)
	}
}

// requantizeSigned sets the codes of 16 sub-blocks under gridScales.
func (b *batch) requantizeSigned(codes []uint8, x []float32, half int32) {
	b.requantize(&codes[0], &x[0], &b.gridScales[0], &b.gridMins[0], batchSubs, b.sub/b.n, magic-float32(half), magic+float32(half-1))
	b.keepCodes(codes, 0, batchSubs)
}

// keepCodes gives sub-blocks from number first on the codes of the search where
// the scale is stored as zero.
func (b *batch) keepCodes(codes []uint8, first, n int) {
	for j, scale := range b.gridScales[:n] {
		if scale == 0 {
			b.codes(codes[j*b.sub:][:b.sub], first+j)
		}
	}
}
