//go:build !amd64 || noasm || purego

package level

// native are the levels in assembly: none here.
func native() []string { return nil }
