package model

import (
	"slices"
	"strings"
	"testing"

	"llmc/formats"
	"llmc/internal/fault"
)

// TestNames checks that every tensor of every family has a name in both kinds
// of file that reads back as itself, and that no two share one.
func TestNames(t *testing.T) {
	for _, f := range Families {
		c := Config{Family: f, Blocks: 12, QKVBias: true, OBias: true, MLPBias: true}
		if f.Mixture != nil {
			c.Experts = Experts{Count: 3, Used: 1, Width: 5, Shared: 7}
		}
		for _, kind := range []formats.Kind{formats.HuggingFace, formats.GGUF} {
			seen := map[string]ID{}
			for _, id := range c.IDs() {
				if kind == formats.GGUF && id.Expert > 1 {
					continue // in one tensor with the first
				}
				name := f.TensorName(kind, id)
				if other, ok := seen[name]; ok {
					t.Errorf("%s, %s: %s and %s are both called %q", f.Name, kind, other, id, name)
				}
				seen[name] = id
				if got, ok := f.ParseName(kind, name); !ok || got != id {
					t.Errorf("%s, %s: %q reads as %s, %v, want %s", f.Name, kind, name, got, ok, id)
				}
			}
			if len(seen) < 2+12*9 {
				t.Errorf("%s, %s: only %d names", f.Name, kind, len(seen))
			}
		}
	}
}

// TestKnownNames pins names as the files of published models have them.
func TestKnownNames(t *testing.T) {
	for _, tt := range []struct {
		family string
		kind   formats.Kind
		name   string
		want   string
	}{
		{"llama", formats.HuggingFace, "model.layers.7.mlp.down_proj.weight", "block 7 down"},
		{"llama", formats.GGUF, "blk.7.ffn_down.weight", "block 7 down"},
		{"llama", formats.HuggingFace, "model.layers.0.post_attention_layernorm.weight", "block 0 ffn_norm"},
		{"llama", formats.GGUF, "rope_freqs.weight", "rope_freqs"},
		{"llama", formats.HuggingFace, "lm_head.weight", "head"},
		{"qwen2", formats.HuggingFace, "model.layers.23.self_attn.q_proj.bias", "block 23 q bias"},
		{"qwen3", formats.GGUF, "blk.0.attn_k_norm.weight", "block 0 k_norm"},
		{"gemma3", formats.HuggingFace, "model.layers.0.post_attention_layernorm.weight", "block 0 post_attn_norm"},
		{"gemma3", formats.HuggingFace, "model.layers.0.pre_feedforward_layernorm.weight", "block 0 ffn_norm"},
		{"gemma3", formats.GGUF, "blk.0.post_ffw_norm.weight", "block 0 post_ffn_norm"},
		{"gemma3", formats.HuggingFace, "language_model.model.embed_tokens.weight", "embed"},
		{"gemma3", formats.HuggingFace, "model.language_model.layers.3.mlp.up_proj.weight", "block 3 up"},

		{"mixtral", formats.HuggingFace, "model.layers.31.block_sparse_moe.experts.7.w2.weight", "block 31 expert 7 down"},
		{"mixtral", formats.HuggingFace, "model.layers.0.block_sparse_moe.gate.weight", "block 0 router"},
		{"mixtral", formats.GGUF, "blk.31.ffn_down_exps.weight", "block 31 expert 0 down"},
		{"mixtral", formats.GGUF, "blk.31.ffn_gate.7.weight", "block 31 expert 7 gate"},
		{"qwen3moe", formats.HuggingFace, "model.layers.3.mlp.experts.127.up_proj.weight", "block 3 expert 127 up"},
		{"qwen3moe", formats.GGUF, "blk.3.ffn_gate_inp.weight", "block 3 router"},
		{"qwen2moe", formats.HuggingFace, "model.layers.3.mlp.shared_expert.up_proj.weight", "block 3 up"},
		{"qwen2moe", formats.GGUF, "blk.3.ffn_gate_inp_shexp.weight", "block 3 shared_gate"},

		{"mixtral", formats.HuggingFace, "model.layers.0.block_sparse_moe.experts.w2.weight", ""},
		{"mixtral", formats.HuggingFace, "model.layers.0.block_sparse_moe.experts.0.1.w2.weight", ""},
		{"mixtral", formats.HuggingFace, "model.layers.0.mlp.gate_proj.weight", ""},
		{"qwen3moe", formats.HuggingFace, "model.layers.3.mlp.up_proj.weight", ""},
		{"llama", formats.GGUF, "blk.31.ffn_down_exps.weight", ""},
		{"llama", formats.GGUF, "blk.0.attn_k_norm.weight", ""},
		{"llama", formats.GGUF, "model.norm.weight", ""},
		{"llama", formats.GGUF, "blk.01.attn_q.weight", ""},
		{"llama", formats.GGUF, "blk.-1.attn_q.weight", ""},
		{"llama", formats.GGUF, "blk.99999999999999999999.attn_q.weight", ""},
		{"llama", formats.GGUF, "blk.%d.attn_q.weight", ""},
		{"llama", formats.GGUF, "blk..attn_q.weight", ""},
		{"llama", formats.GGUF, "blk.0.attn_q", ""},
		{"llama", formats.HuggingFace, "model.layers.0.self_attn.q_proj.weight.weight", ""},
		{"llama", formats.HuggingFace, "model.layers.0.self_attn.rotary_emb.inv_freq", ""},
		{"gemma3", formats.HuggingFace, "vision_tower.layers.0.mlp.up_proj.weight", ""},
	} {
		i := slices.IndexFunc(Families, func(f *Family) bool { return f.Name == tt.family })
		id, ok := Families[i].ParseName(tt.kind, tt.name)
		if ok != (tt.want != "") || ok && id.String() != tt.want {
			t.Errorf("%s, %s: %q reads as %s, %v, want %q", tt.family, tt.kind, tt.name, id, ok, tt.want)
		}
	}
}

func TestFamilyOf(t *testing.T) {
	for _, tt := range []struct {
		kind  formats.Kind
		names []string
		want  string
	}{
		{formats.HuggingFace, []string{"LlamaForCausalLM"}, "llama"},
		{formats.HuggingFace, []string{"MistralForCausalLM"}, "mistral"},
		{formats.HuggingFace, []string{"", "qwen3"}, "qwen3"},
		{formats.HuggingFace, []string{"Gemma3ForConditionalGeneration"}, "gemma3"},
		{formats.GGUF, []string{"llama"}, "llama"},
		{formats.GGUF, []string{"gemma3"}, "gemma3"},
	} {
		if f, err := FamilyOf(tt.kind, tt.names...); err != nil || f.Name != tt.want {
			t.Errorf("%q: got %v, %v, want %s", tt.names, f, err, tt.want)
		}
	}
	_, err := FamilyOf(formats.GGUF, "mamba")
	const want = `unsupported architecture "mamba": supported are gemma3, llama, olmoe, qwen2, qwen2moe, qwen3, qwen3moe`
	if err == nil || err.Error() != want || fault.KindOf(err) != fault.InvalidFile {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := FamilyOf(formats.HuggingFace, ""); err == nil || !strings.Contains(err.Error(), `architecture "none"`) {
		t.Errorf("got %v, want an error that none is named", err)
	}
}

func TestRoles(t *testing.T) {
	for r := Embed; r < numRoles; r++ {
		if got, ok := ParseRole(r.String()); !ok || got != r {
			t.Errorf("%s reads as %s, %v", r, got, ok)
		}
	}
	if r, ok := ParseRole("none"); ok {
		t.Errorf("none reads as %s", r)
	}
}
