//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"llmc/internal/tinymodel"
)

// TestInterrupt sends SIGINT once a command has begun to write: it must end
// with exit code 130 and leave nothing behind.
func TestInterrupt(t *testing.T) {
	source := filepath.Join(t.TempDir(), "model")
	if err := tinymodel.Write(source, tinymodel.Spec{Layers: 60}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"quantize", source, "--type", "Q4_K_M", "-o", "out.gguf"},
		{"quantize", source, "--bits", "4", "--clip", "mse", "--to", "gptq", "-o", "out"},
	} {
		dir := t.TempDir()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd := exec.Command(self)
		cmd.Args = append([]string{"llmc"}, args...) // TestMain runs the command of that name
		cmd.Dir, cmd.Stderr = dir, &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); isEmpty(t, dir); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%v: no output was begun\n%s", args, &stderr)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
			t.Errorf("%v: exit code %d, want %d\n%s", args, code, exitInterrupted, &stderr)
		}
		if !isEmpty(t, dir) {
			t.Errorf("%v: something was left behind", args)
		}
		if strings.Contains(stderr.String(), "goroutine ") {
			t.Errorf("%v: a stack trace: %s", args, &stderr)
		}
	}
}

func isEmpty(t *testing.T, dir string) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) == 0
}
