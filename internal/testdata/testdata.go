// Package testdata finds the real models and texts that some tests compare
// with. They are not part of the repository: a folder named shared beside it,
// or the one that LLMC_SHARED names, holds them, and tests skip without them.
package testdata

import (
	"os"
	"path/filepath"
	"testing"
)

// Shared returns the path of a file or folder of the shared test data, and
// skips the test when it is not there.
func Shared(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(root(), filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs %s: put the shared test data beside the repository or set LLMC_SHARED", name)
	}
	return path
}

func root() string {
	if dir := os.Getenv("LLMC_SHARED"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		return "shared"
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(filepath.Dir(dir), "shared")
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "shared"
		}
		dir = parent
	}
}
