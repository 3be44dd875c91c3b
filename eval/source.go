package eval

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"llmc/internal/fault"
)

// encoder is what a source needs of a tokenizer.
type encoder interface {
	EncodeReader(r io.Reader, addSpecial bool, emit func([]int32) error) error
	Piece(id int32) string
	Size() int
}

// source streams a text as the windows of one tokenizer.
type source struct {
	name string // of the model
	enc  encoder
	text *textReader

	next   func() (window, bool)
	stop   func()
	tokens int64 // encoded so far
	done   bool  // the text is read to its end
	err    error

	// other is the first token that is not the baseline's, once one was found;
	// from then on the source is not read.
	other *int64
}

// errStopped ends an encoding of which no more is wanted.
var errStopped = errors.New("stopped")

func newSource(name string, enc encoder, text Text, l layout) (*source, error) {
	file, err := text.Open()
	if err != nil {
		return nil, fmt.Errorf("cannot read the text: %w", err)
	}
	s := &source{name: name, enc: enc, text: newTextReader(text.Name, file, l.protocol == LlamaCpp)}
	var cancel func()
	s.next, cancel = iter.Pull(l.windows(s.encode))
	s.stop = func() {
		cancel()
		_ = file.Close() // only read from
	}
	return s, nil
}

// encode is an iterator over the token ids of the text. What goes wrong ends
// it early and is left in s.err.
func (s *source) encode(yield func([]int32) bool) {
	err := s.enc.EncodeReader(s.text, true, func(ids []int32) error {
		s.tokens += int64(len(ids))
		if !yield(ids) {
			return errStopped
		}
		return nil
	})
	switch {
	case err == nil:
		s.done = true
	case !errors.Is(err, errStopped):
		s.err = err
	}
}

// estimate is the number of tokens that the whole text will have, judging by
// what has been read of its size bytes.
func (s *source) estimate(size int64) int64 {
	if s.done || s.text.offset == 0 || size == 0 {
		return s.tokens
	}
	return int64(float64(s.tokens) * max(1, float64(size)/float64(s.text.offset)))
}

// difference says in which token two models' windows of one text differ first
// and what it is for each; ok is false if there is none.
func difference(a, b *source, wa, wb window) (at int64, text string, ok bool) {
	if slices.Equal(wa.ids, wb.ids) && slices.Equal(wa.target, wb.target) {
		return 0, "", false
	}
	// The window's tokens, the last of which is only a target.
	all := func(w window) []int32 { return append(slices.Clone(w.ids[:w.first+1]), w.target...) }
	ta, tb := all(wa), all(wb)
	i := 0
	for i < min(len(ta), len(tb)) && ta[i] == tb[i] {
		i++
	}
	piece := func(s *source, t []int32) string {
		if i >= len(t) {
			return "past the end"
		}
		return fmt.Sprintf("%d %q", t[i], s.enc.Piece(t[i]))
	}
	at = wa.start + int64(i)
	return at, fmt.Sprintf("token %d of the text is %s for %s and %s for %s", at, piece(a, ta), a.name, piece(b, tb), b.name), true
}

// vocabularyDifference says which token two tokenizers spell differently; ""
// if there is none. Tokens that only one of them has do not count: vocabularies
// are padded to different lengths.
func vocabularyDifference(a, b *source) string {
	for id := range int32(min(a.enc.Size(), b.enc.Size())) {
		pa, pb := a.enc.Piece(id), b.enc.Piece(id)
		if pa != pb && pa != "" && pb != "" {
			return fmt.Sprintf("token %d is %q for %s and %q for %s", id, pa, a.name, pb, b.name)
		}
	}
	return ""
}

// differ settles what happens when a model's tokens of the text are not the
// baseline's: an error, unless the baseline's tokens are to be used and mean
// the same to both.
func (s *source) differ(base *source, at int64, text string, useBaseline bool) error {
	if v := vocabularyDifference(base, s); v != "" {
		return fault.Hint(fault.Invalid("the models have different vocabularies: %s", v),
			"divergence is defined only over one vocabulary: evaluate the models one by one")
	}
	if !useBaseline {
		return fault.Hint(fault.Invalid("the models' tokenizers differ: %s", text),
			"--baseline-tokens measures every model on the first one's tokens, or evaluate the models one by one")
	}
	s.other = &at
	s.stop()
	return nil
}
