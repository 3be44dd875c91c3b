package house

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport lists, for each top-level folder, the top-level folders of llmc
// that its non-test code may import besides itself and internal/.
var mayImport = map[string][]string{
	"dtype":     {},
	"formats":   {"dtype"},
	"kernels":   {"dtype"},
	"tokenizer": {},
	"model":     {"dtype", "formats", "kernels", "tokenizer"},
	"demo":      {"formats"},
	"calibrate": {"dtype", "formats", "kernels", "tokenizer", "model"},
	"quantize":  {"dtype", "formats", "kernels", "tokenizer", "model", "calibrate"},
	"prune":     {"dtype", "formats", "kernels", "tokenizer", "model", "calibrate"},
	"distill":   {"dtype", "formats", "kernels", "tokenizer", "model", "calibrate"},
	"eval":      {"dtype", "formats", "kernels", "tokenizer", "model", "calibrate"},
	"internal":  {"dtype", "kernels"},
}

// onlyCommand are the modules that belong to the command line alone.
var onlyCommand = []string{
	"github.com/spf13/cobra",
	"github.com/spf13/pflag",
	"github.com/schollz/progressbar",
	"github.com/olekukonko/tablewriter",
}

// TestImports reads every Go file's imports and compares them with the rules.
func TestImports(t *testing.T) {
	const root = "../.."
	files := 0
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if entry.IsDir() {
			if rel != "." && (strings.HasPrefix(path.Base(rel), ".") || isNestedModule(name)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		files++
		checkFile(t, name, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Fatalf("read %d files, so the walk is broken", files)
	}
}

func checkFile(t *testing.T, name, rel string) {
	top, _, _ := strings.Cut(rel, "/")
	if top == "cmd" || top == "scripts" {
		return
	}
	allowed, known := mayImport[top]
	if !known {
		t.Errorf("%s: folder %q has no import rule; add one to mayImport", rel, top)
		return
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, module := range onlyCommand {
			if strings.HasPrefix(imported, module) {
				t.Errorf("%s imports %s, which only cmd/llmc may", rel, imported)
			}
		}
		ours, isOurs := strings.CutPrefix(imported, "llmc/")
		folder, _, _ := strings.Cut(ours, "/")
		if isOurs && folder != top && folder != "internal" && !slices.Contains(allowed, folder) {
			t.Errorf("%s imports %s; %s may import only %v", rel, imported, top, allowed)
		}
	}
}

// isNestedModule reports whether dir is a module of its own, which llmc's
// packages cannot import.
func isNestedModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}
