//go:build !unix

package raw

import (
	"errors"
	"os"
)

// Lock returns errors.ErrUnsupported: these systems' locks are not in the
// packages used here.
func Lock(*os.File) error { return errors.ErrUnsupported }
