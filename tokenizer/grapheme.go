package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// graphemeLength returns the length of the first grapheme cluster of text, as
// far as clusters of up to five bytes go: a line break, or a character with
// the marks that follow it. Longer clusters, such as flags, emoji sequences and
// Hangul syllables, may come out in parts.
func graphemeLength(text string) int {
	first, n := utf8.DecodeRuneInString(text)
	if first < utf8.RuneSelf && (n == len(text) || text[n] < utf8.RuneSelf) {
		if first == '\r' && n < len(text) && text[n] == '\n' {
			return 2
		}
		return n
	}
	for breaks := isGraphemeControl(first); !breaks && n < len(text); {
		r, size := utf8.DecodeRuneInString(text[n:])
		if !extendsGrapheme(r) && (!unicode.Is(unicode.Prepended_Concatenation_Mark, first) || isGraphemeControl(r)) {
			break
		}
		first = r
		n += size
	}
	return n
}

func isGraphemeControl(r rune) bool {
	return r != 0x200c && r != 0x200d && !unicode.Is(unicode.Prepended_Concatenation_Mark, r) &&
		isCategory(r, 1<<catCc|1<<catControlSpace|1<<catCf|1<<catZl|1<<catZp|1<<catCs)
}

// extendsGrapheme reports whether r belongs to the cluster of what is before it.
func extendsGrapheme(r rune) bool {
	switch {
	case r < 0x300:
		return false
	case isCategory(r, 1<<catMn|1<<catMe), unicode.Is(unicode.Other_Grapheme_Extend, r):
		return true
	case isCategory(r, 1<<catMc):
		return !unicode.Is(notSpacingMark, r)
	}
	return r == 0x200d || r == 0xe33 || r == 0xeb3 || r >= 0x1f3fb && r <= 0x1f3ff
}

// notSpacingMark are the spacing marks that do not belong to the cluster of
// what is before them (table 2 of Unicode Standard Annex 29).
var notSpacingMark = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x102b, 0x102c, 1}, {0x1038, 0x1038, 1}, {0x1062, 0x1064, 1}, {0x1067, 0x106d, 1},
		{0x1083, 0x1083, 1}, {0x1087, 0x108c, 1}, {0x108f, 0x108f, 1}, {0x109a, 0x109c, 1},
		{0x1a61, 0x1a61, 1}, {0x1a63, 0x1a64, 1}, {0xaa7b, 0xaa7b, 1}, {0xaa7d, 0xaa7d, 1},
	},
	R32: []unicode.Range32{{0x11720, 0x11721, 1}},
}
