package tokenizer

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"llmc/internal/fault"
)

func TestBadTokenizerJSON(t *testing.T) {
	good := tinyByteLevel(t, byteLevelJSON(true))
	set := func(path string, value any) []byte {
		return edit(t, good, func(o object) {
			keys := strings.Split(path, ".")
			for _, k := range keys[:len(keys)-1] {
				o = o[k].(map[string]any)
			}
			o[keys[len(keys)-1]] = value
		})
	}
	deep := any(object{"type": "ByteLevel"})
	for range 40 {
		deep = object{"type": "Sequence", "pretokenizers": []any{deep}}
	}
	var multiply []any
	for range 40 {
		multiply = append(multiply, object{"type": "Replace", "pattern": object{"String": "a"}, "content": "aa"})
	}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":               {nil, "unexpected end"},
		"not json":            {[]byte("\x00\x01"), "invalid character"},
		"truncated":           {good[:len(good)/2], "unexpected end"},
		"nested without end":  {[]byte(strings.Repeat(`{"model":`, 100000)), "depth"},
		"no model":            {[]byte(`{}`), "no model"},
		"unknown model":       {set("model.type", "WordPiece"), `model "WordPiece" is not supported; supported are BPE and Unigram`},
		"unknown normalizer":  {set("normalizer", object{"type": "Rot13"}), `normalizer "Rot13" is not supported; supported are NFC`},
		"unknown part":        {set("pre_tokenizer", object{"type": "Scripts"}), `pre_tokenizer "Scripts" is not supported`},
		"unknown decoder":     {set("decoder", object{"type": "CTC"}), `decoder "CTC" is not supported`},
		"unknown processor":   {set("post_processor", object{"type": "Post"}), `post_processor "Post" is not supported`},
		"deep sequence":       {set("pre_tokenizer", deep), "nested deeper"},
		"multiplying":         {set("normalizer", object{"type": "Sequence", "normalizers": multiply}), "times longer"},
		"negative id":         {set("model.vocab.x", -1), "id -1"},
		"huge id":             {set("model.vocab.x", math.MaxInt32), "id 2147483647"},
		"fractional id":       {set("model.vocab.x", 1.5), "vocab"},
		"same id":             {set("model.vocab.xx", 3), "same id 3"},
		"vocab is a list":     {set("model.vocab", []int{1}), "vocab"},
		"merge of nothing":    {set("model.merges", []string{"zz yy"}), `"zz" and "yy"`},
		"merge of three":      {set("model.merges", []string{"a b c"}), "not two tokens"},
		"merge of one":        {set("model.merges", [][]string{{"a"}}), "merge 0 is of 1 tokens"},
		"missing unk":         {set("model.unk_token", "<none>"), `unk_token "<none>"`},
		"added id":            {set("added_tokens", []any{added(-7, "<x>", true, false)}), "id -7"},
		"added id taken":      {set("added_tokens", []any{added(3, "<x>", true, false)}), "which is that of"},
		"bad behavior":        {set("pre_tokenizer", object{"type": "Split", "pattern": object{"String": "a"}, "behavior": "Eaten"}), `"Eaten"`},
		"no pattern":          {set("pre_tokenizer", object{"type": "Split", "behavior": "Isolated"}), "no pattern"},
		"bad expression":      {set("pre_tokenizer", object{"type": "Split", "pattern": object{"Regex": "(a"}, "behavior": "Isolated"}), "not supported"},
		"bad charsmap":        {set("normalizer", object{"type": "Precompiled", "precompiled_charsmap": "/////wA="}), "character map"},
		"template without id": {set("post_processor", object{"type": "TemplateProcessing", "single": []any{object{"SpecialToken": object{"id": "<s>"}}}}), "special_tokens"},
		"template id": {set("post_processor", object{"type": "TemplateProcessing", "single": []any{object{"SpecialToken": object{"id": "<s>"}}},
			"special_tokens": object{"<s>": object{"ids": []int{99999}}}}), "id 99999"},
	} {
		_, err := FromJSON(test.data, nil)
		checkInvalid(t, name, err, test.want)
	}
	_, err := FromJSON(good, []byte(`{"bos_token":"<none>"}`))
	checkInvalid(t, "config names no token", err, `bos_token "<none>"`)
	_, err = FromJSON(good, []byte(`{`))
	checkInvalid(t, "config is truncated", err, "tokenizer_config.json")
}

func checkInvalid(t *testing.T, name string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || fault.KindOf(err) != fault.InvalidFile {
		t.Errorf("%s: error %v, want one that is invalid input and has %q", name, err, want)
	}
}

func tinyVocab(model, pre string) Vocab {
	v := NewVocab()
	v.Model, v.Pre = model, pre
	v.Tokens = []string{"<unk>", "<s>", "</s>", "a", "b", "ab", "▁", "<0x0A>"}
	v.Scores = []float32{0, 0, 0, -1, -2, -0.5, -3, 0}
	v.Types = []int32{2, 3, 3, 1, 1, 1, 1, 6}
	v.Merges = []string{"a b"}
	return v
}

func TestBadVocab(t *testing.T) {
	for name, test := range map[string]struct {
		model, pre string
		change     func(*Vocab)
		want       string
	}{
		"unknown model":     {"bert", "", func(*Vocab) {}, `model "bert" is not supported; supported are gpt2`},
		"unknown pre":       {"gpt2", "klingon", func(*Vocab) {}, `pre-tokenizer "klingon" is not supported; supported are`},
		"no tokens":         {"llama", "", func(v *Vocab) { v.Tokens = nil }, "no tokens"},
		"few scores":        {"llama", "", func(v *Vocab) { v.Scores = v.Scores[:2] }, "2 scores"},
		"few types":         {"llama", "", func(v *Vocab) { v.Types = v.Types[:2] }, "2 token types"},
		"same token":        {"llama", "", func(v *Vocab) { v.Tokens[4] = "a" }, `tokens 3 and 4 are both "a"`},
		"not a score":       {"llama", "", func(v *Vocab) { v.Scores[3] = float32(math.NaN()) }, "not a number"},
		"merge of one":      {"gpt2", "gpt-2", func(v *Vocab) { v.Merges = []string{"ab"} }, "not two tokens"},
		"merge of nothing":  {"gpt2", "gpt-2", func(v *Vocab) { v.Merges = []string{""} }, "not two tokens"},
		"charsmap too long": {"t5", "", func(v *Vocab) { v.PrecompiledCharsmap = []byte{255, 255, 0, 0, 1} }, "character map"},
	} {
		v := tinyVocab(test.model, test.pre)
		test.change(&v)
		_, err := FromVocab(v)
		checkInvalid(t, name, err, test.want)
	}
}

// TestVocabWithoutFlags relies on what llama.cpp takes for granted.
func TestVocabWithoutFlags(t *testing.T) {
	v := tinyVocab("llama", "")
	v.BOS, v.EOS = 500, -3 // no token has these
	tok, err := FromVocab(v)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(tok.Encode("ab", true, false)); got != "[1 6 5]" {
		t.Errorf("got %v", got)
	}
	// There is only one byte token: other bytes are left out.
	if got := fmt.Sprint(tok.Encode("x\n", false, false)); got != "[6 7]" {
		t.Errorf("got %v", got)
	}
}

func TestGarbageIsEncoded(t *testing.T) {
	garbage := "\xff\xfe\xc0\x80\xed\xa0\x80\xf8\x00a\xe2b\xe2\x96"
	for name, data := range tinyTokenizers(t) {
		tok := load(t, data)
		if len(tok.Encode(garbage, true, true)) == 0 {
			t.Errorf("%s: no ids", name)
		}
	}
	for _, model := range []string{"llama", "t5", "gpt2", "gemma4"} {
		tok, err := FromVocab(tinyVocab(model, "default"))
		if err != nil {
			t.Fatal(err)
		}
		tok.Decode(tok.Encode(garbage, true, true))
	}
}

func TestInvalidTextIsReadAsLlamaDoes(t *testing.T) {
	for text, want := range map[string]string{
		"é\xff":                "é\ufffd",
		"\xc0\xaf":             "/",
		"\xe0\x80\xafa":        "/a",
		"\xed\xa0\x80":         "\xed\xa0\x80",
		"\xe2\x96":             "\ufffd\ufffd",
		"\xf8\x80\x80\x80\x80": "\ufffd\ufffd\ufffd\ufffd\ufffd",
		"\xf7\xbf\xbf\xbf":     "\ufffd\ufffd\ufffd\ufffd",
		"a\xe2b":               "a\ufffdb",
	} {
		if got := lenientText(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
