package tokenizer

// spm is SentencePiece's byte pair encoding: any two neighbours that together
// are a token can be merged, the token with the highest score first.
type spm struct {
	ids    map[string]int32
	ranks  []int32    // by token: the place of its score among all scores, the highest first
	bytes  [256]int32 // the token of each byte, the unknown token if there is none, or -1
	maxLen int        // of a token, in bytes
}

// pair implements merger.
func (m *spm) pair(word string, left, right *symbol) (rank, id int32, ok bool) {
	if right.end-left.start > m.maxLen {
		return 0, 0, false
	}
	id, ok = m.ids[word[left.start:right.end]]
	if !ok {
		return 0, 0, false
	}
	return m.ranks[id], id, true
}

func (m *spm) encode(word string, s *scratch, out []int32) []int32 {
	s.symbols = s.symbols[:0]
	for i := 0; i < len(word); {
		end := i + unitLength(word[i:])
		id, ok := m.ids[word[i:end]]
		if !ok {
			id = -1
		}
		s.symbols = append(s.symbols, symbol{id: id, start: i, end: end})
		i = end
	}
	s.mergeAll(word, m)
	for i := range s.symbols {
		sym := &s.symbols[i]
		if sym.id >= 0 {
			out = append(out, sym.id)
			continue
		}
		for j := sym.start; j < sym.end; j++ {
			if id := m.bytes[word[j]]; id >= 0 {
				out = append(out, id)
			}
		}
	}
	return out
}
