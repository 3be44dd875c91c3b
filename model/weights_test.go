package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model/hfquant"
)

// changed returns the checkpoint of a reference after a change of its tensors.
func changed(t *testing.T, name string, change func(map[string]tinyTensor)) *formats.Checkpoint {
	t.Helper()
	all := references()
	ref := all[slices.IndexFunc(all, func(r *reference) bool { return r.name == name })]
	change(ref.tensors)
	return ref.open(t)
}

func wantInvalid(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %q", parts)
		return
	}
	if fault.KindOf(err) != fault.InvalidFile {
		t.Errorf("%v: not marked as an invalid input", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%v: want %q in it", err, p)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	const up, bias = "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias"
	tests := []struct {
		name   string
		change func(map[string]tinyTensor)
		want   []string
	}{
		{"missing", func(m map[string]tinyTensor) { delete(m, up) }, []string{"the tensor " + up + " is missing (block 1 up)"}},
		{"missing bias", func(m map[string]tinyTensor) { delete(m, bias) }, []string{"the tensor " + bias + " is missing (block 0 q bias)"}},
		{"missing head", func(m map[string]tinyTensor) { delete(m, "lm_head.weight") }, []string{"lm_head.weight is missing (head)"}},
		{"turned", func(m map[string]tinyTensor) {
			m[up] = tinyTensor{shape: []int{refHidden, refFFN}, values: m[up].values}
		}, []string{up, "shape [12 20]", "asks for [20 12]"}},
		{"flat", func(m map[string]tinyTensor) {
			m[up] = tinyTensor{shape: []int{refHidden * refFFN}, values: m[up].values}
		}, []string{up, "shape [240]"}},
		{"a block short", func(m map[string]tinyTensor) {
			maps.DeleteFunc(m, func(name string, _ tinyTensor) bool { return strings.HasPrefix(name, "model.layers.3.") })
		}, []string{"model.layers.3.input_layernorm.weight is missing", "and 15 more like it"}},
		{"nothing", func(m map[string]tinyTensor) { clear(m) }, []string{"embed_tokens", "more like it"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(changed(t, "llama", tt.change))
			wantInvalid(t, err, tt.want...)
		})
	}
}

// TestOpenRefusesIntegers gives a weight a type that is no weight's.
func TestOpenRefusesIntegers(t *testing.T) {
	tensors := tinymodel.Tensors(tinymodel.Spec{Layers: 1})
	tensors[1].Type = "I16" // as many bytes as BF16
	files := tinymodel.Files(tinymodel.Spec{Layers: 1})
	files["model.safetensors"] = tinymodel.SafeTensors(tensors)
	c, err := formats.FromMemory(files)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(c)
	wantInvalid(t, err, tensors[1].Name, "holds I16", "floating-point")
}

// TestExtra lists what the model does not use.
func TestExtra(t *testing.T) {
	unused := []string{"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.4.mlp.up_proj.weight", "vision_tower.patch.bias"}
	w, err := Open(changed(t, "llama", func(m map[string]tinyTensor) {
		for _, name := range unused {
			m[name] = tinyTensor{shape: []int{1}, values: []float32{1}}
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.Extra, unused) {
		t.Errorf("Extra is %v, want %v", w.Extra, unused)
	}
}

// TestTied reads the one matrix that is embedding and head under either name.
// With both, the embedding counts.
func TestTied(t *testing.T) {
	const embed, head = "model.embed_tokens.weight", "lm_head.weight"
	var want []float32
	for name, change := range map[string]func(map[string]tinyTensor){
		"embedding": func(map[string]tinyTensor) {},
		"head":      func(m map[string]tinyTensor) { m[head] = m[embed]; delete(m, embed) },
		"both": func(m map[string]tinyTensor) {
			m[head] = tinyTensor{shape: m[embed].shape, values: make([]float32, len(m[embed].values))}
		},
	} {
		c := changed(t, "qwen2", func(m map[string]tinyTensor) { want = m[embed].values; change(m) })
		w, err := Open(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, role := range []Role{Embed, Head} {
			m, err := w.Matrix(ID{Role: role, Block: -1})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if !slices.Equal(kernels.Float32s(m), want) {
				t.Errorf("%s: the matrix of %s differs", name, role)
			}
		}
		if extra := len(w.Extra); extra != map[string]int{"both": 1}[name] {
			t.Errorf("%s: %d tensors are not used", name, extra)
		}
	}
}

// TestPrefixes finds tensors under the names that multimodal checkpoints give
// their language model.
func TestPrefixes(t *testing.T) {
	for _, rename := range []func(string) string{
		func(name string) string { return "language_model." + name },
		func(name string) string { return strings.Replace(name, "model.", "model.language_model.", 1) },
	} {
		c := changed(t, "gemma3", func(m map[string]tinyTensor) {
			for name, x := range maps.Clone(m) {
				delete(m, name)
				m[rename(name)] = x
			}
		})
		w, err := Open(c)
		if err != nil || len(w.Extra) > 0 {
			t.Errorf("%s: %v, unused %v", rename("model.norm.weight"), err, w.Extra)
		}
	}
}

// TestCheck finds the one value that is not a number.
func TestCheck(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		tensor string
		at     int
		value  float64
		want   string
	}{
		{"model.layers.2.mlp.down_proj.weight", 3*refFFN + 7, math.NaN(), "holds NaN at row 3, column 7"},
		{"model.norm.weight", 5, math.Inf(-1), "holds -Inf at row 0, column 5"},
		{"lm_head.weight", 0, math.Inf(1), "holds +Inf at row 0, column 0"},
		{"model.layers.0.self_attn.o_proj.bias", 1, math.NaN(), "holds NaN at row 0, column 1"},
	} {
		w, err := Open(changed(t, "llama", func(m map[string]tinyTensor) { m[tt.tensor].values[tt.at] = float32(tt.value) }))
		if err != nil {
			t.Fatal(err)
		}
		wantInvalid(t, w.Check(ctx, nil), "the tensor "+tt.tensor, tt.want)
	}

	w, err := Open(changed(t, "llama", func(map[string]tinyTensor) {}))
	if err != nil {
		t.Fatal(err)
	}
	var last, total int64
	if err := w.Check(ctx, func(done, all int64) { last, total = done, all }); err != nil || last != total || total != 4*w.Config.Parameters() {
		t.Errorf("got %v after %d of %d bytes, want all of %d parameters", err, last, total, w.Config.Parameters())
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := w.Check(canceled, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
}

// packed returns a llama of one block whose linears are stored as codes, and
// the matrices that they are.
func packed(t *testing.T, c *hfquant.Config, damage func(name string, x *tinymodel.Tensor)) (map[string][]byte, map[string]*kernels.Groups) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var tensors []tinymodel.Tensor
	matrices := map[string]*kernels.Groups{}
	for _, x := range tinymodel.Tensors(tinymodel.Spec{Layers: 1}) {
		module, isLinear := strings.CutSuffix(x.Name, "_proj.weight")
		if !isLinear {
			tensors = append(tensors, x)
			continue
		}
		module += "_proj"
		g := &kernels.Groups{Rows: x.Shape[0], Cols: x.Shape[1], Bits: 4, GroupSize: 64}
		g.Codes = make([]byte, g.Rows*g.CodeBytes())
		for i := range g.Codes {
			g.Codes[i] = byte(rng.Uint32())
		}
		for range g.Rows * g.Groups() {
			g.Scales = append(g.Scales, float32(1+rng.IntN(128))/4096)
			g.Zeros = append(g.Zeros, uint8(1+rng.IntN(15)))
		}
		parts, err := c.Encode(c.Schemes[0], g)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			stored := tinymodel.Tensor{Name: module + "." + p.Name, Type: p.Type.String(), Shape: p.Shape, Data: p.Data}
			damage(stored.Name, &stored)
			tensors = append(tensors, stored)
		}
		matrices[module] = g
	}
	quantization, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	files := tinymodel.Files(tinymodel.Spec{Layers: 1})
	var config map[string]any
	if err := json.Unmarshal(files["config.json"], &config); err != nil {
		t.Fatal(err)
	}
	config["quantization_config"] = json.RawMessage(quantization)
	if files["config.json"], err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	files["model.safetensors"] = tinymodel.SafeTensors(tensors)
	return files, matrices
}

func packings() map[string]*hfquant.Config {
	return map[string]*hfquant.Config{
		"compressed-tensors": hfquant.NewCompressed([]hfquant.Scheme{{Targets: []string{"Linear"}, Bits: 4, GroupSize: 64}}, []string{"lm_head"}, dtype.BF16),
		"gptq":               hfquant.NewGPTQ(4, 64, false, false),
		"awq":                hfquant.NewAWQ(64, nil),
	}
}

// TestQuantized opens checkpoints of packed linears and finds in them what was
// packed.
func TestQuantized(t *testing.T) {
	for name, c := range packings() {
		t.Run(name, func(t *testing.T) {
			files, want := packed(t, c, func(string, *tinymodel.Tensor) {})
			from, err := formats.FromMemory(files)
			if err != nil {
				t.Fatal(err)
			}
			w, err := Open(from)
			if err != nil {
				t.Fatal(err)
			}
			if len(w.Extra) > 0 || w.Quantization == nil {
				t.Errorf("unused are %v, the quantization is %v", w.Extra, w.Quantization)
			}
			if err := w.Check(context.Background(), nil); err != nil {
				t.Error(err)
			}
			for _, id := range w.Config.IDs() {
				if !id.Role.IsLinear() {
					continue
				}
				got, err := w.Matrix(id)
				if err != nil {
					t.Fatal(err)
				}
				if g := want[w.Config.Family.Stem(formats.HuggingFace, id)]; !reflect.DeepEqual(got, kernels.Matrix(g)) {
					t.Errorf("%s is not what was packed", id)
				}
			}
		})
	}
}

func TestQuantizedRefuses(t *testing.T) {
	const module = "model.layers.0.mlp.up_proj"
	scales := map[string]string{"compressed-tensors": "weight_scale", "gptq": "scales", "awq": "scales"}
	for name, c := range packings() {
		open := func(damage func(*tinymodel.Tensor)) error {
			files, _ := packed(t, c, func(stored string, x *tinymodel.Tensor) {
				if stored == module+"."+scales[name] {
					damage(x)
				}
			})
			from, err := formats.FromMemory(files)
			if err != nil {
				t.Fatal(err)
			}
			w, err := Open(from)
			if err != nil {
				return err
			}
			return w.Check(context.Background(), nil)
		}
		wantInvalid(t, open(func(x *tinymodel.Tensor) { x.Name += "s" }), module, scales[name]+" is missing")
		wantInvalid(t, open(func(x *tinymodel.Tensor) { x.Shape = []int{x.Shape[0] * x.Shape[1]} }), module, scales[name]+" has shape")
		wantInvalid(t, open(func(x *tinymodel.Tensor) { x.Data[6], x.Data[7] = 0xff, 0xff }), module, scales[name]+" holds NaN at 3")
	}
}

// TestHugeConfig asks for far more than the file has: an error at once.
func TestHugeConfig(t *testing.T) {
	files := tinymodel.Files(tinymodel.Spec{Layers: 1})
	for _, change := range []string{`"num_hidden_layers":4096`, `"vocab_size":16777216`, `"intermediate_size":1048576`} {
		key, _, _ := strings.Cut(change, ":")
		var config map[string]any
		if err := json.Unmarshal(files["config.json"], &config); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(fmt.Appendf(nil, "{%s}", change), &config); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		damaged := maps.Clone(files)
		damaged["config.json"] = text
		c, err := formats.FromMemory(damaged)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = Open(c); err == nil {
			t.Errorf("%s: no error", key)
		}
	}
}
