// Package kernels is the arithmetic of a transformer: dense and packed
// matrices, matrix products, attention, norms. Portable Go defines every
// operation; amd64 assembly (AVX2, AVX-512) does the same faster, chosen at
// run time.
//
// Start with [NewCPU], which returns a [Device], and with [Dense] and [Groups],
// the two kinds of weight matrices.
package kernels
