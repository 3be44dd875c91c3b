package blocks

import "encoding/binary"

// nonlinear4 is the codebook of IQ4_NL and IQ4_XS: 16 levels, denser around
// zero.
var nonlinear4 = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// Nonlinear4 returns the codebook of IQ4_NL and IQ4_XS.
func Nonlinear4() [16]int8 { return nonlinear4 }

// IQ4_NL: a scale and 16 bytes of nibbles.
func dequantizeIQ4NL(dst []float32, src []byte) {
	for ; len(src) >= 18; src, dst = src[18:], dst[32:] {
		lookUp(dst[:32], src[2:18], &nonlinear4, half(src))
	}
}

// IQ4_XS: d, 8 scales of 6 bits (2 bytes of upper, 4 bytes of lower parts),
// 128 bytes of nibbles.
func dequantizeIQ4XS(dst []float32, src []byte) {
	for ; len(src) >= 136; src, dst = src[136:], dst[superBlock:] {
		d, high := half(src), binary.LittleEndian.Uint16(src[2:])
		for j := range 8 {
			level := int(src[4+j/2]>>(j%2*4)&15) | int(high>>(2*j)&3)<<4
			lookUp(dst[32*j:][:32], src[8+16*j:][:16], &nonlinear4, d*float32(level-32))
		}
	}
}

// nonlinearCells answers which level is closest, the upper of two equally
// close: every middle between levels is a multiple of 1/2, so all values in
// [n/2, (n+1)/2) have the same answer, at index n+512.
var nonlinearCells = func() (cells [1024]struct {
	level float32
	code  uint8
}) {
	code := 0
	for i := range cells {
		v := float32(i-512) / 2
		for code < 15 && v >= (float32(nonlinear4[code])+float32(nonlinear4[code+1]))/2 {
			code++
		}
		cells[i].level, cells[i].code = float32(nonlinear4[code]), uint8(code)
	}
	return cells
}()

// nonlinearCell returns the index of v in nonlinearCells, for v in [-256, 256).
// The sum is exact near the middles, where it decides.
func nonlinearCell(v float32) int { return int(float64(v)+float64(v)+512) & 1023 }

// nearestNonlinear returns the code whose level is closest to any v.
func nearestNonlinear(v float32) uint8 {
	switch {
	case v < -128:
		return 0
	case !(v < 128):
		return 15
	}
	return nonlinearCells[nonlinearCell(v)].code
}

// nonlinearScale finds the scale with which the codebook fits 32 values best:
// 16 inverse scales around the one that maps the extreme value to a level.
func nonlinearScale(x, w []float32) float32 {
	const tries = 7
	top, magnitude := extreme(x)
	if magnitude < tiny {
		return 0
	}
	lowest := float32(nonlinear4[0])
	inverses := [2 * (tries + 1)]float32{1 / (-top / lowest)}
	for i := range inverses[1:] {
		inverses[i+1] = (float32(i-tries) + lowest) / top
	}
	var scale, best float32
	for i := 0; i < len(inverses); i += 2 {
		f0, f1 := fitNonlinear((*[32]float32)(x), (*[32]float32)(w), inverses[i], inverses[i+1])
		for j, f := range [2]fit{f0, f1} {
			if i+j == 0 || f.beats(best) {
				scale = f.scale()
				best = scale * f.lx
			}
		}
	}
	return scale
}

// fitNonlinear returns the fits for the levels that two inverse scales give.
// They map no value outside [-135, 135].
func fitNonlinear(x, w *[32]float32, inverse0, inverse1 float32) (a, b fit) {
	for i, v := range x {
		q0 := nonlinearCells[nonlinearCell(inverse0*v)].level
		q1 := nonlinearCells[nonlinearCell(inverse1*v)].level
		wq0, wq1 := w[i]*q0, w[i]*q1
		a.lx += float32(float32(wq0) * v)
		a.ll += float32(float32(wq0) * q0)
		b.lx += float32(float32(wq1) * v)
		b.ll += float32(float32(wq1) * q1)
	}
	return a, b
}

// nonlinearWeights are x², or by importance.
func nonlinearWeights(w, x, importance []float32, sigma2 float32) {
	if importance != nil {
		weigh(w, x, importance, sigma2)
		return
	}
	for i, v := range x {
		w[i] = v * v
	}
}

func quantizeIQ4NL(dst []byte, src, importance []float32) {
	var w [32]float32
	var codes [32]uint8
	for at := 0; at < len(src); at += 32 {
		x := src[at:][:32]
		nonlinearWeights(w[:], x, part(importance, at), float32(sumSquares(x)*(2.0/32)))
		scale := nonlinearScale(x, w[:])
		putHalf(dst, scale)
		inverse := inverseOf(scale)
		for i, v := range x {
			codes[i] = nearestNonlinear(inverse * v)
		}
		putNibbles(dst[2:], &codes)
		dst = dst[18:]
	}
}

func quantizeIQ4XS(dst []byte, src, importance []float32) {
	for at := 0; at < len(src); at += superBlock {
		quantizeBlockIQ4XS(dst[:136], src[at:][:superBlock], part(importance, at))
		dst = dst[136:]
	}
}

func quantizeBlockIQ4XS(dst []byte, x, importance []float32) {
	var w [32]float32
	var codes [32]uint8
	var scales [8]float32
	sigma2 := float32(sumSquares(x) * (2.0 / superBlock))
	for j := range scales {
		sub := x[32*j:][:32]
		nonlinearWeights(w[:], sub, part(importance, 32*j), sigma2)
		scales[j] = nonlinearScale(sub, w[:])
	}
	top, _ := extreme(scales[:])
	d := -top / 32
	putHalf(dst, d)
	var levels [8]int8
	inverse := inverseOf(d)
	for j, s := range scales {
		levels[j] = int8(clamp(nearest(inverse*s), -32, 31))
		subInverse := inverseOf(d * float32(levels[j]))
		for i, v := range x[32*j:][:32] {
			codes[i] = nearestNonlinear(subInverse * v)
		}
		putNibbles(dst[8+16*j:], &codes)
	}
	packScalesIQ4XS(dst[2:8], levels[:])
}

// packScalesIQ4XS packs 8 scales of 6 bits, -32 to 31: their upper two bits in
// 2 bytes, the lower in 4.
func packScalesIQ4XS(dst []byte, levels []int8) {
	clear(dst)
	var high uint16
	for j, l := range levels {
		level := uint8(l + 32)
		dst[2+j/2] |= level & 15 << (j % 2 * 4)
		high |= uint16(level>>4) << (2 * j)
	}
	binary.LittleEndian.PutUint16(dst, high)
}
