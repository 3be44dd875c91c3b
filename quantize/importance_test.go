package quantize

import (
	"context"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

func tinyWeights(t *testing.T, spec tinymodel.Spec) *model.Weights {
	t.Helper()
	c, err := formats.FromMemory(tinymodel.Files(spec))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func gathered(t *testing.T, w *model.Weights) Importance {
	t.Helper()
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := GatherImportance(context.Background(), dev, w, [][]int32{{1, 2, 3, 4, 5}, {9, 8, 7, 6, 5}}, ImportanceOptions())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestImportanceFile takes importance to a file's form and back, and looks at
// which errors it changes.
func TestImportanceFile(t *testing.T) {
	for _, untied := range []bool{false, true} {
		w := tinyWeights(t, tinymodel.Spec{Untied: untied})
		m := gathered(t, w)
		f := m.File(w, "text", 2, 5)
		head := "token_embd.weight"
		if untied {
			head = "output.weight"
		}
		if len(f.Entries) != 2*7+1 || f.Entries[len(f.Entries)-1].Name != head {
			t.Fatalf("%d entries, the last is %s, want 15 with the head as %s", len(f.Entries), f.Entries[len(f.Entries)-1].Name, head)
		}
		back, err := ReadImportance(w, f)
		if err != nil {
			t.Fatal(err)
		}
		for id, in := range m {
			got := back[id]
			if got == nil || got.Tokens != 10 || in.Tokens != 10 {
				t.Fatalf("%v is %+v, want 10 tokens", id, got)
			}
			for c, v := range in.MeanSquare {
				if d := got.MeanSquare[c] - v; d > 1e-6*v || -d > 1e-6*v {
					t.Fatalf("%v: channel %d is %g, want %g", id, c, got.MeanSquare[c], v)
				}
			}
		}
		id := model.ID{Role: model.Down, Block: 1}
		plan := &Plan{Entries: []Entry{{Tensor: Tensor{ID: id, Shape: w.Config.Shape(id)}, To: typeScheme(t, "Q2_K")}}}
		round := func(m Importance) []float32 {
			run := NewRun(w, plan, RTN{}, 1)
			run.SetImportance(m)
			q, err := run.Matrix(context.Background(), id)
			if err != nil {
				t.Fatal(err)
			}
			return kernels.Float32s(q)
		}
		if slices.Equal(round(nil), round(back)) {
			t.Error("importance changes nothing")
		}
	}
}

func typeScheme(t *testing.T, name string) Scheme {
	t.Helper()
	s, err := ParseScheme(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestImportanceOfAnotherModel(t *testing.T) {
	w := tinyWeights(t, tinymodel.Spec{})
	f := gathered(t, w).File(w, "text", 2, 5)
	for want, other := range map[string]tinymodel.Spec{
		"no entry for blk.2.attn_q.weight": {Layers: 3},
		"the model has no matrix":          {Layers: 1},
		"has 512 columns, its entry 256":   {FFN: 512},
	} {
		_, err := ReadImportance(tinyWeights(t, other), f)
		if err == nil || !strings.Contains(err.Error(), want) || fault.KindOf(err) != fault.InvalidFile || fault.HintOf(err) == "" {
			t.Errorf("got %v, want an invalid file with %q and a hint", err, want)
		}
	}
	f.Entries[3].Counts = []int64{5, 5}
	if _, err := ReadImportance(w, f); err == nil || !strings.Contains(err.Error(), "for 2 matrices") {
		t.Errorf("got %v, want an error about experts", err)
	}
}

// TestZeroImportance: inputs that are all zero say nothing, so that weights are
// rounded as without any.
func TestZeroImportance(t *testing.T) {
	values := make([]float32, 2*256)
	for i := range values {
		values[i] = float32(i%37) - 15
	}
	w := kernels.FromFloat32s(2, 256, values)
	for _, s := range []Scheme{TypeScheme(dtype.Q6_K), TypeScheme(dtype.Q4_0), {Bits: 4, GroupSize: 64, Symmetric: true, ScaleType: dtype.F16}} {
		rounded := func(in *Inputs) []float32 {
			q, err := RTN{Clip: ClipMSE}.Quantize(context.Background(), Layer{Weight: w, Inputs: in}, s)
			if err != nil {
				t.Fatal(err)
			}
			return kernels.Float32s(q)
		}
		if !slices.Equal(rounded(&Inputs{MeanSquare: make([]float32, 256)}), rounded(nil)) {
			t.Errorf("%s: zeros change what is rounded", s)
		}
	}
}
