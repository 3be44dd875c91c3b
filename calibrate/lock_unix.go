//go:build unix

package calibrate

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"llmc/internal/fault"
)

// lockFile opens a file that only one program at a time can have open so. The
// lock goes when the file is closed or the program ends, however it does.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, fault.Usage("another llmc is at work on this output")
	}
	return f, nil // a file system without locks has to do without
}
