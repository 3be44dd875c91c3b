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
	made, err := config.Encode(schemeOf(g), g)
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

// TestShortLastGroup reads columns that the group size does not divide.
func TestShortLastGroup(t *testing.T) {
	g := random(6, 4, 40, 4, 16, true)
	g.GroupSize = 40 // to be written
	g.Scales = g.Scales[:4]
	c := compressed(4, 16, true)
	list := parts(t, c, g)
	scale := raw.Tensor{Name: "weight_scale", Type: dtype.BF16, Shape: []int{4, 3}, Data: make([]byte, 24)}
	for i := range 12 {
		put16(scale.Data, i, dtype.F32ToBF16(float32(i+1)))
	}
	list["weight_scale"] = scale
	m, err := c.Decode(linear, list, 4, 40)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.(*kernels.Groups); got.GroupSize != 16 || got.Groups() != 3 || got.Scales[11] != 12 {
		t.Errorf("got groups of %d, %d a row", got.GroupSize, got.Groups())
	}
}

// TestPaddingIsIgnored sets the bits behind the last code of each row.
func TestPaddingIsIgnored(t *testing.T) {
	g := random(7, 3, 37, 3, 0, true)
	c := compressed(3, 0, true)
	list := parts(t, c, g)
	packed := list["weight_packed"].Data // 111 bits of 128 are used
	for r := range g.Rows {
		packed[16*r+13] |= 0x80
		packed[16*r+14], packed[16*r+15] = 0xff, 0xff
	}
	m, err := c.Decode(linear, list, g.Rows, g.Cols)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.(*kernels.Groups).Codes, g.Codes) {
		t.Error("codes differ where only padding does")
	}
}

// TestZeroPointWraps reads the zero point 0 from version 1, which stores it as
// the largest code.
func TestZeroPointWraps(t *testing.T) {
	c := gptq(4, GPTQv1)
	list := parts(t, c, fixed(64, 96, 4, 32))
	list["qzeros"].Data[0] |= 0x0f
	m, err := c.Decode(linear, list, 64, 96)
	if err != nil {
		t.Fatal(err)
	}
	if z := m.(*kernels.Groups).Zeros[0]; z != 0 {
		t.Errorf("the zero point is %d, want 0", z)
	}
}
