package model

import (
	"errors"
	"math"

	"llmc/internal/fault"
	"llmc/kernels"
)

// RopeType is how rotation frequencies are stretched for long contexts.
type RopeType string

// The supported kinds of scaling, as transformers spells them.
const (
	RopeDefault RopeType = "default"
	RopeLinear  RopeType = "linear" // all frequencies divided by Factor
	RopeLlama3  RopeType = "llama3" // low frequencies divided, high ones kept
	RopeYaRN    RopeType = "yarn"   // arXiv 2309.00071
)

// Rope is the rotary position embedding of a model (arXiv 2104.09864).
// Fields past Dims belong to the scaling types that the comment names.
type Rope struct {
	Type  RopeType
	Theta float64 // base of the frequencies
	Dims  int     // elements of each head that rotate, even

	Factor          float64 // all but default
	OriginalContext int     // llama3, yarn
	LowFreq         float64 // llama3
	HighFreq        float64 // llama3
	BetaFast        float64 // yarn
	BetaSlow        float64 // yarn
	AttnFactor      float64 // yarn: multiplies cosine and sine
	NoTruncate      bool    // yarn: the ramp's ends are not rounded to whole dimensions
}

// validate checks the numbers a configuration gave.
func (r *Rope) validate(headDim int, name func(string) string) error {
	positive := func(key string, v float64) error {
		if !(v > 0) || math.IsInf(v, 0) {
			return fault.Invalid("%s is %g, allowed is more than 0", name(key), v)
		}
		return nil
	}
	if r.Dims < 2 || r.Dims%2 != 0 || r.Dims > headDim {
		return fault.Invalid("%d of %d elements of each head rotate, allowed is an even number from 2 on: see %s, %s", r.Dims, headDim, name("head_dim"), name("partial_rotary_factor"))
	}
	if !(r.Theta > 1) || math.IsInf(r.Theta, 0) {
		return fault.Invalid("%s is %g, allowed is more than 1", name("rope_theta"), r.Theta)
	}
	if r.Type == RopeDefault {
		return nil
	}
	if err := positive("rope_scaling.factor", r.Factor); err != nil {
		return err
	}
	if r.Type == RopeLinear {
		return nil
	}
	if r.OriginalContext < 1 || r.OriginalContext > maxContext {
		return fault.Invalid("%s is %d, allowed is 1 to %d", name("rope_scaling.original_max_position_embeddings"), r.OriginalContext, maxContext)
	}
	if r.Type == RopeLlama3 {
		if err := positive("rope_scaling.low_freq_factor", r.LowFreq); err != nil {
			return err
		}
		if !(r.HighFreq > r.LowFreq) || math.IsInf(r.HighFreq, 0) {
			return fault.Invalid("%s is %g, allowed is more than low_freq_factor, %g", name("rope_scaling.high_freq_factor"), r.HighFreq, r.LowFreq)
		}
		return nil
	}
	return errors.Join(
		positive("rope_scaling.beta_fast", r.BetaFast),
		positive("rope_scaling.beta_slow", r.BetaSlow),
		positive("rope_scaling.attention_factor", r.AttnFactor))
}

// Frequencies returns how far each pair of elements turns per position, and
// what cosine and sine are multiplied by, as transformers computes them
// (modeling_rope_utils.py), in float64.
func (r *Rope) Frequencies() (inv []float64, scale float64) {
	inv = make([]float64, r.Dims/2)
	for j := range inv {
		inv[j] = math.Pow(r.Theta, -2*float64(j)/float64(r.Dims))
	}
	switch r.Type {
	case RopeLinear:
		for j := range inv {
			inv[j] /= r.Factor
		}
	case RopeLlama3:
		for j, f := range r.Llama3Factors() {
			inv[j] /= f
		}
	case RopeYaRN:
		r.yarn(inv)
		return inv, r.AttnFactor
	}
	return inv, 1
}

// Llama3Factors returns what Llama 3.1's scaling divides each frequency by:
// 1 for wavelengths that fit the original context HighFreq times, Factor for
// those that do not fit it LowFreq times, a blend between. GGUF stores these
// numbers as the tensor rope_freqs.
func (r *Rope) Llama3Factors() []float64 {
	factors := make([]float64, r.Dims/2)
	for j := range factors {
		inv := math.Pow(r.Theta, -2*float64(j)/float64(r.Dims))
		turns := float64(r.OriginalContext) * inv / (2 * math.Pi)
		switch {
		case turns > r.HighFreq:
			factors[j] = 1
		case turns < r.LowFreq:
			factors[j] = r.Factor
		default:
			smooth := (turns - r.LowFreq) / (r.HighFreq - r.LowFreq)
			factors[j] = 1 / ((1-smooth)/r.Factor + smooth)
		}
	}
	return factors
}

// yarn blends each frequency with the one divided by Factor, along a ramp
// over the dimensions whose wavelengths fit the original context between
// BetaFast and BetaSlow times (section 3.2 of arXiv 2309.00071).
func (r *Rope) yarn(inv []float64) {
	dim := float64(r.Dims)
	at := func(turns float64) float64 {
		return dim * math.Log(float64(r.OriginalContext)/(turns*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	low, high := at(r.BetaFast), at(r.BetaSlow)
	if !r.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, dim-1)
	if low == high {
		high += 0.001
	}
	for j := range inv {
		ramp := min(max((float64(j)-low)/(high-low), 0), 1)
		inv[j] = inv[j]/r.Factor*ramp + inv[j]*(1-ramp)
	}
}

// yarnAttnFactor is the paper's temperature for a stretch by factor, with the
// multiplier that DeepSeek's configurations add (1 for the paper's own).
func yarnAttnFactor(factor, mscale float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*mscale*math.Log(factor) + 1
}

// kernel returns the rotation for a device. factors, when not nil, divide the
// frequencies one by one.
func (r *Rope) kernel(interleaved bool, factors []float32) *kernels.Rope {
	inv, scale := r.Frequencies()
	for j, f := range factors {
		inv[j] /= float64(f)
	}
	return &kernels.Rope{InvFreq: inv, Scale: scale, Interleaved: interleaved}
}

// MatchLlama3 finds the scaling that GGUF's rope_freqs tensor was made from:
// the factor is its largest number, the rest are the constants that every
// Llama 3.1 to 3.3 uses. ok is false when those do not reproduce the tensor.
func MatchLlama3(base Rope, factors []float32) (r Rope, ok bool) {
	r = base
	r.Type, r.LowFreq, r.HighFreq = RopeLlama3, 1, 4
	for _, f := range factors {
		r.Factor = max(r.Factor, float64(f))
	}
	for _, r.OriginalContext = range []int{8192, 4096, 16384, 32768} {
		if sameFactors(r.Llama3Factors(), factors) {
			return r, true
		}
	}
	return base, false
}

func sameFactors(want []float64, got []float32) bool {
	if len(want) != len(got) {
		return false
	}
	for i, w := range want {
		if math.Abs(w-float64(got[i])) > 1e-4*w {
			return false
		}
	}
	return true
}
