package kernels

import (
	"encoding/binary"
	"math"
)

// Groups of codes in units: a unit is one group of one row,
//
//	float32  scale
//	int8     zero point
//	codes    of 32 columns after 32 columns
//
// Codes of 2, 3 and 4 bits are stored in as many. Of 2 bits, byte i of 8 has
// those of columns i, i+8, i+16 and i+24; 3 bits are that and 4 bytes with the
// third bits as turnBits orders them; of 4 bits, byte i of 16 has columns i and
// i+16. Wider ones are stored as signed bytes, moved down by 1<<(bits-1), and
// their zero points too.

// groupHead is the number of bytes before the codes.
const groupHead = 5

// storedBits is the bits in which codes are stored.
func storedBits(bits int) int {
	if bits > 4 {
		return 8
	}
	return bits
}

// movedDown is by how much codes and zero points are moved down to be stored.
func movedDown(bits int) int {
	if storedBits(bits) == 8 {
		return 1 << (bits - 1)
	}
	return 0
}

// newGroupFormat returns how the groups of a matrix are read; nil when it has
// no integer products: act-order, groups that are not whole blocks, zero points
// far outside the codes.
func newGroupFormat(g *Groups) *integerFormat {
	size := min(g.GroupSize, g.Cols)
	if g.GroupOf != nil || size%32 != 0 || g.Cols%size != 0 {
		return nil
	}
	for _, zero := range g.Zeros {
		if int(zero)-movedDown(g.Bits) > math.MaxInt8 {
			return nil
		}
	}
	stored := storedBits(g.Bits)
	f := &integerFormat{blocks: size / 32, bytes: groupHead + size*stored/8, minima: true}
	f.segments = []segment{{0, 4, 1}, {4, 1, 1}, {groupHead, 4, size * stored / 32}}
	if stored == 8 {
		f.offset = 128
	}
	f.unpack = func(b *codeBlock, unit []byte, i int) {
		b.scales[0] = math.Float32frombits(binary.LittleEndian.Uint32(unit))
		b.minima[0] = -float32(b.scales[0] * float32(int8(unit[4])))
		unpackStored(b, unit[groupHead+4*i*stored:], stored)
	}
	return f
}

// unpackStored reads the codes of 32 columns.
func unpackStored(b *codeBlock, codes []byte, stored int) {
	switch stored {
	case 8:
		for i, code := range codes[:32] {
			b.codes[i] = int8(code)
		}
	case 4:
		b.nibbles(codes, 0)
	default:
		for i := range b.codes {
			b.codes[i] = int8(codes[i%8] >> (i / 8 * 2) & 3)
			if stored == 3 {
				b.codes[i] |= int8(codes[8+i%4]>>(i/4)&1) << 2
			}
		}
	}
}

// groupUnits are the rows of a matrix of groups as units.
type groupUnits struct {
	g *Groups
	f *integerFormat
}

func (u *groupUnits) units(scratch []byte, r int) []byte {
	g, size, stored := u.g, 32*u.f.blocks, storedBits(u.g.Bits)
	scales, zeros, step := g.scales(r)
	moved := uint8(movedDown(g.Bits))
	var codes [32]uint8
	for group, scale := range scales {
		unit := scratch[group*u.f.bytes:][:u.f.bytes]
		binary.LittleEndian.PutUint32(unit, math.Float32bits(scale))
		unit[4] = zeros[group*step] - moved
		for i := range u.f.blocks {
			g.unpack(codes[:], r, group*size+32*i)
			packStored(unit[groupHead+4*i*stored:], &codes, stored, moved)
		}
	}
	return scratch
}

// packStored is the inverse of unpackStored.
func packStored(dst []byte, codes *[32]uint8, stored int, moved uint8) {
	switch stored {
	case 8:
		for i, code := range codes {
			dst[i] = code - moved
		}
	case 4:
		for i := range 16 {
			dst[i] = codes[i] | codes[i+16]<<4
		}
	default:
		for i := range 8 {
			dst[i] = codes[i]&3 | codes[i+8]&3<<2 | codes[i+16]&3<<4 | codes[i+24]&3<<6
		}
		if stored == 3 {
			bits := uint32(0)
			for i, code := range codes {
				bits |= uint32(code>>2) << i
			}
			binary.LittleEndian.PutUint32(dst[8:], turnBits(bits))
		}
	}
}
