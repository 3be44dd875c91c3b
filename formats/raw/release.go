package raw

import (
	"sync"
	"unsafe"
)

// mappings are the mapped files that are open, so that Release can tell their
// pages from other memory.
var mappings struct {
	sync.Mutex
	list []*Mapping
}

func (m *Mapping) register() {
	mappings.Lock()
	defer mappings.Unlock()
	mappings.list = append(mappings.list, m)
}

// unregister keeps Release away from m: its addresses may soon be another's.
func (m *Mapping) unregister() {
	mappings.Lock()
	defer mappings.Unlock()
	for i, other := range mappings.list {
		if other == m {
			last := len(mappings.list) - 1
			mappings.list[i] = mappings.list[last]
			mappings.list = mappings.list[:last]
			return
		}
	}
}

// Release tells the system that a piece of a mapped file is not needed for
// now: its pages no longer count as the program's memory, and come back from
// the file when they are read again. Bytes that are not of a mapped file are
// left alone.
func Release(part []byte) {
	if len(part) == 0 {
		return
	}
	mappings.Lock()
	defer mappings.Unlock()
	at := uintptr(unsafe.Pointer(&part[0]))
	for _, m := range mappings.list {
		base := uintptr(unsafe.Pointer(&m.Data[0]))
		if at >= base && at-base < uintptr(len(m.Data)) {
			from := int(at - base)
			releasePages(m.Data, from, min(from+len(part), len(m.Data)))
			return
		}
	}
}
