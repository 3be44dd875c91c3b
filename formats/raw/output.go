package raw

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"llmc/internal/fault"
)

// File is an output file that appears under its name when it is committed, and
// not before. Until then it is a hidden sibling, so that the last step is a
// rename within one folder.
//
//	out, err := raw.CreateFile("model.gguf", false)
//	if err != nil {
//		return err
//	}
//	defer out.Abort() // does nothing after Commit
//	... out.Write ...
//	return out.Commit()
type File struct {
	*os.File
	target target
}

// CreateFile begins a file at path. An existing one is an error of the kind
// fault.UsageError unless force is set, which lets Commit replace a file but
// never a folder or a device. The folder that it goes to must exist.
func CreateFile(path string, force bool) (*File, error) {
	t, err := newTarget(path, force, false)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(t.temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, fmt.Errorf("cannot create %s: %w", path, reason(err))
	}
	return &File{File: f, target: t}, nil
}

// Commit syncs the file to the disk and gives it its name. When that fails,
// nothing of it is left.
func (f *File) Commit() error {
	if f.target.done {
		return fs.ErrClosed
	}
	err := f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = f.target.commit()
	}
	if err != nil {
		f.Abort()
		return fmt.Errorf("cannot write %s: %w", f.target.path, reason(err))
	}
	f.target.done = true
	return nil
}

// Abort removes what was written. After Commit it does nothing.
func (f *File) Abort() {
	if f.target.done {
		return
	}
	f.Close() // may have been closed by a failed Commit
	f.target.abort()
}

// Dir is an output folder that appears under its name when it is committed,
// and not before. See [File] for how it is used.
type Dir struct {
	target target
}

// CreateDir begins a folder at path. An existing one is an error of the kind
// fault.UsageError unless force is set. Even then Commit replaces only a
// folder that is empty or looks like an output of llmc (it has a config.json
// and no folders in it), lest a slip of the finger removes something else.
func CreateDir(path string, force bool) (*Dir, error) {
	t, err := newTarget(path, force, true)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(t.temp, 0o777); err != nil {
		return nil, fmt.Errorf("cannot create %s: %w", path, reason(err))
	}
	return &Dir{target: t}, nil
}

// Create makes a file in the folder. The caller closes it before Commit.
// The name may not lead out of the folder.
func (d *Dir) Create(name string) (*os.File, error) {
	if d.target.done {
		return nil, fs.ErrClosed
	}
	if name != filepath.Base(name) || !filepath.IsLocal(name) || name == "." {
		return nil, fmt.Errorf("%q is not the name of a file in a folder", name)
	}
	f, err := os.OpenFile(filepath.Join(d.target.temp, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, fmt.Errorf("cannot create %s: %w", filepath.Join(d.target.path, name), reason(err))
	}
	return f, nil
}

// WriteFile writes a small file into the folder.
func (d *Dir) WriteFile(name string, data []byte) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(d.target.path, name), reason(err))
	}
	return nil
}

// Commit syncs the folder and its files to the disk and gives it its name.
// When that fails, nothing of it is left and what was there before is back.
func (d *Dir) Commit() error {
	if d.target.done {
		return fs.ErrClosed
	}
	err := syncFiles(d.target.temp)
	if err == nil {
		err = d.target.commit()
	}
	if err != nil {
		d.Abort()
		return fmt.Errorf("cannot write %s: %w", d.target.path, reason(err))
	}
	d.target.done = true
	return nil
}

// Abort removes what was written. After Commit it does nothing.
func (d *Dir) Abort() {
	if !d.target.done {
		d.target.abort()
	}
}

func syncFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		// Opened for writing since some systems sync nothing else.
		f, err := os.OpenFile(filepath.Join(dir, entry.Name()), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = ignoreUnsupported(f.Sync())
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// target is a place to be filled: path in the end, temp until then.
type target struct {
	path, temp string
	force      bool
	folder     bool
	done       bool // committed or removed
}

func newTarget(path string, force, folder bool) (target, error) {
	clean := filepath.Clean(path)
	base := filepath.Base(clean)
	if path == "" || base == "." || base == ".." || base == string(filepath.Separator) {
		return target{}, fault.Usage("%q cannot be an output: it needs a name of its own", path)
	}
	parent := filepath.Dir(clean)
	switch info, err := os.Stat(parent); {
	case errors.Is(err, fs.ErrNotExist):
		return target{}, fmt.Errorf("cannot create %s: there is no folder %s", path, parent)
	case err != nil:
		return target{}, fmt.Errorf("cannot create %s: %w", path, reason(err))
	case !info.IsDir():
		return target{}, fmt.Errorf("cannot create %s: %s is not a folder", path, parent)
	}
	t := target{path: clean, force: force, folder: folder}
	if err := t.checkFree(); err != nil {
		return target{}, err
	}
	var random [6]byte
	rand.Read(random[:]) // never fails
	// A long base is cut, since names end at 255 bytes on most systems.
	t.temp = filepath.Join(parent, fmt.Sprintf(".%.200s.llmc-%s", base, hex.EncodeToString(random[:])))
	return t, nil
}

// checkFree reports whether the output may take its place.
func (t *target) checkFree() error {
	info, err := os.Lstat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", t.path, reason(err))
	}
	if !t.force {
		return fault.Hint(fault.Usage("%s exists already", t.path), "pass --force to replace it")
	}
	regular := info.Mode().IsRegular() || info.Mode()&fs.ModeSymlink != 0
	switch {
	case t.folder && !info.IsDir():
		return fault.Usage("%s is not a folder, so a folder cannot replace it", t.path)
	case t.folder:
		return checkReplaceable(t.path)
	case info.IsDir():
		return fault.Usage("%s is a folder, so a file cannot replace it", t.path)
	case !regular:
		return fault.Usage("%s is not a regular file, so it is not replaced", t.path)
	}
	return nil
}

// checkReplaceable reports whether a folder holds nothing or a checkpoint.
func checkReplaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot replace %s: %w", dir, reason(err))
	}
	config := len(entries) == 0
	for _, entry := range entries {
		if entry.IsDir() {
			return notReplaced(dir, "holds the folder "+entry.Name())
		}
		config = config || entry.Name() == "config.json"
	}
	if !config {
		return notReplaced(dir, "has no config.json")
	}
	return nil
}

func notReplaced(dir, why string) error {
	return fault.Hint(
		fault.Usage("%s %s, so it is not a checkpoint that llmc wrote and is not replaced", dir, why),
		"choose another output, or remove the folder first")
}

// commit moves temp to path. The old occupant is removed only when the new one
// is in place; if that step fails, it is moved back.
func (t *target) commit() error {
	if err := t.checkFree(); err != nil { // it may have appeared meanwhile
		return err
	}
	old := ""
	if t.folder && t.force {
		// A file is replaced by the rename itself; a folder has to be moved away.
		if _, err := os.Lstat(t.path); err == nil {
			old = t.temp + "-old"
			if err := os.Rename(t.path, old); err != nil {
				return err
			}
		}
	}
	if err := os.Rename(t.temp, t.path); err != nil {
		if old != "" {
			err = errors.Join(err, os.Rename(old, t.path))
		}
		return err
	}
	if old != "" {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(t.path))
}

func (t *target) abort() {
	t.done = true
	os.RemoveAll(t.temp)
}

// reason drops the name of the temporary file from an error.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}

// ignoreUnsupported passes over file systems that cannot sync.
func ignoreUnsupported(err error) error {
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
