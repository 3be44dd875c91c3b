// Package tokenizer turns text into token ids and back.
//
// Make a tokenizer with [FromJSON], from the tokenizer.json of a Hugging Face
// checkpoint, or with [FromVocab], from the metadata of a GGUF file; then call
// [Tokenizer.Encode], [Tokenizer.EncodeReader] for texts too large to hold, and
// [Tokenizer.Decode]. The ids are those of the tokenizers library and of
// llama.cpp respectively. [Tokenizer.Vocab] and [Tokenizer.JSON] convert from
// either world to the other.
//
// A tokenizer is a chain: added tokens are taken out of the text, what is left
// is normalized, cut into words by the pre-tokenizers, and each word is encoded
// by a model: byte pair encoding by merges (bpe.go) or by scores (spm.go), or a
// unigram model (unigram.go). Where words are cut is written as regular
// expressions; pattern.go compiles them to something faster than a general
// engine. Character categories are those of the Unicode version of the Go
// library, so characters that are newer than it, or than the tables of the
// other engines, may be cut differently.
package tokenizer

import (
	"strings"
	"sync"
)

// Tokenizer converts between text and token ids. It is safe for concurrent use.
type Tokenizer struct {
	tokens []string // by id, as the vocabulary writes them; "" for an unused id
	kinds  []tokenKind
	ids    map[string]int32

	rawAdded        addedSet // looked for in the text as it is
	normalizedAdded addedSet // looked for after normalizing
	normalizers     []normalizer
	pre             []preTokenizer
	model           model

	before, after []int32 // what special tokens are added around a text
	bos, eos      int32   // -1 if there is none
	addsBOS       bool

	decoders []decoder
	pieces   pieceStyle
	shown    map[int32]string // what some tokens are for the decoders instead of tokens

	source any // what the tokenizer was made from: *jsonSource or *Vocab
	pool   sync.Pool

	cutOnce sync.Once
	cut     cutter // where EncodeReader may cut text, nil for nowhere
}

// tokenKind says what a token is for. The values are GGUF's token types.
type tokenKind = int32

const (
	kindNormal      tokenKind = 1
	kindUnknown     tokenKind = 2
	kindControl     tokenKind = 3
	kindUserDefined tokenKind = 4
	kindUnused      tokenKind = 5
	kindByte        tokenKind = 6
)

// Encode returns the token ids of text. With addSpecial the tokens that the
// tokenizer puts around a text are added, such as the beginning-of-sequence
// token; with parseSpecial special tokens written in the text are recognised,
// otherwise they are text like any other. Bytes that are not UTF-8 count as
// U+FFFD each, except where the vocabulary spells bytes.
func (t *Tokenizer) Encode(text string, addSpecial, parseSpecial bool) []int32 {
	s := t.scratch()
	defer t.pool.Put(s)
	var out []int32
	if addSpecial {
		out = append(out, t.before...)
	}
	continued := false
	for len(text) > portionSize { // what is in the processor's caches is fast
		at := t.cutBefore(text[:portionSize], 0)
		if at == 0 {
			break
		}
		out = t.encodeText(text[:at], parseSpecial, continued, s, out)
		text, continued = text[at:], true
	}
	out = t.encodeText(text, parseSpecial, continued, s, out)
	if addSpecial {
		out = append(out, t.after...)
	}
	return out
}

// portionSize is how much text Encode looks at at a time, where that makes no
// difference.
const portionSize = 1 << 16

func (t *Tokenizer) scratch() *scratch {
	if s, ok := t.pool.Get().(*scratch); ok {
		return s
	}
	return &scratch{cache: make(map[string][]int32)}
}

// encodeText appends the ids of text, which continues one that has been cut
// where it may be, or begins one.
func (t *Tokenizer) encodeText(text string, parseSpecial, continued bool, s *scratch, out []int32) []int32 {
	if t.pieces.lenient {
		text = lenientText(text)
	} else if !t.pieces.rawBytes {
		text = validText(text)
	}
	s.fragments = t.rawAdded.split(text, parseSpecial, s.fragments[:0])
	for i, f := range s.fragments {
		if f.id >= 0 {
			out = append(out, f.id)
			continue
		}
		f.text = normalizeAll(t.normalizers, f.text, continued && i == 0)
		s.inner = t.normalizedAdded.split(f.text, parseSpecial, s.inner[:0])
		for j, g := range s.inner {
			if g.id >= 0 {
				out = append(out, g.id)
			} else {
				out = t.encodeFragment(g.text, i == 0 && j == 0 && !continued, s, out)
			}
		}
	}
	return out
}

// encodeFragment encodes normalized text without added tokens.
func (t *Tokenizer) encodeFragment(text string, begins bool, s *scratch, out []int32) []int32 {
	words := append(s.words[0][:0], text)
	next := s.words[1][:0]
	for _, p := range t.pre {
		first := begins
		for i, w := range words {
			var b bool
			if next, b = p.split(w, first && i == 0, next, s); i == 0 {
				begins = b
			}
		}
		words, next = next, words[:0]
	}
	s.words = [2][]string{words, next}
	for _, w := range words {
		out = t.encodeWord(w, s, out)
	}
	clear(s.words[0]) // do not keep the text alive
	return out
}

const (
	maxCachedWord  = 48 // bytes
	maxCachedWords = 1 << 16
)

func (t *Tokenizer) encodeWord(word string, s *scratch, out []int32) []int32 {
	if len(word) > maxCachedWord {
		return t.model.encode(word, s, out)
	}
	if ids, ok := s.cache[word]; ok {
		return append(out, ids...)
	}
	from := len(out)
	out = t.model.encode(word, s, out)
	if len(s.cache) >= maxCachedWords {
		clear(s.cache)
	}
	s.cache[strings.Clone(word)] = append([]int32(nil), out[from:]...)
	return out
}

// Size returns the number of ids: one more than the highest.
func (t *Tokenizer) Size() int { return len(t.tokens) }

// BOS returns the beginning-of-sequence token, if there is one.
func (t *Tokenizer) BOS() (id int32, ok bool) { return t.bos, t.bos >= 0 }

// EOS returns the end-of-sequence token, if there is one.
func (t *Tokenizer) EOS() (id int32, ok bool) { return t.eos, t.eos >= 0 }

// AddsBOS reports whether Encode with addSpecial begins with the
// beginning-of-sequence token.
func (t *Tokenizer) AddsBOS() bool { return t.addsBOS }
