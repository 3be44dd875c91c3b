// Package dtype names the number formats that tensors have on disk and in
// memory: the scalar types of safetensors and the block types of ggml.
//
// Start with [Type] for what a format is called and how many bytes it takes,
// and with [F16ToF32], [BF16ToF32] and their inverses for single numbers.
package dtype

import "fmt"

// Type is the number format of a tensor. Scalar types store one value at a
// time; block types store BlockSize values in BlockBytes bytes, with their
// scales, as ggml lays them out (ggml-common.h of llama.cpp).
type Type uint8

// The scalar types, then ggml's block types.
const (
	Invalid Type = iota
	F64
	F32
	F16
	BF16
	F8E4M3
	F8E5M2
	I64
	I32
	I16
	I8
	U64
	U32
	U16
	U8
	Bool

	Q4_0
	Q4_1
	Q5_0
	Q5_1
	Q8_0
	Q8_1
	Q2_K
	Q3_K
	Q4_K
	Q5_K
	Q6_K
	Q8_K
	IQ1_S
	IQ1_M
	IQ2_XXS
	IQ2_XS
	IQ2_S
	IQ3_XXS
	IQ3_S
	IQ4_NL
	IQ4_XS
	TQ1_0
	TQ2_0
	MXFP4
	NVFP4

	numTypes
)

type info struct {
	name       string
	blockSize  int
	blockBytes int
}

var infos = [numTypes]info{
	Invalid: {"invalid", 1, 0},
	F64:     {"F64", 1, 8},
	F32:     {"F32", 1, 4},
	F16:     {"F16", 1, 2},
	BF16:    {"BF16", 1, 2},
	F8E4M3:  {"F8_E4M3", 1, 1},
	F8E5M2:  {"F8_E5M2", 1, 1},
	I64:     {"I64", 1, 8},
	I32:     {"I32", 1, 4},
	I16:     {"I16", 1, 2},
	I8:      {"I8", 1, 1},
	U64:     {"U64", 1, 8},
	U32:     {"U32", 1, 4},
	U16:     {"U16", 1, 2},
	U8:      {"U8", 1, 1},
	Bool:    {"BOOL", 1, 1},

	Q4_0:    {"Q4_0", 32, 18},
	Q4_1:    {"Q4_1", 32, 20},
	Q5_0:    {"Q5_0", 32, 22},
	Q5_1:    {"Q5_1", 32, 24},
	Q8_0:    {"Q8_0", 32, 34},
	Q8_1:    {"Q8_1", 32, 36},
	Q2_K:    {"Q2_K", 256, 84},
	Q3_K:    {"Q3_K", 256, 110},
	Q4_K:    {"Q4_K", 256, 144},
	Q5_K:    {"Q5_K", 256, 176},
	Q6_K:    {"Q6_K", 256, 210},
	Q8_K:    {"Q8_K", 256, 292},
	IQ1_S:   {"IQ1_S", 256, 50},
	IQ1_M:   {"IQ1_M", 256, 56},
	IQ2_XXS: {"IQ2_XXS", 256, 66},
	IQ2_XS:  {"IQ2_XS", 256, 74},
	IQ2_S:   {"IQ2_S", 256, 82},
	IQ3_XXS: {"IQ3_XXS", 256, 98},
	IQ3_S:   {"IQ3_S", 256, 110},
	IQ4_NL:  {"IQ4_NL", 32, 18},
	IQ4_XS:  {"IQ4_XS", 256, 136},
	TQ1_0:   {"TQ1_0", 256, 54},
	TQ2_0:   {"TQ2_0", 256, 66},
	MXFP4:   {"MXFP4", 32, 17},
	NVFP4:   {"NVFP4", 64, 36},
}

// String returns the name that safetensors or ggml gives the type.
func (t Type) String() string {
	if t >= numTypes {
		return fmt.Sprintf("type(%d)", uint8(t))
	}
	return infos[t].name
}

// Parse returns the type of a name as String writes it.
func Parse(name string) (Type, bool) {
	for t := Invalid + 1; t < numTypes; t++ {
		if infos[t].name == name {
			return t, true
		}
	}
	return Invalid, false
}

// BlockSize is the number of values in one block: 1 for scalar types.
func (t Type) BlockSize() int { return infos[t].blockSize }

// BlockBytes is the number of bytes of one block.
func (t Type) BlockBytes() int { return infos[t].blockBytes }

// IsBlock reports whether t is one of ggml's block types.
func (t Type) IsBlock() bool { return t >= Q4_0 && t < numTypes }

// IsFloat reports whether t is a scalar floating-point type.
func (t Type) IsFloat() bool { return t >= F64 && t <= F8E5M2 }

// IsInteger reports whether t is a scalar integer type.
func (t Type) IsInteger() bool { return t >= I64 && t <= U8 }

// RowBytes is the number of bytes of n values, and false when n is not a
// whole number of blocks.
func (t Type) RowBytes(n int) (int, bool) {
	b := infos[t].blockSize
	if n%b != 0 {
		return 0, false
	}
	return n / b * infos[t].blockBytes, true
}

// BitsPerWeight is the storage of one value, scales included.
func (t Type) BitsPerWeight() float64 {
	return 8 * float64(infos[t].blockBytes) / float64(infos[t].blockSize)
}
