package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Small tokenizer.json files of each kind. Their merges are of no language,
// but they cross what pre-tokenizers cut.

var tinyMerges = []string{
	"t h", "th e", "i n", "a n", "an d", "Ġ the", "e r", "o n", "1 2", "12 3", "Ġ Ġ", "ĠĠ ĠĠ",
	"Ċ Ċ", "l l", "' s", "Ã ©", "e Ġ", "s .", ". Ċ", "A B", "a b", "ab c",
}

func encodeJSON(t testing.TB, o object) []byte {
	t.Helper()
	data, err := marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func added(id int, content string, special, normalized bool) object {
	return object{"id": id, "content": content, "special": special, "normalized": normalized,
		"single_word": false, "lstrip": false, "rstrip": false}
}

// tinyByteLevel has the bytes as its tokens 0 to 255, then the merges.
func tinyByteLevel(t testing.TB, pre any) []byte {
	vocab := object{}
	for b := range 256 {
		vocab[string(byteToRune[b])] = b
	}
	for _, m := range tinyMerges {
		vocab[strings.ReplaceAll(m, " ", "")] = len(vocab)
	}
	n := len(vocab)
	return encodeJSON(t, object{
		"added_tokens":  []any{added(n, "<|end|>", true, false), added(n+1, "<tool>", false, false)},
		"normalizer":    nil,
		"pre_tokenizer": pre,
		"decoder":       object{"type": "ByteLevel"},
		"model":         object{"type": "BPE", "vocab": vocab, "merges": tinyMerges},
	})
}

// tinyMarks writes spaces as marks and has byte tokens from id 3 on.
func tinyMarks(t testing.TB) []byte {
	vocab := object{"<unk>": 0, "<s>": 1, "</s>": 2}
	for b := range 256 {
		vocab[byteTokenName(byte(b))] = len(vocab)
	}
	for c := ' ' + 1; c < 0x7f; c++ {
		vocab[string(c)] = len(vocab)
	}
	vocab[spaceMark] = len(vocab)
	var merges []any
	for _, m := range []string{"t h", "th e", "▁ the", "i n", "a n", "an d", "▁ and", "e r", "1 2", "▁ ▁", "o n"} {
		left, right, _ := strings.Cut(m, " ")
		vocab[left+right] = len(vocab)
		merges = append(merges, []string{left, right})
	}
	return encodeJSON(t, object{
		"added_tokens": []any{added(0, "<unk>", true, false), added(1, "<s>", true, false), added(2, "</s>", true, false)},
		"normalizer": object{"type": "Sequence", "normalizers": []any{
			object{"type": "Prepend", "prepend": spaceMark}, replaceJSON(" ", spaceMark)}},
		"post_processor": object{"type": "TemplateProcessing",
			"single":         []any{object{"SpecialToken": object{"id": "<s>", "type_id": 0}}, object{"Sequence": object{"id": "A", "type_id": 0}}},
			"special_tokens": object{"<s>": object{"id": "<s>", "ids": []int{1}, "tokens": []string{"<s>"}}}},
		"decoder": object{"type": "Sequence", "decoders": []any{
			replaceJSON(spaceMark, " "), object{"type": "ByteFallback"}, object{"type": "Fuse"},
			object{"type": "Strip", "content": " ", "start": 1, "stop": 0}}},
		"model": object{"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges},
	})
}

// tinyUnigram knows letters, a few words and bytes.
func tinyUnigram(t testing.TB) []byte {
	vocab := [][]any{{"<unk>", 0}, {"</s>", 0}, {"▁", -3}, {"▁the", -2.5}, {"▁and", -2.75}, {"ing", -3.5}, {"er", -4}}
	for c := 'a'; c <= 'z'; c++ {
		vocab = append(vocab, []any{string(c), -6 - float64(c-'a')/8})
	}
	for b := range 256 {
		vocab = append(vocab, []any{byteTokenName(byte(b)), -20})
	}
	space := object{"type": "Metaspace", "replacement": spaceMark, "prepend_scheme": "always", "split": true}
	return encodeJSON(t, object{
		"added_tokens":  []any{added(1, "</s>", true, false)},
		"pre_tokenizer": space,
		"decoder":       object{"type": "Sequence", "decoders": []any{object{"type": "ByteFallback"}, space}},
		"model":         object{"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": true},
	})
}

// tinyTokenizers returns a tokenizer.json of each kind.
func tinyTokenizers(t testing.TB) map[string][]byte {
	all := map[string][]byte{"marks": tinyMarks(t), "unigram": tinyUnigram(t)}
	for _, p := range hfPres {
		all[p.pre] = tinyByteLevel(t, preJSON(p.pre))
	}
	all["whole"] = tinyByteLevel(t, byteLevelJSON(false))
	return all
}

func load(t testing.TB, data []byte) *Tokenizer {
	t.Helper()
	tok, err := FromJSON(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// edit changes a tokenizer.json.
func edit(t testing.TB, data []byte, change func(object)) []byte {
	t.Helper()
	var o object
	if err := json.Unmarshal(data, &o); err != nil {
		t.Fatal(err)
	}
	change(o)
	return encodeJSON(t, o)
}

func piecesOf(tok *Tokenizer, ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&b, "%s|", tok.Piece(id))
	}
	return b.String()
}
