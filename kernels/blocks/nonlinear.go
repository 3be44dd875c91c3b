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

// nonlinearNumerators are the inverse scales to try, times the extreme value.
var nonlinearNumerators = func() (numerators [15]float32) {
	for i := range numerators {
		numerators[i] = float32(i-7) + float32(nonlinear4[0])
	}
	return numerators
}()

// nonlinearScale finds the scale with which the codebook fits 32 values best:
// 16 inverse scales around the one that maps the extreme value to a level.
func nonlinearScale(x, w []float32) float32 {
	top, magnitude := extreme(x)
	if magnitude < tiny {
		return 0
	}
	lowest := float32(nonlinear4[0])
	inverses := [1 + len(nonlinearNumerators)]float32{1 / (-top / lowest)}
	for i, numerator := range nonlinearNumerators {
		inverses[i+1] = numerator / top
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

// nonlinearSearch finds the scales of up to batchSubs blocks of 32 values.
type nonlinearSearch struct {
	scales [batchSubs]float32
	batch  *batch // nil for portable Go
}

// newNonlinearSearch returns a search and what gives its memory back.
func newNonlinearSearch() (s *nonlinearSearch, done func()) {
	if native == nil {
		return &nonlinearSearch{}, func() {}
	}
	s = &nonlinearSearch{batch: newBatch(32)}
	return s, s.batch.free
}

// run sets the scales of the blocks of x; the mean square of every span values
// weighs beside their importance.
func (s *nonlinearSearch) run(x, importance []float32, span int) {
	var sigma2 [batchSubs]float32
	if importance != nil {
		for at := 0; at < len(x); at += span {
			variance := float32(sumSquares(x[at:][:span]) * (2 / float32(span)))
			for j := range span / 32 {
				sigma2[at/32+j] = variance
			}
		}
	}
	if b := s.batch; b != nil {
		b.load(&b.x, x)
		if importance == nil {
			b.squares(&b.w[0], &b.x[0], batchSubs*32/b.n)
		} else {
			b.load(&b.importance, importance[:len(x)])
			b.sigma2 = sigma2
			b.weighed()
		}
		b.nonlinear()
		s.scales = b.scales
		return
	}
	var w [32]float32
	for j := range len(x) / 32 {
		sub := x[32*j:][:32]
		nonlinearWeights(w[:], sub, part(importance, 32*j), sigma2[j])
		s.scales[j] = nonlinearScale(sub, w[:])
	}
}

// codes sets the codes of a block under an inverse scale.
func (s *nonlinearSearch) codes(codes *[32]uint8, x []float32, inverse float32) {
	if s.batch != nil {
		s.batch.nonlinearCodes(&codes[0], &x[0], 32/s.batch.n, inverse)
		return
	}
	for i, v := range x[:32] {
		codes[i] = nearestNonlinear(inverse * v)
	}
}

func quantizeIQ4NL(dst []byte, src, importance []float32) {
	s, done := newNonlinearSearch()
	defer done()
	var codes [32]uint8
	for at := 0; at < len(src); at += batchSubs * 32 {
		x := src[at:min(at+batchSubs*32, len(src))]
		s.run(x, part(importance, at), 32)
		for j := range len(x) / 32 {
			putHalf(dst, s.scales[j])
			s.codes(&codes, x[32*j:], inverseOf(s.scales[j]))
			putNibbles(dst[2:], &codes)
			dst = dst[18:]
		}
	}
}

func quantizeIQ4XS(dst []byte, src, importance []float32) {
	s, done := newNonlinearSearch()
	defer done()
	for at := 0; at < len(src); at += batchSubs * 32 {
		x := src[at:min(at+batchSubs*32, len(src))]
		s.run(x, part(importance, at), superBlock)
		for first := 0; len(x) > 0; first += superBlock / 32 {
			s.putIQ4XS(dst[:136], x[:superBlock], s.scales[first:][:superBlock/32])
			x, dst = x[superBlock:], dst[136:]
		}
	}
}

// putIQ4XS writes a super-block whose sub-blocks have these scales.
func (s *nonlinearSearch) putIQ4XS(dst []byte, x, scales []float32) {
	var codes [32]uint8
	top, _ := extreme(scales)
	d := -top / 32
	putHalf(dst, d)
	var levels [8]int8
	inverse := inverseOf(d)
	for j, scale := range scales {
		levels[j] = int8(clamp(nearest(inverse*scale), -32, 31))
		s.codes(&codes, x[32*j:], inverseOf(d*float32(levels[j])))
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
