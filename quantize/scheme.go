package quantize

import (
	"fmt"
	"strconv"
	"strings"

	"llmc/dtype"
	"llmc/internal/fault"
)

// The group sizes that are not a number of columns.
const (
	PerChannel = 0  // one scale for a row
	PerTensor  = -1 // one scale for the whole tensor
)

// The number of bits that integer codes can have.
const (
	MinBits = 2
	MaxBits = 8
)

// Scheme is how the numbers of one tensor are stored. Either Type names a
// scalar or block type that fixes everything, or Bits and the rest describe
// codes in groups of columns: integers, see [llmc/kernels.Groups], or 8-bit
// floats, see [llmc/kernels.Float8].
type Scheme struct {
	Type      dtype.Type // dtype.Invalid for codes
	Bits      int        // 2 to 8
	Float     bool       // the codes are 8-bit floats, E4M3
	GroupSize int        // columns that share a scale; PerChannel; PerTensor
	Symmetric bool       // the zero point is 2^(Bits-1) everywhere
	ScaleType dtype.Type // what scales are stored as: F16, BF16 or F32
}

// TypeScheme is the scheme of a scalar or block type.
func TypeScheme(t dtype.Type) Scheme { return Scheme{Type: t} }

// IsInteger reports whether the scheme is codes in groups, integers or Float.
func (s Scheme) IsInteger() bool { return s.Type == dtype.Invalid && s.Bits != 0 }

// String writes a scheme as [ParseScheme] reads it: "Q4_K", "int4:g128:sym",
// "int8:channel:asym", "int8:tensor:sym", "fp8:channel".
func (s Scheme) String() string {
	if !s.IsInteger() {
		return s.Type.String()
	}
	group := "g" + strconv.Itoa(s.GroupSize)
	switch s.GroupSize {
	case PerChannel:
		group = "channel"
	case PerTensor:
		group = "tensor"
	}
	if s.Float {
		return fmt.Sprintf("fp%d:%s", s.Bits, group)
	}
	symmetry := "asym"
	if s.Symmetric {
		symmetry = "sym"
	}
	return fmt.Sprintf("int%d:%s:%s", s.Bits, group, symmetry)
}

// ParseScheme reads what String writes. Scales are F16 until told otherwise.
func ParseScheme(text string) (Scheme, error) {
	if t, ok := dtype.Parse(strings.ToUpper(text)); ok && (t.IsFloat() || t.IsBlock()) {
		return TypeScheme(t), nil
	}
	wrong := fault.Usage("scheme %q is not one like int4:g128:sym, int8:channel:asym, fp8:channel or Q4_K", text)
	parts := strings.Split(text, ":")
	float := parts[0] == "fp8" && len(parts) == 2
	if float {
		parts = []string{"int8", parts[1], "sym"}
	}
	bits, isInt := strings.CutPrefix(parts[0], "int")
	if len(parts) != 3 || !isInt {
		return Scheme{}, wrong
	}
	s := Scheme{ScaleType: dtype.F16, Float: float}
	var err error
	if s.Bits, err = strconv.Atoi(bits); err != nil {
		return Scheme{}, wrong
	}
	switch parts[1] {
	case "channel":
		s.GroupSize = PerChannel
	case "tensor":
		s.GroupSize = PerTensor
	default:
		size, isGroup := strings.CutPrefix(parts[1], "g")
		if s.GroupSize, err = strconv.Atoi(size); err != nil || !isGroup || s.GroupSize < 1 {
			return Scheme{}, wrong
		}
	}
	switch parts[2] {
	case "sym":
		s.Symmetric = true
	case "asym":
	default:
		return Scheme{}, wrong
	}
	return s, s.Check()
}

// Check refuses a scheme that no tensor could have.
func (s Scheme) Check() error {
	if s.Type != dtype.Invalid {
		return nil
	}
	if s.Bits < MinBits || s.Bits > MaxBits {
		return fault.Usage("%d bits asked for, allowed are %d to %d", s.Bits, MinBits, MaxBits)
	}
	if s.Float && (s.Bits != MaxBits || !s.Symmetric) {
		return fault.Usage("floats of %d bits asked for (symmetric %t), allowed are symmetric ones of %d", s.Bits, s.Symmetric, MaxBits)
	}
	if s.GroupSize < PerTensor {
		return fault.Usage("group size %d asked for, allowed are 1 and more, %d for per channel, %d for per tensor",
			s.GroupSize, PerChannel, PerTensor)
	}
	switch s.ScaleType {
	case dtype.F16, dtype.BF16, dtype.F32:
		return nil
	}
	return fault.Usage("scales asked for as %s, allowed are F16, BF16 and F32", s.ScaleType)
}

// Fits reports whether rows of cols columns can be stored so: whole blocks,
// whole groups.
func (s Scheme) Fits(cols int) bool {
	if !s.IsInteger() {
		return cols%s.Type.BlockSize() == 0
	}
	return s.GroupSize <= 0 || cols%s.GroupSize == 0
}

// groups is the number of groups in a row of cols columns.
func (s Scheme) groups(cols int) int {
	if s.GroupSize <= 0 {
		return 1
	}
	return (cols + s.GroupSize - 1) / s.GroupSize
}

// columns is how many of a row's cols columns share a scale.
func (s Scheme) columns(cols int) int {
	switch {
	case !s.IsInteger():
		return min(s.Type.BlockSize(), smallBlock)
	case s.GroupSize <= 0:
		return cols
	}
	return min(s.GroupSize, cols)
}

// smallBlock is the part of ggml's larger blocks that has a scale of its own.
const smallBlock = 32

// Bytes is the storage of a [rows, cols] tensor: codes, scales and, when
// asymmetric, zero points. Files may pad a little on top.
func (s Scheme) Bytes(rows, cols int) int64 {
	if !s.IsInteger() {
		perRow, _ := s.Type.RowBytes((cols + s.Type.BlockSize() - 1) / s.Type.BlockSize() * s.Type.BlockSize())
		return int64(rows) * int64(perRow)
	}
	scales := int64(rows) * int64(s.groups(cols))
	if s.GroupSize == PerTensor {
		scales = 1
	}
	bits := int64(rows)*int64(cols)*int64(s.Bits) + scales*8*int64(s.ScaleType.BlockBytes())
	if !s.Symmetric {
		bits += scales * int64(s.Bits)
	}
	return (bits + 7) / 8
}
