package blocks

import "encoding/binary"

var le = binary.LittleEndian

// affineK is a K type whose sub-blocks have a scale and a minimum.
type affineK struct {
	sub             int // values in a sub-block
	size            int // bytes of a super-block
	factors, packed int // offsets of the factors and of the packed levels
	plain           affineSearch
	weighted        affineSearch // with an importance matrix
	topScale        int32        // quantized scales and minima are in [0, topScale]
	sigmaGain       float32      // times the mean square gives the variance that weigh takes
	rootMean        bool         // plain weights are |x| plus the sub-block's root mean square
	pack            func(dst []byte, scales, mins *[16]uint8)
	unpack          func(j int, packed []byte) (scale, low uint8)
	put             func(block []byte, codes []uint8)
}

var (
	affineQ2K = affineK{
		sub: 16, size: 84, packed: 0, factors: 80,
		topScale: 15, sigmaGain: 1, pack: packScalesQ2K, unpack: scaleMinQ2K,
		plain:    newAffine(3, -0.5, 0.1, 15, true),
		weighted: weighted2,
		put:      func(block []byte, codes []uint8) { putCodes2(block[16:80], codes) },
	}
	affineQ4K = affineK{
		sub: 32, size: 144, factors: 0, packed: 4,
		topScale: 63, sigmaGain: 2, rootMean: true, pack: packScalesK4, unpack: scaleMinK4,
		plain:    newAffine(15, -1, 0.1, 20, false),
		weighted: weighted4,
		put:      func(block []byte, codes []uint8) { putCodesQ4K(block[16:144], codes) },
	}
	affineQ5K = affineK{
		sub: 32, size: 176, factors: 0, packed: 4,
		topScale: 63, sigmaGain: 2, rootMean: true, pack: packScalesK4, unpack: scaleMinK4,
		plain:    newAffine(31, -0.5, 0.1, 15, false),
		weighted: weighted5,
		put:      func(block []byte, codes []uint8) { putCodesQ5K(block[16:176], codes) },
	}
)

func quantizeQ2K(dst []byte, src, importance []float32) { affineQ2K.quantizeRow(dst, src, importance) }
func quantizeQ4K(dst []byte, src, importance []float32) { affineQ4K.quantizeRow(dst, src, importance) }
func quantizeQ5K(dst []byte, src, importance []float32) { affineQ5K.quantizeRow(dst, src, importance) }

// quantizeRow rounds super-blocks one by one: scales and minima of the
// sub-blocks by search, then those to topScale levels, then the values once
// more under the scales as they are stored.
func (k *affineK) quantizeRow(dst []byte, src, importance []float32) {
	if native != nil {
		k.quantizeLanes(dst, src, importance)
		return
	}
	var b affineBlock
	for at := 0; at < len(src); at += superBlock {
		x := src[at:][:superBlock]
		k.search(&b, x, part(importance, at))
		k.store(&b, dst, importance != nil)
		k.requantize(&b, dst, x)
		k.put(dst, b.codes[:])
		dst = dst[k.size:]
	}
}

// affineBlock is one super-block on its way.
type affineBlock struct {
	codes              [superBlock]uint8
	scales, mins, sumW [16]float32
}

// search finds the scale, the minimum and the codes of each sub-block.
func (k *affineK) search(b *affineBlock, x, importance []float32) {
	sigma2 := k.sigma2(x, importance)
	var weights [maxSubBlock]float32
	w := weights[:k.sub]
	for j := range superBlock / k.sub {
		sub, codes := x[j*k.sub:][:k.sub], b.codes[j*k.sub:][:k.sub]
		if importance == nil {
			k.plainWeights(w, sub)
			b.scales[j], b.mins[j] = k.plain.scaleAndMin(codes, sub, w)
			continue
		}
		weigh(w, sub, importance[j*k.sub:], sigma2)
		b.sumW[j] = sum(w)
		b.scales[j], b.mins[j] = k.weighted.scaleAndMin(codes, sub, w)
	}
}

// sigma2 is the variance that weighs values beside their importance.
func (k *affineK) sigma2(x, importance []float32) float32 {
	if importance == nil {
		return 0
	}
	return float32(float32(k.sigmaGain*sumSquares(x)) / superBlock)
}

// store rounds the scales and minima and writes them to a block.
func (k *affineK) store(b *affineBlock, block []byte, weighted bool) {
	n := superBlock / k.sub
	scales, mins, sumW, factors := b.scales[:n], b.mins[:n], b.sumW[:n], block[k.factors:]
	var scaleLevels, minLevels [16]uint8
	if weighted {
		putHalf(factors, positiveScale(scaleLevels[:n], scales, sumW, k.topScale))
		putHalf(factors[2:], positiveScale(minLevels[:n], mins, sumW, k.topScale))
	} else {
		putHalf(factors, k.plainScale(scaleLevels[:n], scales))
		putHalf(factors[2:], k.plainScale(minLevels[:n], mins))
	}
	k.pack(block[k.packed:], &scaleLevels, &minLevels)
}

// plainWeights are |x|, plus the root mean square for the types of 4 and 5
// bits.
func (k *affineK) plainWeights(w, x []float32) {
	var mean float32
	if k.rootMean {
		mean = sqrt32(sumSquares(x) / float32(len(x)))
	}
	for i, v := range x {
		w[i] = mean + abs32(v)
	}
}

// plainScale rounds values that are not negative to [0, topScale] with the
// largest at the top, and returns the scale.
func (k *affineK) plainScale(codes []uint8, values []float32) float32 {
	var inverse float32
	highest, top := largest(values), float32(k.topScale)
	if highest > 0 {
		inverse = top / highest
	}
	for i, v := range values {
		codes[i] = min(uint8(k.topScale), uint8(nearest(inverse*v)))
	}
	return highest / top
}

// grid returns the scale and minimum of a sub-block as they are stored.
func (k *affineK) grid(block []byte, j int) (scale, low float32) {
	level, minLevel := k.unpack(j, block[k.packed:])
	return half(block[k.factors:]) * float32(level), float32(half(block[k.factors+2:]) * float32(minLevel))
}

// requantize sets the codes anew under the stored scales and minima. A
// sub-block whose scale is stored as zero keeps the codes of the search.
func (k *affineK) requantize(b *affineBlock, block []byte, x []float32) {
	for j := range superBlock / k.sub {
		scale, low := k.grid(block, j)
		if scale == 0 {
			continue
		}
		codes, top := b.codes[j*k.sub:][:k.sub], k.plain.top
		for i, v := range x[j*k.sub:][:k.sub] {
			codes[i] = uint8(clamp(nearest((v+low)/scale), 0, top))
		}
	}
}

// putCodesQ4K packs 256 codes below 16 into 128 bytes: 32 in the low nibbles,
// the next 32 in the high ones.
func putCodesQ4K(dst []byte, codes []uint8) {
	for pair := range 4 {
		c, d := codes[64*pair:][:64], dst[32*pair:][:32]
		for i := 0; i < 32; i += 8 { // eight bytes at a time: no bit leaves its own
			le.PutUint64(d[i:], le.Uint64(c[i:])|le.Uint64(c[i+32:])<<4)
		}
	}
}

// putCodesQ5K packs 256 codes below 32 into 32 bytes of high bits and 128 of
// nibbles.
func putCodesQ5K(dst []byte, codes []uint8) {
	high := dst[:32]
	clear(high)
	for pair := range 4 {
		c := codes[64*pair:][:64]
		for i := range 32 {
			high[i] |= (c[i]>>4 | c[i+32]>>4<<1) << (2 * pair)
			dst[32+32*pair+i] = c[i]&15 | c[i+32]<<4
		}
	}
}

// packScalesQ2K is the inverse of scaleMinQ2K.
func packScalesQ2K(dst []byte, scales, mins *[16]uint8) {
	for j := range scales {
		dst[j] = scales[j] | mins[j]<<4
	}
}

// packScalesK4 packs 8 scales and 8 minima of 6 bits; see scaleMinK4.
func packScalesK4(dst []byte, scales, mins *[16]uint8) {
	for j := range 4 {
		dst[j] = scales[j] | scales[j+4]>>4<<6
		dst[j+4] = mins[j] | mins[j+4]>>4<<6
		dst[j+8] = scales[j+4]&15 | mins[j+4]<<4
	}
}

// part is the importance of the columns from at on; nil stays nil.
func part(importance []float32, at int) []float32 {
	if importance == nil {
		return nil
	}
	return importance[at:]
}

// putCodes2 packs 256 codes below 4 into 64 bytes: four planes of 32 codes to
// each half.
func putCodes2(dst []byte, codes []uint8) {
	for h := range 2 {
		c, d := codes[128*h:][:128], dst[32*h:][:32]
		for i := 0; i < 32; i += 8 {
			le.PutUint64(d[i:], le.Uint64(c[i:])|le.Uint64(c[i+32:])<<2|le.Uint64(c[i+64:])<<4|le.Uint64(c[i+96:])<<6)
		}
	}
}
