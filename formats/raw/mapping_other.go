//go:build !unix

package raw

import (
	"io"
	"os"
)

// mapFile reads the file: these systems have no mmap in the packages used here.
func mapFile(f *os.File, size int) (*Mapping, error) {
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	return &Mapping{Data: data}, nil
}

// releasePages does nothing: files are read, not mapped.
func releasePages([]byte, int, int) {}

// syncDir does nothing: these systems cannot sync a folder.
func syncDir(string) error { return nil }
