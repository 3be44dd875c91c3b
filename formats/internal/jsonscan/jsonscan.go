// Package jsonscan walks through JSON that may be hostile: it builds nothing,
// so what it costs is what the caller keeps, it refuses keys that appear twice
// where the caller asks for it, and its recursion is bounded.
//
// Start with [New], then [Scanner.Object] and the reader of each value.
package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of values that are skipped.
const maxDepth = 64

// Scanner reads one JSON text from front to back.
type Scanner struct {
	data []byte
	pos  int
}

// New returns a scanner over data, which must be UTF-8 throughout.
func New(data []byte) (*Scanner, error) {
	if at := invalidUTF8(data); at >= 0 {
		return nil, fmt.Errorf("it is not UTF-8 at byte %d", at)
	}
	return &Scanner{data: data}, nil
}

func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; ; {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
}

// Object reads an object and calls field for each key, with the scanner before
// the value, which field must read or skip. The key is only good until then.
func (s *Scanner) Object(field func(key []byte) error) error {
	return s.list('{', '}', "an object", func() error {
		key, err := s.Text()
		if err != nil {
			return err
		}
		if s.peek() != ':' {
			return s.expected("':' after a key")
		}
		s.pos++
		return field(key)
	})
}

// Array reads an array and calls element with the scanner before each value,
// which element must read or skip.
func (s *Scanner) Array(element func() error) error {
	return s.list('[', ']', "an array", element)
}

func (s *Scanner) list(open, end byte, what string, item func() error) error {
	if s.peek() != open {
		return s.expected(what)
	}
	s.pos++
	if s.peek() == end {
		s.pos++
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case end:
			s.pos++
			return nil
		default:
			return s.expected(fmt.Sprintf("',' or '%c'", end))
		}
	}
}

// End reports an error unless only white space is left.
func (s *Scanner) End() error {
	if s.peek() != 0 || s.pos < len(s.data) {
		return s.expected("the end")
	}
	return nil
}

// peek returns the next byte that is not white space, 0 at the end.
func (s *Scanner) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *Scanner) expected(what string) error {
	if s.pos >= len(s.data) {
		return fmt.Errorf("it ends where %s is needed", what)
	}
	rest := s.data[s.pos:]
	if len(rest) > 12 {
		rest = rest[:12]
	}
	return fmt.Errorf("%s is needed at byte %d, it has %q", what, s.pos, rest)
}

// Text reads a string. The result may be a view into the input.
func (s *Scanner) Text() ([]byte, error) {
	body, escaped, err := s.stringBody()
	if err == nil && escaped {
		return unescape(body)
	}
	return body, err
}

// stringBody moves over a string and returns what is between its quotes.
func (s *Scanner) stringBody() (body []byte, escaped bool, err error) {
	if s.peek() != '"' {
		return nil, false, s.expected("a string")
	}
	start := s.pos + 1
	for i := start; i < len(s.data); i++ {
		switch c := s.data[i]; {
		case c == '"':
			s.pos = i + 1
			return s.data[start:i], escaped, nil
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return nil, false, fmt.Errorf("a string has the control character %#02x at byte %d", c, i)
		}
	}
	return nil, false, errors.New("it ends inside a string")
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func unescape(body []byte) ([]byte, error) {
	out := make([]byte, 0, len(body))
	for i := 0; i < len(body); {
		next := bytes.IndexByte(body[i:], '\\')
		if next < 0 {
			out = append(out, body[i:]...)
			break
		}
		out = append(out, body[i:i+next]...)
		i += next + 1 // a byte follows, since the string did not end here
		if c := escapes[body[i]]; c != 0 {
			out = append(out, c)
			i++
			continue
		}
		r, size := unicodeEscape(body[i:])
		if size == 0 {
			return nil, fmt.Errorf("a string has the escape %.13q, which JSON does not know", body[i-1:])
		}
		out = utf8.AppendRune(out, r)
		i += size
	}
	return out, nil
}

// unicodeEscape decodes uXXXX, or two of them that make one character, and
// returns how long it is: 0 when it stands for no character.
func unicodeEscape(b []byte) (rune, int) {
	first, ok := hex4(b)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(first) {
		return first, 5
	}
	if len(b) < 11 || b[5] != '\\' {
		return 0, 0
	}
	second, ok := hex4(b[6:])
	if r := utf16.DecodeRune(first, second); ok && r != utf8.RuneError {
		return r, 11
	}
	return 0, 0
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 5 || b[0] != 'u' {
		return 0, false
	}
	v, err := strconv.ParseUint(string(b[1:5]), 16, 16)
	return rune(v), err == nil
}

// Uint reads a number without sign, fraction or exponent.
func (s *Scanner) Uint() (uint64, error) {
	c := s.peek()
	start := s.pos
	if c < '0' || c > '9' {
		return 0, s.expected("a number from 0 up")
	}
	for s.pos < len(s.data) && numeric(s.data[s.pos]) {
		s.pos++
	}
	text := s.data[start:s.pos]
	v, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || len(text) > 1 && text[0] == '0' {
		return 0, fmt.Errorf("the number %.40q at byte %d is not a whole one below 2^64", text, start)
	}
	return v, nil
}

func numeric(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

// Skip moves over one value of any kind. It does not look at what strings
// say, escapes included.
func (s *Scanner) Skip() error { return s.skip(0) }

func (s *Scanner) skip(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("values are nested more than %d deep at byte %d", maxDepth, s.pos)
	}
	inner := func() error { return s.skip(depth + 1) }
	switch c := s.peek(); {
	case c == '{':
		return s.list('{', '}', "an object", func() error {
			if _, _, err := s.stringBody(); err != nil {
				return err
			}
			if s.peek() != ':' {
				return s.expected("':' after a key")
			}
			s.pos++
			return inner()
		})
	case c == '[':
		return s.Array(inner)
	case c == '"':
		_, _, err := s.stringBody()
		return err
	case c == '-' || c >= '0' && c <= '9':
		return s.skipNumber()
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
			s.pos += len(word)
			return nil
		}
	}
	return s.expected("a value")
}

func (s *Scanner) skipNumber() error {
	start := s.pos
	for s.pos < len(s.data) && numeric(s.data[s.pos]) {
		s.pos++
	}
	text := s.data[start:s.pos]
	if len(text) > 400 || !json.Valid(text) {
		return fmt.Errorf("the number %.40q at byte %d is not one", text, start)
	}
	return nil
}
