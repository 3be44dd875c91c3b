//go:build unix

package raw

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Lock takes the lock of an open file or folder, which one program at a time
// can hold. It goes when the file is closed or the program ends, however it
// does. ErrLocked says that another holds it; any other error is
// errors.ErrUnsupported: the file system has no locks.
func Lock(f *os.File) error {
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrLocked
	}
	return errors.ErrUnsupported
}
