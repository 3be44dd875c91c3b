// Package blocks reads and writes ggml's block types: runs of 32, 64 or 256
// numbers that share their scales (ggml-common.h and ggml-quants.c of
// llama.cpp are the specification).
//
// Start with [Dequantize] and [Quantize], which work on rows of any type. The
// arithmetic is ggml's reference as plain C computes it, operation by operation
// in float32, so that results are the same bits on every machine. Every product
// that is added to something is converted first, because Go may fuse the two on
// some machines, across statements and inlined calls too. A ggml whose compiler
// was allowed to fuse them (-march=native) picks other codes in some blocks.
package blocks

import (
	"encoding/binary"
	"fmt"

	"llmc/dtype"
)

// dequantizers holds, for each type, the function that expands whole blocks:
// src is any number of blocks, dst has room for their values.
var dequantizers = [...]func(dst []float32, src []byte){
	dtype.Q4_0:    dequantizeQ4_0,
	dtype.Q4_1:    dequantizeQ4_1,
	dtype.Q5_0:    dequantizeQ5_0,
	dtype.Q5_1:    dequantizeQ5_1,
	dtype.Q8_0:    dequantizeQ8_0,
	dtype.Q8_1:    dequantizeQ8_1,
	dtype.Q2_K:    dequantizeQ2K,
	dtype.Q3_K:    dequantizeQ3K,
	dtype.Q4_K:    dequantizeQ4K,
	dtype.Q5_K:    dequantizeQ5K,
	dtype.Q6_K:    dequantizeQ6K,
	dtype.Q8_K:    dequantizeQ8K,
	dtype.IQ1_S:   dequantizeIQ1S,
	dtype.IQ1_M:   dequantizeIQ1M,
	dtype.IQ2_XXS: dequantizeIQ2XXS,
	dtype.IQ2_XS:  dequantizeIQ2XS,
	dtype.IQ2_S:   dequantizeIQ2S,
	dtype.IQ3_XXS: dequantizeIQ3XXS,
	dtype.IQ3_S:   dequantizeIQ3S,
	dtype.IQ4_NL:  dequantizeIQ4NL,
	dtype.IQ4_XS:  dequantizeIQ4XS,
	dtype.TQ1_0:   dequantizeTQ1_0,
	dtype.TQ2_0:   dequantizeTQ2_0,
	dtype.MXFP4:   dequantizeMXFP4,
	dtype.NVFP4:   dequantizeNVFP4,
}

// Dequantize expands blocks of type t: dst holds a whole number of blocks'
// values, src the bytes of just as many. Types that are not block types and
// lengths that do not fit are programming errors and panic.
func Dequantize(t dtype.Type, dst []float32, src []byte) {
	if int(t) >= len(dequantizers) || dequantizers[t] == nil {
		panic(fmt.Sprintf("blocks: %s is not a block type", t))
	}
	if want, whole := t.RowBytes(len(dst)); !whole || want != len(src) {
		panic(fmt.Sprintf("blocks: %d bytes of %s for %d values", len(src), t, len(dst)))
	}
	dequantizers[t](dst, src)
}

// half reads a half-precision number at the start of b.
func half(b []byte) float32 { return dtype.F16ToF32(binary.LittleEndian.Uint16(b)) }
