package export

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
)

// TestReplacedVectors writes norms and biases that are not the checkpoint's,
// from either kind to either. short ones keep the type of the checkpoint, others
// need F32; what is read back multiplies and adds the same.
func TestReplacedVectors(t *testing.T) {
	for _, family := range []string{"llama", "gemma3"} {
		cfg := tinyConfig(t, family)
		folder := fromMemory(t, randomFiles(t, &cfg, dtype.BF16))
		file := write(t, folder, formats.GGUF, dtype.Invalid, filepath.Join(t.TempDir(), "model.gguf"), 1)
		for _, from := range []*formats.Checkpoint{folder, file} {
			for _, to := range []formats.Kind{formats.HuggingFace, formats.GGUF} {
				for _, short := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s/%s to %s/short %v", family, from.Kind, to, short), func(t *testing.T) {
						replacedVectors(t, from, to, short)
					})
				}
			}
		}
	}
}

func replacedVectors(t *testing.T, from *formats.Checkpoint, to formats.Kind, short bool) {
	w, err := model.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 9))
	want := map[model.ID][]float32{}
	for _, id := range w.Config.IDs() {
		if id.Role.IsMatrix() && !id.Bias {
			continue
		}
		v := make([]float32, w.Config.Shape(id)[0])
		for i := range v {
			v[i] = float32(rng.IntN(100)+1) / 64
			if !short {
				v[i] += float32(rng.IntN(1<<12)) / (1 << 20) // still survives the one that Gemma adds
			}
		}
		want[id] = v
		w.ReplaceVector(id, v)
	}
	items, err := Plain(w, to, dtype.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if want[it.ID] == nil {
			continue
		}
		stored := dtype.F32
		if short && from.Kind == formats.HuggingFace && to == formats.HuggingFace {
			stored = dtype.BF16
		} else if short && to == formats.HuggingFace {
			stored = CommonType(w, to)
		}
		if it.Type != stored {
			t.Errorf("%s is to be %s, want %s", it.ID, it.Type, stored)
		}
	}
	path := filepath.Join(t.TempDir(), "out")
	if to == formats.GGUF {
		path += ".gguf"
	}
	back, err := model.Open(writeWeights(t, from, w, to, dtype.Invalid, path, 1))
	if err != nil {
		t.Fatal(err)
	}
	for id, v := range want {
		if order := rowOrder(&w.Config, id, from.Kind, to); order != nil {
			v = gather(v, order)
		}
		got, err := back.Vector(id)
		if err != nil {
			t.Fatal(err)
		}
		for i, x := range v {
			if math.Float32bits(got[i]) != math.Float32bits(x) {
				t.Fatalf("%s: number %d is %g, want %g", id, i, got[i], x)
			}
		}
	}
}

// TestReplacedMatrix writes a matrix that is kept, with other numbers: they are
// rounded to the type that it has.
func TestReplacedMatrix(t *testing.T) {
	cfg := tinyConfig(t, "llama")
	from := fromMemory(t, randomFiles(t, &cfg, dtype.BF16))
	w, err := model.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	id := model.ID{Role: model.Q, Block: 1}
	values := make([]float32, 64*64)
	for i := range values {
		values[i] = float32(i) / 1000
	}
	w.Replace(id, kernels.FromFloat32s(64, 64, values))
	back, err := model.Open(writeWeights(t, from, w, formats.HuggingFace, dtype.Invalid, filepath.Join(t.TempDir(), "out"), 1))
	if err != nil {
		t.Fatal(err)
	}
	m, err := back.Matrix(id)
	if err != nil {
		t.Fatal(err)
	}
	if back.Stored(id)["weight"].Type != dtype.BF16 {
		t.Errorf("it is stored as %s", back.Stored(id)["weight"].Type)
	}
	for i, v := range kernels.Float32s(m) {
		if want := dtype.BF16ToF32(dtype.F32ToBF16(values[i])); v != want {
			t.Fatalf("number %d is %g, want %g", i, v, want)
		}
	}
}
