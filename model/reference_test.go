package model

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/internal/tinymodel"
)

// reference is a transformer as its papers write it down: float64, every
// position from the beginning, no cache, no batches, nothing shared with the
// package. What it is, it takes from its own fields; config says the same in
// the words of config.json.
type reference struct {
	name   string
	config map[string]any

	heads, kvHeads, headDim int
	qkNorm, postNorms       bool
	normAdds                float64 // to every norm's weight
	embedScale, attnScale   float64
	logitCap                float64
	act                     func(float64) float64
	window                  func(block int) int           // 0: none
	turn                    func(block, pair int) float64 // radians per position
	biases                  []string                      // modules that have one
	tensors                 map[string]tinyTensor         // by Hugging Face name

	eps  float64 // of the norms
	moe  *refMixture
	gone *Cut // what is left; the rest is skipped or zero. nil: everything is left
	// round, when not nil, rounds what a linear multiplies.
	round func(module string, x []float64) []float64
	// store, when not nil, is what attention keeps of a key or a value head.
	store func(head []float64) []float64
}

type tinyTensor struct {
	shape  []int
	values []float32
}

// The shape that all references share, so small that every position can look
// at every other in no time, with nothing a power of two that need not be.
const (
	refVocab  = 23
	refHidden = 12
	refFFN    = 20
	refBlocks = 4
	refEps    = 1e-3
)

func plain(base float64, headDim int) func(int, int) float64 {
	return func(_, pair int) float64 { return math.Pow(base, -2*float64(pair)/float64(headDim)) }
}

func silu(x float64) float64 { return x / (1 + math.Exp(-x)) }

func geluTanh(x float64) float64 {
	return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
}

func always(n int) func(int) int { return func(int) int { return n } }

// references returns one model of each family, with every switch of the family
// thrown.
func references() []*reference {
	attention := []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
	mlp := []string{"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
	list := []*reference{
		{
			name: "llama", heads: 4, kvHeads: 2, headDim: 6, act: silu, biases: append(slices.Clone(attention), mlp...),
			turn: func(b, pair int) float64 {
				// Llama 3.1's scaling: of its three kinds of frequencies, 6
				// elements have one each. Period 6.3 fits 64 positions ten
				// times, 136 not at all, 29 about twice.
				inv := plain(100, 6)(b, pair)
				smooth := (64*inv/(2*math.Pi) - 1) / (4 - 1)
				return inv * []float64{1, (1-smooth)/8 + smooth, 1. / 8}[pair]
			},
			config: map[string]any{
				"architectures": []string{"LlamaForCausalLM"}, "head_dim": 6, "attention_bias": true, "mlp_bias": true,
				"rope_theta": 100, "rope_scaling": map[string]any{
					"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
					"original_max_position_embeddings": 64,
				},
			},
		},
		{
			name: "mistral", heads: 3, kvHeads: 1, headDim: 4, act: silu, window: always(5),
			turn:   func(b, pair int) float64 { return plain(500, 4)(b, pair) / 2 },
			config: map[string]any{"model_type": "mistral", "sliding_window": 5, "rope_theta": 500, "rope_scaling": map[string]any{"type": "linear", "factor": 2.0}},
		},
		{
			name: "qwen2", heads: 6, kvHeads: 3, headDim: 2, act: silu, biases: attention[:3], turn: plain(1e6, 2),
			window: func(b int) int { return []int{0, 0, 3, 3}[b] },
			config: map[string]any{
				"architectures": []string{"Qwen2ForCausalLM"}, "tie_word_embeddings": true, "rope_theta": 1e6,
				"use_sliding_window": true, "sliding_window": 3, "max_window_layers": 2,
			},
		},
		{
			name: "qwen3", heads: 4, kvHeads: 2, headDim: 8, act: silu, qkNorm: true, turn: plain(1e4, 8),
			config: map[string]any{
				"architectures": []string{"Qwen3ForCausalLM"}, "head_dim": 8, "use_sliding_window": false, "sliding_window": 3,
				"rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 1e4},
			},
		},
		{
			name: "gemma3", heads: 4, kvHeads: 1, headDim: 6, act: geluTanh, qkNorm: true, postNorms: true, normAdds: 1,
			embedScale: math.Sqrt(refHidden), logitCap: 2,
			window: func(b int) int { return []int{4, 4, 0, 4}[b] },
			turn: func(b, pair int) float64 {
				if b == 2 {
					return plain(1e6, 6)(b, pair) / 8
				}
				return plain(50, 6)(b, pair)
			},
			config: map[string]any{
				"architectures": []string{"Gemma3ForCausalLM"}, "head_dim": 6, "hidden_activation": "gelu_pytorch_tanh",
				"final_logit_softcapping": 2, "query_pre_attn_scalar": 6, "sliding_window": 4, "sliding_window_pattern": 3,
				"rope_theta": 1e6, "rope_local_base_freq": 50, "rope_scaling": map[string]any{"rope_type": "linear", "factor": 8},
			},
		},
	}
	list = append(list, mixtures()...)
	for i, m := range list {
		maps.Copy(m.config, map[string]any{
			"vocab_size": refVocab, "hidden_size": refHidden, "intermediate_size": refFFN, "num_hidden_layers": refBlocks,
			"num_attention_heads": m.heads, "num_key_value_heads": m.kvHeads, "rms_norm_eps": refEps, "max_position_embeddings": 64,
		})
		m.eps = refEps
		if m.embedScale == 0 {
			m.embedScale = 1
		}
		if m.window == nil {
			m.window = always(0)
		}
		m.attnScale = 1 / math.Sqrt(float64(m.headDim))
		m.randomize(uint64(i))
	}
	return list
}

// randomize makes weights large enough that nothing stays in the linear range.
func (m *reference) randomize(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 99))
	m.tensors = map[string]tinyTensor{}
	add := func(name string, mean, spread float64, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(mean + spread*rng.NormFloat64())
		}
		m.tensors[name] = tinyTensor{shape, values}
	}
	norm := func(name string, n int) { add(name, 1-m.normAdds, 0.3, n) }
	add("model.embed_tokens.weight", 0, 1, refVocab, refHidden)
	if m.config["tie_word_embeddings"] != true && m.name != "gemma3" {
		add("lm_head.weight", 0, 0.5, refVocab, refHidden)
	}
	norm("model.norm.weight", refHidden)
	q, kv := m.heads*m.headDim, m.kvHeads*m.headDim
	for b := range refBlocks {
		p := fmt.Sprintf("model.layers.%d.", b)
		// In this order always: the same seed must give the same weights.
		linears := []refLinear{
			{"self_attn.q_proj", q, refHidden}, {"self_attn.k_proj", kv, refHidden}, {"self_attn.v_proj", kv, refHidden},
			{"self_attn.o_proj", refHidden, q},
		}
		linears = append(linears, m.feedForwards()...)
		for _, l := range linears {
			add(p+l.name+".weight", 0, 0.5, l.rows, l.cols)
			if slices.Contains(m.biases, l.name) {
				add(p+l.name+".bias", 0, 0.5, l.rows)
			}
		}
		norm(p+"input_layernorm.weight", refHidden)
		norm(p+"post_attention_layernorm.weight", refHidden)
		if m.postNorms {
			norm(p+"pre_feedforward_layernorm.weight", refHidden)
			norm(p+"post_feedforward_layernorm.weight", refHidden)
		}
		if m.qkNorm {
			widths := [2]int{m.headDim, m.headDim}
			if m.moe != nil && m.moe.wideNorm {
				widths = [2]int{q, kv}
			}
			norm(p+"self_attn.q_norm.weight", widths[0])
			norm(p+"self_attn.k_norm.weight", widths[1])
		}
	}
}

// logits returns the predictions at every position.
func (m *reference) logits(ids []int32) [][]float64 {
	x := make([][]float64, len(ids))
	for i, id := range ids {
		x[i] = make([]float64, refHidden)
		for j := range x[i] {
			x[i][j] = float64(m.tensors["model.embed_tokens.weight"].values[int(id)*refHidden+j]) * m.embedScale
		}
		m.keepHidden(x[i])
	}
	for b := range refBlocks {
		if m.gone != nil && m.gone.Blocks != nil && !slices.Contains(m.gone.Blocks, b) {
			continue
		}
		p := fmt.Sprintf("model.layers.%d.", b)
		preFFN := "post_attention_layernorm"
		if m.postNorms {
			preFFN = "pre_feedforward_layernorm"
		}
		for i, y := range m.attend(b, p, x) {
			m.keepHidden(y)
			if m.postNorms {
				y = m.norm(p+"post_attention_layernorm", y)
			}
			x[i] = sum(x[i], y)
		}
		for i := range x {
			in := m.norm(p+preFFN, x[i])
			var y []float64
			if m.moe != nil {
				y = m.mixture(b, p, in)
			} else {
				y = m.gated(b, p+"mlp.gate_proj", p+"mlp.up_proj", p+"mlp.down_proj", in)
			}
			m.keepHidden(y)
			if m.postNorms {
				y = m.norm(p+"post_feedforward_layernorm", y)
			}
			x[i] = sum(x[i], y)
		}
	}
	head := "lm_head"
	if _, ok := m.tensors["lm_head.weight"]; !ok {
		head = "model.embed_tokens"
	}
	out := make([][]float64, len(ids))
	for i := range x {
		out[i] = m.linear(head, m.norm("model.norm", x[i]))
		for j, v := range out[i] {
			if m.logitCap > 0 {
				out[i][j] = m.logitCap * math.Tanh(v/m.logitCap)
			}
		}
	}
	return out
}

// gated returns the output of a gated feed-forward layer of block b.
func (m *reference) gated(b int, gateName, upName, downName string, in []float64) []float64 {
	gate, up := m.linear(gateName, in), m.linear(upName, in)
	for j := range gate {
		gate[j] = m.act(gate[j]) * up[j]
	}
	if m.gone != nil && m.gone.Neurons != nil && b >= 0 {
		keep(gate, m.gone.Neurons[b], 1)
	}
	return m.linear(downName, gate)
}

// attend returns the attention of block b at every position.
func (m *reference) attend(b int, p string, x [][]float64) [][]float64 {
	var qs, ks, vs [][]float64
	for i := range x {
		in := m.norm(p+"input_layernorm", x[i])
		qs = append(qs, m.rotate(b, i, p+"self_attn.q_norm", m.linear(p+"self_attn.q_proj", in)))
		ks = append(ks, m.rotate(b, i, p+"self_attn.k_norm", m.linear(p+"self_attn.k_proj", in)))
		vs = append(vs, m.linear(p+"self_attn.v_proj", in))
		for at := 0; m.store != nil && at < m.kvHeads*m.headDim; at += m.headDim {
			copy(ks[i][at:], m.store(ks[i][at:][:m.headDim]))
			copy(vs[i][at:], m.store(vs[i][at:][:m.headDim]))
		}
	}
	out := make([][]float64, len(x))
	for i := range x {
		mixed := make([]float64, m.heads*m.headDim)
		first := 0
		if w := m.window(b); w > 0 {
			first = max(0, i-w+1)
		}
		for h := range m.heads {
			at, kv := h*m.headDim, h/(m.heads/m.kvHeads)*m.headDim
			var weights []float64
			total := 0.0
			for j := first; j <= i; j++ {
				dot := 0.0
				for e := range m.headDim {
					dot += qs[i][at+e] * ks[j][kv+e]
				}
				weights = append(weights, math.Exp(dot*m.attnScale))
				total += weights[len(weights)-1]
			}
			for j, w := range weights {
				for e := range m.headDim {
					mixed[at+e] += w / total * vs[first+j][kv+e]
				}
			}
		}
		if m.gone != nil && m.gone.Heads != nil {
			keep(mixed, m.gone.Heads[b], m.headDim)
		}
		out[i] = m.linear(p+"self_attn.o_proj", mixed)
	}
	return out
}

// keepHidden makes the channels of the residual stream zero that are cut.
func (m *reference) keepHidden(x []float64) {
	if m.gone != nil && m.gone.Hidden != nil {
		keep(x, m.gone.Hidden, 1)
	}
}

// keep makes zero what is not among the units of so many elements.
func keep(x []float64, units []int, size int) {
	for i := range x {
		if !slices.Contains(units, i/size) {
			x[i] = 0
		}
	}
}

// rotate normalizes every head of v, if the family does, and turns the pair of
// elements j and j+headDim/2 by its angle.
func (m *reference) rotate(b, position int, norm string, v []float64) []float64 {
	if m.moe != nil && m.moe.wideNorm {
		v = m.norm(norm, v)
	}
	half := m.headDim / 2
	for at := 0; at < len(v); at += m.headDim {
		head := v[at : at+m.headDim]
		if m.qkNorm && (m.moe == nil || !m.moe.wideNorm) {
			copy(head, m.norm(norm, head))
		}
		for j := range half {
			sin, cos := math.Sincos(float64(position) * m.turn(b, j))
			a, c := head[j], head[j+half]
			head[j], head[j+half] = a*cos-c*sin, c*cos+a*sin
		}
	}
	return v
}

func (m *reference) linear(module string, x []float64) []float64 {
	w := m.tensors[module+".weight"]
	y := make([]float64, w.shape[0])
	if m.round != nil {
		x = m.round(module, x)
	}
	for r := range y {
		for c, v := range x {
			y[r] += v * float64(w.values[r*len(x)+c])
		}
		if bias, ok := m.tensors[module+".bias"]; ok {
			y[r] += float64(bias.values[r])
		}
	}
	return y
}

func (m *reference) norm(module string, x []float64) []float64 {
	square, n := 0.0, len(x)
	for _, v := range x {
		square += v * v
	}
	if m.gone != nil && m.gone.Hidden != nil && !strings.Contains(module, "self_attn") {
		n = len(m.gone.Hidden)
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v / math.Sqrt(square/float64(n)+m.eps) * (float64(m.tensors[module+".weight"].values[i]) + m.normAdds)
	}
	return y
}

func sum(a, b []float64) []float64 {
	for i := range a {
		a[i] += b[i]
	}
	return a
}

// open returns the model as a Hugging Face checkpoint.
func (m *reference) open(t testing.TB) *formats.Checkpoint {
	t.Helper()
	config, err := json.Marshal(m.config)
	if err != nil {
		t.Fatal(err)
	}
	return openFiles(t, config, m.tensors)
}

func openFiles(t testing.TB, config []byte, tensors map[string]tinyTensor) *formats.Checkpoint {
	t.Helper()
	var list []tinymodel.Tensor
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		list = append(list, tinymodel.Tensor{Name: name, Type: "F32", Shape: tensors[name].shape, Data: tensors[name].bytes()})
	}
	c, err := formats.FromMemory(map[string][]byte{"config.json": config, "model.safetensors": tinymodel.SafeTensors(list)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (t tinyTensor) bytes() []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, t.values) // a Buffer takes everything
	return b.Bytes()
}

// ggufNames are GGUF's names for the last parts of Hugging Face's.
var ggufNames = strings.NewReplacer(
	"model.embed_tokens", "token_embd", "lm_head", "output", "model.norm", "output_norm", "model.layers.", "blk.",
	"input_layernorm", "attn_norm", "self_attn.q_proj", "attn_q", "self_attn.k_proj", "attn_k", "self_attn.v_proj", "attn_v",
	"self_attn.o_proj", "attn_output", "self_attn.q_norm", "attn_q_norm", "self_attn.k_norm", "attn_k_norm",
	"mlp.shared_expert.gate_proj", "ffn_gate_shexp", "mlp.shared_expert.up_proj", "ffn_up_shexp", "mlp.shared_expert.down_proj", "ffn_down_shexp",
	"mlp.shared_expert_gate", "ffn_gate_inp_shexp", "block_sparse_moe.gate", "ffn_gate_inp", "mlp.gate.", "ffn_gate_inp.",
	"mlp.gate_proj", "ffn_gate", "mlp.up_proj", "ffn_up", "mlp.down_proj", "ffn_down",
)

// openGGUF returns the model as llama.cpp's converter would write it: renamed,
// q and k of the llama family in the order of neighbours that rotate together,
// norms as they multiply, Llama 3's frequency factors as a tensor.
func (m *reference) openGGUF(t testing.TB, meta *gguf.Metadata, ropeFactors []float32) *formats.Checkpoint {
	t.Helper()
	var list []raw.Tensor
	for _, name := range slices.Sorted(maps.Keys(m.tensors)) {
		x := m.tensors[name]
		values := slices.Clone(x.values)
		if strings.Contains(name, "norm") {
			for i := range values {
				values[i] += float32(m.normAdds)
			}
		}
		if slices.Contains([]string{"llama", "mistral", "mixtral"}, m.name) && (strings.Contains(name, "q_proj") || strings.Contains(name, "k_proj")) {
			values = neighbours(values, x.shape[0], m.headDim)
		}
		list = append(list, raw.Tensor{Name: m.ggufName(name), Type: dtype.F32, Shape: x.shape, Data: tinyTensor{values: values}.bytes()})
	}
	list = stacked(list)
	if ropeFactors != nil {
		list = append(list, raw.Tensor{Name: "rope_freqs.weight", Type: dtype.F32, Shape: []int{len(ropeFactors)}, Data: tinyTensor{values: ropeFactors}.bytes()})
	}
	return openGGUF(t, meta, list)
}

func (m *reference) ggufName(name string) string {
	ffnNorm := [2]string{"post_attention_layernorm", "ffn_norm"}
	if m.postNorms {
		name = strings.Replace(name, "post_attention_layernorm", "post_attention_norm", 1)
		name = strings.Replace(name, "post_feedforward_layernorm", "post_ffw_norm", 1)
		ffnNorm[0] = "pre_feedforward_layernorm"
	}
	return ggufNames.Replace(strings.Replace(name, ffnNorm[0], ffnNorm[1], 1))
}

// neighbours reorders the rows of each head: first and second halves, element
// by element.
func neighbours(values []float32, rows, headDim int) []float32 {
	width := len(values) / rows
	out := make([]float32, 0, len(values))
	for head := 0; head < rows; head += headDim {
		for j := range headDim / 2 {
			for _, r := range []int{head + j, head + j + headDim/2} {
				out = append(out, values[r*width:(r+1)*width]...)
			}
		}
	}
	return out
}

func openGGUF(t testing.TB, meta *gguf.Metadata, tensors []raw.Tensor) *formats.Checkpoint {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := gguf.Create(f, meta, tensors)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tensors {
		if err := w.WriteTensor(x.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // read-only; nothing is lost
	return c
}
