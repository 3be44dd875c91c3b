package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// addedToken is a token that is looked for in the text before the model sees it.
type addedToken struct {
	id         int32
	content    string
	special    bool // only found where special tokens are parsed; not part of decoded text
	normalized bool // looked for in the normalized text
	singleWord bool // only found where no word character is next to it
	lstrip     bool // takes the white space on its left
	rstrip     bool // takes the white space on its right
}

// fragment is a part of a text: an added token, or text between them.
type fragment struct {
	text string
	id   int32 // of the added token, -1 for text
}

// addedSet is a set of added tokens to look for.
type addedSet struct {
	tokens []addedToken
	find   trie // content to the index in tokens
	// byLength looks for each token in the whole text, the longest first, as
	// llama.cpp does; otherwise the leftmost token is taken, the longest there.
	byLength bool
	longest  int // bytes of the longest content
}

// add adds a token that is looked for by a text that may differ from its content.
func (a *addedSet) add(tok addedToken, content string) {
	if content == "" {
		return
	}
	tok.content = content
	a.find.insert(content, int32(len(a.tokens)))
	a.tokens = append(a.tokens, tok)
	a.longest = max(a.longest, len(content))
}

// split appends the fragments of text to dst.
func (a *addedSet) split(text string, parseSpecial bool, dst []fragment) []fragment {
	if text == "" {
		return dst
	}
	if len(a.tokens) == 0 {
		return append(dst, fragment{text, -1})
	}
	if a.byLength {
		return a.splitByLength(text, parseSpecial, dst)
	}
	from := 0
	for pos := 0; pos < len(text); {
		if a.find.root[text[pos]] == 0 {
			pos++
			continue
		}
		n, index := a.find.longest(text[pos:])
		if n == 0 {
			pos++
			continue
		}
		tok := &a.tokens[index]
		start, end := pos, pos+n
		pos = end
		if tok.special && !parseSpecial || tok.singleWord && !wordBounds(text, start, end) {
			continue
		}
		if tok.lstrip {
			start = max(len(strings.TrimRightFunc(text[:start], isSpace)), from)
		}
		if tok.rstrip {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], isSpace))
		}
		if from < start {
			dst = append(dst, fragment{text[from:start], -1})
		}
		dst = append(dst, fragment{id: tok.id})
		from = end
	}
	if from < len(text) {
		dst = append(dst, fragment{text[from:], -1})
	}
	return dst
}

func isSpace(r rune) bool { return isCategory(r, maskSpace) }

// wordBounds reports whether no word character touches text[start:end].
func wordBounds(text string, start, end int) bool {
	before, n := utf8.DecodeLastRuneInString(text[:start])
	after, m := utf8.DecodeRuneInString(text[end:])
	return (n == 0 || !isWordRune(before)) && (m == 0 || !isWordRune(after))
}

// splitByLength takes the occurrences of the longest token first, then those
// of the next that do not overlap them, and so on.
func (a *addedSet) splitByLength(text string, parseSpecial bool, dst []fragment) []fragment {
	found := a.occurrences(text, parseSpecial)
	if len(found) == 0 {
		return append(dst, fragment{text, -1})
	}
	slices.SortFunc(found, func(x, y occurrence) int {
		return cmp.Or(cmp.Compare(x.rank, y.rank), cmp.Compare(x.token, y.token), cmp.Compare(x.start, y.start))
	})
	used := newBitset(len(text))
	taken := found[:0]
	for _, o := range found {
		if used.any(o.start, o.end) {
			continue
		}
		tok := &a.tokens[o.token]
		for tok.lstrip && o.start > 0 && isASCIISpace(text[o.start-1]) && !used.any(o.start-1, o.start) {
			o.start--
		}
		for tok.rstrip && o.end < len(text) && isASCIISpace(text[o.end]) && !used.any(o.end, o.end+1) {
			o.end++
		}
		used.set(o.start, o.end)
		taken = append(taken, o)
	}
	slices.SortFunc(taken, func(x, y occurrence) int { return cmp.Compare(x.start, y.start) })
	from := 0
	for _, o := range taken {
		if from < o.start {
			dst = append(dst, fragment{text[from:o.start], -1})
		}
		dst = append(dst, fragment{id: a.tokens[o.token].id})
		from = o.end
	}
	if from < len(text) {
		dst = append(dst, fragment{text[from:], -1})
	}
	return dst
}

// occurrence is a place where a token is found in a text.
type occurrence struct {
	start, end  int
	token, rank int // rank: shorter tokens have higher ones
}

func (a *addedSet) occurrences(text string, parseSpecial bool) []occurrence {
	var found []occurrence
	for pos := range len(text) {
		node := int32(0)
		for i := pos; i < len(text); i++ {
			if node = a.find.step(node, text[i]); node == 0 {
				break
			}
			if v := a.find.values[node]; v >= 0 && (parseSpecial || !a.tokens[v].special) {
				found = append(found, occurrence{pos, i + 1, int(v), pos - i})
			}
		}
	}
	return found
}

func isASCIISpace(b byte) bool { return b == ' ' || b >= '\t' && b <= '\r' }

// bitset marks bytes of a text.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(start, end int) {
	for i := start; i < end; i++ {
		b[i>>6] |= 1 << (i & 63)
	}
}

func (b bitset) any(start, end int) bool {
	for i := start; i < end; i++ {
		if b[i>>6]>>(i&63)&1 != 0 {
			return true
		}
	}
	return false
}
