//go:build linux

package formats

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"llmc/dtype"
	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/internal/tinymodel"
)

const fullDir = "LLMC_TEST_FULL_DIR"

// TestFullDisk limits the size of files in a process of its own, where a write
// then fails as on a full disk, and looks at what is left.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDir); dir != "" {
		writeToFull(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), fullDir+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v: %s", err, out)
	}
	if got := list(t, dir); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

func writeToFull(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	const limit = 100_000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	tensors := []raw.Tensor{
		{Name: "fits", Type: dtype.U8, Shape: []int{limit / 2}},
		{Name: "does.not", Type: dtype.U8, Shape: []int{limit}},
	}
	check := func(err error) {
		t.Helper()
		if !errors.Is(err, syscall.EFBIG) || strings.Contains(err.Error(), "llmc-") || !strings.Contains(err.Error(), filepath.Join(dir, "out")) {
			t.Errorf("error %v", err)
		}
	}
	write := func(w *Writer, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		for _, tensor := range tensors {
			w.WriteTensor(make([]byte, tensor.Elements()))
		}
		check(w.Commit())
	}
	write(CreateFolder(filepath.Join(dir, "out"), false, Folder{}, tensors))
	for i := range tensors {
		tensors[i].Type = dtype.I8
	}
	write(CreateGGUF(filepath.Join(dir, "out.gguf"), false, &gguf.Metadata{}, tensors, 0))
	write(CreateGGUF(filepath.Join(dir, "out.gguf"), false, &gguf.Metadata{}, tensors, limit/2))

	// A companion and a GGUF header that do not fit.
	source, err := FromMemory(with(tinymodel.Files(small), map[string]string{"vocab.json": strings.Repeat("x", limit+1)}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = CreateFolder(filepath.Join(dir, "out"), false, Folder{Source: source}, tensors)
	check(err)
	meta := &gguf.Metadata{}
	if err := meta.Set("tokenizer.chat_template", strings.Repeat("x", limit)); err != nil {
		t.Fatal(err)
	}
	_, err = CreateGGUF(filepath.Join(dir, "out.gguf"), false, meta, tensors, 0)
	check(err)
}
