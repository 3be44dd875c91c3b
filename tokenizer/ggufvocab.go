package tokenizer

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"llmc/internal/fault"
)

// Vocab is the tokenizer metadata of a GGUF file, the keys tokenizer.ggml.* as
// plain data. Make one with [NewVocab], since the zero value would claim
// special tokens with id 0.
type Vocab struct {
	Model  string    // tokenizer.ggml.model: gpt2, llama, t5 or gemma4
	Pre    string    // tokenizer.ggml.pre: how gpt2 vocabularies cut words
	Tokens []string  // by id
	Scores []float32 // by id, or nil
	Types  []int32   // by id, or nil: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
	Merges []string  // "left right", the first to be merged first

	BOS, EOS, UNK, PAD, SEP, MASK, EOT, EOM int // special tokens, -1 where the key is absent

	// What a missing key means depends on Model and Pre.
	AddBOS, AddEOS, AddSpacePrefix, RemoveExtraWhitespaces *bool

	PrecompiledCharsmap []byte // SentencePiece's normalization, for t5
	ChatTemplate        string // tokenizer.chat_template
	Name                string // general.name: in Phi-3's vocabularies special tokens take the white space after them

	// Notes say, a sentence each without a full stop, what llama.cpp will do
	// differently from the tokenizer that [Tokenizer.Vocab] was called on.
	Notes []string
}

// NewVocab returns a Vocab without anything.
func NewVocab() Vocab {
	return Vocab{BOS: -1, EOS: -1, UNK: -1, PAD: -1, SEP: -1, MASK: -1, EOT: -1, EOM: -1}
}

// FromVocab makes a tokenizer that gives the ids that llama.cpp gives with the
// same metadata. The models gpt2 (byte-level BPE), llama (SentencePiece BPE), t5
// (unigram) and gemma4 are supported. Its errors are of the kind
// fault.InvalidFile.
//
// It keeps the slices of v and does not change them.
func FromVocab(v Vocab) (*Tokenizer, error) {
	loadCategories()
	t := &Tokenizer{source: &v}
	if err := t.loadTokens(&v); err != nil {
		return nil, err
	}
	var err error
	defaults := ggufDefaults{bos: -1, eos: -1, unk: -1}
	switch v.Model {
	case "gpt2", "gemma4":
		err = t.loadMerges(&v, &defaults)
	case "llama":
		err = t.loadSPM(&v, &defaults)
	case "t5":
		err = t.loadT5(&v, &defaults)
	default:
		err = fault.Invalid("tokenizer model %q is not supported; supported are gpt2, llama, t5 and gemma4", v.Model)
	}
	if err != nil {
		return nil, err
	}
	t.markSpecials()
	t.loadSpecials(&v, &defaults)
	t.loadPartition(&v)
	return t, nil
}

// ggufDefaults is what holds where the metadata says nothing.
type ggufDefaults struct {
	bos, eos, unk  int
	addBOS, addEOS bool
}

func (t *Tokenizer) loadTokens(v *Vocab) error {
	n := len(v.Tokens)
	if n == 0 {
		return fault.Invalid("the vocabulary has no tokens")
	}
	if n > math.MaxInt32/2 {
		return fault.Invalid("the vocabulary has %d tokens", n)
	}
	if v.Scores != nil && len(v.Scores) < n {
		return fault.Invalid("the vocabulary has %d tokens, but %d scores", n, len(v.Scores))
	}
	if v.Types != nil && len(v.Types) < n {
		return fault.Invalid("the vocabulary has %d tokens, but %d token types", n, len(v.Types))
	}
	t.tokens = slices.Clone(v.Tokens)
	t.kinds = slices.Repeat([]tokenKind{kindNormal}, n)
	t.ids = make(map[string]int32, n)
	for i, token := range t.tokens {
		if token == "" {
			token = fmt.Sprintf("[EMPTY_%d]", i)
			t.tokens[i] = token
		}
		if other, ok := t.ids[token]; ok {
			return fault.Invalid("tokens %d and %d are both %q", other, i, token)
		}
		t.ids[token] = int32(i)
		if v.Types != nil {
			t.kinds[i] = v.Types[i]
		}
	}
	return nil
}

// score returns the score of a token, 0 if there are none.
func (v *Vocab) score(id int) float32 {
	if v.Scores == nil {
		return 0
	}
	return v.Scores[id]
}

func (t *Tokenizer) loadSPM(v *Vocab, d *ggufDefaults) error {
	*d = ggufDefaults{bos: 1, eos: 2, unk: 0, addBOS: true}
	m := &spm{ids: t.ids, ranks: make([]int32, len(t.tokens))}
	scores := make([]float32, len(t.tokens))
	for i, token := range t.tokens {
		scores[i] = v.score(i)
		if scores[i] != scores[i] {
			return fault.Invalid("token %d %q has a score that is not a number", i, token)
		}
		m.maxLen = max(m.maxLen, len(token))
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(scores)))
	for i, score := range scores {
		place, _ := slices.BinarySearch(sorted, score)
		m.ranks[i] = int32(len(sorted) - 1 - place)
	}
	unk := int32(-1)
	if v.UNK < len(t.tokens) {
		unk = int32(v.UNK)
	}
	m.bytes = byteTokens(t.ids, unk)
	for b := range m.bytes {
		if id, ok := t.ids[string([]byte{byte(b)})]; ok && t.ids[byteTokenName(byte(b))] != m.bytes[b] {
			m.bytes[b] = id
		}
	}
	t.model = m
	t.pieces = pieceStyle{byteTokens: true, space: spaceMark, rawBytes: true}
	if isTrue(v.AddSpacePrefix, true) {
		t.normalizers = append(t.normalizers, prepend(" "))
		t.pieces.leadingSpace = true
	}
	t.normalizers = append(t.normalizers, replaceString(" ", spaceMark))
	t.pre = []preTokenizer{newPairSplit(slices.Values(t.tokens))}
	return nil
}

func (t *Tokenizer) loadMerges(v *Vocab, d *ggufDefaults) error {
	*d = ggufDefaults{bos: 11, eos: 11, unk: -1}
	pre := v.Pre
	if v.Model == "gemma4" {
		*d = ggufDefaults{bos: -1, eos: -1, unk: -1}
		pre = "gemma4"
	}
	p, ok := ggufPres[pre]
	if !ok {
		return fault.Invalid("pre-tokenizer %q is not supported; supported are %s", pre, strings.Join(PreTokenizers(), ", "))
	}
	if p.noBOS {
		d.bos = -1
	}
	d.addBOS = p.addBOS
	b := &bpe{unk: -1, numTokens: int32(len(t.tokens)), lateBytes: p.raw, wholeWords: p.wholeWords, words: t.ids}
	b.bytes = byteTokens(t.ids, -1)
	if err := b.internMerges(v, t.ids); err != nil {
		return err
	}
	t.pieces = pieceStyle{byteLevel: !p.raw, byteTokens: p.raw, lenient: true}
	if p.raw {
		t.pieces.space = spaceMark
		t.normalizers = append(t.normalizers, replaceString(" ", spaceMark))
	} else {
		b.useBytes()
		b.spellSymbols(t.ids)
	}
	if pre == "gemma4" {
		b.wholeWords, b.words = true, lineBreaks(t.ids)
	}
	t.pre = slices.Clone(p.split())
	if p.raw {
		t.pre = append(t.pre, newPairSplit(maps.Keys(b.ids)))
	}
	t.model = b
	return nil
}

func lineBreaks(ids map[string]int32) map[string]int32 {
	words := make(map[string]int32)
	for token, id := range ids {
		if strings.Trim(token, "\n") == "" {
			words[token] = id
		}
	}
	return words
}

// internMerges numbers the symbols that merges speak of: tokens by their id,
// strings that are no tokens from there on.
func (m *bpe) internMerges(v *Vocab, ids map[string]int32) error {
	m.ids = make(map[string]int32, len(ids))
	for token, id := range ids {
		m.ids[token] = id
	}
	intern := func(s string) int32 {
		id, ok := m.ids[s]
		if !ok {
			id = int32(len(m.ids))
			m.ids[s] = id
		}
		return id
	}
	for rank, merge := range v.Merges {
		// A token may be a space: the one between the two is not the first byte.
		space := -1
		if len(merge) > 1 {
			space = strings.IndexByte(merge[1:], ' ')
		}
		if space < 0 {
			return fault.Invalid("merge %d %q is not two tokens with a space between", rank, merge)
		}
		left, right := merge[:space+1], merge[space+2:]
		key := pairKey(intern(left), intern(right))
		if _, _, ok := m.merges.get(key); !ok {
			m.merges.put(key, int32(rank), intern(left+right))
		}
	}
	// Each byte is a symbol, whether or not it is a token.
	for b := range 256 {
		intern(string(byteToRune[b]))
	}
	return nil
}

// spellSymbols finds what symbols that are no tokens are put out as: those of
// their bytes, as they are written, that are tokens.
func (m *bpe) spellSymbols(tokens map[string]int32) {
	m.spell = make([][]int32, len(m.ids)-int(m.numTokens))
	for s, id := range m.ids {
		if id < m.numTokens {
			continue
		}
		for i := range len(s) {
			if b, ok := tokens[s[i:i+1]]; ok {
				m.spell[id-m.numTokens] = append(m.spell[id-m.numTokens], b)
			}
		}
	}
}

// loadT5 makes a unigram model: tokens that can stand for text are in it,
// user-defined ones with the best score there is.
func (t *Tokenizer) loadT5(v *Vocab, d *ggufDefaults) error {
	*d = ggufDefaults{bos: -1, eos: 1, unk: 2, addEOS: true}
	u := &unigram{unk: int32(max(v.UNK, -1)), scores: make([]float64, len(t.tokens))}
	if v.UNK < 0 || v.UNK >= len(t.tokens) {
		u.unk = int32(min(d.unk, len(t.tokens)-1))
	}
	worst := float32(math.MaxFloat32)
	n := &t5Normalizer{space: spaceMark, mergeSpaces: isTrue(v.RemoveExtraWhitespaces, false), prefix: isTrue(v.AddSpacePrefix, false)}
	for i, token := range t.tokens {
		switch t.kinds[i] {
		case kindNormal:
			worst = min(worst, v.score(i))
			u.scores[i] = float64(v.score(i))
			u.tokens.insert(token, int32(i))
		case kindUserDefined:
			u.tokens.insert(token, int32(i))
			n.userDefined.insert(token, int32(i))
		case kindUnused:
			u.scores[i] = float64(v.score(i))
			u.tokens.insert(token, int32(i))
		}
	}
	u.unkScore = float64(worst - unknownPenalty)
	if len(v.PrecompiledCharsmap) > 0 {
		var err error
		if n.charsmap, err = parseCharsmap(v.PrecompiledCharsmap); err != nil {
			return fault.Invalid("precompiled_charsmap: %w", err)
		}
	}
	t.model = u
	t.normalizers = []normalizer{{apply: n.normalize}}
	t.pieces = pieceStyle{byteTokens: true, space: spaceMark, rawBytes: true, leadingSpace: n.prefix || n.mergeSpaces}
	return nil
}
