package tokenizer

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestConversionKeepsIDs takes each small tokenizer.json to GGUF metadata and
// back. Text of ASCII avoids where llama.cpp's expressions differ from the
// original ones.
func TestConversionKeepsIDs(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for name, data := range tinyTokenizers(t) {
		original := load(t, data)
		v, err := original.Vocab()
		if name == "whole" {
			if err == nil {
				t.Error("a pre-tokenizer that GGUF files have no name for was converted")
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		there, err := FromVocab(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tokenizerJSON, config, err := there.JSON()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		back, err := FromJSON(tokenizerJSON, config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for range 50 {
			text := asciiText(rng, 40)
			want := original.Encode(text, true, true)
			if got := there.Encode(text, true, true); !slices.Equal(got, want) && !differs(name) {
				t.Errorf("%s as GGUF: %q: got %v, want %v", name, text, got, want)
				break
			}
			want = there.Encode(text, true, true)
			if got := back.Encode(text, true, true); !slices.Equal(got, want) && !differs(name) {
				t.Errorf("%s and back: %q: got %v, want %v", name, text, got, want)
				break
			}
		}
	}
}

// differs names the kinds whose expressions in llama.cpp differ from the
// original ones for ASCII, too, or that GGUF files cannot say wholly.
func differs(name string) bool {
	return slices.Contains([]string{"falcon", "tiny_aya", "deepseek-llm", "marks", "unigram"}, name)
}

func asciiText(rng *rand.Rand, words int) string {
	text := []byte(randomText(rng, words))
	return string(slices.DeleteFunc(text, func(b byte) bool { return b >= 0x7f || b < ' ' && b != '\n' }))
}

// TestScoresOfMerges converts merges to scores and back where they are those
// that scores lead to, as in vocabularies that were trained by SentencePiece.
func TestScoresOfMerges(t *testing.T) {
	v := NewVocab()
	v.Model = "llama"
	v.Tokens = []string{"<unk>", "<s>", "</s>"}
	v.Types = []int32{2, 3, 3}
	for b := range 256 {
		v.Tokens = append(v.Tokens, byteTokenName(byte(b)))
		v.Types = append(v.Types, 6)
	}
	for _, token := range []string{"▁t", "he", "▁the", "in", "an", "and", "▁a", "▁and", "ing", "▁", "a", "d", "e", "g", "h", "i", "n", "t"} {
		v.Tokens = append(v.Tokens, token)
		v.Types = append(v.Types, 1)
	}
	for i := range v.Tokens {
		v.Scores = append(v.Scores, -float32(i))
	}
	want, err := FromVocab(v)
	if err != nil {
		t.Fatal(err)
	}
	tokenizerJSON, config, err := want.JSON()
	if err != nil {
		t.Fatal(err)
	}
	middle, err := FromJSON(tokenizerJSON, config)
	if err != nil {
		t.Fatal(err)
	}
	again, err := middle.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	if again.Model != "llama" || len(again.Notes) > 0 {
		t.Errorf("came back as %q with notes %q", again.Model, again.Notes)
	}
	got, err := FromVocab(again)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(13, 14))
	for range 200 {
		text := randomText(rng, 10)
		for range 30 {
			text += []string{"the", "and", "ing", " ", "in", "d"}[rng.IntN(6)]
		}
		ids := want.Encode(text, true, false)
		if !slices.Equal(middle.Encode(text, true, false), ids) || !slices.Equal(got.Encode(text, true, false), ids) {
			t.Fatalf("%q: %v became %v and %v", text, ids, middle.Encode(text, true, false), got.Encode(text, true, false))
		}
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	v, err := load(t, tinyTokenizers(t)["qwen2"]).Vocab()
	if err != nil {
		t.Fatal(err)
	}
	v.ChatTemplate, v.PAD = "{{ messages }}", 3
	m := pairs{}
	for _, p := range v.Pairs() {
		m[p.Key] = p.Value
	}
	got, err := ReadVocab(m)
	if err != nil {
		t.Fatal(err)
	}
	if got.Pre != "qwen2" || got.PAD != 3 || got.BOS != -1 || got.ChatTemplate != v.ChatTemplate || *got.AddBOS || got.AddSpacePrefix != nil ||
		!slices.Equal(got.Tokens, v.Tokens) || !slices.Equal(got.Types, v.Types) || !slices.Equal(got.Merges, v.Merges) {
		t.Errorf("got %+v", got)
	}
	if _, err := ReadVocab(pairs{}); err == nil {
		t.Error("a vocabulary was read from nothing")
	}
}

// pairs is GGUF metadata as a map.
type pairs map[string]any

func (p pairs) String(key string) (string, bool)    { v, ok := p[key].(string); return v, ok }
func (p pairs) Bool(key string) (value, ok bool)    { value, ok = p[key].(bool); return }
func (p pairs) Int(key string) (int64, bool)        { v, ok := p[key].(uint32); return int64(v), ok }
func (p pairs) Strings(key string) ([]string, bool) { v, ok := p[key].([]string); return v, ok }
func (p pairs) Floats(key string) ([]float32, bool) { v, ok := p[key].([]float32); return v, ok }

func (p pairs) Ints(key string) (values []int64, ok bool) {
	v, ok := p[key].([]int32)
	for _, i := range v {
		values = append(values, int64(i))
	}
	return values, ok
}
