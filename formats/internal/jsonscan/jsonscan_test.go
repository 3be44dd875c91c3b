package jsonscan

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func skipAll(text []byte) error {
	s, err := New(text)
	if err != nil {
		return err
	}
	if err := s.Skip(); err != nil {
		return err
	}
	return s.End()
}

// differs reports whether encoding/json judges a text otherwise, apart from
// what this package refuses on purpose or does not look at while skipping.
func differs(text string) bool {
	if !utf8.ValidString(text) || strings.Contains(text, `\`) || len(text) > 2000 {
		return false
	}
	err := skipAll([]byte(text))
	if err != nil && strings.Contains(err.Error(), "nested") {
		return false
	}
	return json.Valid([]byte(text)) != (err == nil)
}

var texts = []string{
	`{"a":[1,-2.5e+3,0.1,true,false,null,"x",{}],"b":{"c":[]}}`, ` [ ] `, `"é"`, "\t0\n",
	``, `{`, `[1,]`, `{"a"}`, `{"a":}`, `{a:1}`, `[1 2]`, `01`, `-`, `-01`, `1.`, `.5`, `1e`, `1e+`, `+1`, `0x1`,
	`tru`, `nulll`, `"`, "\"\n\"", `1_0`, `Inf`, `1e999`, `--1`, `[1]]`, `{"a":1,}`, `{,}`, "\x00", `1-2`,
}

func TestSkip(t *testing.T) {
	for _, text := range texts {
		if differs(text) {
			t.Errorf("%q: %v", text, skipAll([]byte(text)))
		}
	}
	deep := strings.Repeat("[", 1_000_000)
	if err := skipAll([]byte(deep)); err == nil || !strings.Contains(err.Error(), "nested") {
		t.Errorf("a million brackets: %v", err)
	}
}

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		`""`: "", `"a"`: "a", `"\"\\\/\b\f\n\r\t"`: "\"\\/\b\f\n\r\t", `"\u00e9\ud83d\ude00é"`: "é😀é", `"\u0000"`: "\x00",
	} {
		s, err := New([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Text(); string(got) != want || err != nil {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{`"\x"`, `"\u12"`, `"\u12g4"`, `"\ud83d"`, `"\ud83d\u0041"`, `"\ude00"`, `"\"`, `"a`, `a`, `"\u+123"`} {
		s, err := New([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Text(); err == nil {
			t.Errorf("%s: %q", text, got)
		}
	}
}

// FuzzScan compares with encoding/json.
func FuzzScan(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if differs(text) {
			t.Errorf("%q: %v", text, skipAll([]byte(text)))
		}
	})
}
