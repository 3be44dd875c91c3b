//go:build !noasm && !purego

package kernels

import (
	"slices"

	"golang.org/x/sys/cpu"

	"llmc/dtype"
	"llmc/kernels/internal/level"
)

// nativeLevels are the levels in assembly among those that this machine has.
func nativeLevels(have []string) []*ops {
	var found []*ops
	if slices.Contains(have, level.AVX2) {
		found = append(found, &avx2)
	}
	if slices.Contains(have, level.AVX512) {
		if !cpu.X86.HasAVX512VNNI {
			avx512.integer = avx2.integer
		}
		found = append(found, &avx512)
	}
	return found
}

var avx2 = ops{
	level: level.AVX2,
	lanes: 8,
	mr:    6, nr: 16,
	micro:       tiles(micro1AVX2, micro2AVX2, micro3AVX2, micro4AVX2, micro5AVX2, micro6AVX2),
	turn:        turning(8, transposeAVX2),
	dot:         dotProduct(8, dotsF32AVX2),
	add:         addition(8, addAVX2),
	addScaled:   scaledAddition(8, addScaledAVX2),
	scale:       scaling(8, scaleAVX2),
	sumSquares:  squares(8, sumSquaresAVX2),
	normalize:   normalization(8, normalizeAVX2),
	largest:     maximum(8, largestAVX2),
	expSum:      exponentials(8, expSumAVX2, expSumPortable),
	sumExp:      exponentials(8, sumExpAVX2, sumExpPortable),
	divergence:  divergences(8, divergenceAVX2),
	difference:  differences(8, differenceAVX2),
	moments:     moments(8, momentsAVX2),
	adam:        adamSteps(8, adamAVX2),
	pack:        map[dtype.Type]func(dst *byte, src *float32, n int){dtype.F16: packF16AVX2, dtype.BF16: packBF16AVX2, dtype.F8E4M3: packF8E4M3AVX2, dtype.F8E5M2: packF8E5M2AVX2},
	trials:      trialErrorsAVX2,
	weighed:     weighedTrialErrorsAVX2,
	trialLanes:  8,
	moveColumns: moveColumnsAVX2,
	gate:        [numActivations]gateFunc{gating(8, siluAVX2, siluPortable), gating(8, geluTanhAVX2, geluTanhPortable), geluPortable, reluPortable},
	gateGrad:    [numActivations]gateGradFunc{gateGrads(8, siluGradAVX2, siluGradPortable), gateGrads(8, geluTanhGradAVX2, geluTanhGradPortable), geluGradPortable, reluGradPortable},
	softmaxGrad: softmaxGrads(8, softmaxGradAVX2),
	rotate:      rotation(8, rotateAVX2),
	rotatePairs: pairRotation(8, rotatePairsAVX2),
	peak:        func(n int) float64 { peakAVX2(n); return 12 * 8 * 2 },
	formats: map[dtype.Type]*loops{
		dtype.F32:    {8, nil, dotsF32AVX2, nil},
		dtype.F16:    {8, unpackF16AVX2, dotsF16AVX2, nil},
		dtype.BF16:   {8, unpackBF16AVX2, dotsBF16AVX2, nil},
		dtype.F8E4M3: {8, unpackF8E4M3AVX2, dotsF8E4M3AVX2, nil},
		dtype.F8E5M2: {8, unpackF8E5M2AVX2, dotsF8E5M2AVX2, nil},
		dtype.Q8_0:   {32, unpackQ8_0AVX2, dotsQ8_0AVX2, nil},
		dtype.Q4_0:   {32, unpackQ4_0AVX2, dotsQ4_0AVX2, nil},
		dtype.Q4_1:   {32, unpackQ4_1AVX2, dotsQ4_1AVX2, nil},
		dtype.Q5_0:   {32, unpackQ5_0AVX2, dotsQ5_0AVX2, nil},
		dtype.Q5_1:   {32, unpackQ5_1AVX2, dotsQ5_1AVX2, nil},
		dtype.IQ4_NL: {32, unpackIQ4_NLAVX2, dotsIQ4_NLAVX2, nil},
		dtype.Q2_K:   {256, unpackQ2_KAVX2, dotsQ2_KAVX2, nil},
		dtype.Q3_K:   {256, unpackQ3_KAVX2, dotsQ3_KAVX2, nil},
		dtype.Q4_K:   {256, unpackQ4_KAVX2, dotsQ4_KAVX2, nil},
		dtype.Q5_K:   {256, unpackQ5_KAVX2, dotsQ5_KAVX2, nil},
		dtype.Q6_K:   {256, unpackQ6_KAVX2, dotsQ6_KAVX2, nil},
	},
	codes: map[int]*codeLoops{
		4: {4, 8, 32, unpackCodes4AVX2, dotCodes4AVX2},
		8: {8, 8, 32, unpackCodes8AVX2, dotCodes8AVX2},
	},
	integer: &integerOps{
		lanes:     8,
		transpose: transposeAVX2,
		quantize:  quantizeAVX2,
		peak:      func(n int) float64 { integerPeakAVX2(n); return 12 * 8 * 4 * 2 },
		panels: map[dtype.Type]panelLoop{
			dtype.Q8_0:   panelQ8_0AVX2,
			dtype.Q4_0:   panelQ4_0AVX2,
			dtype.Q4_1:   panelQ4_1AVX2,
			dtype.Q5_0:   panelQ5_0AVX2,
			dtype.Q5_1:   panelQ5_1AVX2,
			dtype.IQ4_NL: panelIQ4_NLAVX2,
			dtype.IQ4_XS: panelIQ4_XSAVX2,
			dtype.Q2_K:   panelQ2_KAVX2,
			dtype.Q3_K:   panelQ3_KAVX2,
			dtype.Q4_K:   panelQ4_KAVX2,
			dtype.Q5_K:   panelQ5_KAVX2,
			dtype.Q6_K:   panelQ6_KAVX2,
		},
		groups: map[int]groupLoop{2: panelGroups2AVX2, 3: panelGroups3AVX2, 4: panelGroups4AVX2, 8: panelGroups8AVX2},
	},
}

var avx512 = ops{
	level: level.AVX512,
	lanes: 16,
	mr:    14, nr: 32,
	micro: tiles(micro1AVX512, micro2AVX512, micro3AVX512, micro4AVX512, micro5AVX512, micro6AVX512, micro7AVX512,
		micro8AVX512, micro9AVX512, micro10AVX512, micro11AVX512, micro12AVX512, micro13AVX512, micro14AVX512),
	turn:        turning(16, transposeAVX512),
	dot:         dotProduct(16, dotsF32AVX512),
	add:         addition(16, addAVX512),
	addScaled:   scaledAddition(16, addScaledAVX512),
	scale:       scaling(16, scaleAVX512),
	sumSquares:  squares(16, sumSquaresAVX512),
	normalize:   normalization(16, normalizeAVX512),
	largest:     maximum(16, largestAVX512),
	expSum:      exponentials(16, expSumAVX512, expSumPortable),
	sumExp:      exponentials(16, sumExpAVX512, sumExpPortable),
	divergence:  divergences(16, divergenceAVX512),
	difference:  differences(16, differenceAVX512),
	moments:     moments(16, momentsAVX512),
	adam:        adamSteps(16, adamAVX512),
	pack:        map[dtype.Type]func(dst *byte, src *float32, n int){dtype.F16: packF16AVX512, dtype.BF16: packBF16AVX512, dtype.F8E4M3: packF8E4M3AVX512, dtype.F8E5M2: packF8E5M2AVX512},
	trials:      trialErrorsAVX512,
	weighed:     weighedTrialErrorsAVX512,
	trialLanes:  16,
	moveColumns: moveColumnsAVX512,
	gate:        [numActivations]gateFunc{gating(16, siluAVX512, siluPortable), gating(16, geluTanhAVX512, geluTanhPortable), geluPortable, reluPortable},
	gateGrad:    [numActivations]gateGradFunc{gateGrads(16, siluGradAVX512, siluGradPortable), gateGrads(16, geluTanhGradAVX512, geluTanhGradPortable), geluGradPortable, reluGradPortable},
	softmaxGrad: softmaxGrads(16, softmaxGradAVX512),
	rotate:      rotation(16, rotateAVX512),
	rotatePairs: pairRotation(16, rotatePairsAVX512),
	peak:        func(n int) float64 { peakAVX512(n); return 12 * 16 * 2 },
	formats: map[dtype.Type]*loops{
		dtype.F32:    {16, nil, dotsF32AVX512, nil},
		dtype.F16:    {16, unpackF16AVX512, dotsF16AVX512, batchF16AVX512},
		dtype.BF16:   {16, unpackBF16AVX512, dotsBF16AVX512, batchBF16AVX512},
		dtype.F8E4M3: {16, unpackF8E4M3AVX512, dotsF8E4M3AVX512, batchF8E4M3AVX512},
		dtype.F8E5M2: {16, unpackF8E5M2AVX512, dotsF8E5M2AVX512, batchF8E5M2AVX512},
		dtype.Q8_0:   {32, unpackQ8_0AVX512, dotsQ8_0AVX512, batchQ8_0AVX512},
		dtype.Q4_0:   {32, unpackQ4_0AVX512, dotsQ4_0AVX512, batchQ4_0AVX512},
		dtype.Q4_1:   {32, unpackQ4_1AVX512, dotsQ4_1AVX512, batchQ4_1AVX512},
		dtype.Q5_0:   {32, unpackQ5_0AVX512, dotsQ5_0AVX512, batchQ5_0AVX512},
		dtype.Q5_1:   {32, unpackQ5_1AVX512, dotsQ5_1AVX512, batchQ5_1AVX512},
		dtype.IQ4_NL: {32, unpackIQ4_NLAVX512, dotsIQ4_NLAVX512, batchIQ4_NLAVX512},
		dtype.Q2_K:   {256, unpackQ2_KAVX512, dotsQ2_KAVX512, batchQ2_KAVX512},
		dtype.Q3_K:   {256, unpackQ3_KAVX512, dotsQ3_KAVX512, batchQ3_KAVX512},
		dtype.Q4_K:   {256, unpackQ4_KAVX512, dotsQ4_KAVX512, batchQ4_KAVX512},
		dtype.Q5_K:   {256, unpackQ5_KAVX512, dotsQ5_KAVX512, batchQ5_KAVX512},
		dtype.Q6_K:   {256, unpackQ6_KAVX512, dotsQ6_KAVX512, batchQ6_KAVX512},
	},
	totals: totalsAVX512,
	codes: map[int]*codeLoops{
		4: {4, 16, 64, unpackCodes4AVX512, dotCodes4AVX512},
		8: {8, 16, 64, unpackCodes8AVX512, dotCodes8AVX512},
	},
	integer: &integerOps{
		lanes:     16,
		transpose: transposeAVX512,
		quantize:  quantizeAVX512,
		peak:      func(n int) float64 { integerPeakAVX512(n); return 12 * 16 * 4 * 2 },
		panels: map[dtype.Type]panelLoop{
			dtype.Q8_0:   panelQ8_0AVX512,
			dtype.Q4_0:   panelQ4_0AVX512,
			dtype.Q4_1:   panelQ4_1AVX512,
			dtype.Q5_0:   panelQ5_0AVX512,
			dtype.Q5_1:   panelQ5_1AVX512,
			dtype.IQ4_NL: panelIQ4_NLAVX512,
			dtype.IQ4_XS: panelIQ4_XSAVX512,
			dtype.Q2_K:   panelQ2_KAVX512,
			dtype.Q3_K:   panelQ3_KAVX512,
			dtype.Q4_K:   panelQ4_KAVX512,
			dtype.Q5_K:   panelQ5_KAVX512,
			dtype.Q6_K:   panelQ6_KAVX512,
		},
		groups: map[int]groupLoop{2: panelGroups2AVX512, 3: panelGroups3AVX512, 4: panelGroups4AVX512, 8: panelGroups8AVX512},
	},
}
