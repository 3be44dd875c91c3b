package tokenizer

import (
	"encoding/json"
	"math"
	"slices"
	"strings"

	"llmc/internal/fault"
)

// jsonModel is the model of a tokenizer.json, of any kind.
type jsonModel struct {
	Type         string          `json:"type"`
	Vocab        json.RawMessage `json:"vocab"`
	Merges       jsonMerges      `json:"merges"`
	UnkToken     *string         `json:"unk_token"`
	UnkID        *int64          `json:"unk_id"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
	Prefix       string          `json:"continuing_subword_prefix"`
	Suffix       string          `json:"end_of_word_suffix"`
}

// jsonMerge is the merge of two tokens.
type jsonMerge struct{ left, right string }

// jsonMerges is a list of merges, written "left right" or ["left", "right"].
type jsonMerges []jsonMerge

// UnmarshalJSON implements json.Unmarshaler.
func (m *jsonMerges) UnmarshalJSON(data []byte) error {
	var joined []string
	if json.Unmarshal(data, &joined) == nil {
		*m = make(jsonMerges, len(joined))
		for i, s := range joined {
			left, right, ok := strings.Cut(s, " ")
			if !ok || strings.Contains(right, " ") {
				return fault.Invalid("merge %d %q is not two tokens with a space between", i, s)
			}
			(*m)[i] = jsonMerge{left, right}
		}
		return nil
	}
	var pairs [][]string
	if err := json.Unmarshal(data, &pairs); err != nil {
		return err
	}
	*m = make(jsonMerges, len(pairs))
	for i, p := range pairs {
		if len(p) != 2 {
			return fault.Invalid("merge %d is of %d tokens, not of 2", i, len(p))
		}
		(*m)[i] = jsonMerge{p[0], p[1]}
	}
	return nil
}

// unmarshalTuple reads a JSON array of as many values as there are targets.
func unmarshalTuple(data []byte, targets ...any) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	if len(parts) != len(targets) {
		return fault.Invalid("found %d values where %d are expected", len(parts), len(targets))
	}
	for i, p := range parts {
		if err := json.Unmarshal(p, targets[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tokenizer) loadModel(src *jsonSource) error {
	m := &src.model
	if len(src.file.Model) == 0 {
		return fault.Invalid("tokenizer.json has no model")
	}
	if err := json.Unmarshal(src.file.Model, m); err != nil {
		return fault.Invalid("tokenizer.json: model: %w", err)
	}
	if m.Type == "" { // files of old versions of the library
		m.Type = "Unigram"
		if m.Merges != nil {
			m.Type = "BPE"
		}
	}
	switch m.Type {
	case "BPE":
		return t.loadBPE(m)
	case "Unigram":
		return t.loadUnigram(m)
	}
	return unsupported("model", m.Type, "BPE and Unigram")
}

func (t *Tokenizer) loadBPE(m *jsonModel) error {
	var vocab map[string]int64
	if err := json.Unmarshal(m.Vocab, &vocab); err != nil {
		return fault.Invalid("tokenizer.json: vocab: %w", err)
	}
	limit := maxID(len(vocab))
	highest := int64(-1)
	for token, id := range vocab {
		if id < 0 || id >= limit {
			return fault.Invalid("tokenizer.json: token %q has id %d, which is not in 0 to %d", token, id, limit-1)
		}
		highest = max(highest, id)
	}
	t.tokens = make([]string, highest+1)
	t.kinds = slices.Repeat([]tokenKind{kindUnused}, int(highest+1))
	t.ids = make(map[string]int32, len(vocab))
	for token, id := range vocab {
		if t.kinds[id] != kindUnused {
			return fault.Invalid("tokenizer.json: tokens %q and %q have the same id %d", t.tokens[id], token, id)
		}
		t.setToken(int32(id), token)
		t.ids[token] = int32(id)
	}
	model, err := t.newBPE(m)
	t.model = model
	return err
}

func (t *Tokenizer) newBPE(m *jsonModel) (*bpe, error) {
	// The model does not know the added tokens that are put into t.ids later.
	vocab := make(map[string]int32, len(t.ids))
	for token, id := range t.ids {
		vocab[token] = id
	}
	b := &bpe{
		ids: vocab, unk: -1, fuseUnk: m.FuseUnk, byteFallback: m.ByteFallback,
		prefix: m.Prefix, suffix: m.Suffix, numTokens: int32(len(t.tokens)),
		wholeWords: m.IgnoreMerges, words: vocab,
	}
	if m.UnkToken != nil {
		id, ok := vocab[*m.UnkToken]
		if !ok {
			return nil, fault.Invalid("tokenizer.json: unk_token %q is not in the vocabulary", *m.UnkToken)
		}
		b.unk = id
	}
	b.bytes = byteTokens(vocab, -1)
	for rank, merge := range m.Merges {
		left, ok1 := vocab[merge.left]
		right, ok2 := vocab[merge.right]
		result, ok3 := vocab[merge.left+merge.right[min(len(m.Prefix), len(merge.right)):]]
		if !ok1 || !ok2 || !ok3 {
			return nil, fault.Invalid("tokenizer.json: merge %d of %q and %q: these or their result are not in the vocabulary",
				rank, merge.left, merge.right)
		}
		b.merges.put(pairKey(left, right), int32(rank), result)
	}
	return b, nil
}

// byteTokens returns the token of each byte, and otherwise where there is none.
func byteTokens(ids map[string]int32, otherwise int32) (bytes [256]int32) {
	for b := range bytes {
		id, ok := ids[byteTokenName(byte(b))]
		if !ok {
			id = otherwise
		}
		bytes[b] = id
	}
	return bytes
}

// useBytes makes the model take words as raw bytes.
func (m *bpe) useBytes() {
	m.byteLevel = true
	for b := range m.units {
		id, ok := m.ids[string(byteToRune[b])]
		if !ok {
			id = -1
		}
		m.units[b] = id
	}
	if !m.wholeWords {
		return
	}
	words := make(map[string]int32, len(m.words))
	for token, id := range m.words {
		if word, ok := byteDecode(token); ok {
			words[word] = id
		}
	}
	m.words = words
}

// scoredToken is a token of a unigram vocabulary, written ["text", score].
type scoredToken struct {
	text  string
	score float64
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *scoredToken) UnmarshalJSON(data []byte) error {
	return unmarshalTuple(data, &s.text, &s.score)
}

func (t *Tokenizer) loadUnigram(m *jsonModel) error {
	var vocab []scoredToken
	if err := json.Unmarshal(m.Vocab, &vocab); err != nil {
		return fault.Invalid("tokenizer.json: vocab: %w", err)
	}
	u := &unigram{unk: -1, byteFallback: m.ByteFallback}
	worst := math.Inf(1)
	for i, v := range vocab {
		t.setToken(int32(i), v.text)
		t.ids[v.text] = int32(i)
		u.scores = append(u.scores, v.score)
		worst = min(worst, v.score)
		if v.text != "" {
			u.tokens.insert(v.text, int32(i))
		}
	}
	if m.UnkID != nil {
		if *m.UnkID < 0 || *m.UnkID >= int64(len(vocab)) {
			return fault.Invalid("tokenizer.json: unk_id %d is not in 0 to %d", *m.UnkID, len(vocab)-1)
		}
		u.unk = int32(*m.UnkID)
	}
	u.unkScore = worst - unknownPenalty
	u.ids = make(map[string]int32, len(t.ids))
	for token, id := range t.ids {
		u.ids[token] = id
	}
	u.bytes = byteTokens(u.ids, -1)
	t.model = u
	return nil
}
