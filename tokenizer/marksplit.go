package tokenizer

import (
	"iter"
	"strings"
	"unicode/utf8"
)

// markSplit cuts text before marks of spaces where no token reaches across.
// Models that see a text whole, SentencePiece's, give the same ids for the
// parts, which are short and repeat themselves.
type markSplit struct {
	joined map[string]bool // characters that some token has before a mark
}

// newMarkSplit looks at every string that merging may lead to.
func newMarkSplit(tokens iter.Seq[string]) *markSplit {
	m := &markSplit{joined: make(map[string]bool)}
	for token := range tokens {
		for i := 1; i < len(token); i++ {
			if at := strings.Index(token[i:], spaceMark); at < 0 {
				break
			} else {
				i += at
			}
			m.joined[lastUnit(token[:i])] = true
		}
	}
	return m
}

func lastUnit(s string) string {
	_, n := utf8.DecodeLastRuneInString(s)
	return s[len(s)-n:]
}

func (m *markSplit) split(word string, begins bool, dst []string, _ *scratch) ([]string, bool) {
	from := 0
	for i := 1; i < len(word); {
		at := strings.Index(word[i:], spaceMark)
		if at < 0 {
			break
		}
		i += at
		if i > 0 && !m.joined[lastUnit(word[:i])] {
			dst = appendWord(dst, word[from:i])
			from = i
		}
		i += len(spaceMark)
	}
	return appendWord(dst, word[from:]), begins
}
