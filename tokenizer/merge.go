package tokenizer

// symbol is a part of a word while the word is being merged.
type symbol struct {
	id         int32 // what a model knows it by
	prev, next int32 // neighbours, -1 at the ends
	start, end int   // bytes of the word
}

// merger is what byte pair encoders differ in: which neighbours can be merged,
// and how early.
type merger interface {
	// pair returns the rank (lower merges first) and the id of what two
	// neighbours of a word become, and ok false if they do not merge.
	pair(word string, left, right *symbol) (rank, id int32, ok bool)
}

// mergeState is the scratch space of merging.
type mergeState struct {
	symbols []symbol
	ranks   []candidate // per symbol: its merge with the next
	heap    []candidate
}

// candidate is a possible merge of the symbol at left with its next one.
type candidate struct {
	rank, id    int32 // rank is noMerge where there is none
	left, right int32
	end         int // of the right symbol: tells a candidate that is out of date
}

const noMerge = 1<<31 - 1

// shortWord is up to how many symbols the best merge is found by looking at
// all of them; longer words use a heap.
const shortWord = 24

// mergeAll merges neighbours among m.symbols, always those of the lowest rank,
// the leftmost among equals, until none can be merged. What is left is in
// m.symbols.
func (m *mergeState) mergeAll(word string, by merger) {
	if len(m.symbols) <= shortWord {
		m.mergeShort(word, by)
	} else {
		m.mergeLong(word, by)
	}
}

func (m *mergeState) mergeShort(word string, by merger) {
	s := m.symbols
	ranks := m.ranks[:0]
	for i := range s {
		ranks = append(ranks, m.rankAt(word, s, i, by))
	}
	m.ranks = ranks
	for len(s) > 1 {
		best := 0
		for i := 1; i < len(s)-1; i++ {
			if ranks[i].rank < ranks[best].rank {
				best = i
			}
		}
		if ranks[best].rank == noMerge {
			break
		}
		s[best].id, s[best].end = ranks[best].id, s[best+1].end
		s = append(s[:best+1], s[best+2:]...)
		ranks = append(ranks[:best+1], ranks[best+2:]...)
		ranks[best] = m.rankAt(word, s, best, by)
		if best > 0 {
			ranks[best-1] = m.rankAt(word, s, best-1, by)
		}
	}
	m.symbols = s
}

func (m *mergeState) rankAt(word string, s []symbol, i int, by merger) candidate {
	if i+1 < len(s) {
		if rank, id, ok := by.pair(word, &s[i], &s[i+1]); ok {
			return candidate{rank: rank, id: id}
		}
	}
	return candidate{rank: noMerge}
}

func (m *mergeState) mergeLong(word string, by merger) {
	s := m.symbols
	m.heap = m.heap[:0]
	for i := range s {
		s[i].prev, s[i].next = int32(i)-1, int32(i)+1
	}
	s[len(s)-1].next = -1
	for i := range s[:len(s)-1] {
		m.push(word, s, int32(i), by)
	}
	for len(m.heap) > 0 {
		c := m.pop()
		left := &s[c.left]
		if left.next != c.right || s[c.right].end != c.end {
			continue // one of the two has been merged since
		}
		right := &s[c.right]
		left.id, left.end, left.next = c.id, right.end, right.next
		right.next = -2 // dead: no candidate of it is valid any more
		if left.next >= 0 {
			s[left.next].prev = c.left
			m.push(word, s, c.left, by)
		}
		if left.prev >= 0 {
			m.push(word, s, left.prev, by)
		}
	}
	out := s[:0]
	for i := int32(0); i >= 0; {
		next := s[i].next
		out = append(out, s[i])
		i = next
	}
	m.symbols = out
}

// push adds the merge of the symbol at left with its next one, if there is one.
func (m *mergeState) push(word string, s []symbol, left int32, by merger) {
	right := s[left].next
	rank, id, ok := by.pair(word, &s[left], &s[right])
	if !ok {
		return
	}
	m.heap = append(m.heap, candidate{rank, id, left, right, s[right].end})
	h := m.heap
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h[i].before(&h[parent]) {
			break
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

func (m *mergeState) pop() candidate {
	h := m.heap
	top := h[0]
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	m.heap = h
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return top
		}
		if child+1 < last && h[child+1].before(&h[child]) {
			child++
		}
		if !h[child].before(&h[i]) {
			return top
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

func (c *candidate) before(d *candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.left < d.left
}
