package tokenizer

import (
	"regexp"
	"strings"
	"sync/atomic"
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
	return &generalRegex{re: re}, nil
}

// regexTimeout bounds a single match of an expression that the general engine
// has to run.
const regexTimeout = 2 * time.Second

// possessive finds the possessive quantifiers, which regexp2 does not know,
// after a class or a single character.
var possessive = regexp.MustCompile(`(\\p\{[^}]*\}|\\.|\[(?:\\.|\[:[^\]]*:\]|[^\]\\])*\]|[^\\\]()*+?|])([*+?])\+`)

// onigWord is what \w stands for, as the inside of a bracket expression.
const onigWord = `\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\u24b6-\u24e9\u00b2\u00b3\u00b9\u00bc-\u00be`

// translate rewrites what Oniguruma and regexp2 understand differently.
func translate(expr string) string {
	expr = possessive.ReplaceAllString(expr, `(?>$1$2)`)
	var b strings.Builder
	inBracket := false
	for i := 0; i < len(expr); i++ {
		switch {
		case expr[i] == '\\' && i+1 < len(expr):
			i++
			b.WriteString(translateEscape(expr[i], inBracket))
			continue
		case expr[i] == '[':
			inBracket = true
		case expr[i] == ']':
			inBracket = false
		}
		b.WriteByte(expr[i])
	}
	return b.String()
}

func translateEscape(c byte, inBracket bool) string {
	switch {
	case c == 'w' && inBracket:
		return onigWord
	case c == 'w':
		return `[` + onigWord + `]`
	case c == 'W' && !inBracket:
		return `[^` + onigWord + `]`
	case c == 'b' && !inBracket:
		return `(?:(?<=[` + onigWord + `])(?![` + onigWord + `])|(?<![` + onigWord + `])(?=[` + onigWord + `]))`
	case c == 'h' && inBracket:
		return `0-9a-fA-F`
	case c == 'h':
		return `[0-9a-fA-F]`
	}
	return `\` + string(c)
}

// generalRegex runs an expression that pattern does not know. After a match
// that took too long, as only expressions written for that purpose make it
// take, it finds nothing any more.
type generalRegex struct {
	re     *regexp2.Regexp
	failed atomic.Bool
}

func (g *generalRegex) matches(text string, dst []span) []span {
	if g.failed.Load() {
		return dst
	}
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
	if err != nil {
		g.failed.Store(true)
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

// wordsAndSymbols finds runs of word characters and runs of what is neither
// those nor space.
type wordsAndSymbols struct{}

func (wordsAndSymbols) matches(text string, dst []span) []span {
	last := 0 // what the rune before was: 0 space, 1 word, 2 symbol
	for i, r := range text {
		kind := 2
		if isWordRune(r) {
			kind = 1
		} else if isSpace(r) {
			kind = 0
		}
		if kind != 0 {
			if kind != last {
				dst = append(dst, span{i, i})
			}
			dst[len(dst)-1].end = i + utf8.RuneLen(r)
		}
		last = kind
	}
	return dst
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
