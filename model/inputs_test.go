package model

import (
	"math"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/kernels"
)

// rounded is r for a whole token in float64, from the definition. Symmetric
// integers with a scale of the token's own are not there: their largest number
// is in the middle of two codes, 127.5, so that its last bit decides.
func rounded(r kernels.Rounding, x []float64) []float64 {
	lo, hi := min(0, slices.Min(x)), max(0, slices.Max(x))
	steps := math.Exp2(float64(r.Bits)) - 1
	least := -math.Exp2(float64(r.Bits - 1))
	scale, zero := float64(r.Scale), 0.0
	switch {
	case r.Static:
	case r.Float:
		scale = max(-lo, hi) / 448
	case r.Asymmetric:
		scale = (hi - lo) / steps
		zero = math.RoundToEven(least - lo/scale)
	}
	out := make([]float64, len(x))
	for i, v := range x {
		q := v / scale
		if r.Float {
			q = float64(dtype.F8E4M3ToF32(dtype.F32ToF8E4M3(float32(min(max(q, -448), 448)))))
		} else {
			q = math.RoundToEven(min(max(q+zero, least), least+steps)) - zero
		}
		out[i] = q * scale
	}
	return out
}

// TestRoundedInputs runs models whose linears round what they multiply, but
// for those of block 1 and the head.
func TestRoundedInputs(t *testing.T) {
	for _, r := range []kernels.Rounding{
		{Bits: 8, Asymmetric: true}, {Bits: 4, Asymmetric: true}, {Bits: 8, Float: true}, {Bits: 8, Static: true, Scale: 0.0625},
	} {
		t.Run(r.String(), func(t *testing.T) {
			ref := references()[2]
			config, tensors := packedModel(t, ref, r)
			exact := slices.Concat(ref.logits(tokens)...)
			ref.round = func(module string, x []float64) []float64 {
				if !strings.HasSuffix(module, "_proj") || strings.Contains(module, ".layers.1.") {
					return x
				}
				return rounded(r, x)
			}
			c := openRaw(t, config, tensors)
			m := load(t, c, 0)
			var seen float32
			m.SetHook(func(_ int, to Input, in *kernels.Tensor) {
				if to.Roles[0] == Q {
					seen = in.Data[0]
				}
			})
			compare(t, "rounded", run(t, m, m.NewState(), tokens), slices.Concat(ref.logits(tokens)...), 1e-5)
			if step := float64(seen / r.Scale); r.Static && math.Abs(step-math.Round(step)) < 1e-3 {
				t.Errorf("the hook sees %g, which is rounded", seen)
			}

			w, err := Open(c)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := w.InputsOfMost(); err != nil || got.String() != r.String() {
				t.Errorf("most linears round %s, %v, want %s", got, err, r)
			}
			w.KeepInputs()
			if m, err = New(kernels.NewCPU(1), w); err != nil {
				t.Fatal(err)
			}
			compare(t, "as they are", run(t, m, m.NewState(), tokens), exact, 1e-5)
			w.RoundInputs(ID{Role: Down, Block: 2}, r)
			if got, err := w.Inputs(ID{Role: Down, Block: 2}); err != nil || got != r {
				t.Errorf("inputs are rounded %+v, %v, want %+v", got, err, r)
			}
		})
	}
}

// TestRoundedCache: keys, after they are rotated, and values are rounded head by
// head, whatever the pieces a sequence comes in.
func TestRoundedCache(t *testing.T) {
	for _, ref := range references() {
		t.Run(ref.name, func(t *testing.T) {
			m := load(t, ref.open(t), 0)
			exact := slices.Concat(ref.logits(tokens)...)
			ref.store = func(head []float64) []float64 { return q4_0(head) }
			want := slices.Concat(ref.logits(tokens)...)
			if slices.Equal(exact, want) {
				t.Fatal("rounding changes nothing")
			}
			s := m.NewStateOf(4)
			// A scale between two half-precision numbers may become either.
			compare(t, "at once", run(t, m, s, tokens), want, 1e-4)
			s.Truncate(3)
			compare(t, "from 3 on", run(t, m, s, tokens[3:]), want[3*refVocab:], 1e-4)
		})
	}
}

// q4_0 rounds at most 32 numbers as ggml's Q4_0: the largest magnitude is code
// -8, and the scale is stored in half precision.
func q4_0(x []float64) []float64 {
	top := 0.0
	for _, v := range x {
		if math.Abs(v) > math.Abs(top) {
			top = v
		}
	}
	scale := top / -8
	stored := float64(dtype.F16ToF32(dtype.F32ToF16(float32(scale))))
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = stored * (math.Floor(min(v/scale+8.5, 15)) - 8)
	}
	return out
}
