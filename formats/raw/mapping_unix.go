//go:build unix

package raw

import (
	"os"

	"golang.org/x/sys/unix"
)

func mapFile(f *os.File, size int) (*Mapping, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &Mapping{Data: data, unmap: func() error { return unix.Munmap(data) }}, nil
}

// releasePages drops the pages of data[from:to] from memory. It is advice, so
// that a refusal is no error.
func releasePages(data []byte, from, to int) {
	from -= from % os.Getpagesize()
	_ = unix.Madvise(data[from:to], unix.MADV_DONTNEED)
}

// syncDir makes a rename within dir survive a power cut.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return ignoreUnsupported(f.Sync())
}
