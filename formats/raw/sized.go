package raw

import (
	"bufio"
	"fmt"
	"io"
)

// Produce lets a function write a tensor's data in pieces of any size, and
// reports an error unless they are size bytes in all. The pieces are gathered,
// so they may be small.
func Produce(w io.Writer, size int64, produce func(io.Writer) error) error {
	counted := &counter{w: bufio.NewWriterSize(w, int(min(max(size, 16), 1<<20))), left: size}
	if err := produce(counted); err != nil {
		return err
	}
	if counted.left > 0 {
		return fmt.Errorf("%d bytes were written, it has %d", size-counted.left, size)
	}
	return counted.w.Flush()
}

type counter struct {
	w    *bufio.Writer
	left int64
}

func (c *counter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		return 0, fmt.Errorf("%d bytes were to be written, %d are left", len(p), c.left)
	}
	n, err := c.w.Write(p)
	c.left -= int64(n)
	return n, err
}
