package quantize

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/export"
)

// tiny opens a small model with random weights.
func tiny(t *testing.T, spec tinymodel.Spec) (*formats.Checkpoint, *model.Weights) {
	t.Helper()
	c, err := formats.FromMemory(tinymodel.Files(spec))
	if err != nil {
		t.Fatal(err)
	}
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

// TestTargets quantizes a model into every format and checks that every
// weight reads back as it was rounded in memory.
func TestTargets(t *testing.T) {
	cases := []struct {
		name   string
		target Target
		policy Policy
	}{
		{"compressed-tensors", CompressedTensors, Policy{Scheme: Scheme{Bits: 4, GroupSize: 32, Symmetric: true}}},
		{"3 bits asymmetric per channel", CompressedTensors, Policy{Scheme: Scheme{Bits: 3, GroupSize: PerChannel}}},
		{"per tensor", CompressedTensors, Policy{Scheme: Scheme{Bits: 8, GroupSize: PerTensor, Symmetric: true}}},
		{"mixed", CompressedTensors, Policy{
			Scheme: Scheme{Bits: 4, GroupSize: 128, Symmetric: true}, Head: true, Ignore: []string{"o", "model.layers.0.mlp.up_proj"},
			Roles: map[model.Role]Scheme{model.Down: {Bits: 7, GroupSize: 64}},
		}},
		{"gptq", GPTQ, Policy{Scheme: Scheme{Bits: 4, GroupSize: 128, Symmetric: true}, UniformGroups: true}},
		{"gptq 3 bits asymmetric", GPTQ, Policy{Scheme: Scheme{Bits: 3, GroupSize: 32}, UniformGroups: true}},
		{"awq", AWQ, Policy{Scheme: Scheme{Bits: 4, GroupSize: 64}, UniformGroups: true, Ignore: []string{"v"}}},
		{"int8 with int8 activations", CompressedTensors, Policy{Scheme: Scheme{Bits: 8, GroupSize: PerChannel, Symmetric: true}, Head: true,
			Ignore: []string{"o"}, Inputs: kernels.Rounding{Bits: 8}}},
		{"the same per tensor", CompressedTensors, Policy{Scheme: Scheme{Bits: 8, GroupSize: PerTensor, Symmetric: true}, Inputs: kernels.Rounding{Bits: 8}}},
		{"float8 with float8 activations", CompressedTensors, Policy{Scheme: Scheme{Bits: 8, Float: true, GroupSize: PerTensor, Symmetric: true},
			Inputs: kernels.Rounding{Bits: 8, Float: true}}},
		{"float8 weights", CompressedTensors, Policy{Scheme: Scheme{Bits: 8, Float: true, GroupSize: PerChannel, Symmetric: true}}},
		{"Q4_K_M", GGUF, Policy{Mix: Mix{"Q4_K_M", 15, dtype.Q4_K}, Vectors: dtype.F32}},
		{"Q2_K", GGUF, Policy{Mix: Mix{"Q2_K", 10, dtype.Q2_K}, Vectors: dtype.F32, Ignore: []string{"down"}}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c, w := tiny(t, tinymodel.Spec{Untied: true})
			tc.policy.Scheme.ScaleType = tc.target.ScaleType(w)
			for role, s := range tc.policy.Roles {
				s.ScaleType = tc.policy.Scheme.ScaleType
				tc.policy.Roles[role] = s
			}
			if tc.policy.Mix.Name != "" {
				tc.policy.Scheme = Scheme{}
			}
			checkTarget(t, c, w, tc.target, tc.policy)
		})
	}
}

func checkTarget(t *testing.T, c *formats.Checkpoint, w *model.Weights, target Target, policy Policy) {
	t.Helper()
	ctx := context.Background()
	if err := target.Check(&policy); err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(&w.Config, Describe(w), policy)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := plan.Spec(w, target, policy.Mix)
	if err != nil {
		t.Fatal(err)
	}
	out, err := export.New(c, w, spec)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "out.gguf")
	run := NewRun(w, plan, RTN{}, 2)
	if err := out.Write(ctx, path, false, run.Matrix, nil); err != nil {
		t.Fatal(err)
	}
	written, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer written.Close()
	back, err := model.Open(written)
	if err != nil {
		t.Fatal(err)
	}
	rounded := 0
	for i := range plan.Entries {
		e := &plan.Entries[i]
		if !e.isMatrix() {
			continue
		}
		want, err := run.Matrix(ctx, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		got, err := back.Matrix(e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !e.Kept() {
			rounded++
		}
		sameWeights(t, w, e, want, got, target)
		if in, err := back.Inputs(e.ID); err != nil || (in.Bits > 0) != (e.Rounds() && policy.Inputs.Bits > 0) || in.Bits > 0 && in != policy.Inputs {
			t.Errorf("%s rounds its activations to %s, %v", e.ID, in, err)
		}
	}
	if results := run.Results(); len(results) != rounded || rounded < 8 {
		t.Errorf("%d tensors were rounded, %d measured", rounded, len(results))
	}
	if policy.Mix.Name != "" {
		if n, _ := written.Meta.Uint("general.file_type"); n != uint64(policy.Mix.FileType) {
			t.Errorf("file type %d, want %d", n, policy.Mix.FileType)
		}
	}
}

// sameWeights compares row by row, in the order that GGUF gives q and k.
func sameWeights(t *testing.T, w *model.Weights, e *Entry, want, got kernels.Matrix, target Target) {
	t.Helper()
	rows, cols := want.Shape()
	a, b := make([]float32, cols), make([]float32, cols)
	for r := range rows {
		from := r
		if target == GGUF && (e.ID.Role == model.Q || e.ID.Role == model.K) {
			dim := w.Config.HeadDim
			head, at := r/dim, r%dim
			from = head*dim + at%2*dim/2 + at/2
		}
		want.Row(a, from)
		got.Row(b, r)
		if !slices.Equal(a, b) {
			t.Errorf("%s: row %d is not what was rounded", e.ID, r)
			return
		}
	}
	g, integers := got.(*kernels.Groups)
	if _, floats := got.(*kernels.Float8); floats != e.To.Float || integers != (e.To.IsInteger() && !floats) || integers && g.Bits != e.To.Bits {
		t.Errorf("%s is a %T, want %s", e.ID, got, e.To)
	}
}

// TestReplaceIsWhatIsWritten rounds in memory and compares with the run.
func TestReplaceIsWhatIsWritten(t *testing.T) {
	_, w := tiny(t, tinymodel.Spec{})
	_, again := tiny(t, tinymodel.Spec{})
	plan, err := NewPlan(&w.Config, Describe(w), Policy{Scheme: int4(64)})
	if err != nil {
		t.Fatal(err)
	}
	var last, total int64
	run := NewRun(w, plan, RTN{}, 2)
	if err := run.Replace(context.Background(), func(d, n int64) { last, total = d, n }); err != nil {
		t.Fatal(err)
	}
	if last != total || total == 0 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	id := model.ID{Role: model.Up, Block: 1}
	got, err := w.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	source, _ := again.Matrix(id)
	want, err := RTN{}.Quantize(context.Background(), Layer{Weight: source}, int4(64))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Error("the weight in memory is not the rounded one")
	}
}

// TestTargetRefuses states what each format cannot hold.
func TestTargetRefuses(t *testing.T) {
	int5 := Scheme{Bits: 5, GroupSize: 64, Symmetric: true}
	asym := Scheme{Bits: 4, GroupSize: 64}
	sym := Scheme{Bits: 4, GroupSize: 64, Symmetric: true}
	int8 := Scheme{Bits: 8, Symmetric: true}
	float8 := Scheme{Bits: 8, Float: true, Symmetric: true}
	cases := []struct {
		target Target
		policy Policy
		want   string
	}{
		{GPTQ, Policy{Scheme: int5}, "2, 3, 4 or 8 bits, not 5"},
		{GPTQ, Policy{Scheme: sym, Ignore: []string{"o"}}, "none can be ignored"},
		{GPTQ, Policy{Scheme: sym, Head: true}, "head"},
		{GPTQ, Policy{Scheme: sym, Roles: map[model.Role]Scheme{model.Down: sym}}, "one number of bits"},
		{AWQ, Policy{Scheme: int5}, "4 bits, not 5"},
		{AWQ, Policy{Scheme: sym}, "asymmetric"},
		{AWQ, Policy{Scheme: asym, Embeddings: true}, "embeddings"},
		{CompressedTensors, Policy{Scheme: asym, Embeddings: true}, "embeddings"},
		{CompressedTensors, Policy{Mix: Mix{Name: "Q4_0", Default: dtype.Q4_0}}, "GGUF type"},
		{CompressedTensors, Policy{Scheme: asym, Roles: map[model.Role]Scheme{model.O: TypeScheme(dtype.Q4_0)}}, "GGUF type"},
		{GGUF, Policy{Scheme: sym}, "block types"},
		{GPTQ, Policy{Scheme: float8}, "no 8-bit floats"},
		{GPTQ, Policy{Scheme: int8, Inputs: kernels.Rounding{Bits: 8}}, "no place for rounded activations"},
		{CompressedTensors, Policy{Scheme: sym, Inputs: kernels.Rounding{Bits: 8}}, "these are int4:g64:sym"},
		{CompressedTensors, Policy{Scheme: int8, Inputs: kernels.Rounding{Bits: 8, Float: true}}, "these are int8:channel:sym"},
		{CompressedTensors, Policy{Scheme: float8, Roles: map[model.Role]Scheme{model.Down: int8}, Inputs: kernels.Rounding{Bits: 8, Float: true}}, "these are int8"},
	}
	for _, tc := range cases {
		err := tc.target.Check(&tc.policy)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %+v: error %v, want %q in it", tc.target, tc.policy.Scheme, err, tc.want)
		}
	}
	for _, tc := range []struct {
		target Target
		policy Policy
	}{{GPTQ, Policy{Scheme: sym}}, {AWQ, Policy{Scheme: asym, Ignore: []string{"o"}}}, {CompressedTensors, Policy{Scheme: int5, Head: true}}} {
		if err := tc.target.Check(&tc.policy); err != nil {
			t.Errorf("%s refuses %+v: %v", tc.target, tc.policy.Scheme, err)
		}
	}
}

// TestQuantizationConfig asks the written configuration about every linear: it
// has to give the plan's answer, also about a head that is tied.
func TestQuantizationConfig(t *testing.T) {
	for _, untied := range []bool{false, true} {
		_, w := tiny(t, tinymodel.Spec{Untied: untied, Layers: 3})
		w.Extra = []string{"vision_tower.layers.0.fc.weight", "vision_tower.layers.0.fc.bias"}
		scheme := Scheme{Bits: 4, GroupSize: 128, Symmetric: true, ScaleType: dtype.BF16}
		down := Scheme{Bits: 8, GroupSize: PerChannel, ScaleType: dtype.BF16}
		plan, err := NewPlan(&w.Config, Describe(w), Policy{
			Scheme: scheme, Roles: map[model.Role]Scheme{model.Down: down}, Ignore: []string{"k", "*.layers.1.*.o_proj"},
		})
		if err != nil {
			t.Fatal(err)
		}
		cfg := plan.quantization(w, CompressedTensors)
		if cfg.ScaleType != dtype.BF16 || len(cfg.Schemes) != 2 {
			t.Errorf("%d schemes with scales of %s, want 2 of BF16", len(cfg.Schemes), cfg.ScaleType)
		}
		asked := 0
		for _, e := range plan.Entries {
			if !e.ID.Role.IsLinear() {
				continue
			}
			asked++
			got, ok := cfg.SchemeOf(strings.TrimSuffix(e.Name, ".weight"))
			if ok != e.To.IsInteger() || ok && (got.Bits != e.To.Bits || got.GroupSize != max(e.To.GroupSize, 0) || got.Symmetric != e.To.Symmetric) {
				t.Errorf("%s: the configuration says %+v, %v; the plan says %s", e.Name, got, ok, e.To)
			}
		}
		if asked != 21 {
			t.Errorf("asked about %d linears, want 21", asked)
		}
		for _, module := range []string{"lm_head", "vision_tower.layers.0.fc"} {
			if s, ok := cfg.SchemeOf(module); ok {
				t.Errorf("%s is said to be %+v", module, s)
			}
		}
	}
}
