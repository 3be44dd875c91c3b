//go:build !amd64 || noasm || purego

package blocks

// lanesOf returns the lanes of a level: none here.
func lanesOf(string) *lanes { return nil }
