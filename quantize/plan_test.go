package quantize

import (
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/model"
)

// planConfig is a model with rows of 96 and 64 columns.
func planConfig(t *testing.T) *model.Config {
	t.Helper()
	return &model.Config{
		Family: familyNamed(t, "llama"), Blocks: 2, Heads: 6, KVHeads: 3, HeadDim: 16,
		Hidden: 96, FFN: 64, Vocab: 32,
	}
}

func int4(group int) Scheme {
	return Scheme{Bits: 4, GroupSize: group, Symmetric: true, ScaleType: dtype.F16}
}

// TestPlan states, tensor by tensor, what policies decide.
func TestPlan(t *testing.T) {
	cases := []struct {
		name   string
		policy Policy
		want   map[string]string // tensor name: scheme, "" for kept, with * when a fallback
	}{
		{"linears only", Policy{Scheme: int4(32)}, map[string]string{
			"model.embed_tokens.weight":                "",
			"lm_head.weight":                           "",
			"model.layers.0.input_layernorm.weight":    "",
			"model.layers.0.self_attn.q_proj.weight":   "int4:g32:sym",
			"model.layers.1.mlp.down_proj.weight":      "int4:g32:sym",
			"model.layers.1.self_attn.o_proj.weight":   "int4:g32:sym",
			"model.layers.1.mlp.gate_proj.weight":      "int4:g32:sym",
			"model.layers.1.self_attn.k_proj.weight":   "int4:g32:sym",
			"model.layers.1.post_attention_layernorm.": "absent",
		}},
		{"head and embeddings asked for", Policy{Scheme: int4(32), Head: true, Embeddings: true}, map[string]string{
			"model.embed_tokens.weight": "int4:g32:sym",
			"lm_head.weight":            "int4:g32:sym",
		}},
		{"group falls back tensor by tensor", Policy{Scheme: int4(64)}, map[string]string{
			"model.layers.0.self_attn.q_proj.weight": "int4:g32:sym*", // 96 columns
			"model.layers.0.mlp.down_proj.weight":    "int4:g64:sym",  // 64 columns
		}},
		{"group wider than the row", Policy{Scheme: int4(128)}, map[string]string{
			"model.layers.0.self_attn.q_proj.weight": "int4:channel:sym*",
			"model.layers.0.mlp.down_proj.weight":    "int4:channel:sym*",
		}},
		{"one group size for all", Policy{Scheme: int4(64), UniformGroups: true}, map[string]string{
			"model.layers.0.self_attn.q_proj.weight": "int4:g32:sym*",
			"model.layers.0.mlp.down_proj.weight":    "int4:g32:sym*",
		}},
		{"one group size and wide rows", Policy{Scheme: int4(128), UniformGroups: true}, map[string]string{
			"model.layers.0.self_attn.q_proj.weight": "int4:channel:sym*",
			"model.layers.0.mlp.down_proj.weight":    "int4:channel:sym*",
		}},
		{"per channel stays per channel", Policy{Scheme: int4(PerChannel), UniformGroups: true}, map[string]string{
			"model.layers.0.self_attn.q_proj.weight": "int4:channel:sym",
			"model.layers.0.mlp.down_proj.weight":    "int4:channel:sym",
		}},
		{"roles and patterns", Policy{
			Scheme: int4(32),
			Roles:  map[model.Role]Scheme{model.Down: {Bits: 6, GroupSize: 32, ScaleType: dtype.F16}, model.V: TypeScheme(dtype.BF16)},
			Ignore: []string{"gate", "model.layers.1.*.q_proj", "*.0.*.o_proj.weight", "lm_head"},
		}, map[string]string{
			"model.layers.0.mlp.down_proj.weight":    "int6:g32:asym",
			"model.layers.0.self_attn.v_proj.weight": "BF16",
			"model.layers.0.mlp.gate_proj.weight":    "",
			"model.layers.0.self_attn.q_proj.weight": "int4:g32:sym",
			"model.layers.1.self_attn.q_proj.weight": "",
			"model.layers.0.self_attn.o_proj.weight": "",
			"model.layers.1.self_attn.o_proj.weight": "int4:g32:sym",
		}},
		{"a role wins over the mix", Policy{
			Mix:   Mix{Name: "Q4_0", Default: dtype.Q4_0},
			Roles: map[model.Role]Scheme{model.Embed: TypeScheme(dtype.Q8_0), model.Down: TypeScheme(dtype.Q6_K)},
		}, map[string]string{
			"model.embed_tokens.weight":              "Q8_0",
			"lm_head.weight":                         "Q8_0*", // Q6_K wants 256
			"model.layers.0.mlp.down_proj.weight":    "Q8_0*",
			"model.layers.0.self_attn.q_proj.weight": "Q4_0",
			"model.norm.weight":                      "",
		}},
	}
	c := planConfig(t)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			plan, err := NewPlan(c, configTensors(c), tc.policy)
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range tc.want {
				if got := planned(plan, name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// planned writes what a plan decides about a tensor.
func planned(p *Plan, name string) string {
	for _, e := range p.Entries {
		if e.Name != name {
			continue
		}
		text := ""
		if !e.Kept() {
			text = e.To.String()
		}
		if e.Fallback {
			text += "*"
		}
		return text
	}
	return "absent"
}

func TestPlanRefuses(t *testing.T) {
	c := planConfig(t)
	narrow := *c
	narrow.FFN = 40 // 40 and 96 have 8 in common
	cases := []struct {
		name   string
		config *model.Config
		policy Policy
		want   string
	}{
		{"bits", c, Policy{Scheme: Scheme{Bits: 9, ScaleType: dtype.F16}}, "9 bits"},
		{"bad glob", c, Policy{Ignore: []string{"a["}}, "not a valid glob"},
		{"no match", c, Policy{Ignore: []string{"model.layers.7.*"}}, "matches no tensor"},
		{"norm", c, Policy{Roles: map[model.Role]Scheme{model.FFNNorm: int4(32)}}, "not a matrix"},
		{"no common group", &narrow, Policy{Scheme: int4(32), UniformGroups: true}, "no group size"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := NewPlan(tc.config, configTensors(tc.config), tc.policy)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
}

// TestPlanSizes adds up sizes by hand: 4 bits, a 16-bit scale for 32 columns.
func TestPlanSizes(t *testing.T) {
	c := planConfig(t)
	plan, err := NewPlan(c, configTensors(c), Policy{Scheme: int4(32)})
	if err != nil {
		t.Fatal(err)
	}
	const (
		linears = 2 * (2*96*96 + 2*48*96 + 3*64*96)
		rest    = 2*32*96 + 5*96
	)
	before, after := plan.Bytes()
	if want := int64(2 * (linears + rest)); before != want {
		t.Errorf("before %d, want %d", before, want)
	}
	if want := int64(linears*9/16 + 2*rest); after != want {
		t.Errorf("after %d, want %d", after, want)
	}
	if n := plan.Elements(); n != linears+rest {
		t.Errorf("%d weights, want %d", n, linears+rest)
	}
	tensors := 0
	for _, count := range plan.Counts() {
		tensors += count.Tensors
	}
	if tensors != len(plan.Entries) {
		t.Errorf("counts add up to %d tensors of %d", tensors, len(plan.Entries))
	}
	asymmetric := Scheme{Bits: 3, GroupSize: 32, ScaleType: dtype.BF16}
	if got, want := asymmetric.Bytes(8, 64), int64(8*64*3+16*(16+3))/8; got != want {
		t.Errorf("3 bits with zero points take %d bytes, want %d", got, want)
	}
	if got := int4(PerTensor).Bytes(8, 64); got != 8*64/2+2 {
		t.Errorf("per tensor takes %d bytes, want one scale", got)
	}
}

// TestPlanNotes checks what the user is told.
func TestPlanNotes(t *testing.T) {
	c := planConfig(t)
	c.Tied = true
	tensors := configTensors(c)
	for i := range tensors {
		tensors[i].Quantized, tensors[i].From = true, "Q4_0"
	}
	plan, err := NewPlan(c, tensors, Policy{
		Scheme: int4(64), Head: true, Roles: map[model.Role]Scheme{model.V: {Bits: 8, GroupSize: 32, ScaleType: dtype.F16}},
	})
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(plan.Notes, "\n")
	for _, want := range []string{"fall back", "quantized already", "tied", "vLLM"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes lack %q: %s", want, notes)
		}
	}
	plan, err = NewPlan(c, configTensors(c), Policy{Scheme: int4(32)})
	if err != nil || len(plan.Notes) != 0 {
		t.Errorf("a plain plan has notes %q, %v", plan.Notes, err)
	}
}
