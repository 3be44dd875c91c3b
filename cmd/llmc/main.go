// Command llmc makes a language model smaller and measures what that cost.
//
// Every command is one file: an options struct, newXCommand that binds its
// flags, and runX that does the work. root.go puts them together, ui.go is
// what they print with, exit.go turns errors into exit codes.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit code. The first
// interrupt cancels the context, so that outputs are cleaned up; a second
// one ends the process at once.
func run(args []string, stdout, stderr *os.File) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	ui := newUI(stdout, stderr)
	cmd := newRootCommand(ui)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	ui.closeProgress()
	if err == nil {
		return exitOK
	}
	return report(ctx, ui, err)
}
