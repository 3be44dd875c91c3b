// Package fault marks errors with what they mean for the caller: the command
// was used wrongly, or the input is not valid. The command line turns the mark
// into an exit code and the hint into a line of its own.
//
// Make one with [Invalid] or [Usage], add a next step with [Hint], and look for
// the mark with [KindOf] and [HintOf].
package fault

import (
	"errors"
	"fmt"
)

// Kind is what an error means for the caller.
type Kind uint8

// The kinds of error.
const (
	Failed      Kind = iota // anything that went wrong on a valid request
	UsageError              // flags or arguments that do not go together
	InvalidFile             // a damaged, hostile or unsupported input
)

type marked struct {
	kind Kind
	err  error
}

func (m *marked) Error() string { return m.err.Error() }
func (m *marked) Unwrap() error { return m.err }

// Invalid returns an error that says an input is not valid. It takes
// fmt.Errorf's arguments, %w included.
func Invalid(format string, args ...any) error {
	return &marked{InvalidFile, fmt.Errorf(format, args...)}
}

// Usage returns an error that says the command was used wrongly. It takes
// fmt.Errorf's arguments, %w included.
func Usage(format string, args ...any) error {
	return &marked{UsageError, fmt.Errorf(format, args...)}
}

// KindOf returns the outermost mark of err, Failed if it has none.
func KindOf(err error) Kind {
	var m *marked
	if errors.As(err, &m) {
		return m.kind
	}
	return Failed
}

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Hint adds the next step to an error; nil stays nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// HintOf returns the outermost hint of err, "" if it has none.
func HintOf(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}
