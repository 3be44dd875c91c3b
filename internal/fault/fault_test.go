package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestKindOf(t *testing.T) {
	invalid := Invalid("a.gguf: %w", fs.ErrNotExist)
	for _, c := range []struct {
		err  error
		kind Kind
		hint string
	}{
		{errors.New("plain"), Failed, ""},
		{invalid, InvalidFile, ""},
		{fmt.Errorf("model: %w", invalid), InvalidFile, ""},
		{Usage("flags: %w", invalid), UsageError, ""}, // the outermost mark counts
		{Hint(invalid, "look at %s", "a.gguf"), InvalidFile, "look at a.gguf"},
		{fmt.Errorf("model: %w", Hint(Hint(invalid, "inner"), "outer")), InvalidFile, "outer"},
	} {
		if got := KindOf(c.err); got != c.kind {
			t.Errorf("%v: kind %d, want %d", c.err, got, c.kind)
		}
		if got := HintOf(c.err); got != c.hint {
			t.Errorf("%v: hint %q, want %q", c.err, got, c.hint)
		}
	}
	if !errors.Is(Hint(invalid, "h"), fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
	if Hint(nil, "h") != nil {
		t.Error("no error got a hint")
	}
}
