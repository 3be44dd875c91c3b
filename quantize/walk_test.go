package quantize

import (
	"context"
	"math"
	"testing"

	"llmc/dtype"
	"llmc/internal/tinymodel"
	"llmc/kernels"
)

// TestFastCalibration: with integer products the linears see inputs that are
// off by the rounding of activations, and lose about as much as without.
func TestFastCalibration(t *testing.T) {
	scheme := Scheme{Bits: 4, GroupSize: 32, Symmetric: true, ScaleType: dtype.BF16}
	lost := func(c kernels.Compute) (squares float64) {
		w := tinyWeights(t, tinymodel.Spec{Hidden: 64, FFN: 96, Heads: 4, KVHeads: 2, Layers: 3, Seed: 8})
		plan, err := NewPlan(&w.Config, Describe(w), Policy{Scheme: scheme})
		if err != nil {
			t.Fatal(err)
		}
		run := NewRun(w, plan, GPTQSolver{}, 2)
		dev := kernels.NewCPUFor(c, 2)
		defer dev.Close()
		if err := run.Calibrate(context.Background(), dev, someWindows, run.CalibrationOptions()); err != nil {
			t.Fatal(err)
		}
		for _, r := range run.Results() {
			squares += *r.Solution.OutputError * *r.Solution.OutputError
		}
		return squares
	}
	exact, fast := lost(kernels.Exact), lost(kernels.Fast)
	if exact == fast {
		t.Error("the activations were not rounded")
	}
	if math.Abs(fast/exact-1) > 0.02 {
		t.Errorf("squared output errors add up to %g, %g with exact activations", fast, exact)
	}
}
