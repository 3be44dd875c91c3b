package model

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"llmc/formats"
	"llmc/formats/gguf"
	"llmc/internal/fault"
)

// ggufKeys are GGUF's names for the Hugging Face keys that errors speak of.
var ggufKeys = map[string]string{
	"vocab_size":              "vocab_size",
	"hidden_size":             "embedding_length",
	"intermediate_size":       "feed_forward_length",
	"num_hidden_layers":       "block_count",
	"num_attention_heads":     "attention.head_count",
	"num_key_value_heads":     "attention.head_count_kv",
	"head_dim":                "attention.key_length",
	"max_position_embeddings": "context_length",
	"rms_norm_eps":            "attention.layer_norm_rms_epsilon",
	"sliding_window":          "attention.sliding_window",
	"num_experts":             "expert_count",
	"num_local_experts":       "expert_count",
	"num_experts_per_tok":     "expert_used_count",
	"moe_intermediate_size":   "expert_feed_forward_length",

	"shared_expert_intermediate_size":               "expert_shared_feed_forward_length",
	"layer_types":                                   "attention.sliding_window_pattern",
	"rope_theta":                                    "rope.freq_base",
	"rope_local_base_freq":                          "rope.freq_base_swa",
	"partial_rotary_factor":                         "rope.dimension_count",
	"final_logit_softcapping":                       "final_logit_softcapping",
	"rope_scaling.factor":                           "rope.scaling.factor",
	"rope_scaling.original_max_position_embeddings": "rope.scaling.original_context_length",
	"rope_scaling.beta_fast":                        "rope.scaling.yarn_beta_fast",
	"rope_scaling.beta_slow":                        "rope.scaling.yarn_beta_slow",
	"rope_scaling.attention_factor":                 "rope.scaling.attn_factor",
}

// ggufReader reads one architecture's keys and keeps the first error.
type ggufReader struct {
	meta *gguf.Metadata
	arch string
	err  error
}

// key is the full name of a key that is given in Hugging Face's spelling.
func (r *ggufReader) key(hf string) string {
	if name, ok := ggufKeys[hf]; ok {
		return r.arch + "." + name
	}
	return r.arch + "." + hf
}

func (r *ggufReader) wrong(key, want string) {
	if r.err != nil {
		return
	}
	if r.meta.Has(key) {
		value, _ := r.meta.Get(key)
		r.err = fault.Invalid("%s is %.60s, want %s", key, fmt.Sprint(value), want)
		return
	}
	r.err = fault.Invalid("the metadata has no %s, want %s", key, want)
}

// integer reads a whole number; a missing key is an error unless otherwise is
// given. Numbers out of an int32's range are left to validate, clipped.
func (r *ggufReader) integer(hf string, otherwise ...int) int {
	key := r.key(hf)
	v, ok := r.meta.Int(key)
	if !ok {
		if len(otherwise) == 0 || r.meta.Has(key) {
			r.wrong(key, "a whole number")
			return 0
		}
		return otherwise[0]
	}
	return int(min(max(v, math.MinInt32), math.MaxInt32))
}

// perBlock reads a number that may be given once or for every block, in which
// case all must agree.
func (r *ggufReader) perBlock(hf string, otherwise ...int) int {
	all, ok := r.meta.Ints(r.key(hf))
	if !ok {
		return r.integer(hf, otherwise...)
	}
	if len(all) == 0 || slices.Max(all) != slices.Min(all) {
		r.wrong(r.key(hf), "the same for every block")
		return 0
	}
	return int(min(max(all[0], math.MinInt32), math.MaxInt32))
}

func (r *ggufReader) number(hf string, otherwise ...float64) float64 {
	key := r.key(hf)
	v, ok := r.meta.Float(key)
	if !ok {
		if len(otherwise) == 0 || r.meta.Has(key) {
			r.wrong(key, "a number")
			return 0
		}
		return otherwise[0]
	}
	return shortest(v)
}

// shortest is the decimal number that people wrote before it was stored as a
// float32: 1e-05 where the file holds 0.000009999999747378752.
func shortest(v float64) float64 {
	if f, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', -1, 32), 64); err == nil {
		return f
	}
	return v
}

// configFromGGUF reads a configuration from metadata, and from the tensors
// what GGUF does not say in words: whether head and biases are there.
func configFromGGUF(c *formats.Checkpoint) (Config, error) {
	arch, _ := c.Meta.String("general.architecture")
	family, err := FamilyOf(formats.GGUF, arch)
	if err != nil {
		return Config{}, err
	}
	r := &ggufReader{meta: c.Meta, arch: arch}
	if r.integer("expert_count", 0) > 0 {
		if family, _ = mixtureOf(arch); family == nil {
			r.wrong(r.key("expert_count"), "0: mixtures of experts of this architecture are not supported")
			return Config{}, r.err
		}
	}
	cfg := Config{Family: family, Architecture: family.Architectures[0], Pad: -1}
	cfg.Blocks = r.integer("num_hidden_layers")
	cfg.Context = r.integer("max_position_embeddings")
	cfg.Hidden = r.integer("hidden_size")
	cfg.FFN = r.perBlock("intermediate_size")
	cfg.Heads = r.perBlock("num_attention_heads")
	cfg.KVHeads = r.perBlock("num_key_value_heads", cfg.Heads)
	cfg.HeadDim = r.integer("head_dim", cfg.Hidden/max(cfg.Heads, 1))
	if v := r.integer("attention.value_length", cfg.HeadDim); v != cfg.HeadDim {
		r.wrong(r.key("attention.value_length"), "the same as "+r.key("head_dim"))
	}
	cfg.NormEps = r.number("rms_norm_eps")
	cfg.LogitCap = 0
	if family.LogitCap {
		cfg.LogitCap = r.number("final_logit_softcapping", 0)
	}
	r.mixture(&cfg)
	cfg.Activation = family.activation()
	cfg.readTensors(c)
	r.rope(&cfg)
	r.window(&cfg)
	r.tokens(&cfg)
	if r.err != nil {
		return Config{}, r.err
	}
	cfg.AttnScale = cfg.ggufAttnScale()
	cfg.finish()
	return cfg, cfg.validate(r.key)
}

// readTensors takes from the tensors what metadata does not say.
func (c *Config) readTensors(from *formats.Checkpoint) {
	has := func(id ID) bool {
		_, ok := from.Tensor(c.Family.TensorName(formats.GGUF, id))
		return ok
	}
	c.Tied = !has(ID{Role: Head, Block: -1})
	c.QKVBias = c.Family.QKVBias || has(ID{Role: Q, Bias: true})
	c.OBias = has(ID{Role: O, Bias: true})
	c.MLPBias = c.Family.Mixture == nil && has(ID{Role: Down, Bias: true})
	if t, ok := from.Tensor(c.Family.TensorName(formats.GGUF, ID{Role: Embed, Block: -1})); ok && len(t.Shape) == 2 {
		c.Vocab = t.Shape[0]
	} else if tokens, ok := from.Meta.Strings("tokenizer.ggml.tokens"); ok {
		c.Vocab = len(tokens)
	}
}

func (r *ggufReader) rope(c *Config) {
	c.Rope = Rope{
		Type:  RopeDefault,
		Theta: r.number("rope_theta", 10000), // llama.cpp's default for every architecture
		Dims:  r.integer("partial_rotary_factor", c.HeadDim),
	}
	c.LocalRope = c.Rope
	c.LocalRope.Theta = r.number("rope_local_base_freq", 10000)
	kind, _ := r.meta.String(r.arch + ".rope.scaling.type")
	factor := r.number("rope_scaling.factor", r.number("rope.scale_linear", 1))
	attn := r.number("rope_scaling.attention_factor", 1)
	if attn != 1 && kind != "yarn" {
		r.wrong(r.key("rope_scaling.attention_factor"), "1, or rope.scaling.type yarn")
	}
	switch kind {
	case "none":
		return
	case "", "linear":
		if factor != 1 && factor != 0 {
			c.Rope.Type, c.Rope.Factor = RopeLinear, factor
		}
	case "yarn":
		c.Rope.Type, c.Rope.Factor = RopeYaRN, factor
		c.Rope.OriginalContext = r.integer("rope_scaling.original_max_position_embeddings", c.Context)
		c.Rope.BetaFast = r.number("rope_scaling.beta_fast", 32)
		c.Rope.BetaSlow = r.number("rope_scaling.beta_slow", 1)
		// GGUF's factor multiplies the paper's temperature; ours is the product.
		c.Rope.AttnFactor = attn * yarnAttnFactor(factor, 1)
	default:
		r.wrong(r.arch+".rope.scaling.type", "none, linear or yarn")
	}
}

// window reads the sliding window of the families for which llama.cpp applies
// one: it runs Mistral and Qwen without.
func (r *ggufReader) window(c *Config) {
	if c.Family.Window != windowPattern {
		return
	}
	if c.Window = r.integer("sliding_window", 0); c.Window == 0 {
		return
	}
	if pattern, ok := r.meta.Bools(r.key("layer_types")); ok {
		c.Windowed = pattern
		return
	}
	fallback, _ := c.Family.Defaults["sliding_window_pattern"].(int)
	every := r.integer("layer_types", fallback)
	if c.Blocks < 1 || c.Blocks > maxBlocks {
		return // validate will say so
	}
	c.Windowed = make([]bool, c.Blocks)
	for b := range c.Windowed {
		c.Windowed[b] = every <= 0 || b%every < every-1
	}
}

func (r *ggufReader) tokens(c *Config) {
	id := func(key string) []int {
		if v, ok := r.meta.Int("tokenizer.ggml." + key); ok && v >= 0 && v < int64(maxVocab) {
			return []int{int(v)}
		}
		return nil
	}
	c.BOS, c.EOS = id("bos_token_id"), id("eos_token_id")
	if pad := id("padding_token_id"); pad != nil {
		c.Pad = pad[0]
	}
}

// GGUF returns the configuration as the metadata that llama.cpp expects of the
// architecture. The tokenizer's and the general keys besides the architecture
// are left to the caller. What llama.cpp could not run is an error;
// [Config.GGUFNotes] has what it runs a little differently.
func (c *Config) GGUF() (*gguf.Metadata, error) {
	if err := c.checkGGUF(); err != nil {
		return nil, err
	}
	meta := &gguf.Metadata{}
	arch := c.Family.GGUF
	var err error
	set := func(key string, value any) {
		if e := meta.Set(key, value); e != nil && err == nil {
			err = e
		}
	}
	u32 := func(hf string, value int) { set((&ggufReader{arch: arch}).key(hf), uint32(value)) }
	f32 := func(hf string, value float64) { set((&ggufReader{arch: arch}).key(hf), float32(value)) }
	set("general.architecture", arch)
	u32("vocab_size", c.Vocab)
	u32("max_position_embeddings", c.Context)
	u32("hidden_size", c.Hidden)
	u32("num_hidden_layers", c.Blocks)
	u32("intermediate_size", c.FFN)
	c.Experts.setGGUF(c.Family, u32)
	u32("num_attention_heads", c.Heads)
	u32("num_key_value_heads", c.KVHeads)
	u32("head_dim", c.HeadDim)
	u32("attention.value_length", c.HeadDim)
	f32("rms_norm_eps", c.NormEps)
	u32("partial_rotary_factor", c.Rope.Dims)
	f32("rope_theta", c.Rope.Theta)
	switch c.Rope.Type {
	case RopeLinear:
		set(arch+".rope.scaling.type", "linear")
		f32("rope_scaling.factor", c.Rope.Factor)
	case RopeYaRN:
		set(arch+".rope.scaling.type", "yarn")
		f32("rope_scaling.factor", c.Rope.Factor)
		u32("rope_scaling.original_max_position_embeddings", c.Rope.OriginalContext)
		f32("rope_scaling.beta_fast", c.Rope.BetaFast)
		f32("rope_scaling.beta_slow", c.Rope.BetaSlow)
		if factor := c.Rope.AttnFactor / yarnAttnFactor(c.Rope.Factor, 1); math.Abs(factor-1) > 1e-6 {
			f32("rope_scaling.attention_factor", factor)
		}
	}
	c.windowGGUF(set, arch)
	if c.Family.LogitCap && c.LogitCap > 0 {
		f32("final_logit_softcapping", c.LogitCap)
	}
	return meta, err
}

// windowGGUF writes the sliding window, for the families for which llama.cpp
// applies one.
func (c *Config) windowGGUF(set func(string, any), arch string) {
	if c.Window == 0 || c.Family.Window != windowPattern {
		return
	}
	set(arch+".attention.sliding_window", uint32(c.Window))
	if c.Family.LocalRope && c.LocalRope.Theta != 10000 {
		set(arch+".rope.freq_base_swa", float32(c.LocalRope.Theta))
	}
	fallback, _ := c.Family.Defaults["sliding_window_pattern"].(int)
	for b := range c.Blocks {
		if (c.WindowOf(b) > 0) != (b%fallback < fallback-1) {
			set(arch+".attention.sliding_window_pattern", slices.Clone(c.Windowed))
			return
		}
	}
}
