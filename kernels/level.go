package kernels

import (
	"os"
	"slices"
	"strings"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/kernels/internal/level"
)

// ops is the set of inner loops of one CPU level. The portable functions are
// the definition; the others may sum in another order. Slices are as long as
// the comments say, and may be longer where they say "at least"; nothing past
// the stated length is written.
type ops struct {
	level string
	lanes int // of a vector; 0 without assembly

	// The matrix product: tiles of up to mr rows and exactly nr columns.
	mr, nr int
	// micro sets c[i*ldc+j], or adds to it, to the sum over p < k of
	// a[i*lda+p] * b[p*nr+j], for i < rows <= mr and j < nr, in the order of p.
	micro func(rows, k int, a []float32, lda int, b, c []float32, ldc int, accumulate bool)
	// turn sets dst[c*stride+r] to src[r*ld+c] for r < rows, c < cols.
	turn func(dst []float32, stride int, src []float32, ld, rows, cols int)

	// dot returns the sum of x[i]*y[i]; y is at least as long as x.
	dot func(x, y []float32) float32
	// add sets dst to dst+x, which is at least as long.
	add func(dst, x []float32)
	// addScaled sets dst to dst+x*s; x is at least as long.
	addScaled func(dst, x []float32, s float32)
	// scale multiplies x by s.
	scale func(x []float32, s float32)
	// sumSquares returns the float64 sum of x[i]*x[i].
	sumSquares func(x []float32) float64
	// normalize sets dst to (x*s)*w; x and w are at least as long as dst.
	normalize func(dst, x, w []float32, s float32)
	// largest returns the largest number of x, -Inf for none. NaN is passed over.
	largest func(x []float32) float32
	// expSum sets x to exp(x*s - shift) and returns the sum of that.
	expSum expFunc
	// sumExp returns the sum of exp(x*s - shift).
	sumExp expFunc
	// divergence returns the sum of exp(p-lse) * (p-q-offset), the differences in
	// float64.
	divergence func(p, q []float32, lse float32, offset float64) float64
	// difference adds the difference of y, at least as long, from x to d.
	difference func(d *Difference, x, y []float32)
	// moments adds a row x to the moments of its columns.
	moments func(m *Moments, x []float32)
	// adam takes a step of AdamW; the slices are of one length.
	adam func(s *AdamStep, x, grad, m, v []float32)
	// pack rounds n vectors of numbers to types of 16 and 8 bits.
	pack map[dtype.Type]func(dst *byte, src *float32, n int)
	// trials and weighed are the loops of Trials.Errors for trialLanes grids
	// at a time; 0 without assembly.
	trials     func(sums, x *float32, n int, scales, lows, highs *float32)
	weighed    func(sums, x, w *float32, n int, scales, lows, highs *float32)
	trialLanes int
	// moveColumns is the loop of Descent.Move for strips of nr rows, nil without
	// assembly.
	moveColumns moveColumnsFunc
	// gate sets dst to act(g) * up.
	gate [numActivations]gateFunc
	// gateGrad sets dg to dy*up*act'(g) and dup to dy*act(g). dg may be g, and dup
	// may be up or dy.
	gateGrad [numActivations]gateGradFunc
	// softmaxGrad sets dp to p*(dp-dot)*s; p is at least as long.
	softmaxGrad func(dp, p []float32, dot, s float32)
	// rotate turns the pairs (lo[j], hi[j]) by the angles of cos and sin.
	rotate func(lo, hi, cos, sin []float32)
	// rotatePairs turns the pairs (x[2j], x[2j+1]); cos and sin hold every
	// number twice.
	rotatePairs func(x, cos, sin []float32)

	// peak runs n rounds of multiplying and adding in registers, as fast as the
	// machine can, and returns the operations of one round; nil without
	// assembly. Benchmarks measure themselves against it.
	peak func(n int) float64

	// formats are the number formats with loops of their own; the others are
	// dequantized in portable Go.
	formats map[dtype.Type]*loops
	// totals sets dst[i] to the sum of partial sums number i, as dots adds them.
	totals func(dst, sums *float32, n int)
	// codes are the loops over integer codes, by their bits.
	codes map[int]*codeLoops
	// integer are the loops of integer products; nil for portable Go.
	integer *integerOps
}

// panel fills a panel [k, nr] with the first k columns of src, up to nr rows
// that are ld apart, and zeros after the last row.
func (o *ops) panel(panel, src []float32, ld, rows, k int) {
	o.turn(panel, o.nr, src, ld, rows, k)
	if rows < o.nr {
		for p := range k {
			clear(panel[p*o.nr+rows : (p+1)*o.nr])
		}
	}
}

type (
	expFunc  func(x []float32, s, shift float32) float64
	gateFunc func(dst, g, up []float32)

	gateGradFunc func(dg, dup, dy, g, up []float32)
)

// loops handle numbers of one format, in whole units.
type loops struct {
	values int // of one unit
	// unpack dequantizes n units exactly. nil for F32.
	unpack func(dst *float32, src *byte, n int)
	// dots sets dst[r] to the dot product of x and the n units at w + r*stride
	// bytes, for r < rows: the same as dot of x and the dequantized row, to the
	// last bit.
	dots func(dst, x *float32, w *byte, n, rows, stride int)
	// batch adds the products of batchRows rows of x, ldx apart, to partial sums;
	// nil where there are no registers for them.
	batch batchDots
}

// partialSums is how many vectors of partial sums a dot product has.
const partialSums = 4

type batchDots func(sums, x *float32, w *byte, n, rows, stride, ldx int)

// codeLoops handle the integer codes of [Groups].
type codeLoops struct {
	bits   int
	lanes  int // numbers of a vector
	values int // numbers of a unit of dot: some vectors
	// unpack sets dst to (code-zero)*scale of n vectors of codes.
	unpack func(dst *float32, codes *byte, n int, zero, scale float32)
	// dot returns the dot product of x and groups of n units of codes, summed
	// in the order of the other dot products. Zero points are step bytes apart.
	dot func(x *float32, codes *byte, scales *float32, zeros *byte, step, groups, n int) float32
}

// levels lists what this machine can run, the slowest first.
func levels() []*ops { return append([]*ops{&portable}, nativeLevels(level.Have())...) }

// Levels names the CPU levels that this machine can run, the best last. The
// environment variable LLMC_CPU chooses another than the best.
func Levels() []string { return level.Have() }

// CheckLevel reports a value of LLMC_CPU that [NewCPU] does not understand, or
// that this machine cannot run.
func CheckLevel() error {
	asked := os.Getenv(level.Variable)
	switch {
	case asked == "" || slices.Contains(Levels(), asked):
		return nil
	case slices.Contains(level.All(), asked):
		return fault.Usage("LLMC_CPU is %q, which this machine cannot run: it has %s", asked, strings.Join(Levels(), ", "))
	}
	return fault.Usage("LLMC_CPU is %q, allowed are %s", asked, strings.Join(level.All(), ", "))
}

// chooseLevel returns the level that LLMC_CPU asks for, or the best one below
// it that the machine has; the best of all when it does not name a level.
func chooseLevel(asked string) *ops {
	name := level.Choose(asked)
	for _, o := range levels() {
		if o.level == name {
			return o
		}
	}
	return &portable
}
