package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalizer rewrites a fragment of text before it is cut into words.
type normalizer struct {
	apply func(string) string
	first bool // concerns the beginning of a fragment only
	local bool // works alike on the parts of a text that is cut between words
}

// normalizeAll applies normalizers; continued is whether the text goes on with
// a fragment whose beginning has been normalized before.
func normalizeAll(ns []normalizer, text string, continued bool) string {
	for _, n := range ns {
		if !n.first || !continued {
			text = n.apply(text)
		}
	}
	return text
}

func local(apply func(string) string) normalizer { return normalizer{apply: apply, local: true} }

func unicodeForm(f norm.Form) normalizer {
	return local(func(s string) string {
		if isASCII(s) {
			return s
		}
		return f.String(s)
	})
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// lowercase maps runes as Rust's char::to_lowercase does: each by itself, the
// dotted capital I to two.
func lowercase(s string) string {
	if strings.ContainsRune(s, 'İ') {
		s = strings.ReplaceAll(s, "İ", "i\u0307")
	}
	return strings.Map(unicode.ToLower, s)
}

func prepend(prefix string) normalizer {
	return normalizer{first: true, local: true, apply: func(s string) string {
		if s == "" {
			return s
		}
		return prefix + s
	}}
}

func stripAccents(s string) string { return dropRunes(s, maskM) }

func dropRunes(s string, m catMask) string {
	return strings.Map(func(r rune) rune {
		if isCategory(r, m) {
			return -1
		}
		return r
	}, s)
}

func stripSpace(left, right bool) normalizer {
	return normalizer{apply: func(s string) string {
		if left {
			s = strings.TrimLeftFunc(s, isSpace)
		}
		if right {
			s = strings.TrimRightFunc(s, isSpace)
		}
		return s
	}}
}

// replaceMatches replaces what m finds by content.
func replaceMatches(m matcher, content string) func(string) string {
	return func(s string) string {
		found := m.matches(s, nil)
		if len(found) == 0 {
			return s
		}
		var b strings.Builder
		from := 0
		for _, f := range found {
			b.WriteString(s[from:f.start])
			b.WriteString(content)
			from = f.end
		}
		b.WriteString(s[from:])
		return b.String()
	}
}

// replaceString replaces a string; it is local if that is one character.
func replaceString(old, content string) normalizer {
	return normalizer{
		apply: func(s string) string { return strings.ReplaceAll(s, old, content) },
		local: utf8.RuneCountInString(old) == 1,
	}
}

// bertNormalizer cleans text as BERT's tokenizer does.
func bertNormalizer(clean, chinese, accents, lower bool) normalizer {
	return local(func(s string) string {
		if clean {
			s = cleanText(s)
		}
		if chinese {
			s = spaceChinese(s)
		}
		if accents {
			s = dropRunes(norm.NFD.String(s), 1<<catMn)
		}
		if lower {
			s = lowercase(s)
		}
		return s
	})
}

func cleanText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || isCategory(r, maskZ):
			return ' '
		case r == 0 || r == 0xfffd || isCategory(r, maskC&^(1<<catCn)):
			return -1
		}
		return r
	}, s)
}

func spaceChinese(s string) string {
	var b strings.Builder
	for _, r := range s {
		if isChinese(r) {
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isChinese(r rune) bool {
	return r >= 0x4e00 && r <= 0x9fff || r >= 0x3400 && r <= 0x4dbf ||
		r >= 0x20000 && r <= 0x2a6df || r >= 0x2a700 && r <= 0x2b73f ||
		r >= 0x2b740 && r <= 0x2b81f || r >= 0x2b920 && r <= 0x2ceaf ||
		r >= 0xf900 && r <= 0xfaff || r >= 0x2f800 && r <= 0x2fa1f
}
