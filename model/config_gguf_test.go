package model

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/internal/fault"
)

// ggufOf returns a configuration's metadata with the tensors that say the rest.
func ggufOf(t *testing.T, c *Config) *formats.Checkpoint {
	t.Helper()
	meta, err := c.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	var list []raw.Tensor
	for _, id := range c.IDs() {
		x := raw.Tensor{Name: c.Family.TensorName(formats.GGUF, id), Type: dtype.F32, Shape: c.Shape(id)}
		switch {
		case id.Expert == ExpertAt(0):
			x.Shape = append([]int{c.Experts.Count}, x.Shape...)
		case id.Expert != NoExpert:
			continue // in one tensor with the first
		}
		x.Data = make([]byte, 4*x.Elements())
		list = append(list, x)
	}
	return openGGUF(t, meta, list)
}

// TestGGUFRoundTrip writes configurations as metadata and reads them again. What
// GGUF does not hold, or holds elsewhere, is set aside.
func TestGGUFRoundTrip(t *testing.T) {
	for name, s := range configs() {
		t.Run(name, func(t *testing.T) {
			want := parse(t, s)
			if _, err := want.GGUF(); err != nil {
				t.Skip(err) // TestGGUFRefuses has these
			}
			got, err := ReadConfig(ggufOf(t, &want))
			if err != nil {
				t.Fatal(err)
			}
			want.BOS, want.EOS, want.Pad, want.TrainedType = nil, nil, -1, "" // the tokenizer's and each tensor's
			if want.Family.Name == "mistral" {
				want.Family, want.Architecture = Families[0], "LlamaForCausalLM"
			}
			if want.Family.Window != windowPattern {
				want.Window, want.Windowed = 0, nil // llama.cpp runs these without
				want.LocalRope = want.Rope
			}
			if want.Rope.Type == RopeLlama3 { // the tensor rope_freqs says it
				want.Rope = Rope{Type: RopeDefault, Theta: want.Rope.Theta, Dims: want.Rope.Dims}
				want.LocalRope = want.Rope
			}
			round := func(v *float64) { *v = float64(float32(*v)) }
			for _, c := range []*Config{&got, &want} {
				for _, r := range []*Rope{&c.Rope, &c.LocalRope} {
					r.NoTruncate = false
					round(&r.AttnFactor)
				}
				round(&c.NormEps)
				round(&c.AttnScale)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestGGUFKeys pins the keys that llama.cpp's loader asks for, with their types.
func TestGGUFKeys(t *testing.T) {
	yarn := configs()["llama, yarn, all"].with(settings{"rms_norm_eps": 1e-5})
	delete(yarn["rope_scaling"].(settings), "truncate")
	for _, tt := range []struct {
		name   string
		config settings
		want   map[string]any
	}{
		{"llama", yarn, map[string]any{
			"general.architecture": "llama", "llama.block_count": uint32(8), "llama.context_length": uint32(4096),
			"llama.embedding_length": uint32(48), "llama.feed_forward_length": uint32(64), "llama.vocab_size": uint32(100),
			"llama.attention.head_count": uint32(6), "llama.attention.head_count_kv": uint32(2),
			"llama.attention.key_length": uint32(8), "llama.attention.value_length": uint32(8),
			"llama.attention.layer_norm_rms_epsilon": float32(1e-5),
			"llama.rope.dimension_count":             uint32(8), "llama.rope.freq_base": float32(10000),
			"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": float32(4),
			"llama.rope.scaling.original_context_length": uint32(1024),
			"llama.rope.scaling.yarn_beta_fast":          float32(16), "llama.rope.scaling.yarn_beta_slow": float32(2),
			// llama.cpp multiplies this with 0.1 ln(factor) + 1 itself.
			"llama.rope.scaling.attn_factor": float32(1.25 / (0.1*math.Log(4) + 1)),
		}},
		{"gemma3", configs()["gemma3, layer types"].with(settings{"rope_local_base_freq": 500, "final_logit_softcapping": 30}), map[string]any{
			"general.architecture": "gemma3", "gemma3.attention.sliding_window": uint32(16),
			"gemma3.attention.sliding_window_pattern": []bool{true, false, true, false, false, false, true, true},
			"gemma3.rope.freq_base":                   float32(1e6), "gemma3.rope.freq_base_swa": float32(500),
			"gemma3.final_logit_softcapping": float32(30),
		}},
	} {
		c := parse(t, tt.config)
		meta, err := c.GGUF()
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range tt.want {
			if got, _ := meta.Get(key); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %s is %v (%T), want %v (%T)", tt.name, key, got, got, want, want)
			}
		}
	}
}

// TestGGUFDefaults takes out what llama.cpp does not insist on.
func TestGGUFDefaults(t *testing.T) {
	for _, name := range []string{"llama", "gemma3"} {
		want := parse(t, configs()[name].with(settings{"num_key_value_heads": 6, "rope_theta": 10000, "query_pre_attn_scalar": 8}))
		meta, err := want.GGUF()
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base", "vocab_size"} {
			meta.Delete(want.Family.GGUF + "." + key)
		}
		if err := meta.Set("tokenizer.ggml.tokens", make([]string, want.Vocab)); err != nil {
			t.Fatal(err)
		}
		if err := meta.Set("tokenizer.ggml.eos_token_id", uint32(7)); err != nil {
			t.Fatal(err)
		}
		got, err := ReadConfig(&formats.Checkpoint{Kind: formats.GGUF, Meta: meta})
		if err != nil {
			t.Fatal(err)
		}
		if got.KVHeads != 6 || got.HeadDim != 8 || got.Rope != want.Rope || got.Vocab != want.Vocab || !got.Tied || !slices.Equal(got.EOS, []int{7}) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// TestGGUFReads sets keys to what writers of GGUF files may set them to.
func TestGGUFReads(t *testing.T) {
	same := func(v int32) []int32 { return slices.Repeat([]int32{v}, 8) }
	tests := []struct {
		name string
		set  map[string]any
		want func(c *Config) bool
	}{
		{"per block, all alike", map[string]any{"llama.feed_forward_length": same(64), "llama.attention.head_count": same(6)}, func(c *Config) bool { return c.FFN == 64 && c.Heads == 6 }},
		{"other integers", map[string]any{"llama.block_count": uint64(8), "llama.embedding_length": int32(48)}, func(c *Config) bool { return c.Blocks == 8 && c.Hidden == 48 }},
		{"linear by default", map[string]any{"llama.rope.scaling.factor": float32(2)}, func(c *Config) bool { return c.Rope.Type == RopeLinear && c.Rope.Factor == 2 }},
		{"old key", map[string]any{"llama.rope.scale_linear": float32(4)}, func(c *Config) bool { return c.Rope.Type == RopeLinear && c.Rope.Factor == 4 }},
		{"no scaling", map[string]any{"llama.rope.scaling.factor": float32(2), "llama.rope.scaling.type": "none"}, func(c *Config) bool { return c.Rope.Type == RopeDefault }},
		{"yarn of the training context", map[string]any{"llama.rope.scaling.factor": float32(2), "llama.rope.scaling.type": "yarn"}, func(c *Config) bool {
			return c.Rope.Type == RopeYaRN && c.Rope.OriginalContext == 4096 && math.Abs(c.Rope.AttnFactor-1.0693147) < 1e-6
		}},
		{"window not applied", map[string]any{"llama.attention.sliding_window": uint32(16)}, func(c *Config) bool { return c.WindowOf(0) == 0 }},
		{"gemma's pattern as a number", map[string]any{"general.architecture": "gemma3", "gemma3.attention.sliding_window": uint32(16), "gemma3.attention.sliding_window_pattern": uint32(2)}, func(c *Config) bool {
			return c.WindowOf(0) == 16 && c.WindowOf(1) == 0 && c.WindowOf(2) == 16 && c.RopeOf(0).Theta == 10000
		}},
	}
	for _, tt := range tests {
		c, err := ReadConfig(changedGGUF(t, tt.set))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if !tt.want(&c) {
			t.Errorf("%s: read as %+v", tt.name, c)
		}
	}
}

// changedGGUF is a good llama or gemma3 with keys set anew, or taken out.
func changedGGUF(t *testing.T, set map[string]any) *formats.Checkpoint {
	t.Helper()
	name := "llama"
	if set["general.architecture"] == "gemma3" {
		name = "gemma3"
	}
	c := parse(t, configs()[name])
	meta, err := c.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	if err := meta.Set("tokenizer.ggml.tokens", make([]string, c.Vocab)); err != nil {
		t.Fatal(err)
	}
	for key, value := range set {
		if value == absent {
			meta.Delete(key)
		} else if err := meta.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	return &formats.Checkpoint{Kind: formats.GGUF, Meta: meta}
}

func TestGGUFReadRefuses(t *testing.T) {
	tests := []struct {
		set  map[string]any
		want []string
	}{
		{map[string]any{"general.architecture": absent}, []string{`unsupported architecture "none"`, "gemma3, llama, olmoe, qwen2, qwen2moe, qwen3, qwen3moe"}},
		{map[string]any{"general.architecture": "mamba"}, []string{`"mamba"`}},
		{map[string]any{"general.architecture": uint32(3)}, []string{"unsupported architecture"}},
		{map[string]any{"llama.block_count": absent}, []string{"the metadata has no llama.block_count"}},
		{map[string]any{"llama.block_count": "8"}, []string{"llama.block_count is 8, want a whole number"}},
		{map[string]any{"llama.block_count": uint32(math.MaxUint32)}, []string{"llama.block_count is 2147483647", "1 to 4096"}},
		{map[string]any{"llama.embedding_length": uint64(math.MaxUint64)}, []string{"llama.embedding_length"}},
		{map[string]any{"llama.context_length": uint32(0)}, []string{"llama.context_length is 0"}},
		{map[string]any{"llama.feed_forward_length": []int32{64, 64, 32}}, []string{"llama.feed_forward_length", "the same for every block"}},
		{map[string]any{"llama.attention.head_count": []int32{}}, []string{"llama.attention.head_count", "the same for every block"}},
		{map[string]any{"llama.attention.head_count_kv": uint32(0)}, []string{"llama.attention.head_count_kv is 0"}},
		{map[string]any{"llama.attention.value_length": uint32(4)}, []string{"llama.attention.value_length is 4", "llama.attention.key_length"}},
		{map[string]any{"llama.attention.layer_norm_rms_epsilon": absent}, []string{"no llama.attention.layer_norm_rms_epsilon"}},
		{map[string]any{"llama.attention.layer_norm_rms_epsilon": float32(math.NaN())}, []string{"llama.attention.layer_norm_rms_epsilon is NaN"}},
		{map[string]any{"llama.rope.freq_base": "many"}, []string{"llama.rope.freq_base is many, want a number"}},
		{map[string]any{"llama.rope.dimension_count": uint32(3)}, []string{"3 of 8 elements", "llama.rope.dimension_count"}},
		{map[string]any{"llama.rope.scaling.type": "longrope"}, []string{"llama.rope.scaling.type is longrope", "none, linear or yarn"}},
		{map[string]any{"llama.rope.scaling.factor": float32(-1)}, []string{"llama.rope.scaling.factor is -1"}},
		{map[string]any{"llama.rope.scaling.attn_factor": float32(2)}, []string{"llama.rope.scaling.attn_factor is 2"}},
		{map[string]any{"llama.expert_count": uint32(8)}, []string{"no llama.expert_used_count"}},
		{map[string]any{"llama.expert_count": uint32(8), "llama.expert_used_count": uint32(9)}, []string{"llama.expert_used_count is 9", "1 to 8"}},
		{map[string]any{"llama.expert_count": uint32(5000), "llama.expert_used_count": uint32(2)}, []string{"llama.expert_count is 5000", "1 to 4096"}},
		{map[string]any{"llama.expert_count": uint32(8), "llama.expert_used_count": uint32(2), "llama.expert_group_count": uint32(2)}, []string{"llama.expert_group_count is 2", "groups of experts"}},
		{map[string]any{"llama.expert_count": uint32(8), "llama.expert_used_count": uint32(2), "llama.expert_weights_scale": float32(2.5)}, []string{"llama.expert_weights_scale is 2.5"}},
		{map[string]any{"general.architecture": "gemma3", "gemma3.expert_count": uint32(8)}, []string{"gemma3.expert_count is 8", "mixtures of experts"}},
		{map[string]any{"general.architecture": "gemma3", "gemma3.attention.sliding_window_pattern": []bool{true}}, []string{"gemma3.attention.sliding_window_pattern has 1 entries for 8 blocks"}},
		{map[string]any{"general.architecture": "gemma3", "gemma3.attention.sliding_window": float32(1)}, []string{"gemma3.attention.sliding_window is 1"}},
	}
	for _, tt := range tests {
		_, err := ReadConfig(changedGGUF(t, tt.set))
		if err == nil {
			t.Errorf("%v: no error", tt.set)
			continue
		}
		if fault.KindOf(err) != fault.InvalidFile {
			t.Errorf("%v: not marked as an invalid input", err)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: want %q in it", err, want)
			}
		}
	}
}

// FuzzGGUFConfig sets any key of a good file to any number or text.
func FuzzGGUFConfig(f *testing.F) {
	f.Add("llama", "block_count", int64(5), "")
	f.Add("gemma3", "attention.sliding_window_pattern", int64(-1), "")
	f.Add("qwen3", "rope.scaling.type", int64(0), "yarn")
	f.Add("qwen2", "rope.scaling.factor", int64(math.MinInt64), "")
	f.Fuzz(func(t *testing.T, arch, key string, number int64, text string) {
		family, err := FamilyOf(formats.GGUF, arch)
		if err != nil {
			return
		}
		c, err := ParseHF(smallConfig(family.Architectures[0]).with(settings{"query_pre_attn_scalar": 8}).text(t))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := c.GGUF()
		if err != nil {
			t.Fatal(err)
		}
		values := []any{number, uint32(number), math.Float64frombits(uint64(number)), []int64{number}, slices.Repeat([]bool{number&1 == 1}, int(number&15)), text}
		for _, v := range values {
			changed := &formats.Checkpoint{Kind: formats.GGUF, Meta: withKey(meta, arch+"."+key, v)}
			if _, err := ReadConfig(changed); err != nil && fault.KindOf(err) != fault.InvalidFile {
				t.Fatalf("not marked as an invalid input: %v", err)
			}
		}
	})
}

func withKey(meta *gguf.Metadata, key string, value any) *gguf.Metadata {
	out := meta.Clone()
	if out.Set(key, value) != nil {
		return meta // not a value that GGUF has
	}
	if out.Set("tokenizer.ggml.tokens", []string{"a", "b"}) != nil {
		return meta
	}
	return out
}
