package tokenizer

import (
	"iter"
	"unicode/utf8"
)

// pairSplit cuts text between characters that no token has next to each other.
// Models that see text whole, SentencePiece's, give the same ids for the
// parts, which are short and repeat themselves.
type pairSplit struct {
	// joined tells of pairs of ASCII characters and marks of spaces, the latter
	// at markIndex, whether some token has them.
	joined [markIndex + 1][markIndex + 1]bool
	// beforeMark are the other characters that some token has before a mark.
	beforeMark map[rune]bool
}

const (
	markIndex = utf8.RuneSelf
	markRune  = '▁'
)

// newPairSplit looks at every string that merging may lead to.
func newPairSplit(tokens iter.Seq[string]) *pairSplit {
	p := &pairSplit{beforeMark: make(map[rune]bool)}
	for token := range tokens {
		p.join(token)
	}
	return p
}

// join makes sure that s is not cut.
func (p *pairSplit) join(s string) {
	last, before := -1, rune(0)
	for i, r := range s {
		index := pairIndex(r)
		if last >= 0 && index >= 0 {
			p.joined[last][index] = true
		} else if i > 0 && r == markRune {
			p.beforeMark[before] = true
		}
		last, before = index, r
	}
}

func pairIndex(r rune) int {
	switch {
	case r < utf8.RuneSelf:
		return int(r)
	case r == markRune:
		return markIndex
	}
	return -1
}

// onlyKnown joins all characters that are not units of a vocabulary, so that
// runs of them stay together.
func (p *pairSplit) onlyKnown(ids map[string]int32) {
	for i := range p.joined {
		unit := string(rune(i))
		if i == markIndex {
			unit = spaceMark
		}
		if _, ok := ids[unit]; ok {
			continue
		}
		for j := range p.joined {
			p.joined[i][j], p.joined[j][i] = true, true
		}
	}
}

// cuts reports whether text is cut between the runes before and r.
func (p *pairSplit) cuts(before, r rune) bool {
	i, j := pairIndex(before), pairIndex(r)
	if j < 0 {
		return false
	}
	if i < 0 {
		return r == markRune && before != utf8.RuneError && !p.beforeMark[before]
	}
	return !p.joined[i][j]
}

func (p *pairSplit) split(word string, begins bool, dst []string, _ *scratch) ([]string, bool) {
	from, before := 0, rune(utf8.RuneError)
	for i := 0; i < len(word); {
		r, n := rune(word[i]), unitLength(word[i:])
		if n > 1 || r >= utf8.RuneSelf {
			var size int
			if r, size = utf8.DecodeRuneInString(word[i:]); size != n {
				r = utf8.RuneError
			}
		}
		if i > from && p.cuts(before, r) {
			dst = append(dst, word[from:i])
			from = i
		}
		before = r
		i += n
	}
	return appendWord(dst, word[from:]), begins
}
