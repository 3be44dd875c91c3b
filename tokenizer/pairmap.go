package tokenizer

import "math/rand/v2"

// pairMap maps pairs of small numbers to pairs of numbers: two symbols to the
// rank and the result of their merge, a trie's node and a byte to its child.
// The zero value is empty.
type pairMap struct {
	slots []pairSlot
	seed  uint64 // odd, random: a file cannot be made to collide
	shift uint8
	used  int
}

type pairSlot struct {
	key  uint64 // plus one; 0 is empty
	a, b int32
}

func pairKey(left, right int32) uint64 { return uint64(uint32(left))<<32 | uint64(uint32(right)) }

func (m *pairMap) slot(key uint64) *pairSlot {
	mask := uint64(len(m.slots) - 1)
	for i := (key * m.seed) >> m.shift; ; i++ {
		s := &m.slots[i&mask]
		if s.key == 0 || s.key == key+1 {
			return s
		}
	}
}

// get returns what key maps to.
func (m *pairMap) get(key uint64) (a, b int32, ok bool) {
	if len(m.slots) == 0 {
		return 0, 0, false
	}
	s := m.slot(key)
	return s.a, s.b, s.key != 0
}

// put sets what key maps to, and overwrites what it mapped to before.
func (m *pairMap) put(key uint64, a, b int32) {
	if 4*m.used >= 3*len(m.slots) {
		m.grow()
	}
	s := m.slot(key)
	if s.key == 0 {
		s.key = key + 1
		m.used++
	}
	s.a, s.b = a, b
}

func (m *pairMap) grow() {
	old := m.slots
	if len(old) == 0 {
		m.seed = rand.Uint64() | 1
		m.shift = 64 - 3
	}
	m.shift--
	m.slots = make([]pairSlot, 1<<(64-m.shift))
	for _, s := range old {
		if s.key != 0 {
			*m.slot(s.key - 1) = s
		}
	}
}
