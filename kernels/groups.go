package kernels

import (
	"encoding/binary"
	"math"

	"llmc/internal/fault"
)

// Groups is a matrix of integer codes with a scale, and for asymmetric codes
// a zero point, shared by a group of columns of one row:
//
//	w[r][c] = Scales[r][g] * (code[r][c] - Zeros[r][g]),  g = GroupOf[c] or c/GroupSize
//
// Per-channel quantization is one group of Cols columns. [NewGroups] checks
// the fields; [Groups.Validate] checks those of a literal.
type Groups struct {
	Rows, Cols int
	Bits       int       // 2 to 8
	GroupSize  int       // columns that share a scale; the last group may be short
	Codes      []byte    // [Rows, CodeBytes()]: unsigned codes, lowest bits first, each row padded to a byte
	Scales     []float32 // [Rows, Groups()]
	Zeros      []uint8   // [Rows, Groups()]; nil means 1<<(Bits-1) everywhere (symmetric)
	GroupOf    []int32   // [Cols] the group of each column when act-order permuted them; nil otherwise
}

// NewGroups returns a matrix of packed codes after [Groups.Validate] has
// checked it. zeros and groupOf may be nil.
func NewGroups(rows, cols, bits, groupSize int, codes []byte, scales []float32, zeros []uint8, groupOf []int32) (*Groups, error) {
	g := &Groups{Rows: rows, Cols: cols, Bits: bits, GroupSize: groupSize,
		Codes: codes, Scales: scales, Zeros: zeros, GroupOf: groupOf}
	if err := g.Validate(); err != nil {
		return nil, err
	}
	return g, nil
}

// Validate reports the first field that does not fit the others.
func (g *Groups) Validate() error {
	if g.Rows < 1 || g.Cols < 1 || g.Cols > math.MaxInt/64 {
		return fault.Invalid("a packed matrix has shape [%d, %d], allowed is 1 and more", g.Rows, g.Cols)
	}
	if g.Bits < 2 || g.Bits > 8 {
		return fault.Invalid("codes have %d bits, allowed is 2 to 8", g.Bits)
	}
	if g.GroupSize < 1 {
		return fault.Invalid("group size is %d, allowed is 1 and more", g.GroupSize)
	}
	if g.Rows > math.MaxInt/g.CodeBytes() || len(g.Codes) != g.Rows*g.CodeBytes() {
		return fault.Invalid("%d rows of %d codes of %d bits need %d bytes each, there are %d in all", g.Rows, g.Cols, g.Bits, g.CodeBytes(), len(g.Codes))
	}
	groups := g.Groups()
	if len(g.Scales) != g.Rows*groups {
		return fault.Invalid("%d rows of %d groups need as many scales, there are %d", g.Rows, groups, len(g.Scales))
	}
	if g.Zeros != nil && len(g.Zeros) != g.Rows*groups {
		return fault.Invalid("%d rows of %d groups need as many zero points, there are %d", g.Rows, groups, len(g.Zeros))
	}
	if g.GroupOf == nil {
		return nil
	}
	if len(g.GroupOf) != g.Cols {
		return fault.Invalid("group indices are given for %d columns of %d", len(g.GroupOf), g.Cols)
	}
	for c, group := range g.GroupOf {
		if group < 0 || int(group) >= groups {
			return fault.Invalid("column %d is in group %d, allowed is 0 to %d", c, group, groups-1)
		}
	}
	return nil
}

// Shape returns the number of rows (outputs) and columns (inputs).
func (g *Groups) Shape() (rows, cols int) { return g.Rows, g.Cols }

// Groups is the number of groups of one row.
func (g *Groups) Groups() int { return (g.Cols-1)/g.GroupSize + 1 }

// CodeBytes is the number of bytes of one row's codes.
func (g *Groups) CodeBytes() int { return (g.Cols*g.Bits + 7) / 8 }

// Bytes is the storage of codes, scales (as the 16-bit floats that the
// checkpoint formats store), zero points of Bits bits, and group indices.
func (g *Groups) Bytes() int64 {
	n := int64(len(g.Codes)) + 2*int64(len(g.Scales)) + 4*int64(len(g.GroupOf))
	return n + (int64(len(g.Zeros))*int64(g.Bits)+7)/8
}

// Code returns the code of row r, column c.
func (g *Groups) Code(r, c int) uint8 {
	return codeAt(g.Codes[r*g.CodeBytes():], c*g.Bits, g.Bits)
}

// codeAt reads bits from the bit offset at on, lowest first.
func codeAt(codes []byte, at, bits int) uint8 {
	word := uint32(codes[at/8])
	if at%8+bits > 8 {
		word |= uint32(codes[at/8+1]) << 8
	}
	return uint8(word >> (at % 8) & (1<<bits - 1))
}

// SetRow packs the codes [Cols] of row r. Bits above Bits are dropped.
func (g *Groups) SetRow(r int, codes []uint8) {
	row := g.Codes[r*g.CodeBytes():][:g.CodeBytes()]
	clear(row)
	mask := uint32(1)<<g.Bits - 1
	for c, code := range codes[:g.Cols] {
		at := c * g.Bits
		word := (uint32(code) & mask) << (at % 8)
		row[at/8] |= byte(word)
		if word > 0xff {
			row[at/8+1] |= byte(word >> 8)
		}
	}
}

// RowCodes unpacks the codes of row r into dst, which has length Cols.
func (g *Groups) RowCodes(dst []uint8, r int) {
	g.unpack(dst[:g.Cols], r, 0)
}

// unpack reads the codes of row r from column from, a multiple of 8, on.
func (g *Groups) unpack(dst []uint8, r, from int) {
	row := g.Codes[r*g.CodeBytes():][:g.CodeBytes()]
	row = row[from/8*g.Bits:]
	switch g.Bits {
	case 8:
		copy(dst, row)
		return
	case 4:
		for len(dst) >= 2 {
			dst[0], dst[1] = row[0]&15, row[0]>>4
			dst, row = dst[2:], row[1:]
		}
	}
	// 8 codes are as many bytes as a code has bits.
	mask := uint64(1)<<g.Bits - 1
	for len(dst) >= 8 && len(row) >= 8 {
		word := binary.LittleEndian.Uint64(row)
		for i := range 8 {
			dst[i] = uint8(word & mask)
			word >>= g.Bits
		}
		dst, row = dst[8:], row[g.Bits:]
	}
	for i := range dst {
		dst[i] = codeAt(row, i*g.Bits, g.Bits)
	}
}

// Row dequantizes row r exactly into dst, which has length Cols.
func (g *Groups) Row(dst []float32, r int) { g.columns(dst[:g.Cols], r, 0) }

func (g *Groups) columns(dst []float32, r, from int) {
	var codes [columnStep]uint8
	for len(dst) > 0 {
		n := min(len(dst), len(codes))
		g.unpack(codes[:n], r, from)
		g.scale(dst[:n], codes[:n], r, from)
		dst, from = dst[n:], from+n
	}
}

// scale turns the codes of columns from on of row r into numbers.
func (g *Groups) scale(dst []float32, codes []uint8, r, from int) {
	groups := g.Groups()
	scales := g.Scales[r*groups:][:groups]
	var zeros []uint8
	if g.Zeros != nil {
		zeros = g.Zeros[r*groups:][:groups]
	}
	zero := int32(1) << (g.Bits - 1)
	if g.GroupOf != nil {
		for i, code := range codes {
			group := g.GroupOf[from+i]
			if zeros != nil {
				zero = int32(zeros[group])
			}
			dst[i] = scales[group] * float32(int32(code)-zero)
		}
		return
	}
	for i := 0; i < len(codes); {
		group := (from + i) / g.GroupSize
		end := min(len(codes), (group+1)*g.GroupSize-from)
		if zeros != nil {
			zero = int32(zeros[group])
		}
		for ; i < end; i++ {
			dst[i] = scales[group] * float32(int32(codes[i])-zero)
		}
	}
}
