package gguf

import (
	"fmt"

	"llmc/dtype"
)

// ggmlTypes maps the numbers of enum ggml_type (ggml.h of llama.cpp) to ours.
var ggmlTypes = map[uint32]dtype.Type{
	0: dtype.F32, 1: dtype.F16,
	2: dtype.Q4_0, 3: dtype.Q4_1, 6: dtype.Q5_0, 7: dtype.Q5_1, 8: dtype.Q8_0, 9: dtype.Q8_1,
	10: dtype.Q2_K, 11: dtype.Q3_K, 12: dtype.Q4_K, 13: dtype.Q5_K, 14: dtype.Q6_K, 15: dtype.Q8_K,
	16: dtype.IQ2_XXS, 17: dtype.IQ2_XS, 18: dtype.IQ3_XXS, 19: dtype.IQ1_S, 20: dtype.IQ4_NL,
	21: dtype.IQ3_S, 22: dtype.IQ2_S, 23: dtype.IQ4_XS,
	24: dtype.I8, 25: dtype.I16, 26: dtype.I32, 27: dtype.I64, 28: dtype.F64,
	29: dtype.IQ1_M, 30: dtype.BF16, 34: dtype.TQ1_0, 35: dtype.TQ2_0,
	39: dtype.MXFP4, 40: dtype.NVFP4,
}

// otherTypes are numbers that mean something, but nothing that is read here.
var otherTypes = map[uint32]string{
	4: "Q4_2, which ggml removed", 5: "Q4_3, which ggml removed",
	31: "Q4_0_4_4, which ggml removed", 32: "Q4_0_4_8, which ggml removed", 33: "Q4_0_8_8, which ggml removed",
	36: "IQ4_NL_4_4, which ggml removed", 37: "IQ4_NL_4_8, which ggml removed", 38: "IQ4_NL_8_8, which ggml removed",
	41: "Q1_0, which is not supported", 42: "Q2_0, which is not supported",
}

var ggmlNumbers = func() map[dtype.Type]uint32 {
	m := make(map[dtype.Type]uint32, len(ggmlTypes))
	for number, t := range ggmlTypes {
		m[t] = number
	}
	return m
}()

// TypeNumber is what ggml numbers a type, and false for one that GGUF does not
// have, such as U8 or the eight-bit floats.
func TypeNumber(t dtype.Type) (uint32, bool) {
	number, ok := ggmlNumbers[t]
	return number, ok
}

// TypeOf is the type that ggml gives a number; the error says what is wrong
// with one that has none.
func TypeOf(number uint32) (dtype.Type, error) {
	if t, ok := ggmlTypes[number]; ok {
		return t, nil
	}
	if name, ok := otherTypes[number]; ok {
		return dtype.Invalid, fmt.Errorf("has type %d, %s", number, name)
	}
	return dtype.Invalid, fmt.Errorf("has type %d, ggml has 0 to 42", number)
}

// valueType is the type of a metadata value, as the file numbers them.
type valueType uint32

const (
	typeUint8 valueType = iota
	typeInt8
	typeUint16
	typeInt16
	typeUint32
	typeInt32
	typeFloat32
	typeBool
	typeString
	typeArray
	typeUint64
	typeInt64
	typeFloat64

	numValueTypes
)

// minBytes is the least that a value takes in a file: a string has its length,
// an array its type and length.
var minBytes = [numValueTypes]uint64{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8}
