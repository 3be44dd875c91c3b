package calibrate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"llmc/formats/raw"
)

// stateName is the file of a journal for a run that is no walk over blocks.
const stateName = "state"

// PutState keeps the state of a run that is no walk over blocks, whole, in place
// of what was kept before.
func (j *Journal) PutState(write func(io.Writer) error) error {
	return j.put(stateName, func(f *raw.File) error { return write(f) })
}

// State opens what PutState kept; nil when there is nothing. The caller closes
// the file.
func (j *Journal) State() (*os.File, error) {
	f, err := os.Open(j.path(stateName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", j.path(stateName), raw.Cause(err))
	}
	return f, nil
}

// HasState reports whether an unfinished run has left a state in a folder.
func HasState(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, stateName))
	return err == nil
}
