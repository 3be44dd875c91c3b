package raw

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// mappedBytes is what the system counts as this process's pages of files.
func mappedBytes(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("there is no /proc here")
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "RssFile:"); ok {
			kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Skip("this system does not count pages of files")
	return 0
}

func TestRelease(t *testing.T) {
	const size = 64 << 20
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("beginning"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	m, err := Map(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, b := range m.Data {
		sum += int(b)
	}
	before := mappedBytes(t)
	Release(m.Data[4096+5 : size/2])
	if after := mappedBytes(t); after > before-size/2+(1<<20) {
		t.Errorf("%d bytes are mapped after half of %d was released, %d before", after, size, before)
	}
	Release(m.Data)
	again := 0
	for _, b := range m.Data {
		again += int(b)
	}
	if sum == 0 || again != sum {
		t.Errorf("the file reads %d after it was released, %d before", again, sum)
	}

	own := []byte("memory that is no file's")
	Release(own)
	Release(nil)
	if string(own) != "memory that is no file's" {
		t.Errorf("memory became %q", own)
	}
	data := m.Data
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	Release(data) // its addresses are no mapping's any more
}
