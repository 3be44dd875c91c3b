package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Byte-level vocabularies, since GPT-2, write each byte as a printable
// character: the printable ones of Latin-1 as themselves, the others, in
// order, from U+0100 on.
var (
	byteToRune [256]rune
	runeToByte [0x144]int16 // -1 where a rune stands for no byte
)

func init() {
	for r := range runeToByte {
		runeToByte[r] = -1
	}
	next := rune(0x100)
	for b := range rune(256) {
		r := b
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r = next
			next++
		}
		byteToRune[b] = r
		runeToByte[r] = int16(b)
	}
}

// byteEncode writes each byte of s as its character.
func byteEncode(s string) string {
	var b strings.Builder
	b.Grow(len(s) + len(s)/2)
	for i := range len(s) {
		b.WriteRune(byteToRune[s[i]])
	}
	return b.String()
}

// byteDecode is the inverse of byteEncode; ok is false if s has a character
// that stands for no byte.
func byteDecode(s string) (decoded string, ok bool) {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if int(r) >= len(runeToByte) || runeToByte[r] < 0 {
			return s, false
		}
		b = append(b, byte(runeToByte[r]))
	}
	return string(b), true
}

// byteToken returns the byte that a token like <0x0A> stands for.
func byteToken(token string) (b byte, ok bool) {
	if len(token) != 6 || !strings.HasPrefix(token, "<0x") || token[5] != '>' {
		return 0, false
	}
	hi, lo := hexDigit(token[3]), hexDigit(token[4])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

const hexDigits = "0123456789ABCDEF"

// byteTokenName returns the token that stands for a byte, like <0x0A>.
func byteTokenName(b byte) string {
	return "<0x" + string(hexDigits[b>>4]) + string(hexDigits[b&15]) + ">"
}

// validText replaces each byte of s that is not part of a UTF-8 sequence by
// U+FFFD.
func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for _, r := range s {
		b.WriteRune(r)
	}
	return b.String()
}

// lenientText is validText as llama.cpp has it: sequences that are longer than
// they need to be count as their character, and surrogates stay as they are.
func lenientText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	b := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); {
		n := unitLength(s[i:])
		r, ok := rune(s[i]), n == 1 && s[i] < utf8.RuneSelf
		if n > 1 && s[i] < 0xf8 {
			r, ok = rune(s[i])&(0x7f>>n), s[i]>>(7-n) == 1<<(n+1)-2
			for _, c := range []byte(s[i+1 : i+n]) {
				ok = ok && c&0xc0 == 0x80
				r = r<<6 | rune(c&0x3f)
			}
		}
		switch {
		case !ok || r > utf8.MaxRune:
			b = append(b, "\ufffd"...)
			n = 1
		case !utf8.ValidRune(r):
			b = append(b, s[i:i+n]...)
		default:
			b = utf8.AppendRune(b, r)
		}
		i += n
	}
	return string(b)
}
