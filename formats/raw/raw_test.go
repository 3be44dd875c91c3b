package raw

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"llmc/internal/fault"
)

// tree is what a folder holds: names of files with their content, hidden ones
// included.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if entry.IsDir() {
			files[filepath.ToSlash(name)+"/"] = ""
			return nil
		}
		data, err := os.ReadFile(path)
		files[filepath.ToSlash(name)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func checkTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := tree(t, dir)
	if len(got) != len(want) {
		t.Errorf("the folder holds %q, want %q", got, want)
		return
	}
	for name, data := range want {
		if have, ok := got[name]; !ok || have != data {
			t.Errorf("the folder holds %q, want %q", got, want)
		}
	}
}

func grow(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			os.Mkdir(path, 0o700)
			continue
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMap(t *testing.T) {
	dir := t.TempDir()
	grow(t, dir, map[string]string{"a": "content", "empty": ""})
	m, err := Map(filepath.Join(dir, "a"))
	if err != nil || string(m.Data) != "content" {
		t.Fatalf("%q, %v", m.Data, err)
	}
	for range 2 {
		if err := m.Close(); err != nil || m.Data != nil {
			t.Error(err)
		}
	}
	if m, err = Map(filepath.Join(dir, "empty")); err != nil || len(m.Data) != 0 || m.Close() != nil {
		t.Error(err)
	}
	if _, err := Map(dir); fault.KindOf(err) != fault.InvalidFile || !strings.Contains(err.Error(), "is a folder") {
		t.Error(err)
	}
	if _, err := Map(os.DevNull); fault.KindOf(err) != fault.InvalidFile || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	if _, err := Map(filepath.Join(dir, "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestReplace creates outputs where something is, without and with force.
func TestReplace(t *testing.T) {
	checkpoint := map[string]string{"out/": "", "out/config.json": "{}", "out/model.safetensors": "old"}
	for _, test := range []struct {
		name   string
		before map[string]string
		file   bool // whether a file or a folder is created
		force  bool
		want   string // in the error; none if ""
	}{
		{"new file", nil, true, false, ""},
		{"new file, force", nil, true, true, ""},
		{"file on file", map[string]string{"out": "old"}, true, false, "exists already"},
		{"file on file, force", map[string]string{"out": "old"}, true, true, ""},
		{"file on folder", map[string]string{"out/": ""}, true, false, "exists already"},
		{"file on folder, force", map[string]string{"out/": ""}, true, true, "is a folder"},
		{"new folder", nil, false, false, ""},
		{"new folder, force", nil, false, true, ""},
		{"folder on empty folder", map[string]string{"out/": ""}, false, false, "exists already"},
		{"folder on empty folder, force", map[string]string{"out/": ""}, false, true, ""},
		{"folder on file, force", map[string]string{"out": "old"}, false, true, "is not a folder"},
		{"folder on checkpoint", checkpoint, false, false, "exists already"},
		{"folder on checkpoint, force", checkpoint, false, true, ""},
		{"folder on something else, force", map[string]string{"out/": "", "out/thesis.tex": "old"}, false, true, "has no config.json"},
		{"folder on a project, force", map[string]string{"out/": "", "out/config.json": "{}", "out/src/": ""}, false, true, "holds the folder src"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			grow(t, dir, test.before)
			out := filepath.Join(dir, "out")
			commit, err := func() (func() error, error) {
				if test.file {
					f, err := CreateFile(out, test.force)
					if err != nil {
						return nil, err
					}
					if _, err := io.WriteString(f, "new"); err != nil {
						t.Fatal(err)
					}
					return f.Commit, nil
				}
				d, err := CreateDir(out+string(filepath.Separator), test.force)
				if err != nil {
					return nil, err
				}
				return d.Commit, d.WriteFile("config.json", []byte("new"))
			}()
			if test.want != "" {
				if fault.KindOf(err) != fault.UsageError || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				if !test.force && !strings.Contains(fault.HintOf(err), "--force") {
					t.Errorf("hint %q", fault.HintOf(err))
				}
				checkTree(t, dir, test.before)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for name, data := range test.before {
				if now := tree(t, dir)[name]; now != data {
					t.Errorf("%s is %q before Commit", name, now)
				}
			}
			if err := commit(); err != nil {
				t.Fatal(err)
			}
			if test.file {
				checkTree(t, dir, map[string]string{"out": "new"})
			} else {
				checkTree(t, dir, map[string]string{"out/": "", "out/config.json": "new"})
			}
			if err := commit(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("second Commit: %v", err)
			}
		})
	}
}

// TestAppearedMeanwhile: what another program put there is not replaced.
func TestAppearedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	f, err := CreateFile(filepath.Join(dir, "file"), false)
	if err != nil {
		t.Fatal(err)
	}
	d, err := CreateDir(filepath.Join(dir, "folder"), false)
	if err != nil {
		t.Fatal(err)
	}
	theirs := map[string]string{"file": "theirs", "folder/": ""}
	grow(t, dir, theirs)
	for _, err := range []error{f.Commit(), d.Commit()} {
		if fault.KindOf(err) != fault.UsageError {
			t.Error(err)
		}
	}
	checkTree(t, dir, theirs)
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	f, err := CreateFile(filepath.Join(dir, "file"), false)
	if err != nil {
		t.Fatal(err)
	}
	d, err := CreateDir(filepath.Join(dir, "folder"), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create("open"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f.Abort()
		d.Abort()
	}
	checkTree(t, dir, nil)
	if _, err := d.Create("late"); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
}

// TestBadPlaces are where no output can be.
func TestBadPlaces(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	grow(t, dir, map[string]string{"file": "x"})
	before := tree(t, dir)
	for _, path := range []string{"", ".", "..", "/", "./", "no/folder", "file/x"} {
		if _, err := CreateFile(path, true); err == nil {
			t.Errorf("file %q", path)
		}
		if _, err := CreateDir(path, true); err == nil {
			t.Errorf("folder %q", path)
		}
	}
	d, err := CreateDir("out", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../x", "sub/x", filepath.Join(dir, "x")} {
		if _, err := d.Create(name); err == nil {
			t.Errorf("%q leads out of the folder", name)
		}
	}
	if err := d.WriteFile("twice", nil); err != nil {
		t.Error(err)
	}
	if err := d.WriteFile("twice", nil); err == nil || strings.Contains(err.Error(), "llmc-") || !strings.Contains(err.Error(), filepath.Join("out", "twice")) {
		t.Error(err)
	}
	d.Abort()
	checkTree(t, dir, before)
}

// TestSymbolicLink: the link is replaced, not what it points to.
func TestSymbolicLink(t *testing.T) {
	dir := t.TempDir()
	grow(t, dir, map[string]string{"theirs": "old", "folder/config.json": "old"})
	for link, to := range map[string]string{"out": "theirs", "outdir": "folder"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Skip(err)
		}
	}
	f, err := CreateFile(filepath.Join(dir, "out"), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "theirs")); string(got) != "old" || err != nil {
		t.Errorf("the link was followed: %q, %v", got, err)
	}
	if _, err := CreateDir(filepath.Join(dir, "outdir"), true); fault.KindOf(err) != fault.UsageError {
		t.Errorf("a folder on a link: %v", err)
	}
}

func TestProduce(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 300_000)
	pieces := func(size int) func(io.Writer) error {
		return func(w io.Writer) error {
			for piece := range slices.Chunk(data, size) {
				if _, err := w.Write(piece); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, size := range []int{1000, len(data)} {
		var b bytes.Buffer
		if err := Produce(&b, int64(len(data)), pieces(size)); err != nil || !bytes.Equal(b.Bytes(), data) {
			t.Errorf("pieces of %d: %d bytes, %v", size, b.Len(), err)
		}
		if err := Produce(io.Discard, int64(len(data)-1), pieces(size)); err == nil {
			t.Error("too much was taken")
		}
		if err := Produce(io.Discard, int64(len(data)+1), pieces(size)); err == nil || !strings.Contains(err.Error(), "3000000 bytes were written, it has 3000001") {
			t.Error(err)
		}
	}
}

// TestRecover makes what a killed program leaves, and what looks like it.
func TestRecover(t *testing.T) {
	const a, b = ".out.llmc-0123456789ab", ".out.llmc-ba9876543210"
	others := map[string]string{".other.llmc-0123456789ab": "x", ".out.llmc-resume/": "", ".out.llmc-01234567": "x", "outer": "x"}
	for name, c := range map[string]struct{ left, want map[string]string }{
		"while writing":       {map[string]string{a + "/": "", a + "/f": "new", b: "new"}, nil},
		"before the rename":   {map[string]string{a + "/f": "new", a + "-old/f": "old"}, map[string]string{"out/": "", "out/f": "old"}},
		"after it":            {map[string]string{"out/f": "new", a + "-old/f": "old"}, map[string]string{"out/": "", "out/f": "new"}},
		"nothing to be found": {map[string]string{"out/f": "new"}, map[string]string{"out/": "", "out/f": "new"}},
	} {
		dir := t.TempDir()
		grow(t, dir, others)
		grow(t, dir, c.left)
		want := maps.Clone(others)
		maps.Copy(want, c.want)
		if err := Recover(filepath.Join(dir, "out")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		checkTree(t, dir, want)
	}
}

// TestAbandoned begins outputs where a killed program and a living one have
// theirs: only the dead one's goes.
func TestAbandoned(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs locks")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	grow(t, dir, map[string]string{".out.llmc-0123456789ab/f": "dead", ".out.llmc-ba9876543210": "dead"})
	living, err := CreateDir(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := living.WriteFile("config.json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	other, err := CreateFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder holds %v, want two unfinished outputs (%v)", entries, err)
	}
	other.Abort()
	if err := living.Commit(); err != nil {
		t.Fatal(err)
	}
	checkTree(t, dir, map[string]string{"out/": "", "out/config.json": "{}"})
}
