//go:build !noasm && !purego

package blocks

import (
	"llmc/dtype"
	"llmc/kernels/internal/level"
)

// lanesOf returns the lanes of a level, nil for portable Go.
func lanesOf(name string) *lanes { return byLevel[name] }

var byLevel = map[string]*lanes{
	level.AVX2: {
		n:              8,
		transpose:      transposeAVX2,
		magnitudes:     magnitudesAVX2,
		squares:        squaresAVX2,
		spread:         spreadAVX2,
		symmetric:      symmetricAVX2,
		descend:        descendAVX2,
		nonlinear:      nonlinearAVX2,
		nonlinearCodes: nonlinearCodesAVX2,
		weigh:          weighAVX2,
		affineStart:    [2]affinePart{affineStartSquaredAVX2, affineStartAbsoluteAVX2},
		affineTrial:    [2]affinePart{affineTrialSquaredAVX2, affineTrialAbsoluteAVX2},
		affineCodes:    affineCodesAVX2,
		requantize:     requantizeAVX2,
		anyAbove:       anyAboveAVX2,
		rows: map[dtype.Type]func(dst *byte, src *float32, n int){
			dtype.Q8_0: roundQ8_0AVX2,
			dtype.Q4_0: roundQ4_0AVX2,
			dtype.Q4_1: roundQ4_1AVX2,
			dtype.Q5_0: roundQ5_0AVX2,
			dtype.Q5_1: roundQ5_1AVX2,
		},
	},
	level.AVX512: {
		n:              16,
		transpose:      transposeAVX512,
		magnitudes:     magnitudesAVX512,
		squares:        squaresAVX512,
		spread:         spreadAVX512,
		symmetric:      symmetricAVX512,
		descend:        descendAVX512,
		nonlinear:      nonlinearAVX512,
		nonlinearCodes: nonlinearCodesAVX512,
		weigh:          weighAVX512,
		affineStart:    [2]affinePart{affineStartSquaredAVX512, affineStartAbsoluteAVX512},
		affineTrial:    [2]affinePart{affineTrialSquaredAVX512, affineTrialAbsoluteAVX512},
		affineCodes:    affineCodesAVX512,
		requantize:     requantizeAVX512,
		anyAbove:       anyAboveAVX512,
		rows: map[dtype.Type]func(dst *byte, src *float32, n int){
			dtype.Q8_0: roundQ8_0AVX512,
			dtype.Q4_0: roundQ4_0AVX512,
			dtype.Q4_1: roundQ4_1AVX512,
			dtype.Q5_0: roundQ5_0AVX512,
			dtype.Q5_1: roundQ5_1AVX512,
		},
	},
}
