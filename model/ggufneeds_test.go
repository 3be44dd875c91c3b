package model

import (
	"strings"
	"testing"

	"llmc/internal/fault"
	"llmc/kernels"
)

func refConfig(t *testing.T, name string) Config {
	t.Helper()
	for _, ref := range references() {
		if ref.name == name {
			c, err := ReadConfig(ref.open(t))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	t.Fatalf("there is no reference model %s", name)
	return Config{}
}

// TestGGUFRefuses: what llama.cpp would not load or would run wrongly.
func TestGGUFRefuses(t *testing.T) {
	for _, tt := range []struct {
		family string
		change func(c *Config)
		want   string
	}{
		{"llama", func(c *Config) { c.Activation = kernels.GELU }, "has the activation gelu, which GGUF's llama"},
		{"llama", func(c *Config) { c.Rope.Dims = 4 }, "rotate only in part"},
		{"qwen2", func(c *Config) { c.OBias = true }, "attention biases"},
		{"qwen2", func(c *Config) { c.Rope.Type = RopeLlama3 }, "type llama3"},
		{"qwen3", func(c *Config) { c.QKVBias = true }, "attention biases, which GGUF's qwen3"},
		{"qwen3", func(c *Config) { c.MLPBias = true }, "feed-forward"},
		{"mixtral", func(c *Config) { c.Experts.Count = 1 }, "a mixture of 1 expert, which GGUF's llama"},
		{"qwen3moe", func(c *Config) { c.Experts.Normed = false }, "norm_topk_prob false, which GGUF's qwen3moe"},
		{"qwen2moe", func(c *Config) { c.Experts.Normed = true }, "norm_topk_prob true, which GGUF's qwen2moe"},
		{"olmoe", func(c *Config) { c.KVHeads = 1 }, "1 key and value heads for 3 query heads"},
		{"olmoe", func(c *Config) { c.Tied = true }, "tied to the embedding"},
		{"gemma3", func(c *Config) { c.Activation = kernels.SiLU }, "activation silu"},
		{"gemma3", func(c *Config) { c.AttnScale = 0.1 }, "attention scale of 1/sqrt(100)"},
		{"gemma3", func(c *Config) { c.LocalRope.Type = RopeLinear }, "blocks with a window"},
	} {
		c := refConfig(t, tt.family)
		if _, err := c.GGUF(); err != nil {
			t.Fatalf("%s: %v", tt.family, err)
		}
		tt.change(&c)
		_, err := c.GGUF()
		if err == nil || !strings.Contains(err.Error(), tt.want) || fault.KindOf(err) != fault.InvalidFile {
			t.Errorf("%s: got %v, want %q", tt.family, err, tt.want)
		}
	}
}

func TestGGUFNotes(t *testing.T) {
	for _, tt := range []struct {
		family string
		change func(c *Config)
		want   string // of the only note; "" is none
	}{
		{"llama", func(*Config) {}, ""},
		{"gemma3", func(*Config) {}, ""},
		{"mistral", func(*Config) {}, "no sliding window for llama: texts of more than 5 tokens"},
		{"qwen2", func(c *Config) { c.Window = 0 }, ""},
		{"qwen2", func(*Config) {}, "no sliding window for qwen2"},
		{"llama", func(c *Config) { c.Rope = Rope{Type: RopeYaRN, BetaFast: 32, BetaSlow: 1} }, ""},
		{"llama", func(c *Config) { c.Rope = Rope{Type: RopeYaRN, BetaFast: 16, BetaSlow: 1} }, "the model asks for 16, 1 and truncate true"},
	} {
		c := refConfig(t, tt.family)
		tt.change(&c)
		notes := c.GGUFNotes()
		if tt.want == "" && len(notes) > 0 || tt.want != "" && (len(notes) != 1 || !strings.Contains(notes[0], tt.want)) {
			t.Errorf("%s: got %q, want %q", tt.family, notes, tt.want)
		}
	}
}
