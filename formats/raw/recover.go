package raw

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Recover puts right what a program that was killed while it wrote path has
// left beside it: unfinished outputs are removed, and what was about to be
// replaced gets its name back. No other program may be writing path.
//
// To begin an output does the same where locks tell that the program is dead.
func Recover(path string) error {
	return recoverFrom(path, func(string) bool { return true })
}

// recoverFrom is Recover for those hidden siblings that are abandoned.
func recoverFrom(path string, abandoned func(temp string) bool) error {
	t := target{path: filepath.Clean(path)}
	parent := filepath.Dir(t.path)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("cannot read the folder %s: %w", parent, Cause(err))
	}
	left := regexp.MustCompile(`^` + regexp.QuoteMeta(t.stem()) + `[0-9a-f]{12}(-old)?$`)
	for _, entry := range entries {
		name := filepath.Join(parent, entry.Name())
		temp, old := strings.CutSuffix(name, oldSuffix)
		if !left.MatchString(entry.Name()) {
			continue
		}
		if _, err := os.Lstat(temp); err == nil && !abandoned(temp) {
			continue
		}
		_, err := os.Lstat(t.path)
		if old && errors.Is(err, fs.ErrNotExist) {
			err = os.Rename(name, t.path)
		} else {
			err = os.RemoveAll(name)
		}
		if err != nil {
			return fmt.Errorf("cannot remove %s, which a program that was killed has left: %w", name, Cause(err))
		}
	}
	return nil
}
