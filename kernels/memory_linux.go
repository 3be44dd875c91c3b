package kernels

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// preferHugePages asks for large pages where v is memory of several of them
// that was not written yet: panels are then read without a stop at every 4
// kilobytes, where the processor's prefetching ends, and page tables are
// walked rarely. It is advice, so that a refusal is no error.
func preferHugePages(v []float32) {
	if len(v) < 2*hugePage/4 {
		return
	}
	b := unsafe.Slice(bytePointer(v), 4*len(v))
	skip := int(-uintptr(unsafe.Pointer(&b[0])) % hugePage)
	if whole := (len(b) - skip) / hugePage * hugePage; whole > 0 {
		_ = unix.Madvise(b[skip:skip+whole], unix.MADV_HUGEPAGE)
	}
}
