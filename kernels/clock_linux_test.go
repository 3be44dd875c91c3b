package kernels

import (
	"time"

	"golang.org/x/sys/unix"
)

// processTime is the processor time that this process has used, so that
// benchmarks of one thread measure the same next to other work.
func processTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return time.Duration(time.Now().UnixNano())
	}
	return time.Duration(t.Nano())
}
