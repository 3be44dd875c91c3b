package tokenizer

import (
	"slices"
	"strings"
	"testing"
)

// FuzzTokenizerJSON loads any bytes as tokenizer.json and, where that works,
// encodes, decodes and converts.
func FuzzTokenizerJSON(f *testing.F) {
	// Small, since minimizing large inputs takes the fuzzer most of its time.
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"Ġ":3,"Ġab":4},"merges":["a b",["Ġ","ab"]]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[`+
		`{"type":"Split","pattern":{"Regex":"\\p{L}+| ?\\d"},"behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":true}]},`+
		`"decoder":{"type":"ByteLevel"},"added_tokens":[{"id":5,"content":"<x>","special":true},{"id":6,"content":"y ","lstrip":true,"normalized":true}]}`), "ab ab<x>1")
	f.Add([]byte(`{"model":{"type":"BPE","unk_token":"u","byte_fallback":true,"fuse_unk":true,"vocab":{"u":0,"<0x41>":1,"▁":2,"c":3,"▁c":4},"merges":["▁ c"]},`+
		`"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},`+
		`"post_processor":{"type":"BertProcessing","sep":["u",0],"cls":["c",3]},"decoder":{"type":"Strip","content":" ","start":1,"stop":0}}`), "c cA x")
	f.Add([]byte(`{"model":{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["u",0],["▁a",-1.5],["b",-2]]},`+
		`"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"},"decoder":{"type":"Metaspace"}}`), "a ab")
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"normalizer":{"type":"Replace","pattern":{"Regex":"a*"},"content":"b"}}`), "aaa")
	f.Add([]byte(`{"model":{"type":"Unigram","vocab":[["a",-1]],"unk_id":0},"normalizer":{"type":"Precompiled","precompiled_charsmap":"BAAAAAEBAAAAAA=="}}`), "a b")
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"</w>":1},"merges":[],"end_of_word_suffix":"</w>"},"pre_tokenizer":{"type":"Punctuation","behavior":"MergedWithNext"}}`), "a.b!")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		if len(data) > 1<<16 || len(text) > 1<<12 {
			return
		}
		tok, err := FromJSON(data, nil)
		if err != nil {
			return
		}
		checkTokenizer(t, tok, text)
		v, err := tok.Vocab()
		if err != nil {
			return
		}
		if there, err := FromVocab(v); err == nil {
			checkTokenizer(t, there, text)
		}
	})
}

// FuzzVocab makes GGUF vocabularies of any words.
func FuzzVocab(f *testing.F) {
	f.Add("gpt2", "gpt-2", "a\nb\nab\nĠ\n<|end|>", "a b", "ab ba<|end|>")
	f.Add("llama", "", "<unk>\n<s>\n</s>\n▁\na\nb\nab\n<0x41>", "", "ab é")
	f.Add("t5", "", "<pad>\n</s>\n<unk>\n▁a\nb", "", "a b  c")
	f.Add("gemma4", "", "▁\na\nab\n<0xFF>\n\n", "a b", "a b\n\xff")
	f.Fuzz(func(t *testing.T, model, pre, tokens, merges, text string) {
		if len(tokens)+len(merges) > 1<<14 || len(text) > 1<<12 {
			return
		}
		v := NewVocab()
		v.Model, v.Pre, v.Tokens = model, pre, strings.Split(tokens, "\n")
		if merges != "" {
			v.Merges = strings.Split(merges, "\n")
		}
		for i, token := range v.Tokens {
			v.Types = append(v.Types, int32(len(token)%7))
			v.Scores = append(v.Scores, float32(i%5))
		}
		tok, err := FromVocab(v)
		if err != nil {
			return
		}
		checkTokenizer(t, tok, text)
		tokenizerJSON, config, err := tok.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if there, err := FromJSON(tokenizerJSON, config); err == nil {
			checkTokenizer(t, there, text)
		}
	})
}

// checkTokenizer checks what holds of every tokenizer: its ids are its own, and
// a text read in portions has the ids of the whole.
func checkTokenizer(t *testing.T, tok *Tokenizer, text string) {
	t.Helper()
	ids := tok.Encode(text, true, true)
	for _, id := range ids {
		if id < 0 || int(id) >= tok.Size() {
			t.Fatalf("%q has the id %d of %d", text, id, tok.Size())
		}
	}
	tok.Decode(ids)
	want := tok.Encode(text, true, false)
	var got []int32
	err := tok.encodeReader(strings.NewReader(text), 7, true, func(ids []int32) error {
		got = append(got, ids...)
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%q in portions: got %v, want %v (error %v)", text, got, want, err)
	}
}
