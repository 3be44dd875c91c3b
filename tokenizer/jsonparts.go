package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"llmc/internal/fault"
)

func (c *component) normalizer() (normalizer, error) {
	switch c.Type {
	case "NFC":
		return unicodeForm(norm.NFC), nil
	case "NFD":
		return unicodeForm(norm.NFD), nil
	case "NFKC":
		return unicodeForm(norm.NFKC), nil
	case "NFKD":
		return unicodeForm(norm.NFKD), nil
	case "Lowercase":
		return local(lowercase), nil
	case "StripAccents":
		return local(stripAccents), nil
	case "Prepend":
		return prepend(c.Prepend), nil
	case "Strip":
		return stripSpace(isTrue(c.StripLeft, false), isTrue(c.StripRight, false)), nil
	case "ByteLevel":
		return normalizer{apply: byteEncode}, nil
	case "BertNormalizer":
		lower := isTrue(c.Lowercase, true)
		return bertNormalizer(isTrue(c.CleanText, true), isTrue(c.ChineseChars, true), isTrue(c.StripAccents, lower), lower), nil
	case "Precompiled":
		m, err := parseCharsmap(c.Charsmap)
		if err != nil {
			return normalizer{}, fault.Invalid("tokenizer.json: normalizer Precompiled: %w", err)
		}
		return local(m.normalize), nil
	case "Replace":
		m, err := c.matcher("normalizer")
		if err != nil {
			return normalizer{}, err
		}
		if s, ok := m.(literal); ok && s != "" {
			return replaceString(string(s), c.Content), nil
		}
		return normalizer{apply: replaceMatches(m, c.Content)}, nil
	}
	return normalizer{}, unsupported("normalizer", c.Type, supportedNormalizers)
}

// gpt2Words is the expression that the ByteLevel pre-tokenizer cuts by.
const gpt2Words = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

func (c *component) preTokenizer() (preTokenizer, error) {
	switch c.Type {
	case "ByteLevel":
		p := &byteLevelSplit{addPrefixSpace: isTrue(c.AddPrefixSpace, true), mapBytes: true}
		if isTrue(c.UseRegex, true) {
			p.words = &splitter{match: mustPattern(gpt2Words)}
		}
		return p, nil
	case "Split":
		m, err := c.matcher("pre_tokenizer")
		if err != nil {
			return nil, err
		}
		b, ok := behaviors[c.Behavior]
		if !ok {
			return nil, fault.Invalid("tokenizer.json: pre_tokenizer Split: unknown behavior %q", c.Behavior)
		}
		return &splitter{match: m, behavior: b, invert: c.Invert}, nil
	case "Digits":
		p := &splitter{match: runeMatcher(func(r rune) bool { return isCategory(r, maskN) })}
		if !c.IndividualDigits {
			p.behavior = contiguous
		}
		return p, nil
	case "Whitespace":
		return &splitter{match: wordsAndSymbols{}, behavior: removed, invert: true}, nil
	case "WhitespaceSplit":
		return &splitter{match: runeMatcher(isSpace), behavior: removed}, nil
	case "CharDelimiterSplit":
		if utf8.RuneCountInString(c.Delimiter) != 1 {
			return nil, fault.Invalid("tokenizer.json: pre_tokenizer CharDelimiterSplit: delimiter %q is not one character", c.Delimiter)
		}
		return &splitter{match: literal(c.Delimiter), behavior: removed}, nil
	case "Punctuation":
		b, ok := behaviors[c.Behavior]
		if !ok && c.Behavior != "" {
			return nil, fault.Invalid("tokenizer.json: pre_tokenizer Punctuation: unknown behavior %q", c.Behavior)
		}
		return &splitter{match: runeMatcher(isPunctuation), behavior: b}, nil
	case "BertPreTokenizer":
		return sequence{
			&splitter{match: runeMatcher(isSpace), behavior: removed},
			&splitter{match: runeMatcher(isPunctuation)},
		}, nil
	case "Metaspace":
		return c.metaspace()
	}
	return nil, unsupported("pre_tokenizer", c.Type, supportedPreTokenizers)
}

// isPunctuation counts the ASCII symbols as punctuation, too.
func isPunctuation(r rune) bool {
	return r < utf8.RuneSelf && isCategory(r, maskP|maskS) || isCategory(r, maskP)
}

// sequence is several pre-tokenizers, one after the other.
type sequence []preTokenizer

func (q sequence) split(word string, begins bool, dst []string, s *scratch) ([]string, bool) {
	words := []string{word}
	for _, p := range q {
		var next []string
		first := begins
		for i, w := range words {
			var b bool
			if next, b = p.split(w, first && i == 0, next, s); i == 0 {
				begins = b
			}
		}
		words = next
	}
	return append(dst, words...), begins
}

// metaspaceOptions returns the mark and when it is prepended.
func (c *component) metaspaceOptions() (mark string, scheme prependScheme, err error) {
	mark = c.Replacement
	if mark == "" {
		mark = spaceMark
	}
	if utf8.RuneCountInString(mark) != 1 {
		return "", 0, fault.Invalid("tokenizer.json: Metaspace: replacement %q is not one character", mark)
	}
	if c.PrependScheme != "" {
		var ok bool
		if scheme, ok = prependSchemes[c.PrependScheme]; !ok {
			return "", 0, fault.Invalid("tokenizer.json: Metaspace: unknown prepend_scheme %q; it is always, first or never", c.PrependScheme)
		}
	} else if !isTrue(c.AddPrefixSpace, true) {
		scheme = prependNever
	}
	return mark, scheme, nil
}

// spaceMark is what SentencePiece vocabularies write for a space.
const spaceMark = "▁"

func (c *component) metaspace() (preTokenizer, error) {
	mark, scheme, err := c.metaspaceOptions()
	return &metaspace{mark: mark, prepend: scheme, cut: isTrue(c.Split, true)}, err
}

// decoder makes a decoder and notes in style what it says about the
// vocabulary's spelling.
func (c *component) decoder(style *pieceStyle) (decoder, error) {
	switch c.Type {
	case "ByteLevel":
		style.byteLevel = true
		return eachToken(decodeByteLevel), nil
	case "ByteFallback":
		style.byteTokens = true
		return eachToken(decodeByteToken), nil
	case "Fuse":
		return fuse, nil
	case "Metaspace":
		mark, scheme, err := c.metaspaceOptions()
		style.space = mark
		return decodeMetaspace(mark, scheme != prependNever), err
	case "Strip":
		r, n := utf8.DecodeRuneInString(c.Content)
		if n == 0 || n != len(c.Content) || c.Start < 0 || c.Stop < 0 {
			return nil, fault.Invalid("tokenizer.json: decoder Strip: content %q is not one character, or start or stop is negative", c.Content)
		}
		return stripRune(r, c.Start, c.Stop), nil
	case "Replace":
		m, err := c.matcher("decoder")
		if err != nil {
			return nil, err
		}
		if s, ok := m.(literal); ok && c.Content == " " {
			style.space = string(s)
		}
		return eachToken(replaceMatches(m, c.Content)), nil
	case "BPEDecoder":
		suffix := "</w>"
		if c.Suffix != nil {
			suffix = *c.Suffix
		}
		style.suffix = suffix
		return decodeSuffix(suffix), nil
	case "WordPiece":
		prefix := "##"
		if c.Prefix != nil {
			prefix = *c.Prefix
		}
		return decodeWordPiece(prefix), nil
	}
	return nil, unsupported("decoder", c.Type, supportedDecoders)
}

// decodeWordPiece puts spaces between tokens but before those with the prefix.
func decodeWordPiece(prefix string) decoder {
	return func(tokens []string) []string {
		for i := range tokens {
			if i > 0 {
				if s, ok := strings.CutPrefix(tokens[i], prefix); ok {
					tokens[i] = s
				} else {
					tokens[i] = " " + tokens[i]
				}
			}
		}
		return tokens
	}
}

// templatePiece is a part of a TemplateProcessing template.
type templatePiece struct {
	Sequence     *struct{ ID string } `json:"Sequence"`
	SpecialToken *struct{ ID string } `json:"SpecialToken"`
}

type templateSpecial struct {
	IDs []int64 `json:"ids"`
}

// tokenAndID is a token that is written ["text", id].
type tokenAndID struct {
	Token string
	ID    int64
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *tokenAndID) UnmarshalJSON(data []byte) error {
	return unmarshalTuple(data, &t.Token, &t.ID)
}

const supportedPostProcessors = "TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing and Sequence"

// surround adds the special tokens that a post-processor puts around a text.
func (t *Tokenizer) surround(c *component) error {
	var before, after []int32
	switch c.Type {
	case "ByteLevel":
		return nil
	case "RobertaProcessing", "BertProcessing":
		var err error
		if before, err = t.checkIDs(before, c.Cls.ID); err == nil {
			after, err = t.checkIDs(after, c.Sep.ID)
		}
		if err != nil {
			return err
		}
	case "TemplateProcessing":
		text := false
		for _, p := range c.Single {
			if p.Sequence != nil {
				text = true
			}
			if p.SpecialToken == nil {
				continue
			}
			special, ok := c.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return fault.Invalid("tokenizer.json: post_processor: %q is not among its special_tokens", p.SpecialToken.ID)
			}
			side := &before
			if text {
				side = &after
			}
			var err error
			if *side, err = t.checkIDs(*side, special.IDs...); err != nil {
				return err
			}
		}
	default:
		return unsupported("post_processor", c.Type, supportedPostProcessors)
	}
	t.before = slices.Concat(before, t.before)
	t.after = slices.Concat(t.after, after)
	return nil
}

// maxAround is how many special tokens may be put around a text.
const maxAround = 64

func (t *Tokenizer) checkIDs(dst []int32, ids ...int64) ([]int32, error) {
	for _, id := range ids {
		if id < 0 || id >= int64(len(t.tokens)) {
			return nil, fault.Invalid("tokenizer.json: post_processor: id %d is not in 0 to %d", id, len(t.tokens)-1)
		}
		if len(dst) == maxAround {
			return nil, fault.Invalid("tokenizer.json: post_processor: more than %d tokens on one side of a text", maxAround)
		}
		dst = append(dst, int32(id))
	}
	return dst, nil
}
