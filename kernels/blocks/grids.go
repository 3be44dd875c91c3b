package blocks

import (
	_ "embed"
	"encoding/binary"
	"math/bits"
	"sync"
)

// gridData holds the lattices of the IQ types, one after the other in the
// order of their fields in gridSet, as 16-bit little-endian words: a point of 8
// values takes 2 bits a value, a point of 4 values 4 bits a value, the first
// value in the lowest bits. A field is an index into the grid's levels.
//
//go:embed grids.bin
var gridData []byte

// gridSet are the lattices of the IQ types: each code stands for the values of
// one point.
type gridSet struct {
	iq2xxs [256][8]float32
	iq2xs  [512][8]float32
	iq2s   [1024][8]float32
	iq3xxs [256][4]float32
	iq3s   [512][4]float32
	iq1s   [2048][8]float32
}

var grids = sync.OnceValue(func() *gridSet {
	g := new(gridSet)
	rest := gridData
	next := func(point []float32, levels []float32) {
		word := binary.LittleEndian.Uint16(rest)
		rest = rest[2:]
		width := 16 / len(point)
		for i := range point {
			point[i] = levels[word>>(width*i)&(1<<width-1)]
		}
	}
	two := []float32{8, 25, 43}
	for i := range g.iq2xxs {
		next(g.iq2xxs[i][:], two)
	}
	for i := range g.iq2xs {
		next(g.iq2xs[i][:], two)
	}
	for i := range g.iq2s {
		next(g.iq2s[i][:], two)
	}
	for i := range g.iq3xxs {
		next(g.iq3xxs[i][:], []float32{4, 12, 20, 28, 36, 44, 52, 62})
	}
	for i := range g.iq3s {
		next(g.iq3s[i][:], []float32{1, 3, 5, 7, 9, 11, 13, 15})
	}
	for i := range g.iq1s {
		next(g.iq1s[i][:], []float32{-1, 0, 1})
	}
	return g
})

// evenSigns completes 7 sign bits with the eighth that makes their number
// even.
func evenSigns(index uint32) uint8 {
	index &= 127
	return uint8(index) | uint8(bits.OnesCount32(index)&1)<<7
}

// signed sets y to d times a point, negated where the bit of signs is set.
func signed(y, point []float32, d float32, signs uint8) {
	for i, v := range point {
		y[i] = d * v
		if signs>>i&1 != 0 {
			y[i] = -y[i]
		}
	}
}
