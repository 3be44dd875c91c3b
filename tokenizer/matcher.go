package tokenizer

import (
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"

	"llmc/internal/fault"
)

// matcher finds all matches of an expression in a text.
type matcher interface {
	// matches appends every match in text to dst, from left to right and not
	// overlapping.
	matches(text string, dst []span) []span
}

// compileRegex compiles a regular expression in Oniguruma's syntax.
func compileRegex(expr string) (matcher, error) {
	if p, err := compilePattern(expr); err == nil {
		return p, nil
	}
	re, err := regexp2.Compile(translate(expr), regexp2.Multiline)
	if err != nil {
		return nil, fault.Invalid("regular expression %q is not supported: %w", expr, err)
	}
	re.MatchTimeout = regexTimeout
	return &generalRegex{re}, nil
}

// regexTimeout bounds a single match of an expression that the general engine
// has to run. What lies behind a match that took longer is not matched.
const regexTimeout = 5 * time.Second

// possessive finds the possessive quantifiers, which regexp2 does not know,
// after a class or a single character.
var possessive = regexp.MustCompile(`(\\p\{[^}]*\}|\\.|\[(?:\\.|\[:[^\]]*:\]|[^\]\\])*\]|[^\\\]()*+?|])([*+?])\+`)

// translate rewrites what Oniguruma and regexp2 spell differently.
func translate(expr string) string {
	return possessive.ReplaceAllString(expr, `(?>$1$2)`)
}

// generalRegex runs an expression that pattern does not know.
type generalRegex struct{ re *regexp2.Regexp }

func (g *generalRegex) matches(text string, dst []span) []span {
	runes := []rune(text)
	pos, at := 0, 0 // the same place in bytes and in runes
	lastEnd := -1
	m, err := g.re.FindRunesMatch(runes)
	for err == nil && m != nil {
		for ; at < m.Index; at++ {
			pos += utf8.RuneLen(runes[at])
		}
		start := pos
		for ; at < m.Index+m.Length; at++ {
			pos += utf8.RuneLen(runes[at])
		}
		if start != pos || start != lastEnd {
			dst = append(dst, span{start, pos})
			lastEnd = pos
		}
		m, err = g.re.FindNextMatch(m)
	}
	return dst
}

// literal finds a fixed string.
type literal string

func (l literal) matches(text string, dst []span) []span {
	if l == "" {
		return dst
	}
	for from := 0; ; {
		i := strings.Index(text[from:], string(l))
		if i < 0 {
			return dst
		}
		dst = append(dst, span{from + i, from + i + len(l)})
		from += i + len(l)
	}
}

// runeMatcher finds every single rune of some kind.
type runeMatcher func(r rune) bool

func (is runeMatcher) matches(text string, dst []span) []span {
	for i, r := range text {
		if is(r) {
			dst = append(dst, span{i, i + utf8.RuneLen(r)})
		}
	}
	return dst
}
