package kernels

import (
	"math"

	"llmc/dtype"
	"llmc/kernels/blocks"
)

// CacheBits is the number of bits that a cache holds keys and values with: 0 for
// float32 as they are, 8 or 4 for numbers rounded as llama.cpp rounds them for
// -ctk q8_0 -ctv q8_0 and q4_0: in blocks of 32 of a head that share a
// half-precision scale, the last block of a head as long as is left.
//
// Where 64 divides a head, its numbers are turned by a Walsh-Hadamard matrix
// before they are rounded, which spreads outliers over a block (arXiv 2404.00456,
// section 4.2): keys with the largest power of two that divides the head, values
// in groups of 64. Such a matrix is its own inverse. An engine keeps what it has
// turned and turns queries and results instead; here keys and values are turned
// back, which comes to the same.
type CacheBits int

// Valid reports whether there is a cache of so many bits.
func (b CacheBits) Valid() bool { return b == 0 || b == 8 || b == 4 }

// minTurn is what the length of a head must be a multiple of for it to be turned.
const minTurn = 64

// cacheRounding rounds the keys and values of one position.
type cacheRounding struct {
	typ    dtype.Type
	keys   int // numbers that are turned together; 0 for none
	values int
	codes  []byte    // of one head
	head   []float32 // padded to whole blocks
	rows   [2][]float32
}

// newCacheRounding returns nil for caches that do not round.
func newCacheRounding(bits CacheBits, kvHeads, headDim int) *cacheRounding {
	r := &cacheRounding{}
	switch bits {
	case 0:
		return nil
	case 8:
		r.typ = dtype.Q8_0
	case 4:
		r.typ = dtype.Q4_0
	default:
		panic("kernels: NewCache: a cache has 4 or 8 bits, or 0 for float32")
	}
	if headDim%minTurn == 0 {
		r.keys, r.values = headDim&-headDim, minTurn
	}
	padded := ceilDiv(headDim, r.typ.BlockSize()) * r.typ.BlockSize()
	size, _ := r.typ.RowBytes(padded)
	r.codes, r.head = make([]byte, size), make([]float32, padded)
	for i := range r.rows {
		r.rows[i] = make([]float32, kvHeads*headDim)
	}
	return r
}

// round returns the rounded keys and values of a position, valid until the
// next call.
func (r *cacheRounding) round(k, v []float32, headDim int) (keys, values []float32) {
	for from := 0; from < len(k); from += headDim {
		r.one(r.rows[0][from:][:headDim], k[from:][:headDim], r.keys)
		r.one(r.rows[1][from:][:headDim], v[from:][:headDim], r.values)
	}
	return r.rows[0], r.rows[1]
}

// one rounds a head whose numbers are turned in groups. One that holds what
// cannot be rounded, such as NaN, becomes NaN altogether.
func (r *cacheRounding) one(dst, src []float32, group int) {
	copy(r.head, src)
	hadamard(r.head[:len(src)], group)
	if err := blocks.Quantize(r.typ, r.codes, r.head, len(r.head), nil); err != nil {
		for i := range dst {
			dst[i] = float32(math.NaN())
		}
		return
	}
	blocks.Dequantize(r.typ, r.head, r.codes)
	hadamard(r.head[:len(src)], group)
	copy(dst, r.head)
	clear(r.head[len(src):])
}

// hadamard multiplies groups of x, a power of two long, by the orthonormal
// Walsh-Hadamard matrix of that order; 0 leaves x alone.
func hadamard(x []float32, group int) {
	if group == 0 {
		return
	}
	scale := float32(1 / math.Sqrt(float64(group)))
	for ; len(x) > 0; x = x[group:] {
		for half := 1; half < group; half *= 2 {
			for from := 0; from < group; from += 2 * half {
				a, b := x[from:][:half], x[from+half:][:half]
				for i := range a {
					a[i], b[i] = a[i]+b[i], a[i]-b[i]
				}
			}
		}
		scalePortable(x[:group], scale)
	}
}
