package main

import (
	"fmt"
	"strings"

	"llmc/internal/fault"
	"llmc/internal/solve"
	"llmc/quantize"
)

// zerosReport is what of some weights is zero, before and after.
type zerosReport struct {
	Weights int64 `json:"weights"`
	Before  int64 `json:"zeros_before"`
	Zeros   int64 `json:"zeros"`
	// PackedBytes is what all tensors would take with bitmasks: a bit for every
	// weight and the numbers of those that are not zero, where that is smaller.
	// Engines and their files do not do so.
	PackedBytes int64 `json:"packed_bytes,omitempty"`
}

// add counts a matrix whose weights take so many bits each.
func (z *zerosReport) add(weights, before, zeros, bits int) {
	z.Weights += int64(weights)
	z.Before += int64(before)
	z.Zeros += int64(zeros)
	z.PackedBytes -= max(0, int64(zeros)*int64(bits)-int64(weights)) / 8
}

// zeros settles which zeros stay.
func (o *quantizeOptions) zeros() (quantize.Zeros, error) {
	switch {
	case !o.given("keep-zeros"):
		return quantize.ZerosOfPruned, nil
	case o.keepZeros:
		return quantize.ZerosAll, nil
	case !strings.Contains(o.method, "gptq"):
		return 0, fault.Usage("--keep-zeros=false says how gptq rounds, and the method is %s, which moves no zeros", o.method)
	}
	return quantize.ZerosNone, nil
}

// checkZeros refuses types without a zero where zeros are to stay.
func (q *quantization) checkZeros() error {
	for i := range q.plan.Entries {
		if e := &q.plan.Entries[i]; e.Rounds() && !e.To.HoldsZeros() {
			return fault.Hint(fault.Usage("--keep-zeros: %s becomes %s, which has no exact zero", e.Name, e.To),
				"types with one are Q8_0, Q6_K, Q5_0, Q4_0, Q3_K and MXFP4, and codes in groups (--to compressed-tensors)")
		}
	}
	return nil
}

// countZeros sums up the zeros of what was rounded.
func (q *quantization) countZeros() {
	z := zerosReport{PackedBytes: q.report.BytesAfter}
	pruned := false
	for _, result := range q.run.Results() {
		e, s := result.Entry, result.Stats
		weights := e.Shape[0] * e.Shape[1]
		z.add(weights, s.ZerosBefore, s.Zeros, e.To.CodeBits())
		pruned = pruned || solve.LooksPruned(s.ZerosBefore, weights) || solve.LooksPruned(s.Zeros, weights)
	}
	if pruned {
		q.report.Zeros = &z
	}
}

// printZeros says what became of the zeros of a pruned model.
func (r *quantizeReport) printZeros(ui *ui) {
	z := r.Zeros
	if z == nil || z.Weights == 0 {
		return
	}
	share := func(n int64) string { return percentString(float64(n) / float64(z.Weights)) }
	spread := ""
	if r.ZerosBy != nil {
		spread = fmt.Sprintf(", spread by %s", r.ZerosBy.Name)
	}
	ui.print("zeros: %s of the rounded weights before, %s after%s", share(z.Before), share(z.Zeros), spread)
	printPermuted(ui, r.Pattern, r.Permuted)
	if z.Zeros < z.Before {
		ui.print("types with minima and nonlinear levels (Q2_K, Q4_K, Q5_K, Q4_1, Q5_1, IQ4_NL, IQ4_XS) have no exact zero")
	}
	if z.PackedBytes < r.BytesAfter {
		ui.print("%s with bitmasks: a bit for every weight, and the numbers of those that are not zero", bytesString(z.PackedBytes))
	}
}
