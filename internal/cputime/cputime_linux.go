// Package cputime reads the processor time of this process, so that benchmarks
// of one thread measure the same next to other work.
package cputime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the processor time that this process has used, the wall clock where
// that is not known.
func Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return Wall()
	}
	return time.Duration(t.Nano())
}
