//go:build !linux

package cputime

import "time"

// Now is the wall clock, where the processor time is not at hand.
func Now() time.Duration { return Wall() }
