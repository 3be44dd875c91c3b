package tokenizer

import (
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf8"
)

// charsmap is SentencePiece's precompiled normalization: a double array trie
// of strings and the strings that replace them, each ended by a zero byte.
type charsmap struct {
	units        []uint32
	replacements string
}

func parseCharsmap(data []byte) (*charsmap, error) {
	if len(data) < 4 {
		return nil, errors.New("the character map is shorter than its header")
	}
	size := uint64(binary.LittleEndian.Uint32(data))
	data = data[4:]
	if size > uint64(len(data)) || size%4 != 0 || size == 0 {
		return nil, errors.New("the character map's trie is larger than the map or not whole")
	}
	m := &charsmap{units: make([]uint32, size/4), replacements: string(data[size:])}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(data[4*i:])
	}
	return m, nil
}

// Each unit of the trie has the label of its edge in bits 0 to 7, whether it
// has a value in bit 8, and the offset to its children in bits 10 to 30,
// shifted by 8 more if bit 9 is set; a value's unit has bit 31 set.
func unitOffset(u uint32) uint32 { return u >> 10 << (u & (1 << 9) >> 6) }

// lookup returns what replaces the shortest or the longest beginning of text
// that is in the map, and the length of that beginning.
func (m *charsmap) lookup(text string, longest bool) (replacement string, length int) {
	node := unitOffset(m.units[0])
	for i := range len(text) {
		c := uint32(text[i])
		node ^= c
		if c == 0 || node >= uint32(len(m.units)) {
			break
		}
		u := m.units[node]
		if u&(1<<31|0xff) != c {
			break
		}
		node ^= unitOffset(u)
		if u>>8&1 == 0 || node >= uint32(len(m.units)) {
			continue
		}
		at := m.units[node] &^ (1 << 31)
		if at > uint32(len(m.replacements)) {
			break
		}
		replacement, length = m.replacements[at:], i+1
		if end := strings.IndexByte(replacement, 0); end >= 0 {
			replacement = replacement[:end]
		}
		if !longest {
			break
		}
	}
	return replacement, length
}

// normalize rewrites text as the tokenizers library does: grapheme by grapheme
// where those are short, else rune by rune, and by the shortest entry of the
// map that fits, which then replaces the whole of it.
func (m *charsmap) normalize(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	for text != "" {
		n := graphemeLength(text)
		grapheme := text[:n]
		text = text[n:]
		if n < 6 {
			if r, length := m.lookup(grapheme, false); length > 0 {
				b.WriteString(r)
				continue
			}
		}
		for grapheme != "" {
			_, n := utf8.DecodeRuneInString(grapheme)
			if r, length := m.lookup(grapheme[:n], false); length > 0 {
				b.WriteString(r)
			} else {
				b.WriteString(grapheme[:n])
			}
			grapheme = grapheme[n:]
		}
	}
	return b.String()
}
