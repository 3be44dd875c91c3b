package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"llmc/internal/tinymodel"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"llmc": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the command lines in testdata/script. They use the
// built-in model or files that they make themselves.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"tinymodel": makeTinyModel,
			"damage":    damage,
			"empty":     isEmptyFolder,
			"invalid":   fails(exitInvalid),
			"usage":     fails(exitUsage),
			"gate":      fails(exitGate),
		},
	})
}

// makeTinyModel is "tinymodel DIR [LAYERS]": a Hugging Face folder with random
// weights.
func makeTinyModel(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: tinymodel DIR [LAYERS]")
	}
	var spec tinymodel.Spec
	if len(args) > 1 {
		var err error
		spec.Layers, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	ts.Check(tinymodel.Write(ts.MkAbs(args[0]), spec))
}

// damage is "damage FILE truncate N" (keep N bytes; a negative N drops that
// many from the end) or "damage FILE replace OLD NEW" (the first occurrence;
// both of one length keep the offsets).
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: damage FILE truncate N | damage FILE replace OLD NEW")
	}
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	switch {
	case args[1] == "truncate" && len(args) == 3:
		data, err = truncated(data, args[2])
		ts.Check(err)
	case args[1] == "replace" && len(args) == 4:
		data, err = replaced(data, args[2], args[3])
		ts.Check(err)
	default:
		ts.Fatalf("damage cannot %q with %d arguments", args[1], len(args))
	}
	ts.Check(os.WriteFile(path, data, 0o644))
}

// isEmptyFolder is "[!] empty DIR": nothing, hidden files included, is in it.
func isEmptyFolder(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] empty DIR")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if (len(entries) == 0) == neg {
		ts.Fatalf("%s holds %v", args[0], entries)
	}
}

// fails is "invalid ARGS" or "usage ARGS": llmc ARGS ends with that exit code,
// one sentence on stderr that is not a stack trace, and nothing on stdout.
func fails(code int) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command cannot be negated")
		}
		err := ts.Exec("llmc", args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != code {
			ts.Fatalf("llmc %v: %v, want exit code %d", args, err, code)
		}
		// A gate fails after the results are printed.
		if out := ts.ReadFile("stdout"); (out != "") != (code == exitGate) {
			ts.Fatalf("llmc %v printed as results: %q", args, out)
		}
		text := ts.ReadFile("stderr")
		if !strings.HasPrefix(text, "llmc: ") || strings.Contains(text, "goroutine ") {
			ts.Fatalf("llmc %v: not a sentence: %s", args, text)
		}
	}
}
