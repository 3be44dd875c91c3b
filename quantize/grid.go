package quantize

import (
	"errors"
	"math"
	"sync"

	"llmc/dtype"
	"llmc/kernels"
)

// Clip is how the range of a group is chosen.
type Clip uint8

// The ways to choose a range.
const (
	ClipNone   Clip = iota // the largest magnitude is just inside
	ClipMSE                // the range is shrunk to where the squared error is least
	ClipOutput             // to where the error of the output on the calibration text is least
)

// ParseClip returns the Clip that a command line names.
func ParseClip(name string) (Clip, bool) {
	switch name {
	case "", "none":
		return ClipNone, true
	case "mse":
		return ClipMSE, true
	case "output":
		return ClipOutput, true
	}
	return ClipNone, false
}

// String returns the name ParseClip reads.
func (c Clip) String() string {
	switch c {
	case ClipMSE:
		return "mse"
	case ClipOutput:
		return "output"
	}
	return "none"
}

// The clip search of GPTQ's quantizer: ranges of 100%, 99%, ... 21%.
const (
	clipSteps  = 100
	clipTrials = 80
)

// Grid is the numbers that a group of weights can take: Scale * (code - Zero)
// for codes 0 to Max, or Scale times the numbers of E4M3 up to 448.
type Grid struct {
	Scale float32
	Zero  uint8
	Max   uint8 // 2^bits - 1
	Float bool

	by float32 // the scale that codes go by
}

// maxFloat8 is the largest number of E4M3.
const maxFloat8 = 448

// Code returns the code nearest to x, of two as near the even one. With a zero
// point and few bits it goes by the scale as it was before it was rounded to what
// a file holds. Weights that come from a file of few bits lie in the middle between
// two numbers in whole groups, and a rounded scale would send all of a group to the
// same side: SmolLM2-135M, which was a Q4_1 file, loses 3% more by it at 4 bits in
// groups of 32, and Gemma 3 270M, a Q4_K_M file, 9% at 3 bits, though the weights'
// errors are the same to three digits.
func (g Grid) Code(x float32) uint8 {
	if g.Float {
		return dtype.F32ToF8E4M3(min(max(x/g.Scale, -maxFloat8), maxFloat8))
	}
	// Adding and taking away 1.5*2^23 leaves a float32 rounded to an integer.
	const magic = 3 << 22
	v := min(max(x/g.by+float32(g.Zero), 0), float32(g.Max))
	return uint8(int32(v + magic - magic))
}

// Value returns the number that a code stands for.
func (g Grid) Value(code uint8) float32 {
	if g.Float {
		return g.Scale * dtype.F8E4M3ToF32(code)
	}
	return g.Scale * float32(int32(code)-int32(g.Zero))
}

var (
	errNotFinite = errors.New("holds NaN or infinity")
	errScale     = errors.New("has weights too large for scales of the chosen type")
)

// FitGrid chooses the grid of one group x.
//
// Symmetric grids take scale = absmax / (2^(bits-1) - 1/2), asymmetric ones
// (max - min) / (2^bits - 1) with 0 inside the range: the conventions of GPTQ
// and compressed-tensors, under which no weight is off by more than half a
// step; 8-bit floats absmax / 448. ClipMSE minimises the sum of importance * error² instead (importance
// nil means 1), over the same grid of shrunk ranges as GPTQ's quantizer.
func FitGrid(s Scheme, clip Clip, x, importance []float32) (Grid, error) {
	lo, hi := float32(0), float32(0)
	for _, v := range x {
		if v-v != 0 { // NaN and infinities
			return Grid{}, errNotFinite
		}
		lo, hi = min(lo, v), max(hi, v)
	}
	best := s.rangeGrid(lo, hi)
	if math.IsInf(float64(best.Scale), 0) {
		return Grid{}, errScale
	}
	if clip != ClipMSE || (lo == 0 && hi == 0) {
		return best, nil
	}
	t := trialPool.Get().(*trials)
	defer trialPool.Put(t)
	t.grids[0] = best
	for i := 1; i < clipTrials; i++ {
		shrink := 1 - float32(i)/clipSteps
		t.grids[i] = s.rangeGrid(lo*shrink, hi*shrink)
	}
	t.measure(x, importance)
	least := 0
	for i, e := range t.errors {
		if e < t.errors[least] {
			least = i
		}
	}
	return t.grids[least], nil
}

// trials are the grids of one search and the sums of importance * error² on each.
type trials struct {
	grids                       [clipTrials]Grid
	errors, scales, lows, highs [clipTrials]float32
}

var trialPool = sync.Pool{New: func() any { return new(trials) }}

// measure sets the errors of a group.
func (t *trials) measure(x, importance []float32) {
	if t.grids[0].Float {
		for i, g := range t.grids {
			t.errors[i] = floatError(g, x, importance)
		}
		return
	}
	for i, g := range t.grids {
		t.scales[i], t.lows[i], t.highs[i] = g.Scale, -float32(g.Zero), float32(g.Max)-float32(g.Zero)
	}
	grids := kernels.Trials{Scales: t.scales[:], Lows: t.lows[:], Highs: t.highs[:]}
	grids.Errors(t.errors[:], x, importance)
}

// rangeGrid is the grid that covers lo <= 0 <= hi.
func (s Scheme) rangeGrid(lo, hi float32) Grid {
	g := Grid{Max: uint8(1<<s.Bits - 1)}
	if s.Float {
		g.Float, g.Scale = true, s.roundScale(float64(max(-lo, hi))/maxFloat8)
		return g
	}
	if s.Symmetric {
		g.Zero = uint8(1 << (s.Bits - 1))
		g.Scale = s.roundScale(float64(max(-lo, hi)) / (float64(g.Max) / 2))
		g.by = g.Scale
		return g
	}
	// Where rounding the scale moves the ends of the range by more than a sixteenth
	// of a step, as at 8 bits, or it is too small for its type, codes go by what is
	// held.
	top, span := float64(g.Max), float64(hi)-float64(lo)
	g.Scale, g.by = s.roundScale(span/top), float32(span/top)
	zero := -float64(lo) * top / span
	if math.Abs(float64(g.by-g.Scale))*top > float64(g.Scale)/16 {
		g.by, zero = g.Scale, float64(-lo/g.Scale)
	}
	g.Zero = uint8(min(max(math.RoundToEven(zero), 0), top))
	return g
}

// roundScale rounds a scale to what is stored. A scale of nothing but zeros is
// 1; one too small for the type is its smallest positive number.
func (s Scheme) roundScale(exact float64) float32 {
	scale := float32(exact)
	if scale == 0 {
		return 1
	}
	switch s.ScaleType {
	case dtype.F16:
		return dtype.F16ToF32(max(dtype.F32ToF16(scale), 1))
	case dtype.BF16:
		return dtype.BF16ToF32(max(dtype.F32ToBF16(scale), 1))
	}
	return scale
}

// floatError is the sum of importance * error² of a group on a grid of floats.
func floatError(g Grid, x, importance []float32) float32 {
	var sum float32
	for i, v := range x {
		d := v - dtype.RoundF8E4M3(v/g.Scale)*g.Scale
		if d *= d; importance != nil {
			d *= importance[i]
		}
		sum += d
	}
	return sum
}
