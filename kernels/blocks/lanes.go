package blocks

import (
	"sync"

	"llmc/kernels/internal/level"
)

// lanes are the loops of one CPU level over as many sub-blocks as a vector has
// lanes, side by side: vector i holds value i of each. Every lane computes what
// the portable search computes, operation by operation.
type lanes struct {
	n int // lanes of a vector
	// transpose sets dst[c*stride+r] to src[r*ld+c] for r < n and c < 4*steps.
	transpose func(dst, src *float32, ld, steps, stride int)
	// magnitudes, spread and weigh set the weights of values: see plainWeights
	// and weigh.
	magnitudes func(w, x *float32, n int)
	spread     func(w, x *float32, n int, count float32)
	weigh      func(w, x, importance, sigma2 *float32, n int)
	// affineStart and affineTrial are the parts of scaleAndMin, for squared and
	// absolute errors; affineCodes sets l to the codes of the best trial.
	affineStart, affineTrial [2]affinePart
	affineCodes              func(x, l, state *float32, n int, most float32)
	// requantize sets codes to clamp(nearest((x+low)/scale), least, most) - least
	// for some sub-blocks of n vectors. Magic is added to least and most.
	requantize func(codes *byte, x, scales, lows *float32, subs, n int, least, most float32)
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
	sub                  int // values in a sub-block
	x, w, l, importance  [batchSubs * maxSubBlock]float32
	padded               [batchSubs * maxSubBlock]float32
	state                [2][affineState * batchSubs]float32
	sigma2               [batchSubs]float32
	scales, mins, sumW   [batchSubs]float32 // what the search has found
	affineBlock          affineBlock        // the super-block that is written
	gridScales, gridMins [batchSubs]float32 // of it, as they are stored
}

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
