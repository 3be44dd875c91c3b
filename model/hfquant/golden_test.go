package hfquant

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

// golden is a linear of testdata/packed.json, packed by scripts/interop/packing.py.
type golden struct {
	Name       string
	Config     json.RawMessage
	Rows, Cols int
	Bits       int
	Groups     int
	Symmetric  bool
	Shuffled   bool // columns are grouped in another order than they stand in
	Tensors    []struct {
		Name, Type string
		Shape      []int
		Data       []byte
	}
}

// TestGolden reads and writes linears that other code packed, also those whose
// rows and columns do not fill whole words. Codes, zero points and scales
// follow formulas.
func TestGolden(t *testing.T) {
	data, err := os.ReadFile("testdata/packed.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			config, err := Parse(c.Config)
			if err != nil {
				t.Fatal(err)
			}
			list := Parts{}
			for _, p := range c.Tensors {
				kind, ok := dtype.Parse(p.Type)
				if !ok {
					t.Fatalf("unknown type %s", p.Type)
				}
				list[p.Name] = raw.Tensor{Name: p.Name, Type: kind, Shape: p.Shape, Data: p.Data}
			}
			m, err := config.Decode(linear, list, c.Rows, c.Cols)
			if err != nil {
				t.Fatal(err)
			}
			got := m.(*kernels.Groups)
			if err := got.Validate(); err != nil {
				t.Fatal(err)
			}
			c.compare(t, config, got)
			c.encode(t, config, got, list)
		})
	}
}

func (c *golden) compare(t *testing.T, config *Config, g *kernels.Groups) {
	t.Helper()
	if g.Bits != c.Bits || (g.Zeros == nil) != c.Symmetric && config.Method != AWQ || (g.GroupOf != nil) != c.Shuffled {
		t.Fatalf("got %d bits, zero points %v, groups by column %v", g.Bits, g.Zeros != nil, g.GroupOf != nil)
	}
	row := make([]float32, c.Cols)
	for r := range c.Rows {
		g.Row(row, r)
		for col := range c.Cols {
			group, zero := c.groupOf(col), 1<<(c.Bits-1)
			if !c.Symmetric {
				zero = 1 + (5*r+3*group)%(1<<c.Bits-1)
			}
			code := (131*r + 31*col + 7*r*col + r*col/5) % (1 << c.Bits)
			want := float32(16+(3*r+7*group)%16) / 1024 * float32(code-zero)
			if row[col] != want {
				t.Fatalf("weight [%d, %d] is %v, want %v", r, col, row[col], want)
			}
		}
	}
}

func (c *golden) groupOf(col int) int {
	if c.Shuffled {
		col = 5 * col % c.Cols
	}
	return col * c.Groups / c.Cols
}

// encode writes what was read, in formats and layouts that are written.
func (c *golden) encode(t *testing.T, config *Config, g *kernels.Groups, want Parts) {
	t.Helper()
	if config.Format == IntQuantized || config.Version != "" && config.Version < "0.18" {
		return
	}
	made, err := config.Encode(g)
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != len(want) {
		t.Errorf("%d tensors are written, want %d", len(made), len(want))
	}
	for _, p := range made {
		if !bytes.Equal(p.Data, want[p.Name].Data) {
			t.Errorf("%s is written as % x, want % x", p.Name, p.Data, want[p.Name].Data)
		}
	}
}
