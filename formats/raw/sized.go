package raw

import (
	"bufio"
	"fmt"
	"io"
)

// Produce lets a function write a tensor's data in pieces of any size, and
// reports an error unless they are size bytes in all. Pieces are gathered, so
// they may be small; data that comes in one piece is not copied.
func Produce(w io.Writer, size int64, produce func(io.Writer) error) error {
	s := &sized{w: w, size: size, left: size}
	if err := produce(s); err != nil {
		return err
	}
	if s.left > 0 {
		return fmt.Errorf("%d bytes were written, it has %d", size-s.left, size)
	}
	if s.buffer != nil {
		return s.buffer.Flush()
	}
	return nil
}

type sized struct {
	w          io.Writer
	buffer     *bufio.Writer // nil until a piece comes that is not all
	size, left int64
}

func (s *sized) Write(p []byte) (int, error) {
	if int64(len(p)) > s.left {
		return 0, fmt.Errorf("%d bytes were to be written, %d of %d are left", len(p), s.left, s.size)
	}
	if s.buffer == nil && int64(len(p)) == s.left {
		s.left = 0
		return s.w.Write(p)
	}
	if s.buffer == nil {
		s.buffer = bufio.NewWriterSize(s.w, int(min(s.left, 1<<20)))
	}
	n, err := s.buffer.Write(p)
	s.left -= int64(n)
	return n, err
}
