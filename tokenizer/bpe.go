package tokenizer

import (
	"unicode/utf8"
)

// model turns a word, a piece of text that the pre-tokenizer cut out, into
// token ids.
type model interface {
	encode(word string, s *scratch, out []int32) []int32
}

// scratch is what one goroutine needs while it encodes.
type scratch struct {
	mergeState
	viterbi   []bestPath
	spans     []span
	parts     []part
	words     [2][]string
	fragments []fragment
	inner     []fragment
	cache     map[string][]int32
}

// bpe is byte pair encoding: a word starts as characters (or bytes) and the
// pair of neighbours with the lowest rank is merged until there is none.
type bpe struct {
	ids    map[string]int32 // what a unit or a whole word is as a symbol
	merges pairMap          // two symbols: rank, result

	byteLevel bool       // words are raw bytes, tokens are written as byteEncode does
	units     [256]int32 // byteLevel: the symbol of each byte, -1 if none

	wholeWords bool             // a word that is a token is not merged together
	words      map[string]int32 // those tokens

	prefix, suffix string // of units that do not begin, and that end, a word

	unk          int32 // what an unknown character becomes, -1 for nothing
	fuseUnk      bool  // neighbouring unknown characters become one
	byteFallback bool  // unknown characters become byte tokens where those exist
	bytes        [256]int32

	// spell is set for models that may merge to symbols that are no tokens: what
	// is put out for each symbol from len(tokens) on.
	spell     [][]int32
	numTokens int32
	// lateBytes: what is no token becomes byte tokens after all merges are done.
	lateBytes bool
}

// pair implements merger.
func (m *bpe) pair(_ string, left, right *symbol) (rank, id int32, ok bool) {
	if left.id < 0 || right.id < 0 {
		return 0, 0, false
	}
	return m.merges.get(pairKey(left.id, right.id))
}

func (m *bpe) encode(word string, s *scratch, out []int32) []int32 {
	if m.wholeWords {
		if id, ok := m.words[word]; ok {
			return append(out, id)
		}
	}
	s.symbols = s.symbols[:0]
	if m.byteLevel {
		for i := range len(word) {
			if id := m.units[word[i]]; id >= 0 {
				s.symbols = append(s.symbols, symbol{id: id, start: i, end: i + 1})
			} else if m.unk >= 0 {
				m.addUnknown(s, i, i+1, i > 0 && m.units[word[i-1]] < 0)
			}
		}
	} else {
		m.split(word, s)
	}
	s.mergeAll(word, m)
	for i := range s.symbols {
		out = m.emit(word, &s.symbols[i], out)
	}
	return out
}

// addUnknown adds the unknown token for word[start:end], or lets the one
// before it grow.
func (m *bpe) addUnknown(s *scratch, start, end int, follows bool) {
	if last := len(s.symbols) - 1; m.fuseUnk && follows && last >= 0 {
		s.symbols[last].end = end
		return
	}
	s.symbols = append(s.symbols, symbol{id: m.unk, start: start, end: end})
}

// split makes symbols of the characters of a word.
func (m *bpe) split(word string, s *scratch) {
	unknown := symbol{start: -1} // not added before the next known character
	flush := func() {
		if unknown.start >= 0 {
			s.symbols = append(s.symbols, unknown)
			unknown.start = -1
		}
	}
	for i := 0; i < len(word); {
		end := i + unitLength(word[i:])
		unit := m.unit(word, i, end)
		if id, ok := m.ids[unit]; ok {
			flush()
			s.symbols = append(s.symbols, symbol{id: id, start: i, end: end})
		} else if m.lateBytes {
			s.symbols = append(s.symbols, symbol{id: -1, start: i, end: end})
		} else if m.byteFallback && m.hasBytes(unit) {
			for j := range len(unit) {
				s.symbols = append(s.symbols, symbol{id: m.bytes[unit[j]], start: i, end: end})
			}
		} else if m.unk >= 0 {
			if unknown.start >= 0 && m.fuseUnk {
				unknown.end = end
			} else {
				flush()
				unknown = symbol{id: m.unk, start: i, end: end}
			}
		}
		i = end
	}
	flush()
}

// unit is the character word[start:end] as the vocabulary writes it.
func (m *bpe) unit(word string, start, end int) string {
	u := word[start:end]
	if start > 0 && m.prefix != "" {
		u = m.prefix + u
	}
	if end == len(word) && m.suffix != "" {
		u += m.suffix
	}
	return u
}

func (m *bpe) hasBytes(s string) bool {
	for i := range len(s) {
		if m.bytes[s[i]] < 0 {
			return false
		}
	}
	return true
}

func (m *bpe) emit(word string, sym *symbol, out []int32) []int32 {
	switch {
	case sym.id >= 0 && sym.id < m.numTokens:
		return append(out, sym.id)
	case sym.id >= 0 && !m.lateBytes:
		return append(out, m.spell[sym.id-m.numTokens]...)
	}
	for i := sym.start; i < sym.end; i++ {
		if id := m.bytes[word[i]]; id >= 0 {
			out = append(out, id)
		}
	}
	return out
}

// mergesBytes reports whether byte tokens can be merged.
func (m *bpe) mergesBytes() bool {
	var isByte map[int32]bool
	if m.byteFallback {
		isByte = make(map[int32]bool, len(m.bytes))
		for _, id := range m.bytes {
			isByte[id] = true
		}
	}
	for _, s := range m.merges.slots {
		if s.key != 0 && (isByte[int32((s.key-1)>>32)] || isByte[int32(s.key-1)]) {
			return true
		}
	}
	return false
}

// unitLength is the number of bytes of the first character of s by its first
// byte alone, as SentencePiece counts.
func unitLength(s string) int {
	n := 1
	switch b := s[0]; {
	case b < utf8.RuneSelf:
		return 1
	case b >= 0xf0:
		n = 4
	case b >= 0xe0:
		n = 3
	case b >= 0xc0:
		n = 2
	}
	return min(n, len(s))
}
