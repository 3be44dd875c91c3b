package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// t5Normalizer normalizes text for the unigram models of GGUF files.
type t5Normalizer struct {
	charsmap    *charsmap // nil if there is none
	userDefined trie      // what is left as it is
	space       string
	mergeSpaces bool // of neighbouring spaces one is left, at the ends none
	prefix      bool // the text gets a space before it
}

func (n *t5Normalizer) normalize(text string) string {
	var b strings.Builder
	b.Grow(len(text) + len(text)/2)
	prefixed, inWord := false, false
	for text != "" {
		part, length := n.next(text)
		text = text[length:]
		for i := range len(part) {
			if part[i] == ' ' {
				inWord = false
				if !n.mergeSpaces {
					b.WriteString(n.space)
				}
				continue
			}
			if !inWord {
				inWord = true
				if n.prefix && !prefixed || n.mergeSpaces {
					b.WriteString(n.space)
					prefixed = true
				}
			}
			b.WriteByte(part[i])
		}
	}
	return b.String()
}

// next returns what the beginning of text, of length bytes, becomes.
func (n *t5Normalizer) next(text string) (part string, length int) {
	// llama.cpp leaves as it is even what a user-defined token only begins with.
	if length := n.userDefined.common(text); length > 0 {
		return text[:length], length
	}
	if n.charsmap != nil {
		if part, length := n.charsmap.lookup(text, true); length > 0 {
			return part, length
		}
	}
	r, length := utf8.DecodeRuneInString(text)
	if r == utf8.RuneError && length == 1 {
		return "\ufffd", 1
	}
	return text[:length], length
}
