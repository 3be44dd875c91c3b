package blocks

// signedBlock is one quantized super-block of a type with 16 signed scales.
type signedBlock struct {
	codes  [superBlock]uint8
	scales [16]float32
	w      [16]float32
	sumW   [16]float32
	batch  *batch // the sub-blocks in lanes, nil for portable Go
}

// newSignedBlock returns a block and what gives its memory back.
func newSignedBlock() (b *signedBlock, done func()) {
	b = new(signedBlock)
	if native == nil {
		return b, func() {}
	}
	b.batch = newBatch(16)
	return b, b.batch.free
}

func quantizeQ3K(dst []byte, src, importance []float32) {
	b, done := newSignedBlock()
	defer done()
	for at := 0; at < len(src); at += superBlock {
		x := src[at:][:superBlock]
		var levels [16]uint8 // 6-bit scales, offset by 32
		d := b.scalesQ3K(&levels, x, part(importance, at))
		putHalf(dst[108:], d)
		b.requantize(x, half(dst[108:]), 4, func(j int) int32 { return int32(levels[j]) - 32 })
		packScalesQ3K(dst[96:108], &levels)
		putCodesQ3K(dst[:96], b.codes[:])
		dst = dst[110:]
	}
}

// putCodesQ3K packs 256 codes below 8 into 32 bytes of high bits and 64 of the
// lower two. It clears the high bits in codes.
func putCodesQ3K(dst []byte, codes []uint8) {
	high := dst[:32]
	clear(high)
	for i := range codes {
		high[i%32] |= codes[i] >> 2 << (i / 32)
		codes[i] &= 3
	}
	putCodes2(dst[32:96], codes)
}

// scalesQ3K searches the scales of 16 sub-blocks, rounds them to 6 bits and
// returns their common factor.
func (b *signedBlock) scalesQ3K(levels *[16]uint8, x, importance []float32) float32 {
	const halfScales = 32
	b.searchQ3K(x, importance)
	if importance != nil {
		return symmetric6.scale(levels[:], b.scales[:], b.sumW[:])
	}
	top, magnitude := extreme(b.scales[:])
	if magnitude == 0 {
		clear(levels[:])
		return 0
	}
	inverse := -halfScales / top
	for j, s := range b.scales {
		levels[j] = uint8(clamp(int32(int8(nearest(inverse*s))), -halfScales, halfScales-1) + halfScales)
	}
	return 1 / inverse
}

// searchQ3K finds the scale and the codes of each sub-block, and with importance
// the sum of the weights.
func (b *signedBlock) searchQ3K(x, importance []float32) {
	var sigma2 float32
	if importance != nil {
		sigma2 = float32(float32(2*sumSquares(x)) / superBlock)
	}
	if b.batch != nil {
		b.batch.load(&b.batch.x, x)
		if importance == nil {
			b.batch.descend(symmetric3)
		} else {
			b.batch.weighAll(importance[:superBlock], sigma2)
			b.batch.symmetric(symmetric3)
		}
		b.scales, b.sumW = b.batch.scales, b.batch.sumW
		return
	}
	for j := range 16 {
		sub, codes := x[16*j:][:16], b.codes[16*j:][:16]
		if importance == nil {
			b.scales[j] = symmetric3.descend(codes, sub)
			continue
		}
		weigh(b.w[:], sub, importance[16*j:], sigma2)
		b.sumW[j] = sum(b.w[:])
		b.scales[j] = symmetric3.scale(codes, sub, b.w[:])
	}
}

// packScalesQ3K is the inverse of unpackScalesQ3K.
func packScalesQ3K(dst []byte, levels *[16]uint8) {
	clear(dst)
	for j, l := range levels {
		dst[j%8] |= l & 15 << (j / 8 * 4)
		dst[8+j%4] |= l >> 4 << (j / 4 * 2)
	}
}

// requantize sets the codes anew under the scales as they are stored. A
// sub-block whose scale is stored as zero keeps the codes of the search.
func (b *signedBlock) requantize(x []float32, d float32, half int32, level func(j int) int32) {
	if b.batch != nil {
		for j := range 16 {
			b.batch.gridScales[j] = d * float32(level(j))
		}
		b.batch.requantizeSigned(b.codes[:], x, half)
		return
	}
	for j := range 16 {
		scale := d * float32(level(j))
		if scale == 0 {
			continue
		}
		codes := b.codes[16*j:][:16]
		for i, v := range x[16*j:][:16] {
			codes[i] = uint8(clamp(nearest(v/scale), -half, half-1) + half)
		}
	}
}

func quantizeQ6K(dst []byte, src, importance []float32) {
	b, done := newSignedBlock()
	defer done()
	for at := 0; at < len(src); at += superBlock {
		b.quantizeQ6K(dst[:210], src[at:][:superBlock], part(importance, at))
		dst = dst[210:]
	}
}

func (b *signedBlock) quantizeQ6K(dst []byte, x, importance []float32) {
	const halfCodes = 32
	b.searchQ6K(x, importance)
	top, magnitude := extreme(b.scales[:])
	if magnitude < tiny {
		clear(dst)
		return
	}
	inverse := -128 / top
	putHalf(dst[208:], 1/inverse)
	levels := dst[192:208]
	for j, s := range b.scales {
		levels[j] = uint8(min(127, nearest(inverse*s)))
	}
	b.requantize(x, half(dst[208:]), halfCodes, func(j int) int32 { return int32(int8(levels[j])) })
	putCodesQ6K(dst[:192], b.codes[:])
}

// searchQ6K finds the scale and the codes of each sub-block.
func (b *signedBlock) searchQ6K(x, importance []float32) {
	if b.batch != nil {
		b.batch.load(&b.batch.x, x)
		if importance != nil {
			b.batch.load(&b.batch.w, importance[:superBlock])
		} else {
			b.batch.squares(&b.batch.w[0], &b.batch.x[0], superBlock/b.batch.n)
		}
		b.batch.symmetric(symmetric6)
		b.scales = b.batch.scales
		return
	}
	for j := range 16 {
		sub, w := x[16*j:][:16], b.w[:]
		if importance != nil {
			w = importance[16*j:][:16]
		} else {
			for i, v := range sub {
				w[i] = v * v
			}
		}
		b.scales[j] = symmetric6.scale(b.codes[16*j:][:16], sub, w)
	}
}

// putCodesQ6K packs 256 codes below 64 into 128 bytes of low nibbles and 64 of
// the upper two bits.
func putCodesQ6K(dst []byte, codes []uint8) {
	for h := range 2 {
		c, low, high := codes[128*h:][:128], dst[64*h:][:64], dst[128+32*h:][:32]
		for i := range 32 {
			low[i] = c[i]&15 | c[i+64]<<4
			low[i+32] = c[i+32]&15 | c[i+96]<<4
			high[i] = c[i]>>4 | c[i+32]>>4<<2 | c[i+64]>>4<<4 | c[i+96]>>4<<6
		}
	}
}
