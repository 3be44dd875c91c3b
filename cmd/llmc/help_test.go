package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// TestHelp checks that the help of every command names all its flags, once,
// and fits the terminal.
func TestHelp(t *testing.T) {
	for _, cmd := range newRootCommand(&ui{out: io.Discard, err: io.Discard}).Commands() {
		t.Run(cmd.Name(), func(t *testing.T) {
			var out bytes.Buffer
			cmd.SetOut(&out)
			if err := cmd.Help(); err != nil {
				t.Fatal(err)
			}
			help := out.String()
			for line := range strings.Lines(help) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > helpWidth {
					t.Errorf("a line has %d columns, want up to %d: %s", n, helpWidth, line)
				}
			}
			for _, name := range []string{"    --json ", "    --threads ", "Exit codes:"} {
				if strings.Count(help, name) != 1 {
					t.Errorf("help has %q %d times, want once", name, strings.Count(help, name))
				}
			}
			cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if n := strings.Count(help, " --"+f.Name+" "); n == 0 {
					t.Errorf("help leaves out --%s", f.Name)
				}
			})
		})
	}
}
