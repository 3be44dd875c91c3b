package model

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

// TestStacks reads experts as transformers 5 holds them in memory, all of a block
// in one tensor, gate's rows before up's, and expects the logits of the model
// with a matrix for each.
func TestStacks(t *testing.T) {
	for _, ref := range mixtures() {
		ref := referenceOf(t, ref.name)
		want := slices.Concat(ref.logits(tokens)...)
		x, stackedRef := ref.moe, *ref
		stackedRef.tensors = maps.Clone(ref.tensors)
		for _, block := range []string{"model.layers.0.", "model.layers.3."} {
			gateUp := tinyTensor{shape: []int{x.experts, 2 * x.width, refHidden}}
			down := tinyTensor{shape: []int{x.experts, refHidden, x.width}}
			for e := range x.experts {
				for _, part := range []struct {
					pattern string
					to      *tinyTensor
				}{{x.gate, &gateUp}, {x.up, &gateUp}, {x.down, &down}} {
					name := block + strings.Replace(part.pattern, "%d", string(rune('0'+e)), 1) + ".weight"
					part.to.values = append(part.to.values, ref.tensors[name].values...)
					delete(stackedRef.tensors, name)
				}
			}
			stackedRef.tensors[block+"mlp.experts.gate_up_proj"] = gateUp
			stackedRef.tensors[block+"mlp.experts.down_proj"] = down
		}
		m := load(t, stackedRef.open(t), 1)
		compare(t, ref.name, run(t, m, m.NewState(), tokens), want, 1e-5)

		gateUp := stackedRef.tensors["model.layers.0.mlp.experts.gate_up_proj"]
		gateUp.shape = []int{2 * x.experts, x.width, refHidden}
		stackedRef.tensors["model.layers.0.mlp.experts.gate_up_proj"] = gateUp
		if _, err := Open(stackedRef.open(t)); err == nil || !strings.Contains(err.Error(), "is missing (block 0 expert 0 gate)") {
			t.Errorf("%s: a stack of another shape: got %v", ref.name, err)
		}
	}
}

// referenceOf is the reference of a family, with weights.
func referenceOf(t *testing.T, name string) *reference {
	t.Helper()
	for _, ref := range references() {
		if ref.name == name {
			return ref
		}
	}
	t.Fatalf("there is no reference %q", name)
	return nil
}

// TestOldGGUF reads experts of files from before stacks, and refuses stacks that
// are not what the metadata says.
func TestOldGGUF(t *testing.T) {
	ref := referenceOf(t, "mixtral")
	c, err := ParseHF(ref.open(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := c.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	var list []raw.Tensor
	short := ref.openGGUF(t, meta, nil).Tensors()
	for i, x := range short {
		if !strings.Contains(x.Name, "_exps") {
			list = append(list, x)
			continue
		}
		for e := range x.Shape[0] {
			size := len(x.Data) / x.Shape[0]
			name := strings.Replace(x.Name, "_exps", "."+string(rune('0'+e)), 1)
			list = append(list, raw.Tensor{Name: name, Type: dtype.F32, Shape: x.Shape[1:], Data: x.Data[e*size:][:size]})
		}
		short[i].Shape = []int{x.Shape[0] - 1, x.Shape[1], x.Shape[2]}
		short[i].Data = x.Data[:len(x.Data)/x.Shape[0]*(x.Shape[0]-1)]
	}
	m := load(t, openGGUF(t, meta, list), 1)
	compare(t, "a matrix for each expert", run(t, m, m.NewState(), tokens), slices.Concat(ref.logits(tokens)...), 1e-5)

	_, err = Open(openGGUF(t, meta, short))
	if err == nil || !strings.Contains(err.Error(), "blk.0.ffn_gate_exps.weight has shape [4 20 12]") {
		t.Errorf("stacks of 4 instead of 5 experts: got %v", err)
	}
}

// TestChoose: ties go to the first, weights sum to 1 or to what the softmax of
// all leaves them.
func TestChoose(t *testing.T) {
	nan := float32(math.NaN())
	for _, tt := range []struct {
		scores  []float32
		used    int
		normed  bool
		experts []int
		weights []float64
	}{
		{[]float32{0, 0, 0, 0}, 2, true, []int{0, 1}, []float64{0.5, 0.5}},
		{[]float32{0, 0, 0, 0}, 3, false, []int{0, 1, 2}, []float64{0.25, 0.25, 0.25}},
		{[]float32{-1000, 1000, 999, 1000}, 3, true, []int{1, 3, 2}, []float64{0.42231880, 0.42231880, 0.15536240}},
		{[]float32{1, 2}, 2, false, []int{1, 0}, []float64{0.73105858, 0.26894142}},
		{[]float32{1, nan, 2}, 2, true, []int{0, 1}, []float64{math.NaN(), math.NaN()}},
	} {
		got := choose(make([]choice, tt.used), tt.scores, tt.normed)
		for i, c := range got {
			if math.IsNaN(tt.weights[i]) {
				if !math.IsNaN(c.weight) {
					t.Errorf("%v: weight %g of a score that is not a number", tt.scores, c.weight)
				}
				continue
			}
			if c.expert != tt.experts[i] || math.Abs(c.weight-tt.weights[i]) > 1e-8 {
				t.Errorf("%v: choice %d is %+v, want expert %d with %g", tt.scores, i, c, tt.experts[i], tt.weights[i])
			}
		}
		if len(got) != tt.used {
			t.Errorf("%v: %d choices, want %d", tt.scores, len(got), tt.used)
		}
	}
}

// TestMixtureParameters counts by hand: of 5 experts 2 are used.
func TestMixtureParameters(t *testing.T) {
	c := parse(t, smallConfig("MixtralForCausalLM").with(settings{"num_local_experts": 5, "num_experts_per_tok": 2}))
	expert := int64(3 * 48 * 64)
	rest := int64(2*100*48 + 48 + 8*(2*48+48*48+2*16*48+48*48+5*48))
	if got, want := c.Parameters(), rest+8*5*expert; got != want {
		t.Errorf("%d parameters, want %d", got, want)
	}
	if got, want := c.ActiveParameters(), rest+8*2*expert; got != want {
		t.Errorf("%d active parameters, want %d", got, want)
	}
}

// TestHookOfExperts: every row goes to as many experts as the configuration
// says, and the linears behind see as many.
func TestHookOfExperts(t *testing.T) {
	ref := referenceOf(t, "qwen2moe")
	m := load(t, ref.open(t), 1)
	rows := map[ID]int{}
	m.SetHook(func(block int, to Input, in *kernels.Tensor) {
		for _, r := range to.Roles {
			rows[ID{Role: r, Block: block, Expert: to.Expert}] += in.Rows
		}
	})
	run(t, m, m.NewState(), tokens)
	for b := range refBlocks {
		for _, r := range []Role{Gate, Up, Down} {
			sum := 0
			for e := range ref.moe.experts {
				sum += rows[ID{Role: r, Block: b, Expert: ExpertAt(e)}]
			}
			if sum != ref.moe.used*len(tokens) {
				t.Errorf("block %d: the experts' %s see %d rows, want %d", b, r, sum, ref.moe.used*len(tokens))
			}
		}
		for _, r := range []Role{Q, O, Router, SharedGate, Gate, Up, Down} {
			if got := rows[ID{Role: r, Block: b}]; got != len(tokens) {
				t.Errorf("block %d: %s sees %d rows, want %d", b, r, got, len(tokens))
			}
		}
	}
}
