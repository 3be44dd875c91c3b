package eval

// PeakMemory is the most memory that the process had resident so far, in bytes;
// 0 where the system does not tell.
func PeakMemory() int64 { return peakRSS() }
