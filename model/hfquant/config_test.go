package hfquant

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/internal/fault"
)

// TestParse reads configurations as the packages write them.
func TestParse(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"llm-compressor", `{"config_groups": {"group_0": {"input_activations": null, "output_activations": null, "targets": ["Linear"],
			"weights": {"actorder": null, "block_structure": null, "dynamic": false, "group_size": 128, "num_bits": 4, "observer": "minmax",
			"observer_kwargs": {}, "strategy": "group", "symmetric": true, "type": "int"}}}, "format": "pack-quantized",
			"global_compression_ratio": 1.9, "ignore": ["lm_head"], "kv_cache_scheme": null, "quant_method": "compressed-tensors",
			"quantization_status": "compressed"}`, "compressed-tensors int4 g128 sym"},
		{"float8", `{"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel", "type": "float"}}},
			"format": "float-quantized", "quant_method": "compressed-tensors"}`, "compressed-tensors fp8 channel sym"},
		{"AutoGPTQ", `{"bits": 4, "checkpoint_format": "gptq", "damp_percent": 0.1, "desc_act": true, "group_size": 128, "model_file_base_name": null,
			"quant_method": "gptq", "static_groups": false, "sym": true, "true_sequential": true}`, "gptq int4 g128 sym"},
		{"GPTQ of old, per channel", `{"bits": 3, "group_size": -1, "sym": false, "quant_method": "gptq"}`, "gptq int3 channel asym"},
		{"AutoAWQ", `{"bits": 4, "group_size": 128, "modules_to_not_convert": null, "quant_method": "awq", "version": "gemm", "zero_point": true}`, "awq int4 g128 asym"},
	}
	for _, tt := range tests {
		c, err := Parse([]byte(tt.text))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if c.String() != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, c, tt.want)
		}
	}
}

// TestUnapplied: what is not done is named.
func TestUnapplied(t *testing.T) {
	c, err := Parse([]byte(`{"quant_method": "compressed-tensors", "format": "float-quantized", "kv_cache_scheme": {"num_bits": 8, "type": "float"},
		"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"},
			"output_activations": {"num_bits": 8, "type": "float"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"the outputs of linears (group_0) to 8 bits", "keys and values to 8 bits"}; !slices.Equal(c.Unapplied, want) {
		t.Errorf("not applied are %q, want %q", c.Unapplied, want)
	}
}

func TestParseRefuses(t *testing.T) {
	group := func(weights string) string {
		return `{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"targets": ["Linear"], "weights": ` + weights + `}}}`
	}
	for text, want := range map[string]string{
		`[]`:                               "cannot unmarshal",
		`{}`:                               `quant_method is ""`,
		`{"quant_method": "bitsandbytes"}`: "supported are compressed-tensors, gptq, awq",
		`{"quant_method": "gptq", "bits": 5, "group_size": 128}`:                                   "bits is 5",
		`{"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}`:    `"marlin", supported are gptq, gptq_v2`,
		`{"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}`:                 `"gemv", supported is gemm`,
		`{"quant_method": "gptq", "bits": 4, "is_marlin_format": true}`:                            "is_marlin_format is true",
		`{"quant_method": "awq", "checkpoint_format": "gemv"}`:                                     `"gemv", supported is gemm`,
		`{"quant_method": "awq", "bits": 8}`:                                                       "bits is 8",
		`{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}`:  "quantizes no weights",
		group(`{"num_bits": 4, "strategy": "hexagon"}`):                                            `"hexagon", supported are group`,
		group(`{"num_bits": 9, "type": "int"}`):                                                    "num_bits is 9",
		group(`{"num_bits": 4, "type": "float"}`):                                                  "num_bits is 4",
		group(`{"num_bits": 8, "type": "float", "strategy": "block"}`):                             "block_structure",
		strings.Replace(group(`{"num_bits": 4, "type": "int"}`), "pack-quantized", "marlin-24", 1): `format is "marlin-24"`,
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		} else if fault.KindOf(err) != fault.InvalidFile {
			t.Errorf("%s: the error is not marked as an invalid input", text)
		}
	}
}

// TestJSONKeys pins what is written, since loaders reject keys they do not
// know.
func TestJSONKeys(t *testing.T) {
	mixed := NewCompressed([]Scheme{
		{Targets: []string{"Linear"}, Bits: 4, GroupSize: 128, Symmetric: true},
		{Name: "down", Targets: []string{`re:.*down_proj$`}, Bits: 6},
	}, []string{"lm_head"}, dtype.BF16)
	for want, c := range map[string]*Config{
		`{"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 128, "dynamic": false}},
			"down": {"targets": ["re:.*down_proj$"], "weights": {"num_bits": 6, "type": "int", "symmetric": false, "strategy": "channel", "dynamic": false}}},
			"format": "pack-quantized", "ignore": ["lm_head"], "quant_method": "compressed-tensors", "quantization_status": "compressed"}`: mixed,
		`{"bits": 4, "group_size": 128, "desc_act": true, "sym": true, "lm_head": false, "quant_method": "gptq", "checkpoint_format": "gptq",
			"true_sequential": true, "damp_percent": 0.01}`: NewGPTQ(4, 128, true, true),
		`{"bits": 4, "group_size": -1, "zero_point": true, "version": "gemm", "quant_method": "awq", "modules_to_not_convert": ["lm_head"]}`: NewAWQ(0, []string{"lm_head"}),
	} {
		text, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var g, w any
		if err := json.Unmarshal(text, &g); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(want), &w); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(g, w) {
			t.Errorf("%s: got %s, want %s", c.Method, text, want)
		}
	}
}

// TestSchemeOf follows compressed-tensors: a name before a pattern before a
// class, patterns in their sorted order, ignored modules not at all.
func TestSchemeOf(t *testing.T) {
	c := NewCompressed([]Scheme{
		{Name: "class", Targets: []string{"Linear"}},
		{Name: "later", Targets: []string{"re:.*mlp"}},
		{Name: "earlier", Targets: []string{"re:.*gate_proj$"}},
		{Name: "exact", Targets: []string{"model.layers.1.mlp.gate_proj"}},
	}, []string{"lm_head", "re:.*layers[.]3[.]"}, dtype.BF16)
	for module, want := range map[string]string{
		"model.layers.0.self_attn.q_proj": "class",
		"model.layers.0.mlp.up_proj":      "later",
		"model.layers.0.mlp.gate_proj":    "earlier",
		"model.layers.1.mlp.gate_proj":    "exact",
		"model.layers.3.mlp.gate_proj":    "",
		"lm_head":                         "",
		"lm_head.extra":                   "class",
	} {
		s, ok := c.SchemeOf(module)
		if s.Name != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", module, s.Name, ok, want)
		}
	}
	awq := NewAWQ(128, []string{"visual"})
	if _, ok := awq.SchemeOf("model.visual.fc1"); ok {
		t.Error("AWQ's modules_to_not_convert are parts of names")
	}
}

func TestFromConfig(t *testing.T) {
	const awq = `{"quant_method": "awq"}`
	for text, want := range map[string]bool{
		`{"model_type": "llama"}`:                                false,
		`{"quantization_config": ` + awq + `}`:                   true,
		`{"text_config": {"quantization_config": ` + awq + `}}`:  true,
		`{"quantization_config": null, "text_config": {"a": 1}}`: false,
	} {
		c, err := FromConfig([]byte(text))
		if err != nil || (c != nil) != want {
			t.Errorf("%s: got %v, %v, want quantized %v", text, c, err, want)
		}
	}
}
