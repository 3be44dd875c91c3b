package tokenizer

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

func TestEncodePieces(t *testing.T) {
	for _, test := range []struct {
		name, text, want string
	}{
		{"gpt-2", "the and  the's 1234.\n\nx", "the| |and| | the|'s| |123|4|.|\n|\n|x|"},
		{"smollm", "the 1234", "the| |1|2|3|4|"},
		{"llama-bpe", "The's 12345\n\n", "T|h|e|'s| |123|4|5|\n\n|"},
		{"qwen2", "123 ABé", "1|2|3| |AB|é|"},
		{"whole", "the e e.\nABab", "the| |e |e|.\n|AB|ab|"},
		{"gpt-2", "a<|end|>b<tool>c", "a|<|end|>|b|<tool>|c|"},
		{"marks", "the and  the é", " the| and| | the| |\xc3|\xa9|"},
		{"unigram", "the being~", " the| |b|e|ing|~|"},
	} {
		tok := load(t, tinyTokenizers(t)[test.name])
		if got := piecesOf(tok, tok.Encode(test.text, false, true)); got != test.want {
			t.Errorf("%s: %q: got %q, want %q", test.name, test.text, got, test.want)
		}
	}
}

func TestMetaspaceCutsBeforeEachMark(t *testing.T) {
	loadCategories()
	m := &metaspace{mark: spaceMark, prepend: prependFirst, cut: true}
	for text, want := range map[string]string{"a b": "▁a|▁b", " a": "▁a", "a  b": "▁a|▁|▁b", "a ": "▁a|▁"} {
		if got, _ := m.split(text, true, nil, nil); strings.Join(got, "|") != want {
			t.Errorf("%q: got %q, want %s", text, got, want)
		}
	}
	if got, _ := m.split("a b", false, nil, nil); strings.Join(got, "|") != "a|▁b" {
		t.Errorf("within a text: %q", got)
	}
}

func TestSpecialTokens(t *testing.T) {
	tok, err := FromJSON(tinyMarks(t), []byte(`{"bos_token":"<s>","eos_token":{"content":"</s>"},"add_eos_token":true}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("a", true, false); got[0] != 1 || got[len(got)-1] != 2 {
		t.Errorf("with special tokens: %v", got)
	}
	if bos, ok := tok.BOS(); bos != 1 || !ok || !tok.AddsBOS() {
		t.Errorf("bos %d %v, added %v", bos, ok, tok.AddsBOS())
	}
	if eos, ok := tok.EOS(); eos != 2 || !ok {
		t.Errorf("eos %d %v", eos, ok)
	}
	if got := tok.Encode("<s>", false, true); !slices.Equal(got, []int32{1}) {
		t.Errorf("parsed: %v", got)
	}
	if got := tok.Encode("<s>", false, false); slices.Contains(got, 1) {
		t.Errorf("not parsed: %v", got)
	}
	if got := tok.Decode([]int32{1, 2, -5, 1 << 30}); got != "" {
		t.Errorf("decoded special and unknown ids to %q", got)
	}
	tok, err = FromJSON(tinyMarks(t), []byte(`{"bos_token":"<s>","add_bos_token":false}`))
	if err != nil {
		t.Fatal(err)
	}
	if tok.AddsBOS() || len(tok.Encode("", true, false)) != 0 {
		t.Error("add_bos_token false is not heeded")
	}
}

// TestRoundTrip decodes what was encoded: any text where bytes can be spelled,
// and any bytes but for those that are not UTF-8.
func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for name, data := range tinyTokenizers(t) {
		tok := load(t, data)
		for range 100 {
			text := randomText(rng, 20)
			switch name {
			case "unigram": // spaces at the beginning belong to the first word
				text = "x" + strings.ReplaceAll(text, spaceMark, "")
			case "marks":
				text = strings.ReplaceAll(text, spaceMark, "")
			}
			ids := tok.Encode(text, true, false)
			if got := tok.Decode(ids); got != text {
				t.Fatalf("%s: %q became %q", name, text, got)
			}
			var pieces strings.Builder
			for _, id := range ids {
				if !tok.isSpecial(id) {
					pieces.WriteString(tok.Piece(id))
				}
			}
			if got := pieces.String(); got != text && got != " "+text {
				t.Fatalf("%s: the pieces of %q join to %q", name, text, got)
			}
		}
		garbage := make([]byte, 200)
		for i := range garbage {
			garbage[i] = byte(rng.Uint32())
		}
		if got, want := tok.Decode(tok.Encode(string(garbage), false, true)), validText(string(garbage)); name != "unigram" && got != want {
			t.Errorf("%s: garbage %q became %q", name, want, got)
		}
	}
}

// TestEncodeReader cuts at every portion size what must not change the ids.
func TestEncodeReader(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	prose := strings.Repeat("The dog's and the cat ran 1234 times, in the end. \n\nAnd so on  and on\n", 3)
	for name, data := range tinyTokenizers(t) {
		tok := load(t, data)
		for range 20 {
			text := randomText(rng, 30) + prose + randomText(rng, 10)
			want := tok.Encode(text, true, false)
			var got []int32
			portions := 0
			err := tok.encodeReader(iotest.OneByteReader(strings.NewReader(text)), 1+rng.IntN(60), true, func(ids []int32) error {
				got = append(got, ids...)
				portions++
				return nil
			})
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("%s: %q: got %v, want %v (error %v)", name, text, got, want, err)
			}
			if portions < 2 && name != "exaone-moe" && name != "tiny_aya" && name != "whole" {
				t.Errorf("%s: the text was held until its end", name)
			}
		}
	}
}

func TestEncodeReaderErrors(t *testing.T) {
	tok := load(t, tinyTokenizers(t)["gpt-2"])
	failure := errors.New("failure")
	emit := func([]int32) error { return nil }
	if err := tok.EncodeReader(io.MultiReader(strings.NewReader("text"), iotest.ErrReader(failure)), true, emit); !errors.Is(err, failure) {
		t.Errorf("reading: %v", err)
	}
	stop := func([]int32) error { return failure }
	if err := tok.EncodeReader(strings.NewReader("text"), true, stop); !errors.Is(err, failure) {
		t.Errorf("emitting: %v", err)
	}
	if err := tok.EncodeReader(bytes.NewReader(nil), true, stop); err != nil {
		t.Errorf("empty text: %v", err)
	}
}

// TestPortionsChangeNothing encodes a text that Encode looks at in portions.
func TestPortionsChangeNothing(t *testing.T) {
	for name, data := range tinyTokenizers(t) {
		tok := load(t, data)
		text := strings.Repeat("the end and the beginning, 12 of them. ", 4*portionSize/39)
		got := tok.Encode(text, false, false)
		want := tok.encodeText(text, false, false, tok.scratch(), nil)
		if !slices.Equal(got, want) {
			t.Errorf("%s: the ids differ", name)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	tok := load(t, tinyTokenizers(t)["llama-bpe"])
	text := randomText(rand.New(rand.NewPCG(9, 9)), 300)
	want := tok.Encode(text, true, true)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if !slices.Equal(tok.Encode(text, true, true), want) {
					t.Error("ids differ")
				}
				tok.Decode(want)
			}
		})
	}
	wg.Wait()
}
