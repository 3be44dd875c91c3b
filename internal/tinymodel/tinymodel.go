// Package tinymodel makes small Hugging Face checkpoints with random weights
// for tests, byte by byte and independently of the packages under test.
//
// Start with [Files] for the files of a checkpoint in memory and [Write] for a
// folder of them.
package tinymodel

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Spec is the family and the shape of a tiny model. The zero value of a field
// means the default in its comment.
type Spec struct {
	Family  string // "llama"; or mistral, qwen2, qwen3, gemma3, mixtral, qwen3moe, qwen2moe, olmoe
	Hidden  int    // 256, so that every ggml type divides the rows
	FFN     int    // 256
	Layers  int    // 2
	Heads   int    // 8
	KVHeads int    // 4
	Context int    // 128
	Vocab   int    // 288: bytes, a begin and an end token, padding to a multiple of 32
	Experts int    // 4, of which 2 are used and each is FFN wide, in families that have them
	Untied  bool
	Seed    uint64
}

func (s Spec) withDefaults() Spec {
	for _, field := range []struct {
		value *int
		use   int
	}{{&s.Hidden, 256}, {&s.FFN, 256}, {&s.Layers, 2}, {&s.Heads, 8}, {&s.KVHeads, 4}, {&s.Context, 128}, {&s.Vocab, 288}, {&s.Experts, 4}} {
		if *field.value == 0 {
			*field.value = field.use
		}
	}
	s.Family = cmp.Or(s.Family, "llama")
	return s
}

// parts are what a family has besides llama's tensors.
type parts struct {
	class, modelType          string
	biases, qkNorm, postNorms bool
	config                    map[string]any
	experts                   *experts
}

// experts are the names of a mixture's tensors.
type experts struct {
	router, gate, up, down string // %d is the expert
	shared                 bool
}

var (
	mixtralExperts = &experts{"block_sparse_moe.gate", "block_sparse_moe.experts.%d.w1", "block_sparse_moe.experts.%d.w3", "block_sparse_moe.experts.%d.w2", false}
	qwenExperts    = &experts{"mlp.gate", "mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj", false}
	sharedExperts  = &experts{"mlp.gate", "mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj", true}
)

var families = map[string]parts{
	"llama":   {class: "LlamaForCausalLM", modelType: "llama"},
	"mistral": {class: "MistralForCausalLM", modelType: "mistral", config: map[string]any{"sliding_window": 16}},
	"qwen2":   {class: "Qwen2ForCausalLM", modelType: "qwen2", biases: true},
	"qwen3":   {class: "Qwen3ForCausalLM", modelType: "qwen3", qkNorm: true},
	"gemma3": {class: "Gemma3ForCausalLM", modelType: "gemma3_text", qkNorm: true, postNorms: true, config: map[string]any{
		"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 16, "sliding_window_pattern": 2,
	}},
	"mixtral":  {class: "MixtralForCausalLM", modelType: "mixtral", experts: mixtralExperts},
	"qwen3moe": {class: "Qwen3MoeForCausalLM", modelType: "qwen3_moe", qkNorm: true, experts: qwenExperts, config: map[string]any{"norm_topk_prob": true}},
	"qwen2moe": {class: "Qwen2MoeForCausalLM", modelType: "qwen2_moe", biases: true, experts: sharedExperts},
	"olmoe":    {class: "OlmoeForCausalLM", modelType: "olmoe", qkNorm: true, experts: qwenExperts},
}

// The tokens after the 256 bytes.
const (
	bos = 256
	eos = 257
)

// Tensor is a tensor to be written, row-major.
type Tensor struct {
	Name  string
	Type  string // as safetensors spells it; "" is BF16
	Shape []int
	Data  []byte
}

// Files returns config.json, model.safetensors, tokenizer.json and
// tokenizer_config.json of a model with BF16 weights and a byte-level tokenizer.
func Files(spec Spec) map[string][]byte {
	s := spec.withDefaults()
	return map[string][]byte{
		"config.json":            config(s),
		"model.safetensors":      SafeTensors(Tensors(s)),
		"tokenizer.json":         tokenizer(),
		"tokenizer_config.json":  mustJSON(map[string]any{"add_bos_token": true, "bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}),
		"generation_config.json": mustJSON(map[string]any{"bos_token_id": bos, "eos_token_id": eos}),
	}
}

// Write writes the files of a checkpoint into dir, which it makes.
func Write(dir string, spec Spec) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range Files(spec) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Tensors returns the weights of the model that spec describes.
func Tensors(spec Spec) []Tensor {
	s := spec.withDefaults()
	rng := rand.New(rand.NewPCG(s.Seed, 1))
	kv := s.Hidden / s.Heads * s.KVHeads
	var list []Tensor
	add := func(name string, mean, deviation float64, shape ...int) {
		list = append(list, random(rng, name, mean, deviation, shape))
	}
	family := families[s.Family]
	norm := func(name string, n int) {
		mean := 1.0
		if s.Family == "gemma3" {
			mean = 0 // its norms multiply by 1+w
		}
		add(name, mean, 0.1, n)
	}
	add("model.embed_tokens.weight", 0, 0.5, s.Vocab, s.Hidden)
	for i := range s.Layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		norm(p+"input_layernorm.weight", s.Hidden)
		add(p+"self_attn.q_proj.weight", 0, 0.1, s.Hidden, s.Hidden)
		add(p+"self_attn.k_proj.weight", 0, 0.1, kv, s.Hidden)
		add(p+"self_attn.v_proj.weight", 0, 0.1, kv, s.Hidden)
		add(p+"self_attn.o_proj.weight", 0, 0.1, s.Hidden, s.Hidden)
		norm(p+"post_attention_layernorm.weight", s.Hidden)
		gated := func(gate, up, down string) {
			add(p+gate+".weight", 0, 0.1, s.FFN, s.Hidden)
			add(p+up+".weight", 0, 0.1, s.FFN, s.Hidden)
			add(p+down+".weight", 0, 0.1, s.Hidden, s.FFN)
		}
		if x := family.experts; x != nil {
			add(p+x.router+".weight", 0, 0.1, s.Experts, s.Hidden)
			for e := range s.Experts {
				gated(fmt.Sprintf(x.gate, e), fmt.Sprintf(x.up, e), fmt.Sprintf(x.down, e))
			}
		}
		switch x := family.experts; {
		case x == nil:
			gated("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
		case x.shared:
			gated("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj")
			add(p+"mlp.shared_expert_gate.weight", 0, 0.1, 1, s.Hidden)
		}
		if family.biases {
			add(p+"self_attn.q_proj.bias", 0, 0.2, s.Hidden)
			add(p+"self_attn.k_proj.bias", 0, 0.2, kv)
			add(p+"self_attn.v_proj.bias", 0, 0.2, kv)
		}
		if family.qkNorm {
			q, k := s.Hidden/s.Heads, s.Hidden/s.Heads
			if s.Family == "olmoe" {
				q, k = s.Hidden, kv // over all heads
			}
			norm(p+"self_attn.q_norm.weight", q)
			norm(p+"self_attn.k_norm.weight", k)
		}
		if family.postNorms {
			norm(p+"pre_feedforward_layernorm.weight", s.Hidden)
			norm(p+"post_feedforward_layernorm.weight", s.Hidden)
		}
	}
	norm("model.norm.weight", s.Hidden)
	if s.Untied {
		add("lm_head.weight", 0, 0.2, s.Vocab, s.Hidden)
	}
	return list
}

func random(rng *rand.Rand, name string, mean, deviation float64, shape []int) Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	data := make([]byte, 2*n)
	for i := range n {
		bits := math.Float32bits(float32(mean + deviation*rng.NormFloat64()))
		binary.LittleEndian.PutUint16(data[2*i:], uint16(bits>>16)) // truncated: any bfloat16 will do
	}
	return Tensor{name, "BF16", shape, data}
}

// SafeTensors encodes tensors as one safetensors file.
func SafeTensors(tensors []Tensor) []byte {
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	offset := 0
	for _, t := range tensors {
		header[t.Name] = map[string]any{
			"dtype": cmp.Or(t.Type, "BF16"), "shape": t.Shape, "data_offsets": []int{offset, offset + len(t.Data)},
		}
		offset += len(t.Data)
	}
	text := mustJSON(header)
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	file = append(file, text...)
	for _, t := range tensors {
		file = append(file, t.Data...)
	}
	return file
}

func config(s Spec) []byte {
	family := families[s.Family]
	c := map[string]any{
		"architectures":           []string{family.class},
		"model_type":              family.modelType,
		"hidden_size":             s.Hidden,
		"intermediate_size":       s.FFN,
		"num_hidden_layers":       s.Layers,
		"num_attention_heads":     s.Heads,
		"num_key_value_heads":     s.KVHeads,
		"max_position_embeddings": s.Context,
		"rms_norm_eps":            1e-5,
		"rope_theta":              10000.0,
		"hidden_act":              "silu",
		"vocab_size":              s.Vocab,
		"tie_word_embeddings":     !s.Untied,
		"bos_token_id":            bos,
		"eos_token_id":            eos,
		"torch_dtype":             "bfloat16",
	}
	if s.Family != "llama" {
		c["head_dim"] = s.Hidden / s.Heads
		c["query_pre_attn_scalar"] = s.Hidden / s.Heads // Gemma's, which GGUF has no place for otherwise
	}
	if family.experts != nil {
		maps.Copy(c, map[string]any{"num_experts": s.Experts, "num_local_experts": s.Experts, "num_experts_per_tok": 2,
			"moe_intermediate_size": s.FFN, "shared_expert_intermediate_size": s.FFN})
	}
	maps.Copy(c, family.config)
	return mustJSON(c)
}

// tokenizer is byte-level BPE without merges: one token a byte.
func tokenizer() []byte {
	tokens := map[string]int{"<s>": bos, "</s>": eos}
	next := 0
	for b := range 256 {
		symbol := rune(b)
		if !visible(b) { // GPT-2's byte-to-unicode table moves these to 256 and up
			symbol = rune(256 + next)
			next++
		}
		tokens[string(symbol)] = b
	}
	special := func(id int, content string) map[string]any {
		return map[string]any{"id": id, "content": content, "special": true,
			"single_word": false, "lstrip": false, "rstrip": false, "normalized": false}
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	return mustJSON(map[string]any{
		"version":       "1.0",
		"added_tokens":  []any{special(bos, "<s>"), special(eos, "</s>")},
		"normalizer":    nil,
		"pre_tokenizer": byteLevel,
		"post_processor": map[string]any{
			"type":           "TemplateProcessing",
			"single":         []any{map[string]any{"SpecialToken": map[string]any{"id": "<s>", "type_id": 0}}, map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}},
			"pair":           []any{},
			"special_tokens": map[string]any{"<s>": map[string]any{"id": "<s>", "ids": []int{bos}, "tokens": []string{"<s>"}}},
		},
		"decoder": byteLevel,
		"model":   map[string]any{"type": "BPE", "vocab": tokens, "merges": []string{}},
	})
}

func visible(b int) bool {
	return b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // only for values that JSON cannot hold, which this package does not make
	}
	return text
}
