package hfquant

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

const linear = "model.layers.0.mlp.up_proj"

// random returns a matrix of random codes whose scales every format holds.
func random(seed uint64, rows, cols, bits, groupSize int, symmetric bool) *kernels.Groups {
	rng := rand.New(rand.NewPCG(seed, 0))
	if groupSize == 0 {
		groupSize = cols
	}
	g := &kernels.Groups{Rows: rows, Cols: cols, Bits: bits, GroupSize: groupSize}
	g.Codes = make([]byte, rows*g.CodeBytes())
	row := make([]uint8, cols)
	for r := range rows {
		for c := range row {
			row[c] = uint8(rng.IntN(1 << bits))
		}
		g.SetRow(r, row)
	}
	for range rows * g.Groups() {
		g.Scales = append(g.Scales, float32(1+rng.IntN(128))/1024)
		if !symmetric {
			g.Zeros = append(g.Zeros, uint8(rng.IntN(1<<bits)))
		}
	}
	return g
}

// fixed returns a matrix of codes that the golden packings were made of.
func fixed(rows, cols, bits, groupSize int) *kernels.Groups {
	g := random(0, rows, cols, bits, groupSize, false)
	row := make([]uint8, cols)
	for r := range rows {
		for c := range row {
			row[c] = uint8((r*31 + c*17 + r*c*7) % (1 << bits))
		}
		g.SetRow(r, row)
	}
	for i := range g.Zeros {
		g.Zeros[i] = uint8(1 + (i/g.Groups()*5+i%g.Groups()*3)%(1<<bits-1))
	}
	return g
}

// schemeOf is the scheme of a matrix of packed codes.
func schemeOf(g *kernels.Groups) Scheme {
	s := Scheme{Bits: g.Bits, GroupSize: g.GroupSize, Symmetric: g.Zeros == nil}
	if g.GroupSize >= g.Cols {
		s.GroupSize = 0
	}
	return s
}

func parts(t *testing.T, c *Config, g *kernels.Groups) Parts {
	t.Helper()
	list, err := c.Encode(schemeOf(g), g)
	if err != nil {
		t.Fatal(err)
	}
	byName := Parts{}
	for _, p := range list {
		byName[p.Name] = p
	}
	return byName
}

func compressed(bits, groupSize int, symmetric bool) *Config {
	return NewCompressed([]Scheme{{Targets: []string{"Linear"}, Bits: bits, GroupSize: groupSize, Symmetric: symmetric}}, nil, dtype.BF16)
}

// TestRoundTrip encodes random codes in every format and reads them back, with
// a configuration that went through JSON.
func TestRoundTrip(t *testing.T) {
	for _, symmetric := range []bool{true, false} {
		for _, groupSize := range []int{0, 32, 96} {
			for bits := 2; bits <= 8; bits++ {
				configs := map[string]*Config{"compressed-tensors": compressed(bits, groupSize, symmetric)}
				if slices.Contains([]int{2, 3, 4, 8}, bits) {
					configs["gptq"] = NewGPTQ(bits, groupSize, symmetric, false)
				}
				if bits == 4 {
					configs["awq"] = NewAWQ(groupSize, nil)
				}
				for name, c := range configs {
					t.Run(fmt.Sprintf("%s/%d bits/groups of %d/symmetric %v", name, bits, groupSize, symmetric), func(t *testing.T) {
						roundTrip(t, c, random(uint64(bits), 64, 96, bits, groupSize, symmetric))
					})
				}
			}
		}
	}
}

func roundTrip(t *testing.T, c *Config, g *kernels.Groups) {
	t.Helper()
	text, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	read, err := FromConfig(fmt.Appendf(nil, `{"quantization_config": %s}`, text))
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	list := parts(t, c, g)
	if !IsPacked(list) {
		t.Error("IsPacked is false")
	}
	if err := read.Check(linear, list, g.Rows, g.Cols); err != nil {
		t.Fatal(err)
	}
	m, err := read.Decode(linear, list, g.Rows, g.Cols)
	if err != nil {
		t.Fatal(err)
	}
	got := m.(*kernels.Groups)
	if err := got.Validate(); err != nil {
		t.Fatal(err)
	}
	want := *g
	if c.Method == AWQ && g.Zeros == nil { // AWQ always has zero points
		want.Zeros = bytes.Repeat([]byte{8}, len(g.Scales))
	}
	if !reflect.DeepEqual(got, &want) {
		t.Errorf("codes differ after encoding and decoding: %+v, want %+v", short(got), short(&want))
	}
}

func short(g *kernels.Groups) string {
	return fmt.Sprintf("%d bits, groups of %d, codes %x..., zeros %v..., scales %v...",
		g.Bits, g.GroupSize, g.Codes[:8], g.Zeros[:min(len(g.Zeros), 8)], g.Scales[:4])
}

// TestActOrder checks that GPTQ keeps columns in the order of their importance.
func TestActOrder(t *testing.T) {
	g := random(1, 64, 96, 4, 32, true)
	g.GroupOf = make([]int32, g.Cols)
	for i, c := range rand.New(rand.NewPCG(1, 1)).Perm(g.Cols) {
		g.GroupOf[c] = int32(i / 32)
	}
	roundTrip(t, NewGPTQ(4, 32, true, true), g)
	for _, c := range []*Config{compressed(4, 32, true), NewAWQ(32, nil)} {
		if _, err := c.Encode(schemeOf(g), g); err == nil || !strings.Contains(err.Error(), "act-order") {
			t.Errorf("%s: got %v, want an error about act-order", c.Method, err)
		}
	}
}

// TestGoldenPacking compares checksums of packed codes and zero points with
// those of the packages' own functions: pack_to_int32 of compressed-tensors
// 0.20 and 0.9.4, the loops of AutoGPTQ and AutoAWQ, run with NumPy.
func TestGoldenPacking(t *testing.T) {
	tests := []struct {
		config       *Config
		rows         int
		codes, zeros uint32
	}{
		{compressed(2, 32, false), 240, 0x4629b9e5, 0xb1639529},
		{compressed(3, 32, false), 240, 0x22dc4632, 0x7a69ff9b},
		{compressed(4, 32, false), 240, 0xe37b858d, 0x13381934},
		{compressed(5, 32, false), 240, 0xd4966ba8, 0x41628637},
		{compressed(6, 32, false), 240, 0xce01ea04, 0x45186ac8},
		{compressed(7, 32, false), 240, 0xf9c24df7, 0x631a4d41},
		{compressed(8, 32, false), 240, 0x9f33989b, 0x3bec1064},
		{gptq(2, GPTQv1), 64, 0xa88aad83, 0x8bc0cf55},
		{gptq(3, GPTQv1), 64, 0xe469f84b, 0x18900e8a},
		{gptq(4, GPTQv1), 64, 0x1a13dd01, 0x7ae47346},
		{gptq(8, GPTQv1), 64, 0xb1dfda67, 0x3dc6a1d3},
		{gptq(2, GPTQv2), 64, 0xa88aad83, 0x927f0053},
		{gptq(3, GPTQv2), 64, 0xe469f84b, 0x72419c26},
		{gptq(4, GPTQv2), 64, 0x1a13dd01, 0xaf7ed806},
		{gptq(8, GPTQv2), 64, 0xb1dfda67, 0xd44c0207},
		{NewAWQ(32, nil), 40, 0xfe8d7adc, 0x7d81f5ad},
	}
	for _, tt := range tests {
		bits := tt.config.Schemes[0].Bits
		list := parts(t, tt.config, fixed(tt.rows, 96, bits, 32))
		codes, zeros := list["qweight"], list["qzeros"]
		if tt.config.Method == CompressedTensors {
			codes, zeros = list["weight_packed"], list["weight_zero_point"]
		}
		if got := crc32.ChecksumIEEE(codes.Data); got != tt.codes {
			t.Errorf("%s: codes have checksum %#08x, the package's have %#08x", tt.config, got, tt.codes)
		}
		if got := crc32.ChecksumIEEE(zeros.Data); got != tt.zeros {
			t.Errorf("%s: zero points have checksum %#08x, the package's have %#08x", tt.config, got, tt.zeros)
		}
	}
}

func gptq(bits int, format string) *Config {
	c := NewGPTQ(bits, 32, false, false)
	c.Format = format
	return c
}

// TestOldPacking reads the layout of compressed-tensors before 0.18, packed
// here the plain way and checked against that release's checksums.
func TestOldPacking(t *testing.T) {
	golden := map[int][2]uint32{
		3: {0xae0c2c54, 0x81fcf0ec}, 5: {0xfaaa0ce9, 0x67cfe6d9},
		6: {0xec54385a, 0xc9bb1f6e}, 7: {0xd34c0cbf, 0x8876a795},
	}
	for bits, sums := range golden {
		g := fixed(240, 96, bits, 32)
		list := parts(t, compressed(bits, 32, false), g)
		per, groups := 32/bits, g.Groups()
		packed := raw.Tensor{Name: "weight_packed", Type: dtype.I32, Shape: []int{g.Rows, oldWords(g.Cols, bits)}}
		packed.Data = make([]byte, 4*packed.Elements())
		for r := range g.Rows {
			for c := range g.Cols {
				i := r*packed.Shape[1] + c/per
				putWord(packed.Data, i, word(packed.Data, i)|uint32(g.Code(r, c))<<(c%per*bits))
			}
		}
		zeros := raw.Tensor{Name: "weight_zero_point", Type: dtype.I32, Shape: []int{oldWords(g.Rows, bits), groups}}
		zeros.Data = make([]byte, 4*zeros.Elements())
		for i, z := range g.Zeros {
			at := i/groups/per*groups + i%groups
			putWord(zeros.Data, at, word(zeros.Data, at)|uint32(z)<<(i/groups%per*bits))
		}
		if got := [2]uint32{crc32.ChecksumIEEE(packed.Data), crc32.ChecksumIEEE(zeros.Data)}; got != sums {
			t.Errorf("%d bits: the test packs %#x, release 0.9.4 packs %#x", bits, got, sums)
		}
		list["weight_packed"], list["weight_zero_point"] = packed, zeros
		m, err := compressed(bits, 32, false).Decode(linear, list, g.Rows, g.Cols)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(m, kernels.Matrix(g)) {
			t.Errorf("%d bits: the old layout reads as %s, want %s", bits, short(m.(*kernels.Groups)), short(g))
		}
	}
}

// TestZeroPointVersion reads GPTQ files whose label does not say how the zero
// points are stored.
func TestZeroPointVersion(t *testing.T) {
	symmetric := random(3, 128, 256, 4, 128, true)
	asymmetric := weightLike(128, 256, 4, 128)
	for _, written := range []string{GPTQv1, GPTQv2} {
		for _, label := range []string{GPTQv1, GPTQv2} {
			for name, g := range map[string]*kernels.Groups{"symmetric": symmetric, "asymmetric": asymmetric} {
				c := NewGPTQ(4, 128, g.Zeros == nil, false)
				c.Format = written
				list := parts(t, c, g)
				c.Format = label
				m, err := c.Decode(linear, list, g.Rows, g.Cols)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(m.(*kernels.Groups).Zeros, g.Zeros) {
					t.Errorf("%s, written as %s, labelled %s: zero points differ", name, written, label)
				}
			}
		}
	}
}

// weightLike rounds normally distributed weights to asymmetric codes.
func weightLike(rows, cols, bits, groupSize int) *kernels.Groups {
	g := random(4, rows, cols, bits, groupSize, false)
	rng := rand.New(rand.NewPCG(5, 0))
	codes := make([]uint8, cols)
	w := make([]float64, cols)
	for r := range rows {
		for c := range w {
			w[c] = rng.NormFloat64()
		}
		for first := 0; first < cols; first += groupSize {
			group := w[first : first+groupSize]
			low, high := slices.Min(group), slices.Max(group)
			step := (high - low) / float64(int(1)<<bits-1)
			g.Zeros[(r*cols+first)/groupSize] = uint8(-low/step + 0.5)
			for i, v := range group {
				codes[first+i] = uint8((v-low)/step + 0.5)
			}
		}
		g.SetRow(r, codes)
	}
	return g
}

// TestDamage changes one thing of a good linear at a time; each must be an
// error that says which tensor it is about.
func TestDamage(t *testing.T) {
	reshape := func(name string, shape ...int) func(Parts) {
		return func(p Parts) {
			x := p[name]
			x.Shape = shape
			n := x.Elements() * x.Type.BlockBytes()
			x.Data = append(slices.Clone(x.Data), make([]byte, n)...)[:n]
			p[name] = x
		}
	}
	drop := func(name string) func(Parts) { return func(p Parts) { delete(p, name) } }
	fill := func(name string, b byte) func(Parts) {
		return func(p Parts) { p[name] = withData(p[name], bytes.Repeat([]byte{b}, len(p[name].Data))) }
	}
	cut := func(name string) func(Parts) {
		return func(p Parts) { p[name] = withData(p[name], p[name].Data[4:]) }
	}
	retype := func(name string, to dtype.Type) func(Parts) {
		return func(p Parts) {
			x := p[name]
			x.Type = to
			p[name] = x
		}
	}
	packed, gptq, awq := compressed(4, 32, false), NewGPTQ(4, 32, false, false), NewAWQ(32, nil)
	tests := []struct {
		config *Config
		damage func(Parts)
		want   string
	}{
		{packed, drop("weight_scale"), "weight_scale is missing"},
		{packed, drop("weight_packed"), "weight_packed, qweight and weight are missing"},
		{packed, reshape("weight_packed", 64, 11), "weight_packed has 11 words"},
		{packed, reshape("weight_packed", 768), "weight_packed has shape [768]"},
		{packed, reshape("weight_scale", 3, 64), "weight_scale has shape"},
		{packed, reshape("weight_zero_point", 4, 6), "weight_zero_point has shape"},
		{packed, cut("weight_packed"), "weight_packed has 3068 bytes"},
		{packed, fill("weight_scale", 0xff), "weight_scale holds NaN"},
		{packed, fill("weight_shape", 1), "weight_shape says"},
		{packed, retype("weight_packed", dtype.F32), "weight_packed holds F32"},
		{gptq, drop("qzeros"), "qzeros is missing"},
		{gptq, reshape("qweight", 13, 64), "qweight has 13 rows"},
		{gptq, reshape("scales", 5, 64), "qzeros has shape"},
		{gptq, fill("g_idx", 9), "g_idx holds"},
		{gptq, fill("g_idx", 0xff), "g_idx holds -1"},
		{gptq, cut("g_idx"), "g_idx has"},
		{gptq, retype("scales", dtype.I16), "scales holds I16"},
		{awq, reshape("qweight", 96, 9), "qweight has shape"},
		{awq, reshape("qzeros", 4, 6), "qzeros has shape"},
		{awq, fill("scales", 0x7c), "scales holds NaN"},
	}
	for _, tt := range tests {
		list := parts(t, tt.config, random(1, 64, 96, 4, 32, false))
		tt.damage(list)
		_, err := tt.config.Decode(linear, list, 64, 96)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.config.Method, err, tt.want)
		}
	}
}

func withData(t raw.Tensor, data []byte) raw.Tensor {
	t.Data = data
	return t
}

// TestEncodeRefuses lists what the formats cannot hold.
func TestEncodeRefuses(t *testing.T) {
	tiny := random(1, 64, 96, 4, 32, true)
	tiny.Scales[5] = 1e-9
	zero := random(1, 64, 96, 4, 32, false)
	zero.Zeros[7] = 0
	tests := []struct {
		config *Config
		g      *kernels.Groups
		want   string
	}{
		{NewGPTQ(5, 32, true, false), random(1, 64, 96, 5, 32, true), "5 bits, GPTQ holds 2, 3, 4, 8"},
		{NewGPTQ(4, 32, true, false), random(1, 60, 96, 4, 32, true), "whole 32-bit words"},
		{NewGPTQ(4, 36, true, false), random(1, 64, 96, 4, 36, true), "groups of 36 do not divide 96 columns"},
		{NewGPTQ(4, 32, true, false), tiny, "does not fit F16"},
		{gptq(4, GPTQv1), zero, "a zero point is 0"},
		{NewAWQ(32, nil), random(1, 64, 96, 8, 32, true), "8 bits, AWQ holds 4"},
		{NewAWQ(32, nil), random(1, 60, 96, 4, 32, true), "60 rows"},
		{compressed(4, 36, true), random(1, 64, 96, 4, 36, true), "groups of 36 do not divide 96 columns"},
	}
	for _, tt := range tests {
		if _, err := tt.config.Encode(schemeOf(tt.g), tt.g); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.config, err, tt.want)
		}
	}
}

// TestLayoutIsEncodes checks that the plan of an output is what is written.
func TestLayoutIsEncodes(t *testing.T) {
	for _, c := range []*Config{compressed(3, 32, false), NewGPTQ(3, 32, false, false), NewAWQ(32, nil)} {
		bits := c.Schemes[0].Bits
		plan, err := c.Layout(c.Schemes[0], 64, 96)
		if err != nil {
			t.Fatal(err)
		}
		g := random(1, 64, 96, bits, 32, false)
		made, err := c.Encode(schemeOf(g), g)
		if err != nil {
			t.Fatal(err)
		}
		for i := range made {
			if n := made[i].Elements() * made[i].Type.BlockBytes(); n != len(made[i].Data) {
				t.Errorf("%s: %s has %d bytes, its shape says %d", c.Method, made[i].Name, len(made[i].Data), n)
			}
			made[i].Data = nil
		}
		if !reflect.DeepEqual(plan, made) {
			t.Errorf("%s: planned %v, made %v", c.Method, plan, made)
		}
	}
}

// FuzzDecode reads linears whose tensors have any bytes, types and shapes: an
// error or a valid matrix.
func FuzzDecode(f *testing.F) {
	for i, c := range []*Config{compressed(4, 32, false), NewGPTQ(4, 32, false, true), NewAWQ(32, nil)} {
		text, err := c.JSON()
		if err != nil {
			f.Fatal(err)
		}
		g := random(uint64(i), 64, 96, 4, 32, false)
		list, err := c.Encode(schemeOf(g), g)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, uint8(0), uint8(0), uint8(0), list[0].Data)
		f.Add(text, uint8(1), uint8(3), uint8(1), []byte{0xff, 0xff})
	}
	f.Add([]byte(`{"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"a": {"targets": ["re:.*"], "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [1, 64]}}}}`), uint8(0), uint8(7), uint8(2), []byte{1})
	f.Fuzz(func(t *testing.T, text []byte, which, change, value uint8, data []byte) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		g := random(1, 64, 96, 4, 32, false)
		good, err := c.Encode(schemeOf(g), g)
		if err != nil {
			return
		}
		list := Parts{}
		for i, p := range good {
			if i == int(which)%len(good) {
				p = mutate(p, change, value, data)
			}
			list[p.Name] = p
		}
		checked := c.Check(linear, maps.Clone(list), 64, 96)
		m, err := c.Decode(linear, list, 64, 96)
		if checked != nil && err == nil {
			t.Errorf("Check refuses what Decode reads: %v", checked)
		}
		if g, ok := m.(*kernels.Groups); err == nil && ok {
			if err := g.Validate(); err != nil {
				t.Errorf("Decode returned an invalid matrix: %v", err)
			}
		}
	})
}

// mutate changes the name, type, shape or data of a tensor.
func mutate(p raw.Tensor, change, value uint8, data []byte) raw.Tensor {
	switch change % 6 {
	case 0:
		p.Data = append(slices.Clone(data), make([]byte, max(0, len(p.Data)-len(data)))...)[:len(p.Data)]
	case 1:
		p.Data = data
	case 2:
		p.Type = dtype.Type(value % 16)
	case 3:
		p.Shape = slices.Clone(p.Shape)
		p.Shape[0] = int(value)
	case 4:
		p.Shape = append(slices.Clone(p.Shape), int(value))
	case 5:
		p.Name = []string{"weight", "weight_scale", "weight_zero_point", "weight_g_idx", "qweight"}[value%5]
	}
	return p
}
