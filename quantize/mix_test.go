package quantize

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/model"
)

// mixCase is one made-up model of testdata/mixes.txt.
type mixCase struct {
	config     model.Config
	tensors    []Tensor
	importance bool
}

// TestMixes compares every mix with what llama.cpp's own quantizer decided for
// the same shapes; scripts/interop/llama_mixes.py wrote the table.
func TestMixes(t *testing.T) {
	file, err := os.Open("testdata/mixes.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cases := map[string]mixCase{}
	compared := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if fields[0] == "model" {
			cases[fields[1]] = newMixCase(t, fields[1], fields[2:])
			continue
		}
		compared += compareMix(t, cases[fields[0]], fields)
	}
	if compared < 20000 {
		t.Errorf("compared %d tensors, so the table was not read", compared)
	}
}

// newMixCase makes the model of a line: architecture, blocks, heads,
// key/value heads, hidden, ffn, whether there is a head, and the number of
// experts if there are any.
func newMixCase(t *testing.T, name string, fields []string) mixCase {
	t.Helper()
	var numbers [5]int
	for i := range numbers {
		n, err := strconv.Atoi(fields[i+1])
		if err != nil {
			t.Fatal(err)
		}
		numbers[i] = n
	}
	c := model.Config{
		Family: familyNamed(t, fields[0]),
		Blocks: numbers[0], Heads: numbers[1], KVHeads: numbers[2], Hidden: numbers[3], FFN: numbers[4],
		HeadDim: numbers[3] / numbers[1], Vocab: 64, Tied: fields[6] == "tied",
	}
	if len(fields) > 7 {
		n, err := strconv.Atoi(fields[7])
		if err != nil {
			t.Fatal(err)
		}
		c.Experts = model.Experts{Count: n, Used: 2, Width: c.FFN}
		for _, f := range model.Families {
			if f.GGUF == fields[0] && f.Mixture != nil {
				c.Family = f
			}
		}
		if c.Family.Mixture.Shared {
			c.Experts.Shared = c.FFN
		}
	}
	return mixCase{c, configTensors(&c), strings.HasSuffix(name, "+imatrix")}
}

func familyNamed(t *testing.T, gguf string) *model.Family {
	t.Helper()
	for _, f := range model.Families {
		if f.GGUF == gguf {
			return f
		}
	}
	t.Fatalf("no family %q", gguf)
	return nil
}

// configTensors lists the tensors that a configuration implies, as BF16.
func configTensors(c *model.Config) []Tensor {
	var tensors []Tensor
	for _, id := range c.IDs() {
		shape := c.Shape(id)
		n := int64(1)
		for _, d := range shape {
			n *= int64(d)
		}
		tensors = append(tensors, Tensor{ID: id, Name: c.Family.TensorName(0, id), Shape: shape, From: "BF16", Bytes: 2 * n})
	}
	return tensors
}

// compareMix checks one line: model, mix, roles, runs of types.
func compareMix(t *testing.T, c mixCase, fields []string) int {
	t.Helper()
	mix, ok := ParseMix(fields[1])
	if !ok {
		t.Fatalf("mix %q is unknown", fields[1])
	}
	plan, err := NewPlan(&c.config, c.tensors, Policy{Mix: mix, Importance: c.importance})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, run := range fields[3:] {
		name, count, _ := strings.Cut(run, "*")
		n, err := strconv.Atoi(count)
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			want = append(want, name)
		}
	}
	compared := 0
	for _, role := range strings.Split(fields[2], ",") {
		for _, e := range plan.Entries {
			own := e.ID.Role.String()
			if e.ID.Expert != model.NoExpert {
				own = "experts." + own
			}
			if own != role {
				continue
			}
			block := max(e.ID.Block, 0)
			got := e.To.Type.String()
			if e.Kept() { // a router, which GGUF has in F32
				got = "f32"
			}
			if !strings.EqualFold(got, want[block]) {
				t.Errorf("%s %s: %s gets %s, llama.cpp gives %s", fields[0], mix.Name, e.ID, got, want[block])
			}
			compared++
		}
	}
	return compared
}

// TestPlainMXFP4 pins the one mix that llama.cpp does not have: MXFP4 for the
// linears of a dense model.
func TestPlainMXFP4(t *testing.T) {
	c := newMixCase(t, "", strings.Fields("llama 2 4 2 256 512 head"))
	mix, _ := ParseMix("mxfp4")
	plan, err := NewPlan(&c.config, c.tensors, Policy{Mix: mix})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range plan.Entries {
		want := dtype.Invalid
		switch {
		case e.ID.Role.IsLinear():
			want = dtype.MXFP4
		case e.ID.Role.IsMatrix():
			want = dtype.Q8_0
		}
		if e.To.Type != want {
			t.Errorf("%s gets %s, want %s", e.ID, e.To.Type, want)
		}
	}
}

func TestMixNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range MixNames() {
		if m, ok := ParseMix(strings.ToLower(name)); !ok || m.Name != name || seen[name] {
			t.Errorf("mix %q does not parse back, or is there twice", name)
		}
		seen[name] = true
	}
	for bits := MinBits; bits <= MaxBits; bits++ {
		m, ok := MixOfBits(bits)
		if single, okType := TypeOfBits(bits); ok == (bits == 7) || ok != okType || ok && m.Default != single {
			t.Errorf("%d bits are mix %q of %s, single type %s", bits, m.Name, m.Default, single)
		}
	}
}
