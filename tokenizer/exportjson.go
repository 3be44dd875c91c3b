package tokenizer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"
)

// JSON returns the tokenizer as the contents of tokenizer.json and
// tokenizer_config.json, with which the tokenizers library gives the same ids.
// Of a tokenizer made by [FromJSON] they are what it was made from, and the
// configuration may be nil.
func (t *Tokenizer) JSON() (tokenizerJSON, tokenizerConfigJSON []byte, err error) {
	if src, ok := t.source.(*jsonSource); ok {
		return src.tokenizer, src.tokenizerConfig, nil
	}
	v := t.source.(*Vocab)
	file := object{
		"version": "1.0", "truncation": nil, "padding": nil,
		"added_tokens": t.addedJSON(), "normalizer": nil, "pre_tokenizer": nil,
		"post_processor": t.postProcessorJSON(),
	}
	switch v.Model {
	case "gpt2":
		if ggufPres[v.Pre].raw {
			t.rawJSON(v, file)
		} else {
			t.byteLevelJSON(v, file)
		}
	case "gemma4":
		t.rawJSON(v, file)
	case "llama":
		t.sentencePieceJSON(v, file)
	case "t5":
		t.unigramJSON(v, file)
	}
	if tokenizerJSON, err = marshal(file); err != nil {
		return nil, nil, err
	}
	tokenizerConfigJSON, err = marshal(t.configJSON(v))
	return tokenizerJSON, tokenizerConfigJSON, err
}

func marshal(o object) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(o)
	return b.Bytes(), err
}

func (t *Tokenizer) addedJSON() []any {
	added := []any{}
	for _, tok := range t.rawAdded.tokens {
		added = append(added, object{"id": tok.id, "content": tok.content, "single_word": false,
			"lstrip": tok.lstrip, "rstrip": tok.rstrip, "normalized": false, "special": tok.special})
	}
	return added
}

// postProcessorJSON adds what the tokenizer adds around a text.
func (t *Tokenizer) postProcessorJSON() any {
	single := func(sequence string, kind int) []any {
		var parts []any
		for _, id := range t.before {
			parts = append(parts, object{"SpecialToken": object{"id": t.tokens[id], "type_id": kind}})
		}
		parts = append(parts, object{"Sequence": object{"id": sequence, "type_id": kind}})
		for _, id := range t.after {
			parts = append(parts, object{"SpecialToken": object{"id": t.tokens[id], "type_id": kind}})
		}
		return parts
	}
	special := object{}
	for _, id := range slices.Concat(t.before, t.after) {
		special[t.tokens[id]] = object{"id": t.tokens[id], "ids": []int32{id}, "tokens": []string{t.tokens[id]}}
	}
	if len(special) == 0 {
		return nil
	}
	return object{"type": "TemplateProcessing", "single": single("A", 0),
		"pair": append(single("A", 0), single("B", 1)...), "special_tokens": special}
}

func (t *Tokenizer) configJSON(v *Vocab) object {
	config := object{
		"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
		"add_bos_token": t.addsBOS, "add_eos_token": len(t.after) > 0,
	}
	name := func(key string, id int) {
		if id >= 0 && id < len(t.tokens) {
			config[key] = t.tokens[id]
		}
	}
	name("bos_token", int(t.bos))
	name("eos_token", int(t.eos))
	name("unk_token", v.UNK)
	name("pad_token", v.PAD)
	if v.ChatTemplate != "" {
		config["chat_template"] = v.ChatTemplate
	}
	return config
}

func (t *Tokenizer) vocabJSON() object {
	vocab := make(object, len(t.tokens))
	for id, token := range t.tokens {
		vocab[token] = id
	}
	return vocab
}

func bpeJSON(vocab object, merges any, unk any, byteFallback, wholeWords bool) object {
	return object{"type": "BPE", "dropout": nil, "unk_token": unk, "continuing_subword_prefix": nil,
		"end_of_word_suffix": nil, "fuse_unk": unk != nil, "byte_fallback": byteFallback,
		"ignore_merges": wholeWords, "vocab": vocab, "merges": merges}
}

func (t *Tokenizer) byteLevelJSON(v *Vocab, file object) {
	m := t.model.(*bpe)
	merges := make([]string, 0, len(v.Merges))
	for _, merge := range v.Merges {
		if m.isToken(merge) {
			merges = append(merges, merge)
		}
	}
	file["pre_tokenizer"] = preJSON(v.Pre)
	file["decoder"] = object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	file["model"] = bpeJSON(t.vocabJSON(), merges, nil, false, m.wholeWords)
}

// isToken reports whether a merge is of tokens, to a token.
func (m *bpe) isToken(merge string) bool {
	i := strings.IndexByte(merge[1:], ' ') + 1
	left, right := merge[:i], merge[i+1:]
	for _, s := range []string{left, right, left + right} {
		if id, ok := m.ids[s]; !ok || id >= m.numTokens {
			return false
		}
	}
	return true
}

// rawJSON writes a vocabulary of merges with marks for spaces.
func (t *Tokenizer) rawJSON(v *Vocab, file object) {
	m := t.model.(*bpe)
	var merges [][2]string
	for _, merge := range v.Merges {
		if i := strings.IndexByte(merge[1:], ' ') + 1; m.isToken(merge) {
			merges = append(merges, [2]string{merge[:i], merge[i+1:]})
		}
	}
	file["normalizer"] = replaceJSON(" ", spaceMark)
	file["pre_tokenizer"] = splitJSON(notBreaks)
	file["decoder"] = object{"type": "Sequence", "decoders": []any{replaceJSON(spaceMark, " "), object{"type": "ByteFallback"}, object{"type": "Fuse"}}}
	file["model"] = bpeJSON(t.vocabJSON(), merges, nil, true, false)
}

func replaceJSON(old, content string) any {
	return object{"type": "Replace", "pattern": object{"String": old}, "content": content}
}

// sentencePieceJSON writes a vocabulary of scores as one of merges: for each
// token, the best first, all pairs of tokens that make it up.
func (t *Tokenizer) sentencePieceJSON(v *Vocab, file object) {
	m := t.model.(*spm)
	order := make([]int32, 0, len(t.tokens))
	for id := range t.tokens {
		order = append(order, int32(id))
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(m.ranks[a], m.ranks[b]) })
	var merges [][2]string
	for _, id := range order {
		token := t.tokens[id]
		if k := t.kinds[id]; k != kindNormal && k != kindUserDefined && k != kindUnused {
			continue
		}
		for i := range token {
			_, left := t.ids[token[:i]]
			_, right := t.ids[token[i:]]
			if i > 0 && left && right {
				merges = append(merges, [2]string{token[:i], token[i:]})
			}
		}
	}
	normalizers := []any{replaceJSON(" ", spaceMark)}
	decoders := []any{replaceJSON(spaceMark, " "), object{"type": "ByteFallback"}, object{"type": "Fuse"}}
	if t.pieces.leadingSpace {
		normalizers = append([]any{object{"type": "Prepend", "prepend": spaceMark}}, normalizers...)
		decoders = append(decoders, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	var unk any
	if v.UNK >= 0 {
		unk = t.tokens[v.UNK]
	} else if len(t.tokens) > 0 {
		unk = t.tokens[0] // llama.cpp's default
	}
	file["normalizer"] = object{"type": "Sequence", "normalizers": normalizers}
	file["decoder"] = object{"type": "Sequence", "decoders": decoders}
	file["model"] = bpeJSON(t.vocabJSON(), merges, unk, true, false)
}

func (t *Tokenizer) unigramJSON(v *Vocab, file object) {
	m := t.model.(*unigram)
	vocab := make([][2]any, len(t.tokens))
	for id, token := range t.tokens {
		vocab[id] = [2]any{token, v.score(id)}
	}
	var normalizers []any
	if len(v.PrecompiledCharsmap) > 0 {
		normalizers = append(normalizers, object{"type": "Precompiled", "precompiled_charsmap": v.PrecompiledCharsmap})
	}
	scheme := "never"
	if isTrue(v.AddSpacePrefix, false) {
		scheme = "always"
	}
	if isTrue(v.RemoveExtraWhitespaces, false) {
		scheme = "always"
		normalizers = append(normalizers, object{"type": "Strip", "strip_left": true, "strip_right": true},
			object{"type": "Replace", "pattern": object{"Regex": " {2,}"}, "content": " "})
	}
	if len(normalizers) > 0 {
		file["normalizer"] = object{"type": "Sequence", "normalizers": normalizers}
	}
	space := object{"type": "Metaspace", "replacement": spaceMark, "prepend_scheme": scheme, "split": true}
	file["pre_tokenizer"], file["decoder"] = space, space
	file["model"] = object{"type": "Unigram", "unk_id": m.unk, "vocab": vocab, "byte_fallback": false}
}
