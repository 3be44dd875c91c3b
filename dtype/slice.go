package dtype

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Decode widens the scalar numbers in src, little-endian, to dst. F64 and the
// integers are rounded to float32. src must hold len(dst) numbers of type t;
// ggml's block types are not scalar and give an error.
func Decode(dst []float32, src []byte, t Type) error {
	if err := checkLength("decode", len(dst), len(src), t); err != nil {
		return err
	}
	le := binary.LittleEndian
	switch t {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(le.Uint32(src[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = F16ToF32(le.Uint16(src[2*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = BF16ToF32(le.Uint16(src[2*i:]))
		}
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(le.Uint64(src[8*i:])))
		}
	case F8E4M3:
		for i := range dst {
			dst[i] = e4m3[src[i]]
		}
	case F8E5M2:
		for i := range dst {
			dst[i] = F8E5M2ToF32(src[i])
		}
	case I64:
		for i := range dst {
			dst[i] = float32(int64(le.Uint64(src[8*i:])))
		}
	case I32:
		for i := range dst {
			dst[i] = float32(int32(le.Uint32(src[4*i:])))
		}
	case I16:
		for i := range dst {
			dst[i] = float32(int16(le.Uint16(src[2*i:])))
		}
	case I8:
		for i := range dst {
			dst[i] = float32(int8(src[i]))
		}
	case U64:
		for i := range dst {
			dst[i] = float32(le.Uint64(src[8*i:]))
		}
	case U32:
		for i := range dst {
			dst[i] = float32(le.Uint32(src[4*i:]))
		}
	case U16:
		for i := range dst {
			dst[i] = float32(le.Uint16(src[2*i:]))
		}
	default: // U8 and Bool
		for i := range dst {
			dst[i] = float32(src[i])
		}
	}
	return nil
}

// Encode rounds src to the scalar floating-point type t, little-endian, ties
// to even. dst must have room for len(src) numbers; types that are not scalar
// floating point give an error.
func Encode(dst []byte, src []float32, t Type) error {
	if err := checkLength("encode", len(src), len(dst), t); err != nil {
		return err
	}
	le := binary.LittleEndian
	switch t {
	case F32:
		for i, v := range src {
			le.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	case F16:
		for i, v := range src {
			le.PutUint16(dst[2*i:], F32ToF16(v))
		}
	case BF16:
		for i, v := range src {
			le.PutUint16(dst[2*i:], F32ToBF16(v))
		}
	case F64:
		for i, v := range src {
			le.PutUint64(dst[8*i:], math.Float64bits(float64(v)))
		}
	case F8E4M3:
		for i, v := range src {
			dst[i] = F32ToF8E4M3(v)
		}
	case F8E5M2:
		for i, v := range src {
			dst[i] = F32ToF8E5M2(v)
		}
	default:
		return fmt.Errorf("cannot encode float32 numbers as %s, allowed are the floating-point types", t)
	}
	return nil
}

func checkLength(verb string, numbers, bytes int, t Type) error {
	if t == Invalid || t.IsBlock() || t >= numTypes {
		return fmt.Errorf("cannot %s %s number by number", verb, t)
	}
	if want := numbers * t.BlockBytes(); bytes != want {
		return fmt.Errorf("cannot %s %d numbers of %s in %d bytes, they take %d", verb, numbers, t, bytes, want)
	}
	return nil
}
