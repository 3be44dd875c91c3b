package kernels

import (
	"os"
	"slices"
	"strings"

	"llmc/internal/fault"
)

// ops is the set of inner loops of one CPU level. The portable functions are
// the definition; the others may sum in another order. Slices are as long as
// the comments say, and may be longer where they say "at least"; nothing past
// the stated length is written.
type ops struct {
	level string

	// The matrix product: tiles of up to mr rows and exactly nr columns.
	mr, nr int
	// micro sets c[i*ldc+j], or adds to it, to the sum over p < k of
	// a[i*lda+p] * b[p*nr+j], for i < rows <= mr and j < nr, in the order of p.
	micro func(rows, k int, a []float32, lda int, b, c []float32, ldc int, accumulate bool)
	// transpose sets panel[p*nr+j] to src[j*ld+p] for p < k, j < rows, and to
	// zero for rows <= j < nr.
	transpose func(panel, src []float32, ld, rows, k int)

	// dot returns the sum of x[i]*y[i]; y is at least as long as x.
	dot func(x, y []float32) float32
	// add sets dst to dst+x, which is at least as long.
	add func(dst, x []float32)
	// scale multiplies x by s.
	scale func(x []float32, s float32)
	// sumSquares returns the float64 sum of x[i]*x[i].
	sumSquares func(x []float32) float64
	// normalize sets dst to (x*s)*w; x and w are at least as long as dst.
	normalize func(dst, x, w []float32, s float32)
	// largest returns the largest number of x, -Inf for none. NaN is passed over.
	largest func(x []float32) float32
	// expSum sets x to exp(x*s - shift) and returns the sum of that.
	expSum func(x []float32, s, shift float32) float64
	// gate sets dst to act(g) * up.
	gate [numActivations]func(dst, g, up []float32)
	// rotate turns the pairs (lo[j], hi[j]) by the angles of cos and sin.
	rotate func(lo, hi, cos, sin []float32)
}

// levels lists what this machine can run, the slowest first.
func levels() []*ops { return append([]*ops{&portable}, nativeLevels()...) }

// Levels names the CPU levels that this machine can run, the best last. The
// environment variable LLMC_CPU chooses another than the best.
func Levels() []string {
	var names []string
	for _, o := range levels() {
		names = append(names, o.level)
	}
	return names
}

// allLevels are the names that LLMC_CPU may have, the slowest first.
var allLevels = []string{"portable", "avx2", "avx512"}

// CheckLevel reports a value of LLMC_CPU that [NewCPU] does not understand, or
// that this machine cannot run.
func CheckLevel() error {
	asked := os.Getenv("LLMC_CPU")
	switch {
	case asked == "" || slices.Contains(Levels(), asked):
		return nil
	case slices.Contains(allLevels, asked):
		return fault.Usage("LLMC_CPU is %q, which this machine cannot run: it has %s", asked, strings.Join(Levels(), ", "))
	}
	return fault.Usage("LLMC_CPU is %q, allowed are %s", asked, strings.Join(allLevels, ", "))
}

// chooseLevel returns the level that LLMC_CPU asks for, or the best one below
// it that the machine has; the best of all when it does not name a level.
func chooseLevel(asked string) *ops {
	have := levels()
	limit := slices.Index(allLevels, asked)
	if limit < 0 {
		return have[len(have)-1]
	}
	best := have[0]
	for _, o := range have {
		if slices.Index(allLevels, o.level) <= limit {
			best = o
		}
	}
	return best
}
