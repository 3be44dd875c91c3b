// Package level names the instruction sets that kernels are written for and
// chooses one of them.
package level

import (
	"os"
	"slices"
)

// The levels. Portable is Go; the others are assembly for amd64.
const (
	Portable = "portable"
	AVX2     = "avx2"   // with FMA and F16C
	AVX512   = "avx512" // F, BW, DQ and VL
)

// Variable is the environment variable that asks for a level.
const Variable = "LLMC_CPU"

// All returns every level, the slowest first.
func All() []string { return []string{Portable, AVX2, AVX512} }

// Have returns the levels that this machine can run, the slowest first.
func Have() []string { return append([]string{Portable}, native()...) }

// Chosen returns the level that the environment asks for.
func Chosen() string { return Choose(os.Getenv(Variable)) }

// Choose returns the level asked for, or the best one below it that the machine
// has; the best of all when asked does not name a level.
func Choose(asked string) string {
	have := Have()
	limit := slices.Index(All(), asked)
	for i := len(have) - 1; i > 0; i-- {
		if limit < 0 || slices.Index(All(), have[i]) <= limit {
			return have[i]
		}
	}
	return Portable
}
