package kernels

import "unsafe"

// alignment is the size of a cache line and of the widest vector.
const alignment = 64

// hugePage is the size of large pages where small ones have 4 kilobytes.
const hugePage = 2 << 20

// alignedFloats returns n zeros that begin at a multiple of 64 bytes.
func alignedFloats(n int) []float32 {
	const extra = alignment / 4
	buf := make([]float32, n+extra)
	preferHugePages(buf)
	at := uintptr(unsafe.Pointer(&buf[0])) % alignment
	skip := 0
	if at != 0 {
		skip = int(alignment-at) / 4
	}
	return buf[skip : skip+n : skip+n]
}

// bytePointer is the address of v, which must not be empty.
func bytePointer(v []float32) *byte { return (*byte)(unsafe.Pointer(&v[0])) }
