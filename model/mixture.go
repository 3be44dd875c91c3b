package model

import (
	"slices"
	"strings"

	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
)

// Mixture is what a family's mixtures of experts are like (arXiv 1701.06538):
// each token goes through a few of many small feed-forward layers, those that a
// router scores highest.
type Mixture struct {
	HF map[Role]string // the experts' linears: %d is the block, then the expert

	CountKeys []string // Hugging Face keys of the number of experts, the one to write first
	WidthKey  string   // of an expert's width
	// AlwaysNormed is set when the weights of the experts used sum to 1 without
	// the configuration saying so; else norm_topk_prob does.
	AlwaysNormed bool
	GGUFNormed   bool // llama.cpp makes them sum to 1
	Shared       bool // every token goes through one more expert, which a gate scales
	WideQKNorm   bool // q and k are normalized over all their heads together
}

// Experts is a configuration's part about its mixtures of experts.
type Experts struct {
	Count  int  // experts of each block; 0: no mixture
	Used   int  // experts that a token goes through
	Width  int  // of each expert
	Shared int  // width of the expert that every token goes through; 0: none
	Normed bool // weights of the experts used are scaled to sum to 1
}

// maxExperts bounds the experts of one block and of all blocks, far above every
// model: a configuration must not ask for more memory than its file takes.
const (
	maxExperts    = 1 << 12
	maxAllExperts = 1 << 17
)

var (
	hfMixtral = map[Role]string{Router: "model.layers.%d.block_sparse_moe.gate"}
	hfQwenMoE = map[Role]string{Router: "model.layers.%d.mlp.gate"}

	hfMixtralExperts = map[Role]string{
		Gate: "model.layers.%d.block_sparse_moe.experts.%d.w1",
		Up:   "model.layers.%d.block_sparse_moe.experts.%d.w3",
		Down: "model.layers.%d.block_sparse_moe.experts.%d.w2",
	}
	hfQwenExperts = map[Role]string{
		Gate: "model.layers.%d.mlp.experts.%d.gate_proj",
		Up:   "model.layers.%d.mlp.experts.%d.up_proj",
		Down: "model.layers.%d.mlp.experts.%d.down_proj",
	}
	hfShared = map[Role]string{
		Gate:       "model.layers.%d.mlp.shared_expert.gate_proj",
		Up:         "model.layers.%d.mlp.shared_expert.up_proj",
		Down:       "model.layers.%d.mlp.shared_expert.down_proj",
		SharedGate: "model.layers.%d.mlp.shared_expert_gate",
	}

	ggmlRouter = map[Role]string{Router: "blk.%d.ffn_gate_inp"}
	ggmlShared = map[Role]string{
		Gate: "blk.%d.ffn_gate_shexp", Up: "blk.%d.ffn_up_shexp", Down: "blk.%d.ffn_down_shexp",
		SharedGate: "blk.%d.ffn_gate_inp_shexp",
	}
	// ggmlExperts are the stacks of all experts of a block, [experts, out, in].
	ggmlExperts = map[Role]string{
		Gate: "blk.%d.ffn_gate_exps", Up: "blk.%d.ffn_up_exps", Down: "blk.%d.ffn_down_exps",
	}
	// ggmlOldExperts are the names of files from before stacks, one matrix each.
	ggmlOldExperts = map[Role]string{
		Gate: "blk.%d.ffn_gate.%d", Up: "blk.%d.ffn_up.%d", Down: "blk.%d.ffn_down.%d",
	}
	// hfStacks are the parameters that transformers 5 has in memory and some
	// programs write: the roles whose rows follow each other within an expert.
	hfStacks = map[string][]Role{
		"mlp.experts.gate_up_proj": {Gate, Up}, "mlp.experts.down_proj": {Down},
		"block_sparse_moe.experts.gate_up_proj": {Gate, Up}, "block_sparse_moe.experts.down_proj": {Down},
	}
)

// without returns a table less some roles.
func without(table map[Role]string, roles ...Role) map[Role]string {
	rest := map[Role]string{}
	for r, name := range table {
		if !slices.Contains(roles, r) {
			rest[r] = name
		}
	}
	return rest
}

// mixtureOf returns the family of a GGUF architecture's mixtures of experts.
func mixtureOf(arch string) (*Family, bool) {
	for _, f := range Families {
		if f.GGUF == arch && f.Mixture != nil {
			return f, true
		}
	}
	return nil, false
}

// validate checks the sizes of a mixture.
func (e *Experts) validate(f *Family, blocks int, name func(string) string) error {
	m := f.Mixture
	if m == nil {
		return nil
	}
	sizes := []struct {
		key   string
		value int
		max   int
	}{
		{m.CountKeys[0], e.Count, min(maxExperts, maxAllExperts/blocks)},
		{"num_experts_per_tok", e.Used, e.Count},
		{m.WidthKey, e.Width, maxWidth},
		{"shared_expert_intermediate_size", e.Shared, maxWidth},
	}
	if !m.Shared {
		sizes = sizes[:3]
	}
	for _, s := range sizes {
		if s.value < 1 || s.value > s.max {
			return fault.Invalid("%s is %d, allowed is 1 to %d", name(s.key), s.value, s.max)
		}
	}
	return nil
}

// mixture reads the keys of a mixture of experts.
func (r *hfReader) mixture(c *Config) {
	m := c.Family.Mixture
	if m == nil {
		return
	}
	count := m.CountKeys[0]
	for _, key := range m.CountKeys {
		if r.find(key) != nil {
			count = key
		}
	}
	c.Experts = Experts{Count: r.int(count), Used: r.int("num_experts_per_tok"), Width: r.int(m.WidthKey), Normed: m.AlwaysNormed}
	if !m.AlwaysNormed {
		c.Experts.Normed = r.bool("norm_topk_prob")
	}
	if m.Shared {
		c.Experts.Shared = r.int("shared_expert_intermediate_size")
	}
	var dense []int
	r.value("mlp_only_layers", "a list of blocks", &dense)
	if step := r.find("decoder_sparse_step"); len(dense) > 0 || step != nil && r.int("decoder_sparse_step") != 1 {
		r.fail(fault.Invalid("some blocks have no experts (mlp_only_layers, decoder_sparse_step), supported are mixtures in every block"))
	}
	if r.find("clip_qkv") != nil {
		r.fail(fault.Invalid("clip_qkv is %g, supported is only null", r.float("clip_qkv")))
	}
	if r.find("qkv_bias") != nil && r.bool("qkv_bias") != c.Family.QKVBias {
		r.fail(fault.Invalid("qkv_bias is %v, supported by the family %s is only %v", !c.Family.QKVBias, c.Family.Name, c.Family.QKVBias))
	}
}

// setMixture writes the keys of a mixture of experts.
func (c *Config) setMixture(set func(string, any)) {
	m := c.Family.Mixture
	if m == nil {
		return
	}
	set(m.CountKeys[0], c.Experts.Count)
	set("num_experts_per_tok", c.Experts.Used)
	set(m.WidthKey, c.Experts.Width)
	if !m.AlwaysNormed {
		set("norm_topk_prob", c.Experts.Normed)
	}
	if m.Shared {
		set("shared_expert_intermediate_size", c.Experts.Shared)
	}
}

// mixture reads the keys of a mixture of experts.
func (r *ggufReader) mixture(c *Config) {
	m := c.Family.Mixture
	if m == nil {
		return
	}
	c.Experts = Experts{Count: r.integer("expert_count"), Used: r.integer("expert_used_count"), Width: c.FFN, Normed: m.GGUFNormed}
	if m.WidthKey != "intermediate_size" {
		// Files that leave it out share the width of a dense layer among the
		// experts used, as llama.cpp does.
		c.Experts.Width = r.integer("moe_intermediate_size", c.FFN/max(c.Experts.Used, 1))
	}
	if m.Shared {
		c.Experts.Shared = r.integer("shared_expert_intermediate_size", c.FFN)
	}
	if groups := r.integer("expert_group_count", 0); groups > 1 {
		r.wrong(r.key("expert_group_count"), "0: groups of experts are not supported")
	}
	if scale := r.number("expert_weights_scale", 1); scale != 1 && scale != 0 {
		r.wrong(r.key("expert_weights_scale"), "1")
	}
}

// setGGUF writes the keys of a mixture of experts.
func (e *Experts) setGGUF(f *Family, u32 func(key string, value int)) {
	if f.Mixture == nil {
		return
	}
	u32("expert_count", e.Count)
	u32("expert_used_count", e.Used)
	if f.Mixture.WidthKey != "intermediate_size" {
		u32("moe_intermediate_size", e.Width)
	}
	if f.Mixture.Shared {
		u32("shared_expert_intermediate_size", e.Shared)
	}
}

// ShareOf is the share of tokens that go through an expert, were they spread
// evenly; 1 for what belongs to none.
func (c *Config) ShareOf(e Expert) float64 {
	if e == NoExpert {
		return 1
	}
	return float64(c.Experts.Used) / float64(c.Experts.Count)
}

// ActiveParameters is the number of weights that one token is multiplied with,
// the embedding's row left out of account: of a mixture's experts those used.
func (c *Config) ActiveParameters() int64 {
	var n int64
	for _, id := range c.IDs() {
		if id.Expert.Index() < c.Experts.Used {
			n += elements(c.Shape(id))
		}
	}
	return n
}

func elements(shape []int) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= int64(d)
	}
	return n
}

// pieces takes a tensor that stacks all experts of a block apart: one for each
// expert and role, named as it would be alone in Hugging Face's files and as the
// stack in GGUF. It returns nil for any other tensor, and for one that is not
// what the configuration asks for.
func (w *Weights) pieces(t raw.Tensor) map[ID]raw.Tensor {
	roles, block, ok := w.stack(t.Name)
	n := w.Config.Experts.Count
	if !ok || block >= w.Config.Blocks || len(t.Shape) != 3 || t.Shape[0] != n || t.Shape[1]%len(roles) != 0 || len(t.Data)%(n*len(roles)) != 0 {
		return nil
	}
	size := len(t.Data) / (n * len(roles))
	pieces := map[ID]raw.Tensor{}
	for i := range n * len(roles) {
		id := ID{Role: roles[i%len(roles)], Block: block, Expert: ExpertAt(i / len(roles))}
		pieces[id] = raw.Tensor{
			Name: w.Config.Family.TensorName(w.Kind, id), Type: t.Type,
			Shape: []int{t.Shape[1] / len(roles), t.Shape[2]}, Data: t.Data[i*size : (i+1)*size : (i+1)*size],
		}
	}
	return pieces
}

// stack returns the roles of the experts that a tensor of such a name stacks.
func (w *Weights) stack(name string) (roles []Role, block int, ok bool) {
	f := w.Config.Family
	if f.Mixture == nil {
		return nil, 0, false
	}
	if w.Kind == formats.GGUF {
		stem, weight := strings.CutSuffix(name, ".weight")
		pattern, numbers, _ := patternOf(stem)
		role, ok := roleOf(ggmlExperts, pattern)
		if !ok || !weight {
			return nil, 0, false
		}
		return []Role{role}, numbers[0], true
	}
	for _, p := range hfPrefixes {
		rest, ok := strings.CutPrefix(name, p.written)
		if pattern, numbers, _ := patternOf(p.means + rest); ok && len(numbers) == 1 {
			if roles, ok := hfStacks[strings.TrimPrefix(pattern, "model.layers.%d.")]; ok {
				return roles, numbers[0], true
			}
		}
	}
	return nil, 0, false
}
