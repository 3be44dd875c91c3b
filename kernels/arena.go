package kernels

import "unsafe"

// arena hands out memory for rearranged weights from large runs, so that it can
// lie in large pages though most weights are small next to them. A run is freed
// with the last weight in it.
type arena struct {
	rest []byte
}

// arenaBytes is the size of a run. Pages that are not used take no memory.
const arenaBytes = 64 << 20

// take returns n zeros that begin at a multiple of 64 bytes.
func (a *arena) take(n int) []byte {
	if n > arenaBytes/4 {
		return hugeBytes(n)
	}
	padded := (n + alignment - 1) &^ (alignment - 1)
	if padded > len(a.rest) {
		a.rest = hugeBytes(arenaBytes)
	}
	taken := a.rest[:n:n]
	a.rest = a.rest[padded:]
	return taken
}

// hugeBytes returns n zeros that begin at a large page.
func hugeBytes(n int) []byte {
	f := alignedFloats(ceilDiv(n+hugePage, 4))
	b := unsafe.Slice(bytePointer(f), 4*len(f))
	skip := int(-uintptr(unsafe.Pointer(&b[0])) % hugePage)
	return b[skip:][:n:n]
}
