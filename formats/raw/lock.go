package raw

import (
	"errors"
	"io/fs"
	"os"
)

// ErrLocked says that another program holds a lock.
var ErrLocked = errors.New("another program holds the lock")

// hold opens a new output and takes its lock, by which other programs know
// that it is being written. One that cannot be locked is never removed by
// others. The output is lost when another program took it for a dead
// program's before it was locked.
func hold(path string) (lock *os.File, lost bool) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Is(err, fs.ErrNotExist)
	}
	locked := Lock(f)
	mine, err := f.Stat()
	there, thereErr := os.Lstat(path)
	if errors.Is(locked, ErrLocked) || err != nil || thereErr != nil || !os.SameFile(mine, there) {
		f.Close()
		return nil, true
	}
	if locked != nil {
		f.Close()
		return nil, false
	}
	return f, false
}

// abandoned reports whether the program that wrote an output is known to be
// dead: the output has no holder.
func abandoned(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return Lock(f) == nil
}
