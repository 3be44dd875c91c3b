package raw

import (
	"fmt"
	"io/fs"
	"os"

	"llmc/internal/fault"
)

// Mapping is a file's content, mapped read-only into memory where the system
// can do that and read into memory where it cannot. Writing to Data of a mapped
// file is a fault, and so is reading it after Close.
type Mapping struct {
	Data  []byte
	unmap func() error
}

// Map opens a regular file, following symbolic links (the download cache of
// Hugging Face is made of them), and maps it. An empty file gives empty Data.
// A folder, device or pipe is an error of the kind fault.InvalidFile.
//
// The file must not shrink while it is mapped: systems answer a read beyond the
// end by ending the process.
func Map(path string) (*Mapping, error) {
	// Asked before opening, since opening a pipe would wait for its writer.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := checkRegular(path, info); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	if err := checkRegular(path, info); err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		return &Mapping{}, nil
	}
	if info.Size() != int64(int(info.Size())) {
		return nil, fmt.Errorf("%s has %d bytes, which a 32-bit program cannot address", path, info.Size())
	}
	m, err := mapFile(f, int(info.Size()))
	if err != nil {
		return nil, fmt.Errorf("cannot map %s: %w", path, err)
	}
	if m.unmap != nil {
		m.register()
	}
	return m, nil
}

func checkRegular(path string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return fault.Invalid("%s is a folder, not a file", path)
	case !info.Mode().IsRegular():
		return fault.Invalid("%s is not a regular file", path)
	}
	return nil
}

// Close releases the mapping. Closing it again does nothing.
func (m *Mapping) Close() error {
	unmap := m.unmap
	if unmap != nil {
		m.unregister()
	}
	m.Data, m.unmap = nil, nil
	if unmap == nil {
		return nil
	}
	return unmap()
}
