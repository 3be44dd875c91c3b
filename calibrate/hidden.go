package calibrate

import (
	"fmt"
	"os"

	"llmc/formats/raw"
	"llmc/internal/fault"
)

// hiddenStates keeps the hidden states [rows, hidden] of every window on their
// way from one block to the next.
type hiddenStates interface {
	// load returns those of a window. They may not be changed and are valid
	// until the next call.
	load(window int) ([]float32, error)
	// save replaces those of a window.
	save(window int, values []float32) error
	// close lets go of them.
	close()
}

// newHiddenStates makes room for windows of so many numbers each: in memory, or
// in a file of dir ("" for the system's temporary folder) that nobody else sees.
func newHiddenStates(sizes []int, onDisk bool, dir string) (hiddenStates, error) {
	if !onDisk {
		return make(memoryStates, len(sizes)), nil
	}
	s := &diskStates{offsets: make([]int64, len(sizes)+1), dir: dir}
	largest := 0
	for i, n := range sizes {
		s.offsets[i+1] = s.offsets[i] + 4*int64(n)
		largest = max(largest, n)
	}
	if s.dir == "" {
		s.dir = os.TempDir()
	}
	s.buffer = make([]float32, largest)
	var err error
	if s.file, err = os.CreateTemp(s.dir, ".llmc-activations-*"); err != nil {
		return nil, s.failed(err)
	}
	// Where the system allows it the file loses its name at once, so that
	// nothing is left of it however the program ends.
	s.unlinked = os.Remove(s.file.Name()) == nil
	return s, nil
}

// memoryStates keeps them in memory, by window.
type memoryStates [][]float32

func (s memoryStates) load(window int) ([]float32, error) { return s[window], nil }

func (s memoryStates) save(window int, values []float32) error {
	s[window] = append(s[window][:0], values...)
	return nil
}

func (s memoryStates) close() {}

// diskStates keeps them in a file, in the machine's own byte order.
type diskStates struct {
	file     *os.File
	dir      string
	unlinked bool
	offsets  []int64 // of each window, and the end
	buffer   []float32
}

func (s *diskStates) load(window int) ([]float32, error) {
	from, to := s.offsets[window], s.offsets[window+1]
	values := s.buffer[:(to-from)/4]
	if _, err := s.file.ReadAt(bytesOf(values), from); err != nil {
		return nil, s.failed(err)
	}
	return values, nil
}

func (s *diskStates) save(window int, values []float32) error {
	if _, err := s.file.WriteAt(bytesOf(values), s.offsets[window]); err != nil {
		return s.failed(err)
	}
	return nil
}

func (s *diskStates) close() {
	s.file.Close()
	if !s.unlinked {
		os.Remove(s.file.Name())
	}
}

func (s *diskStates) failed(err error) error {
	size := float64(s.offsets[len(s.offsets)-1]) / 1e6
	return fault.Hint(fmt.Errorf("cannot keep %.4g MB of activations in the folder %s: %w", size, s.dir, raw.Cause(err)),
		"make room there, or allow enough memory to keep them in it")
}
