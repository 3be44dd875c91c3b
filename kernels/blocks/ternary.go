package blocks

// TQ1_0: five values of -1, 0 or 1 in a byte as a fraction in base 3: 32 bytes
// for the first 160 values, 16 for the next 80, then 4 bytes of four values,
// and d.
func dequantizeTQ1_0(dst []float32, src []byte) {
	for ; len(src) >= 54; src, dst = src[54:], dst[superBlock:] {
		d := half(src[52:])
		ternaryDigits(dst[:160], src[:32], d)
		ternaryDigits(dst[160:240], src[32:48], d)
		ternaryDigits(dst[240:256], src[48:52], d)
	}
}

// ternaryDigits takes one digit after the other from every byte: multiplied by
// a power of 3 modulo 256, the leading digit is what a multiplication by 3
// carries out of the byte.
func ternaryDigits(y []float32, packed []byte, d float32) {
	power := uint8(1)
	for len(y) > 0 {
		for i, b := range packed {
			y[i] = d * float32(int(uint16(b*power)*3>>8)-1)
		}
		y = y[len(packed):]
		power *= 3
	}
}

// TQ2_0: 64 bytes of 2-bit codes for -1, 0, 1 and d.
func dequantizeTQ2_0(dst []float32, src []byte) {
	for ; len(src) >= 66; src, dst = src[66:], dst[superBlock:] {
		d := half(src[64:])
		for plane := range 8 {
			q, y, shift := src[plane/4*32:][:32], dst[32*plane:][:32], plane%4*2
			for i, b := range q {
				y[i] = d * float32(int(b>>shift&3)-1)
			}
		}
	}
}

// ternaryLevels sets codes to 0, 1 or 2 for the values that are closest to -d,
// 0 and d, where d, the largest magnitude, is returned.
func ternaryLevels(codes *[superBlock]uint8, x []float32) (d float32) {
	_, d = extreme(x)
	inverse := inverseOf(d)
	for i, v := range x {
		codes[i] = uint8(roundAway(v*inverse) + 1)
	}
	return d
}

func quantizeTQ1_0(dst []byte, src, _ []float32) {
	var codes [superBlock]uint8
	for ; len(src) > 0; src, dst = src[superBlock:], dst[54:] {
		putHalf(dst[52:], ternaryLevels(&codes, src[:superBlock]))
		putTernaryDigits(dst[:32], codes[:160])
		putTernaryDigits(dst[32:48], codes[160:240])
		putTernaryDigits(dst[48:52], codes[240:])
	}
}

// putTernaryDigits is the inverse of ternaryDigits: five digits of base 3, of
// which the last may be missing, as a fraction of 256 rounded up.
func putTernaryDigits(packed []byte, codes []uint8) {
	for i := range packed {
		var value int
		for digit := range 5 {
			value *= 3
			if at := i + digit*len(packed); at < len(codes) {
				value += int(codes[at])
			}
		}
		packed[i] = uint8((value*256 + 242) / 243)
	}
}

func quantizeTQ2_0(dst []byte, src, _ []float32) {
	var codes [superBlock]uint8
	for ; len(src) > 0; src, dst = src[superBlock:], dst[66:] {
		putHalf(dst[64:], ternaryLevels(&codes, src[:superBlock]))
		putCodes2(dst[:64], codes[:])
	}
}
