package kernels

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"llmc/dtype"
)

// slowTurn multiplies groups of x by the Walsh-Hadamard matrix, element by
// element: 1/√n, negative where i&j has an odd number of bits.
func slowTurn(x []float64, n int) []float64 {
	if n == 0 {
		return x
	}
	out := make([]float64, len(x))
	for i := range out {
		for j := range n {
			v := x[i/n*n+j] / math.Sqrt(float64(n))
			if bits.OnesCount(uint(i%n&j))%2 == 1 {
				v = -v
			}
			out[i] += v
		}
	}
	return out
}

// slowCacheRound is the definition of llama.cpp's Q8_0 and Q4_0 for one head
// that is turned in groups.
func slowCacheRound(head []float32, bits CacheBits, group int) []float32 {
	x := make([]float64, len(head))
	for i, v := range head {
		x[i] = float64(v)
	}
	x = slowTurn(x, group)
	for from := 0; from < len(x); from += 32 {
		block := x[from:min(from+32, len(x))]
		var top float32 // of the largest magnitude
		for _, v := range block {
			if math.Abs(v) > math.Abs(float64(top)) {
				top = float32(v)
			}
		}
		scale := float32(math.Abs(float64(top))) / 127
		if bits == 4 {
			scale = top / -8
		}
		var inverse float32
		if scale != 0 {
			inverse = 1 / scale
		}
		stored := float64(dtype.F16ToF32(dtype.F32ToF16(scale)))
		for i, v := range block {
			q := math.Round(float64(float32(v) * inverse))
			if bits == 4 {
				q = min(15, math.Floor(float64(float32(v)*inverse+8.5))) - 8
			}
			block[i] = q * stored
		}
	}
	out := make([]float32, len(x))
	for i, v := range slowTurn(x, group) {
		out[i] = float32(v)
	}
	return out
}

// TestRoundedCache compares attention over a rounded cache with attention over
// an exact one of keys and values that were rounded before.
func TestRoundedCache(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		for _, bits := range []CacheBits{8, 4} {
			for _, tt := range []struct{ headDim, keys, values int }{
				{20, 0, 0}, {32, 0, 0}, {48, 0, 0}, {64, 64, 64}, {192, 64, 64}, {256, 256, 64},
			} {
				const rows, heads = 70, 2
				width := heads * tt.headDim
				spec := AttentionSpec{Heads: heads, KVHeads: heads, HeadDim: tt.headDim, Scale: 1e-4}
				r := rand.New(rand.NewPCG(uint64(tt.headDim), 9))
				q, k, v := randoms(r, rows*width), make([]float32, rows*width), make([]float32, rows*width)
				for i := range k { // integers, so that turning them is exact
					k[i], v[i] = float32(r.IntN(801)-400), float32(r.IntN(101)-20)
				}
				clear(k[5*width:][:tt.headDim])
				attend := func(threads int, bits CacheBits, k, v []float32) []float32 {
					c := newCPU(threads, o)
					defer c.Close()
					cache := c.NewCache(heads, tt.headDim, bits)
					var all []float32
					for from, to := 0, 3; from < rows; from, to = to, min(2*to, rows) {
						var in [4]*Tensor
						for i, src := range [][]float32{q, k, v, v} {
							in[i] = c.NewTensor(to-from, width)
							c.Write(in[i], src[from*width:to*width])
						}
						c.Attention(in[3], in[0], in[1], in[2], cache, spec)
						all = append(all, in[3].Data...)
					}
					return all
				}
				rk, rv := make([]float32, 0, len(k)), make([]float32, 0, len(v))
				for from := 0; from < len(k); from += tt.headDim {
					rk = append(rk, slowCacheRound(k[from:][:tt.headDim], bits, tt.keys)...)
					rv = append(rv, slowCacheRound(v[from:][:tt.headDim], bits, tt.values)...)
				}
				name := fmt.Sprintf("%d bits, heads of %d", bits, tt.headDim)
				got := attend(1, bits, k, v)
				checkClose(t, name, got, attend(1, 0, rk, rv), 2e-6)
				checkClose(t, name+", 3 threads", attend(3, bits, k, v), got, 0)
			}
		}
	})
}

// TestRoundedCacheNaN: what cannot be rounded is not hidden, and spoils only its
// own head.
func TestRoundedCacheNaN(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1)), math.MaxFloat32} {
		r := newCacheRounding(4, 2, 40)
		k, v := make([]float32, 80), make([]float32, 80)
		k[3] = bad
		for i := range v {
			v[i] = 1
		}
		keys, values := r.round(k, v, 40)
		for i := range keys {
			if nan := keys[i] != keys[i]; nan != (i < 40) || values[i] != 1 {
				t.Errorf("%v: key %d is %v, value %v", bad, i, keys[i], values[i])
			}
		}
	}
}

func TestCacheBits(t *testing.T) {
	for b := CacheBits(-1); b < 20; b++ {
		if want := b == 0 || b == 4 || b == 8; b.Valid() != want {
			t.Errorf("%d is valid: %t", b, b.Valid())
		}
	}
}
