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

func (u *groupUnits) units(scratch []byte, first, n int) []byte {
	size := u.g.Groups() * u.f.bytes
	for i := range n {
		u.row(scratch[i*size:][:size], first+i)
	}
	return scratch[:n*size]
}

func (u *groupUnits) row(dst []byte, r int) {
	g, size, stored := u.g, 32*u.f.blocks, storedBits(u.g.Bits)
	scales, zeros, step := g.scales(r)
	moved := uint8(movedDown(g.Bits))
	for group, scale := range scales {
		unit := dst[group*u.f.bytes:][:u.f.bytes]
		binary.LittleEndian.PutUint32(unit, math.Float32bits(scale))
		unit[4] = zeros[group*step] - moved
		for i := range u.f.blocks {
			packStored(unit[groupHead+4*i*stored:], g, r, group*size+32*i)
		}
	}
}

// packStored writes the codes of 32 columns of row r as unpackStored reads them.
func packStored(dst []byte, g *Groups, r, from int) {
	src := g.Codes[r*g.CodeBytes()+from/8*g.Bits:]
	switch g.Bits {
	case 2:
		order := uint64(0)
		for i := range 4 {
			order |= spread2(binary.LittleEndian.Uint16(src[2*i:])) << (2 * i)
		}
		binary.LittleEndian.PutUint64(dst, order)
	case 4:
		// Bytes hold columns 2i and 2i+1; those of the upper 16 come along.
		const low = 0x0f0f0f0f0f0f0f0f
		a, b := binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint64(src[8:])
		even, odd := a&low|b&low<<4, a>>4&low|b&^low
		binary.LittleEndian.PutUint64(dst, spread8(uint32(even))|spread8(uint32(odd))<<8)
		binary.LittleEndian.PutUint64(dst[8:], spread8(uint32(even>>32))|spread8(uint32(odd>>32))<<8)
	case 8:
		for i := 0; i < 32; i += 8 {
			binary.LittleEndian.PutUint64(dst[i:], binary.LittleEndian.Uint64(src[i:])^0x8080808080808080)
		}
	default:
		packAny(dst, g, r, from)
	}
}

// spread2 moves the 8 pairs of bits of x to the lowest bits of 8 bytes.
func spread2(bits uint16) uint64 {
	x := uint64(bits)
	x = (x | x<<24) & 0x000000ff000000ff
	x = (x | x<<12) & 0x000f000f000f000f
	return (x | x<<6) & 0x0303030303030303
}

// spread8 moves the 4 bytes of x to the even ones of 8.
func spread8(bytes uint32) uint64 {
	x := uint64(bytes)
	x = (x | x<<16) & 0x0000ffff0000ffff
	return (x | x<<8) & 0x00ff00ff00ff00ff
}

// packAny is packStored one code at a time.
func packAny(dst []byte, g *Groups, r, from int) {
	var codes [32]uint8
	g.unpack(codes[:], r, from)
	if g.Bits != 3 {
		for i, code := range codes {
			dst[i] = code - uint8(movedDown(g.Bits))
		}
		return
	}
	var lower, upper uint64
	for i := range 4 {
		eight := binary.LittleEndian.Uint64(codes[8*i:])
		lower |= eight & 0x0303030303030303 << (2 * i)
		third := eight >> 2 & 0x0101010101010101
		upper |= (third | third>>31) & 0x03030303 << (2 * i) // column 8i+4+j next to 8i+j
	}
	binary.LittleEndian.PutUint64(dst, lower)
	binary.LittleEndian.PutUint32(dst[8:], uint32(upper))
}
