//go:build unix

package main

import (
	"os/signal"
	"syscall"
)

// A file size limit reached is an error of the write that meets it, cleaned up
// like a full disk, not a signal that ends the process halfway.
func init() { signal.Ignore(syscall.SIGXFSZ) }
