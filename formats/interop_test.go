package formats

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCopy copies every checkpoint of the folder LLMC_COPY_FROM to the folder
// LLMC_COPY_TO, through the reader and the writer, for scripts/interop/formats.py
// to compare. A name that begins with "cut" is written in several files.
func TestCopy(t *testing.T) {
	from, to := os.Getenv("LLMC_COPY_FROM"), os.Getenv("LLMC_COPY_TO")
	if from == "" || to == "" {
		t.Skip("needs LLMC_COPY_FROM and LLMC_COPY_TO")
	}
	for _, name := range list(t, from) {
		limit := int64(0)
		if strings.HasPrefix(name, "cut") {
			limit = 1000
		}
		c := open(t, filepath.Join(from, name))
		tensors := c.Tensors()
		var w *Writer
		var err error
		if c.Kind == GGUF {
			w, err = CreateGGUF(filepath.Join(to, name), false, c.Meta, tensors, limit)
		} else {
			w, err = CreateFolder(filepath.Join(to, name), false, Folder{Config: c.Config, Source: c, Metadata: c.Metadata, MaxShard: limit}, tensors)
		}
		if err != nil {
			t.Fatal(err)
		}
		writeAll(t, w, tensors)
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}
