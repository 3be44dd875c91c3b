package model

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model/hfquant"
)

// packedModel stores a reference's linears as 4-bit codes, but for those of
// block 1, and gives the reference the weights that the codes stand for. The
// linears round what they multiply by inputs.
func packedModel(t *testing.T, ref *reference, inputs kernels.Rounding) (config []byte, tensors map[string]raw.Tensor) {
	t.Helper()
	scheme := hfquant.Scheme{Targets: []string{"Linear"}, Bits: 4, Symmetric: true, Inputs: inputs}
	quant := hfquant.NewCompressed([]hfquant.Scheme{scheme}, []string{"lm_head", "re:.*layers[.]1[.]"}, dtype.F32)
	text, err := quant.JSON()
	if err != nil {
		t.Fatal(err)
	}
	fields := maps.Clone(ref.config)
	fields["quantization_config"] = json.RawMessage(text)
	if config, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(11, 0))
	tensors = map[string]raw.Tensor{}
	for _, name := range slices.Sorted(maps.Keys(ref.tensors)) {
		x := ref.tensors[name]
		module, linear := strings.CutSuffix(name, "_proj.weight")
		if !linear || strings.Contains(name, ".layers.1.") {
			tensors[name] = raw.Tensor{Name: name, Type: dtype.F32, Shape: x.shape, Data: x.bytes()}
			continue
		}
		g := randomCodes(rng, x.shape[0], x.shape[1])
		for r := range g.Rows {
			g.Row(x.values[r*g.Cols:(r+1)*g.Cols], r)
		}
		parts, err := quant.Encode(scheme, g)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			p.Name = module + "_proj." + p.Name
			tensors[p.Name] = p
		}
	}
	return config, tensors
}

func randomCodes(rng *rand.Rand, rows, cols int) *kernels.Groups {
	g := &kernels.Groups{Rows: rows, Cols: cols, Bits: 4, GroupSize: cols}
	g.Codes = make([]byte, rows*g.CodeBytes())
	codes := make([]uint8, cols)
	for r := range rows {
		for c := range codes {
			codes[c] = uint8(rng.IntN(16))
		}
		g.SetRow(r, codes)
		g.Scales = append(g.Scales, 0.05+0.1*rng.Float32())
	}
	return g
}

func openRaw(t *testing.T, config []byte, tensors map[string]raw.Tensor) *formats.Checkpoint {
	t.Helper()
	var list []tinymodel.Tensor
	for _, x := range tensors {
		list = append(list, tinymodel.Tensor{Name: x.Name, Type: x.Type.String(), Shape: x.Shape, Data: x.Data})
	}
	c, err := formats.FromMemory(map[string][]byte{"config.json": config, "model.safetensors": tinymodel.SafeTensors(list)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPacked runs a model with packed and plain linears side by side.
func TestPacked(t *testing.T) {
	ref := references()[2]
	config, tensors := packedModel(t, ref, kernels.Rounding{})
	m := load(t, openRaw(t, config, tensors), 0)
	compare(t, "packed", run(t, m, m.NewState(), tokens), slices.Concat(ref.logits(tokens)...), 1e-5)
}

func TestPackedWeights(t *testing.T) {
	config, tensors := packedModel(t, references()[2], kernels.Rounding{})
	w, err := Open(openRaw(t, config, tensors))
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Quantization.String(); got != "compressed-tensors int4 channel sym" {
		t.Errorf("the quantization is %s", got)
	}
	packed, kept := ID{Role: Down, Block: 0}, ID{Role: Down, Block: 1}
	if m, err := w.Matrix(packed); err != nil || m.(*kernels.Groups).Bits != 4 {
		t.Errorf("%s is %T, %v, want 4-bit codes", packed, m, err)
	}
	if m, err := w.Matrix(kept); err != nil || m.(*kernels.Dense).Type != dtype.F32 {
		t.Errorf("%s is %T, %v, want what the file has", kept, m, err)
	}
	if got := slices.Sorted(maps.Keys(w.Stored(packed))); !slices.Equal(got, []string{"weight_packed", "weight_scale", "weight_shape"}) {
		t.Errorf("%s is stored as %v", packed, got)
	}
	if len(w.Extra) > 0 {
		t.Errorf("extra tensors %v", w.Extra)
	}

	const module = "model.layers.0.mlp.down_proj"
	delete(tensors, module+".weight_scale")
	_, err = Open(openRaw(t, config, tensors))
	if err == nil || err.Error() != module+": weight_scale is missing" || fault.KindOf(err) != fault.InvalidFile {
		t.Errorf("got %v, want that the scales of %s are missing", err, module)
	}
}
