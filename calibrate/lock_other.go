//go:build !unix

package calibrate

import "os"

// lockFile only opens the file: these systems' locks are not in the packages
// used here.
func lockFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
}
