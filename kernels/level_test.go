package kernels

import (
	"strings"
	"testing"

	"llmc/internal/fault"
)

func TestLevels(t *testing.T) {
	have := Levels()
	best := have[len(have)-1]
	for asked, want := range map[string]string{"": best, "portable": "portable", "avx512": best, "quick": best} {
		t.Setenv("LLMC_CPU", asked)
		c := NewCPU(1)
		if name := c.Name(); name != "cpu "+want+", 1 thread" {
			t.Errorf("LLMC_CPU=%s gives %q, want level %s", asked, name, want)
		}
		c.Close()
		err := CheckLevel()
		switch {
		case asked == "quick":
			if err == nil || fault.KindOf(err) != fault.UsageError || !strings.Contains(err.Error(), "portable, avx2, avx512") {
				t.Errorf("LLMC_CPU=%s: the error is %v", asked, err)
			}
		case asked == "avx512" && best != "avx512":
			if err == nil {
				t.Error("a level that this machine lacks is accepted")
			}
		case err != nil:
			t.Error(err)
		}
	}
}
