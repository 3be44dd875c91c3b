package model

import (
	"fmt"
	"math"
	"regexp"
	"slices"

	"llmc/dtype"
	"llmc/formats/raw"
)

// refMixture is what a reference with experts is, in words of its own.
type refMixture struct {
	experts, used, width int
	shared               int // width of the expert for all; 0: none
	normed               bool
	ggufNormed           bool // what llama.cpp computes, which GGUF cannot say otherwise
	wideNorm             bool // q and k are normalized over all heads

	router         string    // its module
	gate, up, down string    // modules of expert %d
	sharedGate     string    // scales the expert for all
	sharedModules  [3]string // gate, up, down
}

type refLinear struct {
	name       string
	rows, cols int
}

// mixtures returns one model of each family with experts.
func mixtures() []*reference {
	attention := []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}
	qwen := refMixture{
		experts: 6, used: 3, width: 10, router: "mlp.gate",
		gate: "mlp.experts.%d.gate_proj", up: "mlp.experts.%d.up_proj", down: "mlp.experts.%d.down_proj",
	}
	qwen3, qwen2, olmoe := qwen, qwen, qwen
	qwen3.normed, qwen3.ggufNormed = true, true
	qwen2.shared, qwen2.sharedGate = 14, "mlp.shared_expert_gate"
	qwen2.sharedModules = [3]string{"mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"}
	olmoe.width, olmoe.wideNorm = refFFN, true
	return []*reference{
		{
			name: "mixtral", heads: 3, kvHeads: 1, headDim: 4, act: silu, turn: plain(1e6, 4),
			moe: &refMixture{
				experts: 5, used: 2, width: refFFN, normed: true, ggufNormed: true, router: "block_sparse_moe.gate",
				gate: "block_sparse_moe.experts.%d.w1", up: "block_sparse_moe.experts.%d.w3", down: "block_sparse_moe.experts.%d.w2",
			},
			config: map[string]any{
				"architectures": []string{"MixtralForCausalLM"}, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": nil,
			},
		},
		{
			name: "qwen3moe", heads: 4, kvHeads: 2, headDim: 8, act: silu, qkNorm: true, turn: plain(1e4, 8), moe: &qwen3,
			config: map[string]any{
				"architectures": []string{"Qwen3MoeForCausalLM"}, "head_dim": 8, "num_experts": 6, "num_experts_per_tok": 3,
				"moe_intermediate_size": 10, "norm_topk_prob": true, "mlp_only_layers": []int{}, "decoder_sparse_step": 1,
			},
		},
		{
			name: "qwen2moe", heads: 6, kvHeads: 3, headDim: 2, act: silu, biases: attention, turn: plain(1e4, 2), moe: &qwen2,
			config: map[string]any{
				"model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3,
				"moe_intermediate_size": 10, "shared_expert_intermediate_size": 14,
			},
		},
		{
			name: "olmoe", heads: 3, kvHeads: 3, headDim: 4, act: silu, qkNorm: true, turn: plain(1e4, 4), moe: &olmoe,
			config: map[string]any{"architectures": []string{"OlmoeForCausalLM"}, "num_experts": 6, "num_experts_per_tok": 3},
		},
	}
}

// feedForwards lists the linears of a block's feed-forward layers.
func (m *reference) feedForwards() []refLinear {
	if m.moe == nil {
		return []refLinear{
			{"mlp.gate_proj", refFFN, refHidden}, {"mlp.up_proj", refFFN, refHidden}, {"mlp.down_proj", refHidden, refFFN},
		}
	}
	x := m.moe
	list := []refLinear{{x.router, x.experts, refHidden}}
	for e := range x.experts {
		list = append(list, refLinear{fmt.Sprintf(x.gate, e), x.width, refHidden},
			refLinear{fmt.Sprintf(x.up, e), x.width, refHidden}, refLinear{fmt.Sprintf(x.down, e), refHidden, x.width})
	}
	if x.shared > 0 {
		s := x.sharedModules
		list = append(list, refLinear{x.sharedGate, 1, refHidden},
			refLinear{s[0], x.shared, refHidden}, refLinear{s[1], x.shared, refHidden}, refLinear{s[2], refHidden, x.shared})
	}
	return list
}

// mixture returns what the experts make of one position: every one of them is
// asked, and those that do not belong to the highest scores get no weight.
func (m *reference) mixture(b int, p string, in []float64) []float64 {
	x := m.moe
	scores := m.linear(p+x.router, in)
	probabilities, total := make([]float64, x.experts), 0.0
	for e, s := range scores {
		probabilities[e] = math.Exp(s)
		total += probabilities[e]
	}
	ranked := slices.Sorted(slices.Values(scores))
	least := ranked[x.experts-x.used]
	if x.normed {
		total = 0
		for e, s := range scores {
			if s >= least {
				total += probabilities[e]
			}
		}
	}
	out := make([]float64, refHidden)
	for e, s := range scores {
		y := m.gated(b*x.experts+e, p+fmt.Sprintf(x.gate, e), p+fmt.Sprintf(x.up, e), p+fmt.Sprintf(x.down, e), in)
		for j := range y {
			if s >= least {
				out[j] += probabilities[e] / total * y[j]
			}
		}
	}
	if x.shared > 0 {
		gate := m.linear(p+x.sharedGate, in)[0]
		y := m.gated(-1, p+x.sharedModules[0], p+x.sharedModules[1], p+x.sharedModules[2], in)
		for j := range y {
			out[j] += y[j] / (1 + math.Exp(-gate))
		}
	}
	return out
}

// expertName takes an expert's name apart.
var expertName = regexp.MustCompile(`^blk\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight$`)

// stacked puts the experts of each block and role into one tensor, as
// llama.cpp's converter does. The list is sorted by name, so that the experts
// come in order: there are fewer than ten.
func stacked(list []raw.Tensor) []raw.Tensor {
	parts := map[string]string{
		"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down", "w1": "ffn_gate", "w3": "ffn_up", "w2": "ffn_down",
	}
	var out []raw.Tensor
	at := map[string]int{}
	for _, t := range list {
		m := expertName.FindStringSubmatch(t.Name)
		if m == nil {
			out = append(out, t)
			continue
		}
		name := "blk." + m[1] + "." + parts[m[3]] + "_exps.weight"
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name] = i
			out = append(out, raw.Tensor{Name: name, Type: dtype.F32, Shape: []int{0, t.Shape[0], t.Shape[1]}})
		}
		out[i].Shape[0]++
		out[i].Data = append(out[i].Data, t.Data...)
	}
	return out
}
