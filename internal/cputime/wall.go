package cputime

import "time"

// Wall is the wall clock.
func Wall() time.Duration { return time.Duration(time.Now().UnixNano()) }
