package hfquant

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

// TestInt8AndFloat8 reads the formats that store one number a weight.
func TestInt8AndFloat8(t *testing.T) {
	weight := raw.Tensor{Name: "weight", Type: dtype.I8, Shape: []int{2, 4}, Data: []byte{0x80, 0xff, 0, 127, 1, 2, 3, 4}}
	scale := func(shape ...int) raw.Tensor {
		s := raw.Tensor{Name: "weight_scale", Type: dtype.F32, Shape: shape}
		for i := range s.Elements() {
			s.Data = append(s.Data, 0, 0, 0, 0)
			putWord(s.Data, i, 0x3f000000+uint32(i)<<23) // 0.5, 1, 2, 4
		}
		return s
	}
	zero := raw.Tensor{Name: "weight_zero_point", Type: dtype.I8, Shape: []int{2, 1}, Data: []byte{1, 0xff}}
	float8 := raw.Tensor{Name: "weight", Type: dtype.F8E4M3, Shape: []int{2, 4}, Data: []byte{0x38, 0x40, 0xb8, 0, 0x38, 0x38, 0x40, 0x40}} // 1, 2, -1, 0; 1, 1, 2, 2
	tests := []struct {
		name   string
		scheme string
		parts  Parts
		want   []float32
	}{
		{"int8 per channel", `"num_bits": 8, "type": "int", "strategy": "channel"`, Parts{"weight": weight, "weight_scale": scale(2, 1)}, []float32{-64, -0.5, 0, 63.5, 1, 2, 3, 4}},
		{"int8 per row, flat", `"num_bits": 8, "type": "int", "strategy": "channel"`, Parts{"weight": weight, "weight_scale": scale(2)}, []float32{-64, -0.5, 0, 63.5, 1, 2, 3, 4}},
		{"int8 per tensor", `"num_bits": 8, "type": "int", "strategy": "tensor"`, Parts{"weight": weight, "weight_scale": scale(1)}, []float32{-64, -0.5, 0, 63.5, 0.5, 1, 1.5, 2}},
		{"int8 in groups", `"num_bits": 8, "type": "int", "strategy": "group", "group_size": 2`, Parts{"weight": weight, "weight_scale": scale(2, 2)}, []float32{-64, -0.5, 0, 127, 2, 4, 12, 16}},
		{"int8 with zero points", `"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": false`, Parts{"weight": weight, "weight_scale": scale(2, 1), "weight_zero_point": zero}, []float32{-64.5, -1, -0.5, 63, 2, 3, 4, 5}},
		{"float8 per tensor", `"num_bits": 8, "type": "float", "strategy": "tensor"`, Parts{"weight": float8, "weight_scale": scale()}, []float32{0.5, 1, -0.5, 0, 0.5, 0.5, 1, 1}},
		{"float8 per channel", `"num_bits": 8, "type": "float", "strategy": "channel"`, Parts{"weight": float8, "weight_scale": scale(2, 1)}, []float32{0.5, 1, -0.5, 0, 1, 1, 2, 2}},
		{"float8 in blocks", `"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [1, 2]`, Parts{"weight": float8, "weight_scale": scale(2, 2)}, []float32{0.5, 1, -1, 0, 2, 2, 8, 8}},
	}
	for _, tt := range tests {
		c, err := Parse(fmt.Appendf(nil, `{"quant_method": "compressed-tensors", "format": "int-quantized",
			"config_groups": {"group_0": {"targets": ["Linear"], "weights": {%s}}}}`, tt.scheme))
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Decode(linear, tt.parts, 2, 4)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := make([]float32, 8)
		m.Row(got[:4], 0)
		m.Row(got[4:], 1)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// randomFloat8 returns a matrix of random float8 whose scales every format
// holds.
func randomFloat8(rows, cols, high, wide int) *kernels.Float8 {
	rng := rand.New(rand.NewPCG(3, 0))
	m := &kernels.Float8{Rows: rows, Cols: cols, Type: dtype.F8E4M3, High: high, Wide: wide, Codes: make([]byte, rows*cols)}
	for i := range m.Codes {
		m.Codes[i] = byte(rng.IntN(2)<<7 | rng.IntN(0x7f))
	}
	for range rows / high * (cols / wide) {
		m.Scales = append(m.Scales, float32(1+rng.IntN(128))/1024)
	}
	return m
}

// perTensor gives every row of a matrix the same scale.
func perTensor(g *kernels.Groups) *kernels.Groups {
	for i := range g.Scales {
		g.Scales[i] = g.Scales[0]
	}
	return g
}

// TestNaiveRoundTrip writes and reads, through JSON, what takes a byte for
// each number, with the rounding of activations.
func TestNaiveRoundTrip(t *testing.T) {
	const rows, cols = 64, 96
	token, static := kernels.Rounding{Bits: 8}, kernels.Rounding{Bits: 8, Static: true, Scale: 0.03125}
	float, floatStatic := kernels.Rounding{Bits: 8, Float: true}, kernels.Rounding{Bits: 8, Float: true, Static: true, Scale: 0.5}
	for _, tt := range []struct {
		scheme Scheme
		matrix kernels.Matrix
		format string
		text   string
	}{
		{Scheme{Bits: 8, Symmetric: true, Inputs: token}, random(1, rows, cols, 8, 0, true), IntQuantized, "int8 channel sym, activations int8 per token"},
		{Scheme{Bits: 8, Symmetric: true, Inputs: static}, random(2, rows, cols, 8, 0, true), IntQuantized, "int8 channel sym, activations int8 static"},
		{Scheme{Bits: 8, Symmetric: true, PerTensor: true, Inputs: token}, perTensor(random(3, rows, cols, 8, 0, true)), IntQuantized, "int8 tensor sym, activations int8 per token"},
		{Scheme{Bits: 4, Symmetric: true, GroupSize: 32, Inputs: token}, random(4, rows, cols, 4, 32, true), IntQuantized, "int4 g32 sym, activations int8 per token"},
		{Scheme{Bits: 8, Symmetric: true, Float: true, Inputs: float}, randomFloat8(rows, cols, 1, cols), FloatQuantized, "fp8 channel sym, activations fp8 per token"},
		{Scheme{Bits: 8, Symmetric: true, Float: true, PerTensor: true, Inputs: floatStatic}, randomFloat8(rows, cols, rows, cols), FloatQuantized, "fp8 tensor sym, activations fp8 static"},
		{Scheme{Bits: 8, Symmetric: true, Float: true}, randomFloat8(rows, cols, 1, cols), NaiveQuantized, "fp8 channel sym"},
	} {
		tt.scheme.Targets = []string{"Linear"}
		c := NewCompressed([]Scheme{tt.scheme}, nil, dtype.BF16)
		text, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		read, err := Parse(text)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if c.Format != tt.format || read.Format != tt.format || read.String() != "compressed-tensors "+tt.text {
			t.Errorf("%s as %s is read as %s, %s", tt.text, tt.format, read, read.Format)
		}
		list, err := c.Encode(tt.scheme, tt.matrix)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		byName := Parts{}
		for _, p := range list {
			byName[p.Name] = p
		}
		if err := read.Check(linear, byName, rows, cols); err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		m, err := read.Decode(linear, byName, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(kernels.Float32s(m), kernels.Float32s(tt.matrix)) {
			t.Errorf("%s: other numbers after writing and reading", tt.text)
		}
		if r, err := read.Inputs(linear, byName); err != nil || r != tt.scheme.Inputs {
			t.Errorf("%s: activations are %+v, %v", tt.text, r, err)
		}
	}
}

// TestMixedFormats: where groups differ in format, each says its own.
func TestMixedFormats(t *testing.T) {
	c := NewCompressed([]Scheme{
		{Targets: []string{"Linear"}, Bits: 8, Symmetric: true, Inputs: kernels.Rounding{Bits: 8}},
		{Targets: []string{"re:.*down_proj"}, Bits: 4, GroupSize: 32, Symmetric: true},
	}, nil, dtype.BF16)
	text, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"format":"mixed-precision"`, `"format":"int-quantized"`, `"format":"pack-quantized"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
}

// TestInputs reads how activations are rounded, as packages write it.
func TestInputs(t *testing.T) {
	one := raw.Tensor{Name: "input_scale", Type: dtype.F32, Shape: []int{1}, Data: []byte{0, 0, 0x80, 0x3f}}
	zero := raw.Tensor{Name: "input_zero_point", Type: dtype.I8, Data: []byte{0xfd}}
	for _, tt := range []struct {
		args  string
		parts Parts
		want  kernels.Rounding
		err   string
	}{
		{`{"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true, "symmetric": false, "observer": "memoryless"}`, nil, kernels.Rounding{Bits: 8, Asymmetric: true}, ""},
		{`{"num_bits": 4, "type": "int", "strategy": "token", "dynamic": true}`, nil, kernels.Rounding{Bits: 4}, ""},
		{`{"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128, "dynamic": true}`, nil, kernels.Rounding{Bits: 8, Float: true, Group: 128}, ""},
		{`{"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": false}`, Parts{"input_scale": one, "input_zero_point": zero},
			kernels.Rounding{Bits: 8, Asymmetric: true, Static: true, Scale: 1, Zero: -3}, ""},
		{`{"num_bits": 8, "type": "int", "strategy": "tensor"}`, nil, kernels.Rounding{}, "input_scale is missing"},
		{`{"num_bits": 8, "type": "int", "strategy": "tensor"}`, Parts{"input_scale": {Type: dtype.F32, Shape: []int{1}, Data: make([]byte, 4)}}, kernels.Rounding{}, "allowed is more than 0"},
		{`{"num_bits": 8, "type": "int", "strategy": "tensor"}`, Parts{"input_scale": {Type: dtype.F32, Shape: []int{2}, Data: make([]byte, 8)}}, kernels.Rounding{}, "shape [2]"},
		{`{"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": true}`, nil, kernels.Rounding{}, `strategy is "tensor" with dynamic true`},
		{`{"num_bits": 8, "type": "int", "strategy": "token"}`, nil, kernels.Rounding{}, `strategy is "token" with dynamic false`},
		{`{"num_bits": 4, "type": "float", "strategy": "tensor_group", "dynamic": "local"}`, nil, kernels.Rounding{}, `num_bits is 4 of type "float"`},
		{`{"num_bits": 8, "type": "float", "strategy": "tensor_group", "dynamic": "local"}`, nil, kernels.Rounding{}, `dynamic is "local"`},
	} {
		c, err := Parse(fmt.Appendf(nil, `{"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0":
			{"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}, "input_activations": %s}}}`, tt.args))
		var got kernels.Rounding
		if err == nil {
			got, err = c.Inputs(linear, tt.parts)
		}
		switch {
		case tt.err == "" && (err != nil || got != tt.want):
			t.Errorf("%s: got %+v, %v, want %+v", tt.args, got, err, tt.want)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: got %v, want %q", tt.args, err, tt.err)
		}
	}
}

// TestEncodeNaiveRefuses lists what these layouts cannot hold.
func TestEncodeNaiveRefuses(t *testing.T) {
	token := kernels.Rounding{Bits: 8}
	ordered := random(1, 64, 96, 8, 32, true)
	ordered.GroupOf = make([]int32, 96)
	for _, tt := range []struct {
		scheme Scheme
		matrix kernels.Matrix
		want   string
	}{
		{Scheme{Bits: 8, Inputs: token}, random(1, 64, 96, 8, 0, false), "no zero points"},
		{Scheme{Bits: 8, Symmetric: true, Inputs: token}, random(1, 64, 96, 8, 0, false), "no zero points"},
		{Scheme{Bits: 8, Symmetric: true, GroupSize: 32, Inputs: token}, ordered, "act-order"},
		{Scheme{Bits: 8, Symmetric: true, GroupSize: 36, Inputs: token}, random(1, 64, 96, 8, 36, true), "groups of 36 do not divide"},
		{Scheme{Bits: 8, Symmetric: true, PerTensor: true, Inputs: token}, random(1, 64, 96, 8, 0, true), "one for the whole tensor"},
		{Scheme{Bits: 8, Symmetric: true, GroupSize: 32, Inputs: token}, random(1, 64, 96, 8, 0, true), "64 scales, 192 are stored"},
		{Scheme{Bits: 8, Symmetric: true, Inputs: kernels.Rounding{Bits: 8, Static: true}}, random(1, 64, 96, 8, 0, true), "scale of the activations is 0"},
		{Scheme{Bits: 8, Symmetric: true, Float: true}, randomFloat8(64, 96, 32, 96), "scales for 32"},
		{Scheme{Bits: 8, Symmetric: true, Float: true}, kernels.FromFloat32s(1, 1, make([]float32, 1)), "is a *kernels.Dense"},
	} {
		c := NewCompressed([]Scheme{tt.scheme}, nil, dtype.BF16)
		if _, err := c.Encode(tt.scheme, tt.matrix); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.scheme, err, tt.want)
		}
	}
}
