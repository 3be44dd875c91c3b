package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// decoder rewrites the texts of a sequence of tokens; what the last one leaves
// is joined.
type decoder func(tokens []string) []string

// pieceStyle is how the vocabulary spells text. Where a tokenizer has no
// decoders, it is all that decoding needs.
type pieceStyle struct {
	byteLevel  bool   // as byteEncode does
	byteTokens bool   // tokens like <0x0A> are bytes
	space      string // the mark that stands for a space, "" if none
	suffix     string // of the last token of a word, "" if none
	rawBytes   bool   // any byte can be encoded: text need not be UTF-8
	lenient    bool   // what is not UTF-8 is read as llama.cpp does

	leadingSpace bool // without decoders: the encoder puts a space before a text
}

// Decode returns the text of ids. Special tokens are left out, and so are ids
// that no token has. Where the ids end within a character, so does the text.
func (t *Tokenizer) Decode(ids []int32) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		switch {
		case id < 0 || int(id) >= len(t.tokens) || t.isSpecial(id):
		case t.decoders == nil:
			tokens = append(tokens, t.Piece(id))
		default:
			token, ok := t.shown[id]
			if !ok {
				token = t.tokens[id]
			}
			tokens = append(tokens, token)
		}
	}
	for _, d := range t.decoders {
		tokens = d(tokens)
	}
	text := strings.Join(tokens, "")
	if t.pieces.leadingSpace {
		text = strings.TrimPrefix(text, " ")
	}
	return text
}

func (t *Tokenizer) isSpecial(id int32) bool {
	return t.kinds[id] == kindControl || t.kinds[id] == kindUnknown
}

// Piece returns the text of a single token, special tokens as they are written
// and bytes as they are, so that the pieces of a text join to the text but for
// a leading space that the tokenizer may have added. It is "" for an id that
// no token has.
func (t *Tokenizer) Piece(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	s := t.tokens[id]
	if k := t.kinds[id]; k == kindControl || k == kindUnknown || k == kindUserDefined {
		return s
	}
	if t.pieces.byteTokens {
		if b, ok := byteToken(s); ok {
			return string([]byte{b})
		}
	}
	if t.pieces.byteLevel {
		s, _ = byteDecode(s)
		return s
	}
	if t.pieces.space != "" {
		s = strings.ReplaceAll(s, t.pieces.space, " ")
	}
	if t.pieces.suffix != "" && strings.HasSuffix(s, t.pieces.suffix) {
		s = strings.TrimSuffix(s, t.pieces.suffix) + " "
	}
	return s
}

func eachToken(f func(string) string) decoder {
	return func(tokens []string) []string {
		for i := range tokens {
			tokens[i] = f(tokens[i])
		}
		return tokens
	}
}

func decodeByteLevel(token string) string {
	s, _ := byteDecode(token)
	return s
}

func decodeByteToken(token string) string {
	if b, ok := byteToken(token); ok {
		return string([]byte{b})
	}
	return token
}

func fuse(tokens []string) []string { return []string{strings.Join(tokens, "")} }

// decodeMetaspace turns marks to spaces, but drops those of the first token if
// the encoder put one there.
func decodeMetaspace(mark string, prepended bool) decoder {
	return func(tokens []string) []string {
		for i := range tokens {
			space := " "
			if i == 0 && prepended {
				space = ""
			}
			tokens[i] = strings.ReplaceAll(tokens[i], mark, space)
		}
		return tokens
	}
}

// stripRune removes up to start runes equal to r from the beginning of each
// token and up to stop from its end.
func stripRune(r rune, start, stop int) decoder {
	return eachToken(func(token string) string {
		for range start {
			c, n := utf8.DecodeRuneInString(token)
			if n == 0 || c != r {
				break
			}
			token = token[n:]
		}
		for range stop {
			c, n := utf8.DecodeLastRuneInString(token)
			if n == 0 || c != r {
				break
			}
			token = token[:len(token)-n]
		}
		return token
	})
}

// decodeSuffix ends words with a space, the last one without.
func decodeSuffix(suffix string) decoder {
	return func(tokens []string) []string {
		for i := range tokens {
			space := " "
			if i == len(tokens)-1 {
				space = ""
			}
			tokens[i] = strings.ReplaceAll(tokens[i], suffix, space)
		}
		return tokens
	}
}

// joinBySpace is what the tokenizers library does where there is no decoder.
func joinBySpace(tokens []string) []string { return []string{strings.Join(tokens, " ")} }
