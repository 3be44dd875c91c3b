//go:build !amd64 || noasm || purego

package kernels

// nativeLevels are the levels in assembly: none here.
func nativeLevels([]string) []*ops { return nil }
