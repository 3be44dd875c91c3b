package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"

	"llmc/internal/fault"
)

// settings is a config.json as a map.
type settings map[string]any

// with returns a copy with other values; keys set to absent are taken out.
func (s settings) with(changes settings) settings {
	out := maps.Clone(s)
	maps.Copy(out, changes)
	maps.DeleteFunc(out, func(_ string, v any) bool { return v == absent })
	return out
}

func (s settings) text(t testing.TB) []byte {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

type missing struct{}

var absent = missing{}

// smallConfig is what every family needs.
func smallConfig(class string) settings {
	return settings{
		"architectures": []string{class}, "vocab_size": 100, "hidden_size": 48, "intermediate_size": 64,
		"num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
		"max_position_embeddings": 4096, "rms_norm_eps": 0.5, "bos_token_id": 1, "eos_token_id": []int{2, 3},
		"pad_token_id": 0, "torch_dtype": "bfloat16",
	}
}

// configs has every family with its switches thrown one way and the other.
func configs() map[string]settings {
	llama, mistral := smallConfig("LlamaForCausalLM"), smallConfig("MistralForCausalLM")
	qwen2, qwen3 := smallConfig("Qwen2ForCausalLM"), smallConfig("Qwen3ForCausalLM")
	gemma := smallConfig("Gemma3ForCausalLM").with(settings{"query_pre_attn_scalar": 8, "sliding_window": 16})
	scaling := func(keys settings) settings { return settings{"rope_scaling": keys} }
	yarn := settings{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 1024}
	return map[string]settings{
		"llama":               llama,
		"llama, tied, biases": llama.with(settings{"tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true}),
		"llama, linear":       llama.with(scaling(settings{"type": "linear", "factor": 2.5})),
		"llama, llama3":       llama.with(scaling(settings{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 1024})),
		"llama, yarn":         llama.with(scaling(yarn)),
		"llama, yarn, all":    llama.with(scaling(yarn.with(settings{"beta_fast": 16, "beta_slow": 2, "attention_factor": 1.25, "truncate": false}))),
		"llama, half rotates": llama.with(settings{"partial_rotary_factor": 0.5}),
		"llama, gelu":         llama.with(settings{"hidden_act": "gelu"}),
		"mistral":             mistral.with(settings{"sliding_window": nil}),
		"mistral, window":     mistral.with(settings{"sliding_window": 32, "rope_theta": 1e6}),
		"qwen2":               qwen2,
		"qwen2, window":       qwen2.with(settings{"use_sliding_window": true, "sliding_window": 32, "max_window_layers": 3}),
		"qwen2, layer types":  qwen2.with(settings{"use_sliding_window": true, "sliding_window": 32, "layer_types": kinds("fssffssf")}),
		"qwen3":               qwen3.with(settings{"head_dim": 16}),
		"qwen3, biases, yarn": qwen3.with(settings{"attention_bias": true}).with(scaling(yarn)),
		"gemma3":              gemma,
		"gemma3, pattern":     gemma.with(settings{"sliding_window_pattern": 3, "rope_local_base_freq": 500, "final_logit_softcapping": 30}),
		"gemma3, layer types": gemma.with(settings{"layer_types": kinds("sfsfffss"), "tie_word_embeddings": false}),
		"gemma3, linear":      gemma.with(scaling(settings{"rope_type": "linear", "factor": 8})).with(settings{"query_pre_attn_scalar": 168}),
		"mixtral":             smallConfig("MixtralForCausalLM").with(settings{"num_local_experts": 5, "num_experts_per_tok": 2}),
		"mixtral, window":     smallConfig("MixtralForCausalLM").with(settings{"sliding_window": 32}),
		"qwen3moe":            smallConfig("Qwen3MoeForCausalLM").with(settings{"num_local_experts": 9, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "norm_topk_prob": true}),
		"qwen3moe, window":    smallConfig("Qwen3MoeForCausalLM").with(settings{"use_sliding_window": true, "sliding_window": 16, "norm_topk_prob": true}),
		"qwen2moe":            smallConfig("Qwen2MoeForCausalLM").with(settings{"num_experts": 9, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}),
		"olmoe":               smallConfig("OlmoeForCausalLM").with(settings{"num_experts": 9, "num_experts_per_tok": 9, "num_key_value_heads": 6}),
		"gemma3, no window":   gemma.with(settings{"sliding_window": nil}),
	}
}

// kinds spells layer_types from letters: f is full, s is sliding.
func kinds(letters string) []string {
	var list []string
	for _, l := range letters {
		list = append(list, map[rune]string{'f': "full_attention", 's': "sliding_attention"}[l])
	}
	return list
}

func parse(t testing.TB, s settings) Config {
	t.Helper()
	c, err := ParseHF(s.text(t))
	if err != nil {
		t.Fatalf("%v: %s", err, s.text(t))
	}
	return c
}

// TestHFRoundTrip writes configurations and reads them again.
func TestHFRoundTrip(t *testing.T) {
	for name, s := range configs() {
		t.Run(name, func(t *testing.T) {
			want := parse(t, s)
			text, err := want.HF()
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseHF(text)
			if err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v\nfrom %s", got, want, text)
			}
		})
	}
}

// TestSpellings reads the same configuration as different releases of
// transformers write it.
func TestSpellings(t *testing.T) {
	llama, gemma := smallConfig("LlamaForCausalLM"), smallConfig("Gemma3ForCausalLM")
	linear := settings{"rope_type": "linear", "rope_theta": 5e5, "factor": 2}
	tests := []struct {
		name           string
		one, other     settings
		inArchitecture bool // the class differs
	}{
		{name: "theta inside", one: llama.with(settings{"rope_theta": 5e5, "rope_scaling": settings{"type": "linear", "factor": 2}}),
			other: llama.with(settings{"rope_parameters": linear})},
		{name: "dtype", one: llama, other: llama.with(settings{"torch_dtype": absent, "dtype": "bfloat16"})},
		{name: "null scaling", one: llama, other: llama.with(settings{"rope_scaling": nil})},
		{name: "floats", one: llama, other: llama.with(settings{"hidden_size": 48.0, "num_hidden_layers": json.Number("8.0")})},
		{name: "as many key heads", one: llama.with(settings{"num_key_value_heads": 6}), other: llama.with(settings{"num_key_value_heads": absent})},
		{name: "implied head_dim", one: llama, other: llama.with(settings{"head_dim": nil})},
		{name: "defaults", one: llama.with(settings{"rope_theta": 10000, "hidden_act": "silu", "tie_word_embeddings": false}), other: llama},
		{name: "model_type alone", one: llama, other: llama.with(settings{"architectures": absent, "model_type": "llama"})},
		{name: "first class unknown", one: llama, other: llama.with(settings{"architectures": []string{"LlamaForCausalLM", "Other"}})},
		{name: "windows not used", one: smallConfig("Qwen2ForCausalLM"),
			other: smallConfig("Qwen2ForCausalLM").with(settings{"use_sliding_window": false, "sliding_window": 5, "max_window_layers": 0})},
		{name: "ropes by layer type", one: gemma.with(settings{"rope_theta": 2e6, "rope_local_base_freq": 300, "rope_scaling": settings{"rope_type": "linear", "factor": 8}}),
			other: gemma.with(settings{"rope_parameters": settings{
				"full_attention":    settings{"rope_type": "linear", "factor": 8, "rope_theta": 2e6},
				"sliding_attention": settings{"rope_type": "default", "rope_theta": 300}}})},
		{name: "pattern or types", one: gemma.with(settings{"sliding_window_pattern": 4}), other: gemma.with(settings{"layer_types": kinds("sssfsssf")})},
		{name: "inside a multimodal model", one: gemma, inArchitecture: true,
			other: settings{"architectures": []string{"Gemma3ForConditionalGeneration"}, "model_type": "gemma3", "torch_dtype": "bfloat16",
				"text_config": gemma.with(settings{"architectures": absent, "torch_dtype": absent}), "vision_config": settings{"hidden_size": 7}}},
	}
	for _, tt := range tests {
		one, other := parse(t, tt.one), parse(t, tt.other)
		if tt.inArchitecture {
			other.Architecture = one.Architecture
		}
		if !reflect.DeepEqual(one, other) {
			t.Errorf("%s: %+v\nis read from one, %+v\nfrom the other", tt.name, one, other)
		}
	}
}

// TestParseHFRefuses checks that errors name the key, what was seen and what is
// allowed.
func TestParseHFRefuses(t *testing.T) {
	llama, mistral := smallConfig("LlamaForCausalLM"), smallConfig("MistralForCausalLM")
	moe := smallConfig("Qwen3MoeForCausalLM")
	qwen2, gemma := smallConfig("Qwen2ForCausalLM").with(settings{"use_sliding_window": true}), smallConfig("Gemma3ForCausalLM")
	scaling := func(keys settings) settings { return llama.with(settings{"rope_scaling": keys}) }
	yarn := settings{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 1024}
	llama3 := settings{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
	tests := []struct {
		config settings
		want   []string
	}{
		{settings{}, []string{`unsupported architecture "none"`, "LlamaForCausalLM", "Gemma3ForCausalLM"}},
		{smallConfig("MambaForCausalLM"), []string{`"MambaForCausalLM"`, "Qwen2ForCausalLM"}},
		{llama.with(settings{"architectures": "LlamaForCausalLM"}), []string{"architectures is", "a list of names"}},
		{llama.with(settings{"hidden_size": absent}), []string{"hidden_size is missing"}},
		{llama.with(settings{"hidden_size": "48"}), []string{`hidden_size is "48"`, "a whole number"}},
		{llama.with(settings{"hidden_size": 48.5}), []string{"hidden_size is 48.5", "a whole number"}},
		{llama.with(settings{"hidden_size": 0}), []string{"hidden_size is 0", "1 to 1048576"}},
		{llama.with(settings{"hidden_size": 1e300}), []string{"hidden_size is 1e", "a whole number"}},
		{llama.with(settings{"hidden_size": 50, "head_dim": absent}), []string{"hidden_size is 50", "num_attention_heads, 6"}},
		{llama.with(settings{"vocab_size": -1}), []string{"vocab_size is -1", "1 to 16777216"}},
		{llama.with(settings{"num_hidden_layers": 1 << 40}), []string{"num_hidden_layers is 1099511627776", "1 to 4096"}},
		{llama.with(settings{"num_attention_heads": 0, "head_dim": absent}), []string{"num_attention_heads is 0"}},
		{llama.with(settings{"num_key_value_heads": 4}), []string{"num_attention_heads is 6", "num_key_value_heads, 4"}},
		{llama.with(settings{"num_attention_heads": 4096, "num_key_value_heads": 1, "head_dim": 4096}), []string{"num_attention_heads times head_dim is 16777216"}},
		{llama.with(settings{"head_dim": 7}), []string{"7 of 7 elements", "head_dim"}},
		{llama.with(settings{"rms_norm_eps": -1}), []string{"rms_norm_eps is -1", "0 to 1"}},
		{llama.with(settings{"hidden_act": "swiglu"}), []string{`hidden_act is "swiglu"`, "silu"}},
		{llama.with(settings{"tie_word_embeddings": "yes"}), []string{`tie_word_embeddings is "yes"`, "true or false"}},
		{llama.with(settings{"eos_token_id": "end"}), []string{`eos_token_id is "end"`, "a token id or a list"}},
		{llama.with(settings{"rope_theta": 0.5}), []string{"rope_theta is 0.5", "more than 1"}},
		{llama.with(settings{"rope_scaling": "linear"}), []string{"rope_scaling"}},
		{llama.with(settings{"partial_rotary_factor": 1.5}), []string{"partial_rotary_factor is 1.5"}},
		{scaling(settings{"rope_type": "longrope"}), []string{`rope_scaling.rope_type is "longrope"`, "llama3, yarn"}},
		{scaling(settings{"type": "linear"}), []string{"rope_scaling: factor is missing"}},
		{scaling(settings{"type": "linear", "factor": -2}), []string{"rope_scaling.factor is -2", "more than 0"}},
		{scaling(settings{"type": "linear", "factor": "2"}), []string{`factor is "2"`, "a number"}},
		{scaling(llama3.with(settings{"low_freq_factor": absent})), []string{"low_freq_factor is missing"}},
		{scaling(llama3.with(settings{"high_freq_factor": 1})), []string{"high_freq_factor is 1", "more than low_freq_factor"}},
		{scaling(llama3.with(settings{"original_max_position_embeddings": -1})), []string{"original_max_position_embeddings is -1"}},
		{scaling(yarn.with(settings{"beta_fast": -1})), []string{"beta_fast is -1"}},
		{scaling(yarn.with(settings{"attention_factor": -1})), []string{"attention_factor is -1"}},
		{llama.with(settings{"rope_parameters": settings{"full_attention": yarn, "sliding_attention": yarn}}), []string{"differs by layer type", "llama family"}},
		{moe.with(settings{"num_experts": 0}), []string{"num_experts is 0", "1 to 4096"}},
		{moe.with(settings{"num_experts": 1 << 20}), []string{"num_experts is 1048576", "1 to 4096"}},
		{moe.with(settings{"num_experts": 4096, "num_hidden_layers": 4096}), []string{"num_experts is 4096", "1 to 32"}},
		{moe.with(settings{"num_experts_per_tok": 129}), []string{"num_experts_per_tok is 129", "1 to 128"}},
		{moe.with(settings{"moe_intermediate_size": -1}), []string{"moe_intermediate_size is -1"}},
		{moe.with(settings{"mlp_only_layers": []int{0}}), []string{"mlp_only_layers", "every block"}},
		{moe.with(settings{"decoder_sparse_step": 2}), []string{"decoder_sparse_step", "every block"}},
		{smallConfig("Qwen2MoeForCausalLM").with(settings{"shared_expert_intermediate_size": 0}), []string{"shared_expert_intermediate_size is 0"}},
		{smallConfig("Qwen2MoeForCausalLM").with(settings{"qkv_bias": false}), []string{"qkv_bias is false", "only true"}},
		{smallConfig("OlmoeForCausalLM").with(settings{"clip_qkv": 8}), []string{"clip_qkv is 8", "only null"}},
		{mistral.with(settings{"sliding_window": 0}), []string{"sliding_window is 0", "1 or more, or null"}},
		{mistral.with(settings{"sliding_window": 1 << 31}), []string{"sliding_window is 2147483648"}},
		{qwen2.with(settings{"layer_types": kinds("fs")}), []string{"layer_types has 2 entries", "num_hidden_layers 8"}},
		{qwen2.with(settings{"layer_types": []string{"f", "s", "", "", "", "", "", ""}}), []string{`layer_types[0] is "f"`, "full_attention, sliding_attention"}},
		{gemma.with(settings{"sliding_window_pattern": 0}), []string{"sliding_window_pattern is 0"}},
		{gemma.with(settings{"query_pre_attn_scalar": 0}), []string{"query_pre_attn_scalar"}},
		{gemma.with(settings{"final_logit_softcapping": -3}), []string{"final_logit_softcapping is -3"}},
		{gemma.with(settings{"attn_logit_softcapping": 50}), []string{"attn_logit_softcapping is 50", "only null"}},
		{gemma.with(settings{"use_bidirectional_attention": true}), []string{"use_bidirectional_attention is true"}},
		{gemma.with(settings{"text_config": []int{1}}), []string{"text_config"}},
	}
	for _, tt := range tests {
		_, err := ParseHF(tt.config.text(t))
		if err == nil {
			t.Errorf("no error, want %q: %s", tt.want, tt.config.text(t))
			continue
		}
		if fault.KindOf(err) != fault.InvalidFile {
			t.Errorf("%v: not marked as an invalid input", err)
		}
		for _, want := range append(tt.want, "config.json: ") {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: want %q in it", err, want)
			}
		}
	}
	for _, text := range []string{"", "null", "[]", "{", `{"a": 1, "a": 2}`, strings.Repeat(`{"a":`, 100000)} {
		if _, err := ParseHF([]byte(text)); fault.KindOf(err) != fault.InvalidFile {
			t.Errorf("%.20q: got %v, want an error about the file", text, err)
		}
	}
}

// TestWindowsByBlock spells out which blocks see what.
func TestWindowsByBlock(t *testing.T) {
	for name, want := range map[string]string{
		"mistral": "0 0 0 0 0 0 0 0", "mistral, window": "32 32 32 32 32 32 32 32",
		"qwen2, window": "0 0 0 32 32 32 32 32", "qwen2, layer types": "0 32 32 0 0 32 32 0",
		"gemma3": "16 16 16 16 16 0 16 16", "gemma3, pattern": "16 16 0 16 16 0 16 16",
	} {
		c := parse(t, configs()[name])
		var got []string
		for b := range c.Blocks {
			got = append(got, fmt.Sprint(c.WindowOf(b)))
			theta := c.Rope.Theta
			if c.Family.LocalRope && c.WindowOf(b) > 0 {
				theta = c.LocalRope.Theta
			}
			if c.RopeOf(b).Theta != theta {
				t.Errorf("%s: block %d rotates with base %v, want %v", name, b, c.RopeOf(b).Theta, theta)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: windows are %v, want %s", name, got, want)
		}
	}
}

// TestYaRN reads the switches of YaRN's rotation and their defaults.
func TestYaRN(t *testing.T) {
	base := Rope{Type: RopeYaRN, Theta: 10000, Dims: 8, Factor: 4, OriginalContext: 1024, BetaFast: 32, BetaSlow: 1, AttnFactor: 0.1*math.Log(4) + 1}
	for _, tt := range []struct {
		keys settings
		want func(r *Rope)
	}{
		{settings{}, func(*Rope) {}},
		{settings{"factor": absent}, func(*Rope) {}}, // the training context over the original one
		{settings{"truncate": true}, func(*Rope) {}},
		{settings{"truncate": false}, func(r *Rope) { r.NoTruncate = true }},
		{settings{"beta_fast": 20, "beta_slow": 2}, func(r *Rope) { r.BetaFast, r.BetaSlow = 20, 2 }},
		{settings{"attention_factor": 1.5}, func(r *Rope) { r.AttnFactor = 1.5 }},
		{settings{"mscale": 2, "mscale_all_dim": 1}, func(r *Rope) { r.AttnFactor = (0.2*math.Log(4) + 1) / (0.1*math.Log(4) + 1) }},
		{settings{"mscale": 2}, func(*Rope) {}},
		{settings{"original_max_position_embeddings": absent}, func(r *Rope) { r.OriginalContext = 4096 }},
		{settings{"factor": 0.5}, func(r *Rope) { r.Factor, r.AttnFactor = 0.5, 1 }},
	} {
		keys := settings{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 1024}.with(tt.keys)
		want := base
		tt.want(&want)
		if got := parse(t, smallConfig("LlamaForCausalLM").with(settings{"rope_scaling": keys})).Rope; got != want {
			t.Errorf("%v: got %+v, want %+v", tt.keys, got, want)
		}
	}
}

// FuzzConfig reads any config.json: an error about the file, or a configuration
// that can be used and written, in bounded time and memory.
func FuzzConfig(f *testing.F) {
	for _, s := range configs() {
		f.Add(s.text(f))
	}
	f.Add([]byte(`{"architectures": ["Gemma3ForCausalLM"], "text_config": {"num_hidden_layers": 4096, "head_dim": 2}, "rope_parameters": {"sliding_attention": {}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseHF(text)
		if err != nil {
			if fault.KindOf(err) != fault.InvalidFile {
				t.Fatalf("not marked as an invalid input: %v", err)
			}
			return
		}
		if c.Blocks > 64 {
			return // only slower
		}
		for _, id := range c.IDs() {
			for _, n := range c.Shape(id) {
				if n < 1 {
					t.Fatalf("%s has shape %v", id, c.Shape(id))
				}
			}
		}
		if c.Parameters() < 1 {
			t.Fatalf("%d parameters", c.Parameters())
		}
		out, err := c.HF()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseHF(out); err != nil {
			t.Fatalf("what is written is not read: %v: %s", err, out)
		}
		_, _ = c.GGUF() // may refuse, must not panic
	})
}
