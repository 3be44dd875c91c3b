package model

import (
	"slices"
	"sort"
	"strings"

	"llmc/formats"
	"llmc/internal/fault"
	"llmc/kernels"
)

// Family is an architecture as a table: what it is called, what its tensors
// are called, which parts it has and what its configuration leaves out. The
// forward pass is one for all; a new family is a new entry of [Families].
type Family struct {
	Name          string   // for reports; unique
	GGUF          string   // general.architecture
	Architectures []string // Hugging Face classes, the one to write first
	ModelTypes    []string // Hugging Face model_type, the one to write first

	// Parts.
	QKVBias     bool // q, k and v have biases without the configuration saying so
	BiasKeys    bool // the configuration's attention_bias is honoured
	MLPBiasKey  bool // the configuration's mlp_bias is honoured
	QKNorm      bool // every head of q and k is normalized before rotation
	PostNorms   bool // attention and feed-forward are normalized again before the residual
	NormPlusOne bool // norms multiply by 1+w; GGUF stores 1+w, Hugging Face w
	EmbedScale  bool // embeddings are multiplied by sqrt(hidden)
	LocalRope   bool // blocks with a window rotate with a base of their own
	PermutedQK  bool // GGUF orders the rows of q and k for interleaved rotation
	LogitCap    bool // final_logit_softcapping is honoured

	// What others ask of sizes that ours leaves open.
	WidthOfHeads bool // transformers: the hidden width is a multiple of the heads
	SquareO      bool // llama.cpp: the heads are together as wide as the hidden layer

	Window  windowRule // which blocks have a sliding window
	Mixture *Mixture   // what its mixtures of experts are like; nil: it has none
	// Defaults of Hugging Face configuration keys, by name: those that the
	// family's class in transformers fills in itself.
	Defaults map[string]any

	HF   map[Role]string // tensor names without ".weight"; %d is the block
	Ggml map[Role]string
}

// windowRule is how a family's configuration says which blocks have a window.
type windowRule uint8

const (
	windowNone    windowRule = iota
	windowAll                // sliding_window, when not null, holds for every block (Mistral)
	windowUsed               // with use_sliding_window, every block (Qwen 3's mixtures)
	windowUpper              // use_sliding_window: blocks from max_window_layers on (Qwen)
	windowPattern            // all but every sliding_window_pattern-th block (Gemma 3)
)

var (
	hfPreNorm = map[Role]string{
		Embed: "model.embed_tokens", Head: "lm_head", FinalNorm: "model.norm",
		AttnNorm: "model.layers.%d.input_layernorm",
		Q:        "model.layers.%d.self_attn.q_proj",
		K:        "model.layers.%d.self_attn.k_proj",
		V:        "model.layers.%d.self_attn.v_proj",
		O:        "model.layers.%d.self_attn.o_proj",
		FFNNorm:  "model.layers.%d.post_attention_layernorm",
		Gate:     "model.layers.%d.mlp.gate_proj",
		Up:       "model.layers.%d.mlp.up_proj",
		Down:     "model.layers.%d.mlp.down_proj",
	}
	ggmlPreNorm = map[Role]string{
		Embed: "token_embd", Head: "output", FinalNorm: "output_norm", RopeFreqs: "rope_freqs",
		AttnNorm: "blk.%d.attn_norm",
		Q:        "blk.%d.attn_q", K: "blk.%d.attn_k", V: "blk.%d.attn_v", O: "blk.%d.attn_output",
		FFNNorm: "blk.%d.ffn_norm",
		Gate:    "blk.%d.ffn_gate", Up: "blk.%d.ffn_up", Down: "blk.%d.ffn_down",
	}
	hfQKNorm = map[Role]string{
		QNorm: "model.layers.%d.self_attn.q_norm", KNorm: "model.layers.%d.self_attn.k_norm",
	}
	ggmlQKNorm   = map[Role]string{QNorm: "blk.%d.attn_q_norm", KNorm: "blk.%d.attn_k_norm"}
	hfPostNorms  = map[Role]string{PostAttnNorm: "model.layers.%d.post_attention_layernorm", FFNNorm: "model.layers.%d.pre_feedforward_layernorm", PostFFNNorm: "model.layers.%d.post_feedforward_layernorm"}
	ggmlPostNorm = map[Role]string{PostAttnNorm: "blk.%d.post_attention_norm", PostFFNNorm: "blk.%d.post_ffw_norm"}
)

// Families are the supported architectures. Where two share a GGUF name, the
// first is what a GGUF file is read as.
var Families = []*Family{
	{
		Name: "llama", GGUF: "llama",
		Architectures: []string{"LlamaForCausalLM", "LLaMAForCausalLM"},
		ModelTypes:    []string{"llama"},
		BiasKeys:      true, MLPBiasKey: true, PermutedQK: true, WidthOfHeads: true,
		Defaults: map[string]any{
			"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
			"hidden_act": "silu", "tie_word_embeddings": false,
		},
		HF: hfPreNorm, Ggml: ggmlPreNorm,
	},
	{
		Name: "mistral", GGUF: "llama",
		Architectures: []string{"MistralForCausalLM"},
		ModelTypes:    []string{"mistral"},
		PermutedQK:    true, Window: windowAll,
		Defaults: map[string]any{
			"max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
			"hidden_act": "silu", "tie_word_embeddings": false,
			"num_key_value_heads": 8, "sliding_window": 4096,
		},
		HF: hfPreNorm, Ggml: ggmlPreNorm,
	},
	{
		Name: "qwen2", GGUF: "qwen2",
		Architectures: []string{"Qwen2ForCausalLM"},
		ModelTypes:    []string{"qwen2"},
		QKVBias:       true, Window: windowUpper, SquareO: true,
		Defaults: map[string]any{
			"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
			"hidden_act": "silu", "tie_word_embeddings": false,
			"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28,
		},
		HF: hfPreNorm, Ggml: ggmlPreNorm,
	},
	{
		Name: "qwen3", GGUF: "qwen3",
		Architectures: []string{"Qwen3ForCausalLM"},
		ModelTypes:    []string{"qwen3"},
		QKNorm:        true, BiasKeys: true, Window: windowUpper,
		Defaults: map[string]any{
			"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
			"hidden_act": "silu", "tie_word_embeddings": false, "head_dim": 128,
			"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28,
		},
		HF: merge(hfPreNorm, hfQKNorm), Ggml: merge(ggmlPreNorm, ggmlQKNorm),
	},
	{
		Name: "mixtral", GGUF: "llama",
		Architectures: []string{"MixtralForCausalLM"},
		ModelTypes:    []string{"mixtral"},
		PermutedQK:    true, Window: windowAll,
		Mixture: &Mixture{
			HF: hfMixtralExperts, CountKeys: []string{"num_local_experts", "num_experts"}, WidthKey: "intermediate_size",
			AlwaysNormed: true, GGUFNormed: true,
		},
		Defaults: map[string]any{
			"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
			"hidden_act": "silu", "tie_word_embeddings": false,
			"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
		},
		HF: merge(without(hfPreNorm, Gate, Up, Down), hfMixtral), Ggml: merge(without(ggmlPreNorm, Gate, Up, Down), ggmlRouter),
	},
	{
		Name: "qwen3moe", GGUF: "qwen3moe",
		Architectures: []string{"Qwen3MoeForCausalLM"},
		ModelTypes:    []string{"qwen3_moe"},
		QKNorm:        true, BiasKeys: true, Window: windowUsed,
		Mixture: &Mixture{
			HF: hfQwenExperts, CountKeys: []string{"num_experts", "num_local_experts"}, WidthKey: "moe_intermediate_size",
			GGUFNormed: true,
		},
		Defaults: map[string]any{
			"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
			"hidden_act": "silu", "tie_word_embeddings": false, "intermediate_size": 6144,
			"num_key_value_heads": 4, "sliding_window": 4096,
			"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": false,
		},
		HF:   merge(without(hfPreNorm, Gate, Up, Down), hfQKNorm, hfQwenMoE),
		Ggml: merge(without(ggmlPreNorm, Gate, Up, Down), ggmlQKNorm, ggmlRouter),
	},
	{
		Name: "qwen2moe", GGUF: "qwen2moe",
		Architectures: []string{"Qwen2MoeForCausalLM"},
		ModelTypes:    []string{"qwen2_moe"},
		QKVBias:       true, SquareO: true,
		Mixture: &Mixture{
			HF: hfQwenExperts, CountKeys: []string{"num_experts", "num_local_experts"}, WidthKey: "moe_intermediate_size", Shared: true,
		},
		Defaults: map[string]any{
			"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
			"hidden_act": "silu", "tie_word_embeddings": false, "intermediate_size": 5632,
			"num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4,
			"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "norm_topk_prob": false,
		},
		HF: merge(hfPreNorm, hfQwenMoE, hfShared), Ggml: merge(ggmlPreNorm, ggmlRouter, ggmlShared),
	},
	{
		Name: "olmoe", GGUF: "olmoe",
		Architectures: []string{"OlmoeForCausalLM"},
		ModelTypes:    []string{"olmoe"},
		QKNorm:        true, BiasKeys: true, WidthOfHeads: true, SquareO: true,
		Mixture: &Mixture{
			HF: hfQwenExperts, CountKeys: []string{"num_experts", "num_local_experts"}, WidthKey: "intermediate_size", WideQKNorm: true,
		},
		Defaults: map[string]any{
			"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
			"hidden_act": "silu", "tie_word_embeddings": false,
			"num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": false,
		},
		HF:   merge(without(hfPreNorm, Gate, Up, Down), hfQKNorm, hfQwenMoE),
		Ggml: merge(without(ggmlPreNorm, Gate, Up, Down), ggmlQKNorm, ggmlRouter),
	},
	{
		Name: "gemma3", GGUF: "gemma3",
		Architectures: []string{"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
		ModelTypes:    []string{"gemma3_text", "gemma3"},
		QKNorm:        true, BiasKeys: true, PostNorms: true, NormPlusOne: true, EmbedScale: true,
		LocalRope: true, LogitCap: true, Window: windowPattern, WidthOfHeads: true,
		Defaults: map[string]any{
			"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
			"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
			"head_dim": 256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
			"rope_theta": 1e6, "rope_local_base_freq": 10000.0,
			"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true,
			"sliding_window": 4096, "sliding_window_pattern": 6, "query_pre_attn_scalar": 256.0,
		},
		HF: merge(hfPreNorm, hfQKNorm, hfPostNorms), Ggml: merge(ggmlPreNorm, ggmlQKNorm, ggmlPostNorm),
	},
}

func merge(tables ...map[Role]string) map[Role]string {
	all := map[Role]string{}
	for _, t := range tables {
		for r, name := range t {
			all[r] = name
		}
	}
	return all
}

// FamilyOf returns the family of a checkpoint's own name for it: a Hugging
// Face class or model_type, or GGUF's general.architecture. An unknown name is
// an error that lists the known ones.
func FamilyOf(kind formats.Kind, names ...string) (*Family, error) {
	for _, name := range names {
		for _, f := range Families {
			if name != "" && slices.Contains(f.called(kind), name) {
				return f, nil
			}
		}
	}
	var known []string
	for _, f := range Families {
		known = append(known, f.called(kind)[0])
	}
	sort.Strings(known)
	seen := strings.Join(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "" }), ", ")
	if seen == "" {
		seen = "none"
	}
	return nil, fault.Invalid("unsupported architecture %.200q: supported are %s", seen, strings.Join(slices.Compact(known), ", "))
}

func (f *Family) called(kind formats.Kind) []string {
	if kind == formats.GGUF {
		return []string{f.GGUF}
	}
	return append(slices.Clone(f.Architectures), f.ModelTypes...)
}

// activations are the names that Hugging Face configurations use.
var activations = map[string]kernels.Activation{
	"silu": kernels.SiLU, "swish": kernels.SiLU,
	"gelu_pytorch_tanh": kernels.GELUTanh, "gelu_new": kernels.GELUTanh, "gelu_fast": kernels.GELUTanh,
	"gelu": kernels.GELU, "relu": kernels.ReLU,
}
