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
	output
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
	f := &File{target: t}
	err = f.target.begin(func(temp string) (err error) {
		f.output, err = createOutput(temp, path)
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Commit syncs the file to the disk and gives it its name. When that fails,
// nothing of it is left and what was there before stays.
func (f *File) Commit() error {
	if f.target.done {
		return fs.ErrClosed
	}
	err := f.finish()
	if err == nil {
		err = f.target.commit()
	}
	if err != nil {
		f.Abort()
	}
	return err
}

// Abort removes what was written. After Commit it does nothing.
func (f *File) Abort() {
	if !f.target.done {
		f.file.Close() // an error if Commit has closed it, which is no matter
		f.target.abort()
	}
}

// Dir is an output folder that appears under its name when it is committed,
// and not before. See [File] for how it is used.
type Dir struct {
	target target
	files  []*DirFile
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
	err = t.begin(func(temp string) error { return os.Mkdir(temp, 0o777) })
	if err != nil {
		return nil, fmt.Errorf("cannot create %s: %w", path, Cause(err))
	}
	return &Dir{target: t}, nil
}

// DirFile is a file of an output folder.
type DirFile struct {
	output
	closed bool
}

// Create begins a file in the folder. The name may not lead out of it.
func (d *Dir) Create(name string) (*DirFile, error) {
	if d.target.done {
		return nil, fs.ErrClosed
	}
	if name != filepath.Base(name) || !filepath.IsLocal(name) || name == "." {
		return nil, fmt.Errorf("%q is not the name of a file in a folder", name)
	}
	o, err := createOutput(filepath.Join(d.target.temp, name), filepath.Join(d.target.path, name))
	if err != nil {
		return nil, err
	}
	f := &DirFile{output: o}
	d.files = append(d.files, f)
	return f, nil
}

// Close syncs the file to the disk and closes it.
func (f *DirFile) Close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	return f.finish()
}

// WriteFile writes a whole file into the folder.
func (d *Dir) WriteFile(name string, data []byte) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Close()
}

// Commit closes the files that are open, syncs the folder to the disk and
// gives it its name. When that fails, nothing of it is left and what was there
// before is back.
func (d *Dir) Commit() error {
	if d.target.done {
		return fs.ErrClosed
	}
	err := d.finish()
	if err == nil {
		err = d.target.commit()
	}
	if err != nil {
		d.Abort()
	}
	return err
}

func (d *Dir) finish() error {
	for _, f := range d.files {
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := syncDir(d.target.temp); err != nil {
		return fmt.Errorf("cannot write %s: %w", d.target.path, Cause(err))
	}
	return nil
}

// Abort removes what was written. After Commit it does nothing.
func (d *Dir) Abort() {
	if d.target.done {
		return
	}
	for _, f := range d.files {
		f.file.Close() // an error if it is closed already, which is no matter
	}
	d.target.abort()
}

// output is a file under a temporary name. Its errors speak of the path that
// it will have.
type output struct {
	file  *os.File
	path  string
	dirty int // bytes written since the disk was last told to begin
}

// writebackStep is how many bytes are written before the disk is told to begin.
// Left alone, systems wait until a tenth of the memory is to be written, and the
// sync at the end takes as long as the disk needs for all of it.
const writebackStep = 16 << 20

// wrote counts bytes on their way to the disk.
func (o *output) wrote(n int) {
	if o.dirty += n; o.dirty >= writebackStep {
		o.dirty = 0
		startWriteback(o.file)
	}
}

func createOutput(temp, path string) (output, error) {
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return output{}, fmt.Errorf("cannot create %s: %w", path, Cause(err))
	}
	return output{file: f, path: path}, nil
}

// Write appends to the file.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.file.Write(p)
	o.wrote(n)
	return n, o.failed(err)
}

// WriteAt writes anywhere in the file.
func (o *output) WriteAt(p []byte, offset int64) (int, error) {
	n, err := o.file.WriteAt(p, offset)
	o.wrote(n)
	return n, o.failed(err)
}

// finish syncs and closes.
func (o *output) finish() error {
	err := ignoreUnsupported(o.file.Sync())
	if closeErr := o.file.Close(); err == nil {
		err = closeErr
	}
	return o.failed(err)
}

func (o *output) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot write %s: %w", o.path, Cause(err))
}

// target is a place to be filled: path in the end, temp until then.
type target struct {
	path, temp string
	force      bool
	folder     bool
	done       bool     // committed or removed
	lock       *os.File // of temp
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
		return target{}, fmt.Errorf("cannot create %s: %w", path, Cause(err))
	case !info.IsDir():
		return target{}, fmt.Errorf("cannot create %s: %s is not a folder", path, parent)
	}
	t := target{path: clean, force: force, folder: folder}
	recoverFrom(clean, abandoned) // what cannot be removed does no harm
	if err := t.checkFree(); err != nil {
		return target{}, err
	}
	return t, nil
}

// begin chooses the hidden sibling, makes it with create and locks it.
func (t *target) begin(create func(temp string) error) error {
	for {
		var random [6]byte
		rand.Read(random[:]) // never fails
		t.temp = filepath.Join(filepath.Dir(t.path), t.stem()+hex.EncodeToString(random[:]))
		if err := create(t.temp); err != nil {
			return err
		}
		var lost bool
		if t.lock, lost = hold(t.temp); !lost {
			return nil
		}
	}
}

// end lets go of the lock.
func (t *target) end() {
	t.done = true
	if t.lock != nil {
		t.lock.Close()
	}
}

// oldSuffix ends the name of a folder that is about to be replaced.
const oldSuffix = "-old"

// stem is how the names of unfinished outputs begin. A long name is cut, since
// names end at 255 bytes on most systems.
func (t *target) stem() string { return fmt.Sprintf(".%.200s.llmc-", filepath.Base(t.path)) }

// checkFree reports whether the output may take its place.
func (t *target) checkFree() error {
	info, err := os.Lstat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", t.path, Cause(err))
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
		return fmt.Errorf("cannot replace %s: %w", dir, Cause(err))
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
	old, err := t.swap()
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", t.path, Cause(err))
	}
	t.end() // whatever happens now, there is nothing to be taken back
	if old != "" {
		if err := os.RemoveAll(old); err != nil {
			return fmt.Errorf("%s is written, but what it replaced is still in %s: %w", t.path, old, Cause(err))
		}
	}
	if err := syncDir(filepath.Dir(t.path)); err != nil {
		return fmt.Errorf("%s is written, but may not survive a power cut: %w", t.path, Cause(err))
	}
	return nil
}

// swap renames temp and returns where the folder that was there before is now.
func (t *target) swap() (old string, err error) {
	if t.folder && t.force {
		// A file is replaced by the rename itself; a folder has to be moved away.
		if _, err := os.Lstat(t.path); err == nil {
			old = t.temp + oldSuffix
			if err := os.Rename(t.path, old); err != nil {
				return "", err
			}
		}
	}
	if err := os.Rename(t.temp, t.path); err != nil {
		if old != "" {
			err = errors.Join(err, os.Rename(old, t.path))
		}
		return "", err
	}
	return old, nil
}

func (t *target) abort() {
	os.RemoveAll(t.temp)
	t.end()
}

// Cause drops the operation and the path from an error of package os, for
// messages that name the file themselves.
func Cause(err error) error {
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
