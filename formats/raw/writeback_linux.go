package raw

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback makes the system begin to write what it holds of a file, and
// does not wait for it. It is advice, so that a refusal is no error.
func startWriteback(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
