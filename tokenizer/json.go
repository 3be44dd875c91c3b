package tokenizer

import (
	"bytes"
	"encoding/json"
	"maps"

	"llmc/internal/fault"
)

// jsonFile is tokenizer.json.
type jsonFile struct {
	AddedTokens   []jsonAddedToken `json:"added_tokens"`
	Normalizer    json.RawMessage  `json:"normalizer"`
	PreTokenizer  json.RawMessage  `json:"pre_tokenizer"`
	PostProcessor json.RawMessage  `json:"post_processor"`
	Decoder       json.RawMessage  `json:"decoder"`
	Model         json.RawMessage  `json:"model"`
}

type jsonAddedToken struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// jsonConfig is the part of tokenizer_config.json that concerns ids.
type jsonConfig struct {
	AddBOS       *bool           `json:"add_bos_token"`
	AddEOS       *bool           `json:"add_eos_token"`
	BOS          tokenName       `json:"bos_token"`
	EOS          tokenName       `json:"eos_token"`
	UNK          tokenName       `json:"unk_token"`
	PAD          tokenName       `json:"pad_token"`
	Class        string          `json:"tokenizer_class"`
	ChatTemplate json.RawMessage `json:"chat_template"`
}

// tokenName is a token written as a string or as an object with its content.
type tokenName string

// UnmarshalJSON implements json.Unmarshaler.
func (n *tokenName) UnmarshalJSON(data []byte) error {
	var s *string
	if json.Unmarshal(data, &s) == nil {
		if s != nil {
			*n = tokenName(*s)
		}
		return nil
	}
	var object struct {
		Content string `json:"content"`
	}
	err := json.Unmarshal(data, &object)
	*n = tokenName(object.Content)
	return err
}

// jsonSource is what a tokenizer was made from, kept for converting it.
type jsonSource struct {
	file            jsonFile
	config          jsonConfig
	model           jsonModel
	tokenizer       []byte
	tokenizerConfig []byte
}

// FromJSON makes a tokenizer from the contents of tokenizer.json and of
// tokenizer_config.json, which may be nil. The models BPE and Unigram are
// supported. Its errors are of the kind fault.InvalidFile and name the
// component that is damaged or not supported.
func FromJSON(tokenizerJSON, tokenizerConfigJSON []byte) (*Tokenizer, error) {
	src := &jsonSource{tokenizer: tokenizerJSON, tokenizerConfig: tokenizerConfigJSON}
	if err := json.Unmarshal(tokenizerJSON, &src.file); err != nil {
		return nil, fault.Invalid("tokenizer.json: %w", err)
	}
	if len(tokenizerConfigJSON) > 0 {
		if err := json.Unmarshal(tokenizerConfigJSON, &src.config); err != nil {
			return nil, fault.Invalid("tokenizer_config.json: %w", err)
		}
	}
	t := &Tokenizer{bos: -1, eos: -1, source: src, ids: make(map[string]int32), shown: make(map[int32]string)}
	loadCategories()
	for _, step := range []func(*jsonSource) error{
		t.loadModel, t.loadNormalizer, t.loadAddedTokens, t.loadPreTokenizer, t.loadDecoder, t.loadPostProcessor,
	} {
		if err := step(src); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// component is one part of a tokenizer.json's chains, with the options of all
// kinds of them.
type component struct {
	Type string `json:"type"`

	Normalizers   []json.RawMessage `json:"normalizers"`
	Pretokenizers []json.RawMessage `json:"pretokenizers"`
	Processors    []json.RawMessage `json:"processors"`
	Decoders      []json.RawMessage `json:"decoders"`

	Pattern  *jsonPattern `json:"pattern"`
	Behavior string       `json:"behavior"`
	Invert   bool         `json:"invert"`
	Content  string       `json:"content"`
	Prepend  string       `json:"prepend"`

	Delimiter        string  `json:"delimiter"`
	IndividualDigits bool    `json:"individual_digits"`
	AddPrefixSpace   *bool   `json:"add_prefix_space"`
	UseRegex         *bool   `json:"use_regex"`
	Replacement      string  `json:"replacement"`
	PrependScheme    string  `json:"prepend_scheme"`
	Split            *bool   `json:"split"`
	Suffix           *string `json:"suffix"`
	Prefix           *string `json:"prefix"`

	StripLeft    *bool  `json:"strip_left"`
	StripRight   *bool  `json:"strip_right"`
	StripAccents *bool  `json:"strip_accents"`
	CleanText    *bool  `json:"clean_text"`
	ChineseChars *bool  `json:"handle_chinese_chars"`
	Lowercase    *bool  `json:"lowercase"`
	Charsmap     []byte `json:"precompiled_charsmap"`
	Start        int    `json:"start"`
	Stop         int    `json:"stop"`

	Single        []templatePiece            `json:"single"`
	SpecialTokens map[string]templateSpecial `json:"special_tokens"`
	Sep           tokenAndID                 `json:"sep"`
	Cls           tokenAndID                 `json:"cls"`
}

type jsonPattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

// maxComponentDepth is how deep sequences of components may be nested.
const maxComponentDepth = 16

// eachComponent calls f for a component, or for each of a sequence of them.
// where names the chain in errors, nested picks the parts of a sequence.
func eachComponent(raw json.RawMessage, where string, depth int,
	nested func(*component) []json.RawMessage, f func(*component) error) error {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	if depth > maxComponentDepth {
		return fault.Invalid("tokenizer.json: %s: sequences are nested deeper than %d", where, maxComponentDepth)
	}
	var c component
	if err := json.Unmarshal(raw, &c); err != nil {
		return fault.Invalid("tokenizer.json: %s: %w", where, err)
	}
	if c.Type != "Sequence" {
		return f(&c)
	}
	for _, part := range nested(&c) {
		if err := eachComponent(part, where, depth+1, nested, f); err != nil {
			return err
		}
	}
	return nil
}

func unsupported(where, kind, supported string) error {
	return fault.Invalid("tokenizer.json: %s %q is not supported; supported are %s", where, kind, supported)
}

// matcher compiles the pattern of a component.
func (c *component) matcher(where string) (matcher, error) {
	switch {
	case c.Pattern == nil:
		return nil, fault.Invalid("tokenizer.json: %s %s has no pattern", where, c.Type)
	case c.Pattern.String != nil:
		return literal(*c.Pattern.String), nil
	case c.Pattern.Regex != nil:
		m, err := compileRegex(*c.Pattern.Regex)
		if err != nil {
			return nil, fault.Invalid("tokenizer.json: %s %s: %w", where, c.Type, err)
		}
		return m, nil
	}
	return nil, fault.Invalid("tokenizer.json: %s %s: the pattern is neither String nor Regex", where, c.Type)
}

func isTrue(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}

// loadAddedTokens gives the added tokens their place in the vocabulary and in
// what is looked for.
func (t *Tokenizer) loadAddedTokens(src *jsonSource) error {
	limit := maxID(len(t.ids) + len(src.file.AddedTokens))
	for i, a := range src.file.AddedTokens {
		if a.Content == "" {
			continue
		}
		id, ok := t.ids[a.Content]
		if !ok {
			if a.ID < 0 || a.ID >= limit {
				return fault.Invalid("tokenizer.json: added token %d: id %d is not in 0 to %d", i, a.ID, limit-1)
			}
			id = int32(a.ID)
			if int(id) < len(t.tokens) && t.tokens[id] != "" {
				return fault.Invalid("tokenizer.json: added token %q has id %d, which is that of %q", a.Content, id, t.tokens[id])
			}
			t.setToken(id, a.Content)
			t.ids[a.Content] = id
		}
		t.kinds[id] = kindUserDefined
		if a.Special {
			t.kinds[id] = kindControl
		}
		tok := addedToken{id: id, special: a.Special, normalized: a.Normalized,
			singleWord: a.SingleWord, lstrip: a.LStrip, rstrip: a.RStrip}
		if a.Normalized {
			content := normalizeAll(t.normalizers, a.Content, false)
			t.normalizedAdded.add(tok, content)
			if content != a.Content {
				t.shown[id] = content
			}
		} else {
			t.rawAdded.add(tok, a.Content)
		}
	}
	return nil
}

// maxID bounds the ids of a vocabulary of n tokens, so that the memory for it
// is in proportion to the file.
func maxID(n int) int64 { return 4*int64(n) + 1<<16 }

// setToken makes room for a token and sets it.
func (t *Tokenizer) setToken(id int32, token string) {
	for len(t.tokens) <= int(id) {
		t.tokens = append(t.tokens, "")
		t.kinds = append(t.kinds, kindUnused)
	}
	t.tokens[id] = token
	t.kinds[id] = kindNormal
}

const supportedNormalizers = "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents, Precompiled, BertNormalizer, ByteLevel and Sequence"

func (t *Tokenizer) loadNormalizer(src *jsonSource) error {
	growth := 1
	return eachComponent(src.file.Normalizer, "normalizer", 0,
		func(c *component) []json.RawMessage { return c.Normalizers },
		func(c *component) error {
			n, err := c.normalizer()
			if err == nil {
				t.normalizers = append(t.normalizers, n)
				err = c.grows("normalizer", &growth)
			}
			return err
		})
}

// maxGrowth bounds how many times longer a text can become on its way through
// a chain of components.
const maxGrowth = 1 << 10

// grows multiplies growth by what c may make of a byte.
func (c *component) grows(where string, growth *int) error {
	switch c.Type {
	case "Replace":
		*growth *= 1 + len(c.Content)
	case "ByteLevel":
		*growth *= 2
	}
	if *growth > maxGrowth {
		return fault.Invalid("tokenizer.json: %s: the replacements can make a text more than %d times longer", where, maxGrowth)
	}
	return nil
}

const supportedPreTokenizers = "ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, Punctuation, Metaspace, BertPreTokenizer, CharDelimiterSplit and Sequence"

func (t *Tokenizer) loadPreTokenizer(src *jsonSource) error {
	growth := 1
	err := eachComponent(src.file.PreTokenizer, "pre_tokenizer", 0,
		func(c *component) []json.RawMessage { return c.Pretokenizers },
		func(c *component) error {
			p, err := c.preTokenizer()
			if err == nil {
				t.pre = append(t.pre, p)
				err = c.grows("pre_tokenizer", &growth)
			}
			return err
		})
	if err != nil {
		return err
	}
	t.letModelMapBytes()
	t.cutWhole()
	return nil
}

// cutWhole cuts text that byte pair encoding would see whole, or nearly so,
// where that makes no difference.
func (t *Tokenizer) cutWhole() {
	m, ok := t.model.(*bpe)
	if !ok || len(t.pre) > 0 || m.wholeWords || m.prefix != "" || m.suffix != "" || m.mergesBytes() {
		return
	}
	p := newPairSplit(maps.Keys(m.ids))
	p.onlyKnown(m.ids)
	t.pre = []preTokenizer{p}
}

// letModelMapBytes saves writing each byte as a character where the model
// itself can go by bytes: after a last pre-tokenizer that does nothing else
// than that, before byte pair encoding without the options that go by characters.
func (t *Tokenizer) letModelMapBytes() {
	if len(t.pre) == 0 {
		return
	}
	last, ok := t.pre[len(t.pre)-1].(*byteLevelSplit)
	m, isBPE := t.model.(*bpe)
	if !ok || !isBPE || m.byteFallback || m.prefix != "" || m.suffix != "" {
		return
	}
	for _, p := range t.pre[:len(t.pre)-1] {
		if b, ok := p.(*byteLevelSplit); ok && b.mapBytes {
			return
		}
	}
	last.mapBytes = false
	m.useBytes()
}

const supportedDecoders = "ByteLevel, Metaspace, ByteFallback, Fuse, Replace, Strip, BPEDecoder, WordPiece and Sequence"

func (t *Tokenizer) loadDecoder(src *jsonSource) error {
	t.decoders = []decoder{}
	growth := 1
	err := eachComponent(src.file.Decoder, "decoder", 0,
		func(c *component) []json.RawMessage { return c.Decoders },
		func(c *component) error {
			d, err := c.decoder(&t.pieces)
			if err == nil {
				t.decoders = append(t.decoders, d)
				err = c.grows("decoder", &growth)
			}
			return err
		})
	if len(t.decoders) == 0 {
		t.decoders = []decoder{joinBySpace}
	}
	return err
}
