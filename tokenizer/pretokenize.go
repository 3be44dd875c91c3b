package tokenizer

import (
	"strings"
)

// preTokenizer cuts words into smaller words.
type preTokenizer interface {
	// split appends the parts of word to dst. begins is whether the word is at
	// the beginning of the text; the result says so of the first part.
	split(word string, begins bool, dst []string, s *scratch) ([]string, bool)
}

// behavior is what becomes of the delimiters that a splitter finds.
type behavior uint8

const (
	isolated behavior = iota // each is a word
	removed
	mergedWithPrevious // it ends the word before it
	mergedWithNext     // it begins the word after it
	contiguous         // neighbouring ones are a word
)

var behaviors = map[string]behavior{
	"Isolated": isolated, "Removed": removed, "MergedWithPrevious": mergedWithPrevious,
	"MergedWithNext": mergedWithNext, "Contiguous": contiguous,
}

// splitter cuts at what a matcher finds, or, inverted, at what it does not find.
type splitter struct {
	match    matcher
	behavior behavior
	invert   bool
}

// part is a part of a word: a delimiter, or what lies between two of them.
type part struct {
	span
	delimiter bool
}

func (sp *splitter) split(word string, begins bool, dst []string, s *scratch) ([]string, bool) {
	s.spans = sp.match.matches(word, s.spans[:0])
	if sp.behavior == isolated { // what is found and what lies between are alike
		from := 0
		for _, m := range s.spans {
			dst = appendWord(dst, word[from:m.start])
			dst = appendWord(dst, word[m.start:m.end])
			from = m.end
		}
		return appendWord(dst, word[from:]), begins
	}
	parts := sp.parts(len(word), s)
	switch sp.behavior {
	case removed:
		for _, p := range parts {
			if !p.delimiter {
				dst = appendWord(dst, word[p.start:p.end])
			}
		}
		return dst, begins && len(parts) > 0 && !parts[0].delimiter
	case mergedWithPrevious:
		parts = mergeParts(parts, func(prev, p part) bool { return p.delimiter && !prev.delimiter })
	case mergedWithNext:
		parts = mergeWithNext(parts)
	case contiguous:
		parts = mergeParts(parts, func(prev, p part) bool { return p.delimiter == prev.delimiter })
	}
	for _, p := range parts {
		dst = appendWord(dst, word[p.start:p.end])
	}
	return dst, begins
}

func appendWord(dst []string, word string) []string {
	if word == "" {
		return dst
	}
	return append(dst, word)
}

// parts turns the matches in s.spans into parts that cover n bytes.
func (sp *splitter) parts(n int, s *scratch) []part {
	parts := s.parts[:0]
	from := 0
	for _, m := range s.spans {
		if from < m.start {
			parts = append(parts, part{span{from, m.start}, sp.invert})
		}
		parts = append(parts, part{m, !sp.invert})
		from = m.end
	}
	if from < n {
		parts = append(parts, part{span{from, n}, sp.invert})
	}
	s.parts = parts
	return parts
}

// mergeParts appends a part to the one before it where join says so of the two
// as they were before any merging.
func mergeParts(parts []part, join func(prev, p part) bool) []part {
	out := parts[:0]
	var prev part
	for i, p := range parts {
		if i > 0 && join(prev, p) {
			out[len(out)-1].end = p.end
		} else {
			out = append(out, p)
		}
		prev = p
	}
	return out
}

// mergeWithNext puts each delimiter before the part after it, unless that is a
// delimiter too.
func mergeWithNext(parts []part) []part {
	first, delimiterNext := len(parts), true
	for i := len(parts) - 1; i >= 0; i-- {
		p := parts[i]
		if p.delimiter && !delimiterNext {
			parts[first].start = p.start
		} else {
			first--
			parts[first] = p
		}
		delimiterNext = p.delimiter
	}
	return parts[first:]
}

// metaspace marks spaces by a character, and cuts before each.
type metaspace struct {
	mark    string
	prepend prependScheme
	cut     bool
}

type prependScheme uint8

const (
	prependAlways prependScheme = iota
	prependFirst
	prependNever
)

var prependSchemes = map[string]prependScheme{
	"always": prependAlways, "first": prependFirst, "never": prependNever,
}

func (m *metaspace) split(word string, begins bool, dst []string, _ *scratch) ([]string, bool) {
	word = strings.ReplaceAll(word, " ", m.mark)
	if (m.prepend == prependAlways || m.prepend == prependFirst && begins) && !strings.HasPrefix(word, m.mark) {
		word = m.mark + word
	}
	if !m.cut {
		return appendWord(dst, word), begins
	}
	// A mark begins a word, but of neighbouring marks each is a word, and only
	// the last begins the text after them.
	from := 0
	for i := 1; i < len(word); {
		if !strings.HasPrefix(word[i:], m.mark) {
			i++
			continue
		}
		dst = appendWord(dst, word[from:i])
		from = i
		i += len(m.mark)
	}
	return appendWord(dst, word[from:]), begins
}

// byteLevelSplit is GPT-2's pre-tokenizer.
type byteLevelSplit struct {
	addPrefixSpace bool
	words          *splitter // nil to leave words whole
	mapBytes       bool      // write each byte as its character, else the model does
}

func (b *byteLevelSplit) split(word string, begins bool, dst []string, s *scratch) ([]string, bool) {
	if b.addPrefixSpace && !strings.HasPrefix(word, " ") {
		word = " " + word
	}
	first := len(dst)
	if b.words != nil {
		dst, _ = b.words.split(word, false, dst, s)
	} else {
		dst = appendWord(dst, word)
	}
	if b.mapBytes {
		for i := first; i < len(dst); i++ {
			dst[i] = byteEncode(dst[i])
		}
	}
	return dst, begins
}
