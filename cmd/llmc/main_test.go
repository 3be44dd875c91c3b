package main

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"llmc/dtype"
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
			"fill":      fill,
			"empty":     isEmptyFolder,
			"invalid":   fails(exitInvalid),
			"usage":     fails(exitUsage),
			"gate":      fails(exitGate),
		},
	})
}

// makeTinyModel is "tinymodel DIR [LAYERS [FAMILY]]": a Hugging Face folder with
// random weights.
func makeTinyModel(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 3 {
		ts.Fatalf("usage: tinymodel DIR [LAYERS [FAMILY]]")
	}
	var spec tinymodel.Spec
	if len(args) > 1 {
		var err error
		spec.Layers, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	if len(args) > 2 {
		spec.Family = args[2]
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

// fill is "fill DIR TENSOR=VALUE...": tensors of a folder that "tinymodel DIR" has
// made hold one value throughout.
func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fill DIR TENSOR=VALUE...")
	}
	tensors := tinymodel.Tensors(tinymodel.Spec{})
	for _, change := range args[1:] {
		name, text, _ := strings.Cut(change, "=")
		value, err := strconv.ParseFloat(text, 32)
		ts.Check(err)
		at := slices.IndexFunc(tensors, func(t tinymodel.Tensor) bool { return t.Name == name })
		if at < 0 {
			ts.Fatalf("the model has no tensor %s", name)
		}
		data := tensors[at].Data
		for i := 0; i < len(data); i += 2 {
			binary.LittleEndian.PutUint16(data[i:], dtype.F32ToBF16(float32(value)))
		}
	}
	path := filepath.Join(ts.MkAbs(args[0]), "model.safetensors")
	ts.Check(os.WriteFile(path, tinymodel.SafeTensors(tensors), 0o644))
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
