package model

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"llmc/formats"
	"llmc/internal/fault"
	"llmc/internal/jsonobj"
	"llmc/kernels"
)

// ParseHF reads the text of a Hugging Face config.json.
func ParseHF(data []byte) (Config, error) {
	obj, err := jsonobj.Parse(data)
	if err != nil {
		return Config{}, fault.Invalid("config.json: %w", err)
	}
	r := &hfReader{outer: obj, text: obj}
	c := r.config()
	if r.err == nil {
		c.finish()
		r.err = c.validate(func(key string) string { return key })
	}
	if r.err != nil {
		return Config{}, fault.Invalid("config.json: %w", r.err)
	}
	return c, nil
}

// hfReader reads keys of a config.json and keeps the first error. Keys of a
// multimodal model's text_config stand before those around it; what is in
// neither comes from the family's defaults.
type hfReader struct {
	outer, text *jsonobj.Object
	family      *Family
	err         error
}

func (r *hfReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *hfReader) config() Config {
	c := Config{Pad: -1}
	var architectures []string
	r.decode(r.outer, "architectures", "a list of names", &architectures)
	modelType := r.str("model_type")
	if r.text.Has("text_config") {
		inner, err := jsonobj.Parse(r.text.Values["text_config"])
		if err != nil {
			r.fail(fault.Invalid("text_config: %w", err))
			return c
		}
		r.text = inner
	}
	names := architectures
	if len(names) == 0 {
		names = []string{modelType}
	}
	f, err := FamilyOf(formats.HuggingFace, names...)
	if err != nil {
		r.fail(err)
		return c
	}
	r.family, c.Family, c.Architecture = f, f, f.Architectures[0]
	if len(architectures) > 0 {
		c.Architecture = architectures[0]
	}
	r.sizes(&c)
	r.mixture(&c)
	r.parts(&c)
	r.windows(&c)
	r.ropes(&c)
	return c
}

func (r *hfReader) sizes(c *Config) {
	c.Vocab = r.int("vocab_size")
	c.Hidden = r.int("hidden_size")
	c.FFN = r.int("intermediate_size")
	c.Blocks = r.int("num_hidden_layers")
	c.Heads = r.int("num_attention_heads")
	c.Context = r.int("max_position_embeddings")
	c.KVHeads = c.Heads
	if r.has("num_key_value_heads") {
		c.KVHeads = r.int("num_key_value_heads")
	}
	switch {
	case r.has("head_dim"):
		c.HeadDim = r.int("head_dim")
	case c.Heads > 0 && c.Hidden%c.Heads != 0:
		r.fail(fault.Invalid("hidden_size is %d, which is not a multiple of num_attention_heads, %d, and head_dim is not given", c.Hidden, c.Heads))
	case c.Heads > 0:
		c.HeadDim = c.Hidden / c.Heads
	}
}

func (r *hfReader) parts(c *Config) {
	c.NormEps = r.float("rms_norm_eps")
	c.Tied = r.bool("tie_word_embeddings")
	act := "hidden_act"
	if _, ok := c.Family.Defaults["hidden_activation"]; ok {
		act = "hidden_activation"
	}
	name := r.str(act)
	var ok bool
	if c.Activation, ok = activations[name]; !ok {
		r.fail(fault.Invalid("%s is %.100q, supported are silu, gelu_pytorch_tanh, gelu, relu", act, name))
	}
	bias := c.Family.BiasKeys && r.bool("attention_bias")
	c.QKVBias, c.OBias = c.Family.QKVBias || bias, bias
	c.MLPBias = c.Family.MLPBiasKey && r.bool("mlp_bias")

	c.AttnScale = 1 / math.Sqrt(float64(max(c.HeadDim, 1)))
	if r.has("query_pre_attn_scalar") {
		c.AttnScale = 1 / math.Sqrt(r.float("query_pre_attn_scalar"))
	}
	if c.Family.LogitCap && r.has("final_logit_softcapping") {
		c.LogitCap = r.float("final_logit_softcapping")
	}
	if r.floatOr("attn_logit_softcapping", 0) != 0 {
		r.fail(fault.Invalid("attn_logit_softcapping is %g, supported is only null", r.float("attn_logit_softcapping")))
	}
	if r.bool("use_bidirectional_attention") {
		r.fail(fault.Invalid("use_bidirectional_attention is true, supported is only causal attention"))
	}
	c.BOS, c.EOS = r.ids("bos_token_id"), r.ids("eos_token_id")
	if pad := r.ids("pad_token_id"); len(pad) > 0 {
		c.Pad = pad[0]
	}
	if c.TrainedType = r.str("dtype"); c.TrainedType == "" {
		c.TrainedType = r.str("torch_dtype")
	}
}

// windows reads which blocks see only a window of positions. layer_types, when
// there, says it block by block; older files say it with a number.
func (r *hfReader) windows(c *Config) {
	rule := c.Family.Window
	if rule == windowNone || c.Blocks < 1 || c.Blocks > maxBlocks ||
		(rule == windowUpper || rule == windowUsed) && !r.bool("use_sliding_window") || !r.hasValue("sliding_window") {
		return
	}
	c.Window = r.int("sliding_window")
	if c.Window < 1 {
		r.fail(fault.Invalid("sliding_window is %d, allowed is 1 or more, or null", c.Window))
	}
	if rule == windowAll || rule == windowUsed {
		return
	}
	c.Windowed = make([]bool, c.Blocks)
	if r.has("layer_types") {
		r.layerTypes(c)
		return
	}
	switch rule {
	case windowUpper:
		first := r.int("max_window_layers")
		for i := range c.Windowed {
			c.Windowed[i] = i >= first
		}
	case windowPattern:
		every := r.int("sliding_window_pattern")
		if every < 1 {
			r.fail(fault.Invalid("sliding_window_pattern is %d, allowed is 1 or more", every))
			return
		}
		for i := range c.Windowed {
			c.Windowed[i] = (i+1)%every != 0
		}
	}
}

// The kinds of layer_types.
const (
	fullAttention    = "full_attention"
	slidingAttention = "sliding_attention"
)

func (r *hfReader) layerTypes(c *Config) {
	var types []string
	r.decode(r.text, "layer_types", "a list of names", &types)
	if r.err == nil && len(types) != c.Blocks {
		r.fail(fault.Invalid("layer_types has %d entries for num_hidden_layers %d", len(types), c.Blocks))
	}
	for i, t := range types {
		switch {
		case r.err != nil:
			return
		case t == slidingAttention:
			c.Windowed[i] = true
		case t != fullAttention:
			r.fail(fault.Invalid("layer_types[%d] is %.100q, supported are full_attention, sliding_attention", i, t))
		}
	}
}

// ropes reads the rotation in each of its spellings: rope_theta beside
// rope_scaling {"type"} or {"rope_type"}; or rope_parameters, one for all or
// one per layer type (transformers 5).
func (r *hfReader) ropes(c *Config) {
	scaling, key := r.object(r.text, "rope_parameters"), "rope_parameters"
	if scaling == nil {
		scaling, key = r.object(r.text, "rope_scaling"), "rope_scaling"
	}
	local := &jsonobj.Object{}
	if full := r.object(scaling, "full_attention"); full != nil || scaling != nil && scaling.Has("sliding_attention") {
		if !c.Family.LocalRope {
			r.fail(fault.Invalid("%s differs by layer type, which the %s family does not have", key, c.Family.Name))
			return
		}
		if l := r.object(scaling, "sliding_attention"); l != nil {
			local = l
		}
		scaling = full
	}
	c.Rope = r.rope(c, scaling, key, "rope_theta")
	c.LocalRope = c.Rope
	if c.Family.LocalRope {
		c.LocalRope = r.rope(c, local, key+".sliding_attention", "rope_local_base_freq")
	}
}

// rope reads one rotation; theta is the key for its base outside of scaling.
func (r *hfReader) rope(c *Config, scaling *jsonobj.Object, key, theta string) Rope {
	in := &hfReader{outer: &jsonobj.Object{}, text: scaling, family: &Family{}}
	if scaling == nil {
		in.text = &jsonobj.Object{}
	}
	rope := Rope{Type: RopeDefault, Theta: in.floatOr("rope_theta", 0)}
	if rope.Theta == 0 {
		rope.Theta = r.float(theta)
	}
	partial := in.floatOr("partial_rotary_factor", r.floatOr("partial_rotary_factor", 1))
	if !(partial > 0 && partial <= 1) {
		r.fail(fault.Invalid("partial_rotary_factor is %g, allowed is more than 0, up to 1", partial))
		partial = 1
	}
	rope.Dims = int(float64(c.HeadDim) * partial)
	kind := in.str("rope_type")
	if kind == "" {
		kind = in.str("type")
	}
	switch t := RopeType(kind); t {
	case "", RopeDefault:
	case RopeLinear, RopeLlama3, RopeYaRN:
		rope.Type = t
		in.scaling(r, c, &rope)
	default:
		r.fail(fault.Invalid("%s.rope_type is %.100q, supported are default, linear, llama3, yarn", key, kind))
	}
	if in.err != nil {
		r.fail(fault.Invalid("%s: %w", key, in.err))
	}
	return rope
}

// scaling reads what belongs to the scaling type; model is the reader of the
// keys around it.
func (r *hfReader) scaling(model *hfReader, c *Config, rope *Rope) {
	rope.OriginalContext = c.Context
	if rope.Type != RopeLinear {
		if model.has("original_max_position_embeddings") {
			rope.OriginalContext = model.int("original_max_position_embeddings")
		} else if r.has("original_max_position_embeddings") {
			rope.OriginalContext = r.int("original_max_position_embeddings")
		}
	}
	if rope.Type == RopeYaRN && !r.has("factor") {
		rope.Factor = float64(c.Context) / float64(max(rope.OriginalContext, 1))
	} else {
		rope.Factor = r.float("factor")
	}
	switch rope.Type {
	case RopeLinear:
		rope.OriginalContext = 0
	case RopeLlama3:
		rope.LowFreq, rope.HighFreq = r.float("low_freq_factor"), r.float("high_freq_factor")
	case RopeYaRN:
		rope.BetaFast, rope.BetaSlow = r.floatOr("beta_fast", 32), r.floatOr("beta_slow", 1)
		if r.has("truncate") {
			rope.NoTruncate = !r.bool("truncate")
		}
		m, all := r.floatOr("mscale", 0), r.floatOr("mscale_all_dim", 0)
		switch {
		case r.has("attention_factor"):
			rope.AttnFactor = r.float("attention_factor")
		case m != 0 && all != 0:
			rope.AttnFactor = yarnAttnFactor(rope.Factor, m) / yarnAttnFactor(rope.Factor, all)
		default:
			rope.AttnFactor = yarnAttnFactor(rope.Factor, 1)
		}
	}
}

// find returns the object that has a key with a value, nil if none.
func (r *hfReader) find(key string) *jsonobj.Object {
	for _, o := range []*jsonobj.Object{r.text, r.outer} {
		if o.Has(key) {
			return o
		}
	}
	return nil
}

// has reports whether a key has a value in the file or by default.
func (r *hfReader) has(key string) bool {
	return r.find(key) != nil || r.defaultOf(key) != nil
}

// hasValue is has for keys where null does not mean the default.
func (r *hfReader) hasValue(key string) bool {
	if r.find(key) != nil {
		return true
	}
	_, null := r.text.Values[key]
	return !null && r.defaultOf(key) != nil
}

func (r *hfReader) defaultOf(key string) any {
	if r.family == nil {
		return nil
	}
	return r.family.Defaults[key]
}

// value decodes a key's value or its default into dst, and reports whether
// there was one.
func (r *hfReader) value(key, allowed string, dst any) bool {
	if o := r.find(key); o != nil {
		r.decode(o, key, allowed, dst)
		return true
	}
	d := r.defaultOf(key)
	if d == nil {
		return false
	}
	raw, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(raw, dst)
	}
	if err != nil {
		r.fail(err)
	}
	return true
}

func (r *hfReader) decode(o *jsonobj.Object, key, allowed string, dst any) {
	if !o.Has(key) {
		return
	}
	if err := json.Unmarshal(o.Values[key], dst); err != nil {
		r.fail(fault.Invalid("%s is %.60s, allowed is %s", key, o.Values[key], allowed))
	}
}

func (r *hfReader) object(o *jsonobj.Object, key string) *jsonobj.Object {
	if o == nil || !o.Has(key) {
		return nil
	}
	inner, err := jsonobj.Parse(o.Values[key])
	if err != nil {
		r.fail(fault.Invalid("%s: %w", key, err))
		return nil
	}
	return inner
}

// int reads a whole number, which may be written as 4096.0.
func (r *hfReader) int(key string) int {
	const allowed = "a whole number"
	var n json.RawMessage // not json.Number, which takes strings too
	if !r.value(key, allowed, &n) {
		r.fail(fault.Invalid("%s is missing", key))
		return 0
	}
	if r.err != nil {
		return 0
	}
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil && int64(int(i)) == i {
		return int(i)
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<31 {
		r.fail(fault.Invalid("%s is %.60s, allowed is %s", key, n, allowed))
		return 0
	}
	return int(f)
}

func (r *hfReader) float(key string) float64 {
	var f float64
	if !r.value(key, "a number", &f) {
		r.fail(fault.Invalid("%s is missing", key))
	}
	return f
}

// floatOr is float with a value for keys that are missing or zero, which
// transformers takes for the same.
func (r *hfReader) floatOr(key string, missing float64) float64 {
	var f float64
	if r.value(key, "a number", &f); f == 0 {
		return missing
	}
	return f
}

func (r *hfReader) bool(key string) bool {
	var b bool
	r.value(key, "true or false", &b)
	return b
}

func (r *hfReader) str(key string) string {
	var s string
	r.value(key, "a string", &s)
	return s
}

// ids reads one token id or a list of them.
func (r *hfReader) ids(key string) []int {
	o := r.find(key)
	if o == nil {
		return nil
	}
	var many []int
	if json.Unmarshal(o.Values[key], &many) == nil {
		return many
	}
	many = []int{0}
	r.decode(o, key, "a token id or a list of them", &many[0])
	return many
}

// HF writes the configuration as a config.json that transformers and llmc read
// alike. An existing config.json is better kept, and changed where it must be.
func (c *Config) HF() ([]byte, error) {
	o := &jsonobj.Object{}
	var err error
	set := func(key string, value any) {
		if e := o.Set(key, value); e != nil && err == nil {
			err = e
		}
	}
	f := c.Family
	set("architectures", []string{f.Architectures[0]})
	set("model_type", f.ModelTypes[0])
	set("vocab_size", c.Vocab)
	set("hidden_size", c.Hidden)
	set("intermediate_size", c.FFN)
	set("num_hidden_layers", c.Blocks)
	set("num_attention_heads", c.Heads)
	set("num_key_value_heads", c.KVHeads)
	set("head_dim", c.HeadDim)
	set("max_position_embeddings", c.Context)
	set("rms_norm_eps", c.NormEps)
	set(map[bool]string{true: "hidden_activation", false: "hidden_act"}[f.Defaults["hidden_activation"] != nil], activationName(c.Activation))
	set("tie_word_embeddings", c.Tied)
	if f.BiasKeys {
		set("attention_bias", c.OBias)
	}
	if f.MLPBiasKey {
		set("mlp_bias", c.MLPBias)
	}
	c.setMixture(set)
	c.setRope(set)
	c.setWindow(set)
	if f.Defaults["query_pre_attn_scalar"] != nil {
		set("query_pre_attn_scalar", roundTo(1/(c.AttnScale*c.AttnScale), 1e-6))
	}
	if f.LogitCap && c.LogitCap > 0 {
		set("final_logit_softcapping", c.LogitCap)
	}
	setIDs := func(key string, ids []int) {
		switch len(ids) {
		case 0:
		case 1:
			set(key, ids[0])
		default:
			set(key, ids)
		}
	}
	setIDs("bos_token_id", c.BOS)
	setIDs("eos_token_id", c.EOS)
	if c.Pad >= 0 {
		set("pad_token_id", c.Pad)
	}
	if c.TrainedType != "" {
		set("torch_dtype", c.TrainedType)
	}
	if err != nil {
		return nil, err
	}
	return o.Indented()
}

// setRope writes the rotation in the older spelling, which every version of
// transformers reads.
func (c *Config) setRope(set func(string, any)) {
	r := c.Rope
	set("rope_theta", r.Theta)
	if c.Family.LocalRope {
		set("rope_local_base_freq", c.LocalRope.Theta)
	}
	if r.Dims != c.HeadDim {
		set("partial_rotary_factor", float64(r.Dims)/float64(c.HeadDim))
	}
	if r.Type == RopeDefault {
		return
	}
	s := map[string]any{"rope_type": string(r.Type), "factor": r.Factor}
	switch r.Type {
	case RopeLlama3:
		s["original_max_position_embeddings"] = r.OriginalContext
		s["low_freq_factor"], s["high_freq_factor"] = r.LowFreq, r.HighFreq
	case RopeYaRN:
		s["original_max_position_embeddings"] = r.OriginalContext
		s["beta_fast"], s["beta_slow"] = r.BetaFast, r.BetaSlow
		s["attention_factor"] = r.AttnFactor
		if r.NoTruncate {
			s["truncate"] = false
		}
	}
	set("rope_scaling", s)
}

func (c *Config) setWindow(set func(string, any)) {
	rule := c.Family.Window
	if rule == windowNone {
		return
	}
	if rule == windowUpper || rule == windowUsed {
		set("use_sliding_window", c.Window > 0)
	}
	if c.Window == 0 {
		if rule == windowAll || rule == windowPattern {
			set("sliding_window", nil)
		}
		return
	}
	set("sliding_window", c.Window)
	if rule == windowAll || rule == windowUsed {
		return
	}
	types := c.layerTypes()
	set("layer_types", types)
	first, full := slices.Index(types, slidingAttention), slices.Index(types, fullAttention)
	if rule == windowUpper {
		if first < 0 {
			first = c.Blocks
		}
		set("max_window_layers", first)
	} else if full >= 0 {
		set("sliding_window_pattern", full+1)
	}
}

func activationName(a kernels.Activation) string {
	switch a {
	case kernels.GELUTanh:
		return "gelu_pytorch_tanh"
	case kernels.GELU:
		return "gelu"
	case kernels.ReLU:
		return "relu"
	}
	return "silu"
}

// roundTo rounds v to a multiple of step, to undo the noise of a square root.
func roundTo(v, step float64) float64 { return math.Round(v/step) * step }
