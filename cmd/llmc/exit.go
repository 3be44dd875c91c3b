package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"llmc/internal/fault"
)

// The exit codes: part of the command line's contract.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitGate        = 3
	exitInvalid     = 4
	exitInterrupted = 130
)

const exitCodeHelp = `Exit codes:
  0 done   1 failed   2 wrong usage   3 a gate failed
  4 the input is not valid (damaged, hostile or unsupported)   130 interrupted`

// gateError says which gates failed, one line each.
type gateError struct{ failures []string }

func (e *gateError) Error() string {
	if len(e.failures) == 1 {
		return "gate failed: " + e.failures[0]
	}
	return fmt.Sprintf("%d gates failed:\n  %s", len(e.failures), strings.Join(e.failures, "\n  "))
}

// exitCode is the one place where errors become exit codes.
func exitCode(ctx context.Context, err error) int {
	var gate *gateError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &gate):
		return exitGate
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	switch fault.KindOf(err) {
	case fault.UsageError:
		return exitUsage
	case fault.InvalidFile:
		return exitInvalid
	}
	return exitFailed
}

// report prints an error with its hint and returns its exit code.
func report(ctx context.Context, ui *ui, err error) int {
	code := exitCode(ctx, err)
	if code == exitInterrupted {
		fmt.Fprintln(ui.err, "llmc: interrupted, no half-written output was left behind")
	} else {
		fmt.Fprintf(ui.err, "llmc: %v\n", err)
	}
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintf(ui.err, "hint: %s\n", hint)
	}
	return code
}
