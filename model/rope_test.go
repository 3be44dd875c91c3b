package model

import (
	"math"
	"testing"
)

// TestFrequencies compares with what transformers 5.23 computes (in float32,
// printed with 7 digits), and with the formula by hand for the plain kind.
func TestFrequencies(t *testing.T) {
	yarn := Rope{
		Type: RopeYaRN, Theta: 1e4, Dims: 16, Factor: 4, OriginalContext: 64,
		BetaFast: 32, BetaSlow: 1, AttnFactor: yarnAttnFactor(4, 1),
	}
	beta := Rope{
		Type: RopeYaRN, Theta: 1e6, Dims: 16, Factor: 8, OriginalContext: 4096,
		BetaFast: 16, BetaSlow: 2, AttnFactor: yarnAttnFactor(8, 1),
	}
	whole := yarn
	whole.NoTruncate, whole.AttnFactor = true, yarnAttnFactor(4, 0.7)/yarnAttnFactor(4, 0.4)
	for name, tt := range map[string]struct {
		rope  Rope
		inv   []float64
		scale float64
	}{
		"default": {Rope{Type: RopeDefault, Theta: 1e4, Dims: 4}, []float64{1, 0.01}, 1},
		"linear":  {Rope{Type: RopeLinear, Theta: 1e4, Dims: 8, Factor: 4}, []float64{0.25, 0.025, 0.0025, 0.00025}, 1},
		"llama3": {
			Rope{Type: RopeLlama3, Theta: 5e5, Dims: 16, Factor: 8, LowFreq: 1, HighFreq: 4, OriginalContext: 8192},
			[]float64{1, 0.1939228, 0.03760603, 0.007292665, 0.000524846, 3.428102e-05, 6.64787e-06, 1.289173e-06}, 1,
		},
		"yarn": {yarn, []float64{1, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05}, 1.138629436111989},
		"yarn with other betas": {
			beta, []float64{1, 0.1778279, 0.03162278, 0.00316317, 0.000125, 2.222849e-05, 3.952847e-06, 7.029267e-07}, 1.2079441541679836,
		},
		"yarn, mscale, not truncated": {
			whole, []float64{1, 0.1985835, 0.02559525, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05}, 1.0394038191422568,
		},
	} {
		inv, scale := tt.rope.Frequencies()
		if math.Abs(scale-tt.scale) > 1e-12 {
			t.Errorf("%s: cosine and sine are multiplied by %v, want %v", name, scale, tt.scale)
		}
		if len(inv) != len(tt.inv) {
			t.Errorf("%s: %d frequencies, want %d", name, len(inv), len(tt.inv))
			continue
		}
		for j := range inv {
			if math.Abs(inv[j]-tt.inv[j]) > 2e-6*tt.inv[j] {
				t.Errorf("%s: frequency %d is %.7g, want %.7g", name, j, inv[j], tt.inv[j])
			}
		}
	}
}

// TestMatchLlama3 finds the scaling that a GGUF file's factors came from.
func TestMatchLlama3(t *testing.T) {
	want := Rope{Type: RopeLlama3, Theta: 5e5, Dims: 128, Factor: 32, LowFreq: 1, HighFreq: 4, OriginalContext: 8192}
	var factors []float32
	for _, f := range want.Llama3Factors() {
		factors = append(factors, float32(f))
	}
	base := Rope{Type: RopeDefault, Theta: 5e5, Dims: 128}
	if got, ok := MatchLlama3(base, factors); !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
	factors[40] *= 1.01
	if got, ok := MatchLlama3(base, factors); ok || got != base {
		t.Errorf("factors that Llama 3 does not have match as %+v", got)
	}
	if _, ok := MatchLlama3(base, nil); ok {
		t.Error("no factors match")
	}
}
