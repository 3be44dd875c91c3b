package jsonobj

import (
	"strings"
	"testing"
)

func TestEditKeepsTheRest(t *testing.T) {
	o, err := Parse([]byte(`{"z": 1.50, "a": {"k": [1, 2]}, "m": null, "drop": 0}`))
	if err != nil {
		t.Fatal(err)
	}
	if o.Has("m") || !o.Has("a") || o.Has("none") {
		t.Error("Has must be true for values only")
	}
	o.Delete("drop")
	o.Delete("none")
	if err := o.Set("a", 3); err != nil {
		t.Fatal(err)
	}
	if err := o.Set("new", "x"); err != nil {
		t.Fatal(err)
	}
	got, err := o.Indented()
	if err != nil {
		t.Fatal(err)
	}
	want := "{\n  \"z\": 1.50,\n  \"a\": 3,\n  \"m\": null,\n  \"new\": \"x\"\n}\n"
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		``:                        "cut off",
		`{"a": 1`:                 "cut off",
		`[1]`:                     "object is needed",
		`{"a": 1, "a": 2}`:        `"a" appears twice`,
		`{"a": 1} {"b": 2}`:       "more after",
		`{"a": nope}`:             "invalid character",
		strings.Repeat("{", 1<<5): "invalid character",
	} {
		if _, err := Parse([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}
