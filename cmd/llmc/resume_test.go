//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"llmc/internal/tinymodel"
)

// killed is a run of the real program that is ended without a warning.
type killed struct {
	t      *testing.T
	dir    string
	args   []string
	stdout []byte
}

// run runs the command and kills it after a while, 0 for never. It reports
// whether the command came to its end before.
func (k *killed) run(after time.Duration, args ...string) (done bool) {
	k.t.Helper()
	self, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(self)
	cmd.Args = append(append([]string{"llmc"}, k.args...), args...) // TestMain runs the command of that name
	cmd.Dir, cmd.Stdout, cmd.Stderr = k.dir, &stdout, &stderr
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err = cmd.Wait()
	switch code := cmd.ProcessState.ExitCode(); {
	case code < 0: // by a signal
		return false
	case code == exitUsage && strings.Contains(stderr.String(), "out exists already"):
		k.stdout = nil // it was killed after its last step
	case code != exitOK:
		k.t.Fatalf("%v: %v\n%s", cmd.Args, err, &stderr)
	default:
		k.stdout = stdout.Bytes()
	}
	return true
}

// TestKilledAndResumed kills runs at random moments, resumes them, and expects
// the output and the report of a run that was left alone, and nothing else.
// LLMC_KILLS is the number of moments.
func TestKilledAndResumed(t *testing.T) {
	moments := 4
	if n, err := strconv.Atoi(os.Getenv("LLMC_KILLS")); err == nil {
		moments = n
	}
	model := filepath.Join(t.TempDir(), "model")
	if err := tinymodel.Write(model, tinymodel.Spec{Hidden: 128, FFN: 128, Layers: 6, Untied: true}); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("The kettle sang while rain ran down the panes. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i, flags := range [][]string{
		{"gptq", "--bits", "4", "--group-size", "32", "--head", "--to", "compressed-tensors"},
		{"gptq", "--type", "Q4_0", "--compute", "fast"},
		{"awq", "--bits", "4", "--group-size", "32", "--to", "awq"},
		{"gptq", "--target-bpw", "6", "--to", "gguf"},
	} {
		t.Run(strings.Join(flags[:2], ""), func(t *testing.T) {
			args := append([]string{"quantize", model, "--calibration", text, "--samples", "8",
				"--calibration-context", "64", "--json", "--resume", "-o", "out", "--method"}, flags...)
			killAndResume(t, args, (moments+i)/4, random)
		})
	}
}

// TestKilledTraining does so with training, whose state is kept after every step.
func TestKilledTraining(t *testing.T) {
	model := filepath.Join(t.TempDir(), "model")
	if err := tinymodel.Write(model, tinymodel.Spec{Hidden: 64, FFN: 64, Layers: 3}); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("The kettle sang while rain ran down the panes. ", 20)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"distill", "--teacher", model, "--student-layers", "2", "--train", text, "--context", "32", "--steps", "12",
		"--batch", "2", "--save-every", "1", "--json", "--resume", "-o", "out"}
	killAndResume(t, args, 3, rand.New(rand.NewPCG(3, 2)))
}

// killAndResume kills a run at each of some moments. The one that resumes it may
// be killed, too.
func killAndResume(t *testing.T, args []string, moments int, random *rand.Rand) {
	alone := &killed{t: t, dir: t.TempDir(), args: args}
	begin := time.Now()
	if !alone.run(0) {
		t.Fatal("it was killed")
	}
	length := time.Since(begin)
	want := alone.results()
	moment := func() time.Duration { return time.Duration((0.05 + 0.95*random.Float64()) * float64(length)) }
	for range moments {
		k := &killed{t: t, dir: t.TempDir(), args: args}
		for k.run(moment()) { // it was faster than the one that was left alone
			length = length * 3 / 4
			k.dir = t.TempDir()
		}
		if !k.run(moment()) {
			k.run(0)
		}
		got := k.results()
		if extra := len(got) - len(want); extra > 0 || extra < 0 && k.stdout != nil {
			t.Errorf("it wrote %d files, want %d", len(got), len(want))
		}
		for name, data := range want {
			if !bytes.Equal(got[name], data) && (name != "stdout" || k.stdout != nil) {
				t.Errorf("%s is another", name)
			}
		}
	}
}

// results reads the output's files, and checks that there is nothing else.
func (k *killed) results() map[string][]byte {
	k.t.Helper()
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		k.t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "out" {
		k.t.Errorf("%v is left, want only the output", entries)
	}
	files := map[string][]byte{}
	err = filepath.WalkDir(k.dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files[entry.Name()], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		k.t.Fatal(err)
	}
	if len(k.stdout) > 0 {
		files["stdout"] = withoutTimes(k.t, k.stdout)
	}
	return files
}

// withoutTimes removes from a JSON document what two runs may differ in.
func withoutTimes(t *testing.T, text []byte) []byte {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, key := range []string{"seconds", "tokens_per_second", "peak_rss_bytes"} {
		delete(document, key)
	}
	tensors, _ := document["tensors"].([]any)
	for _, tensor := range tensors {
		delete(tensor.(map[string]any), "seconds")
	}
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
