package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
	"llmc/tokenizer"
)

// tinyConfig is a small model of a family: every part that the family has.
func tinyConfig(t *testing.T, family string) model.Config {
	t.Helper()
	c := model.Config{
		Vocab: 288, Hidden: 64, FFN: 96, Blocks: 3, Heads: 4, KVHeads: 2, HeadDim: 16, Context: 64,
		NormEps: 1e-6, AttnScale: 0.25, Pad: -1, BOS: []int{256}, EOS: []int{257}, TrainedType: "bfloat16",
		Rope: model.Rope{Type: model.RopeDefault, Theta: 10000, Dims: 16},
	}
	for _, f := range model.Families {
		if f.Name == family {
			c.Family = f
		}
	}
	if c.Family == nil {
		t.Fatalf("no family %s", family)
	}
	c.LocalRope = c.Rope
	switch family {
	case "llama":
		c.QKVBias, c.OBias = true, true
		c.Rope = model.Rope{Type: model.RopeLlama3, Theta: 10000, Dims: 16, Factor: 8, OriginalContext: 8192, LowFreq: 1, HighFreq: 4}
	case "qwen2":
		c.QKVBias = true
	case "mixtral":
		c.Experts = model.Experts{Count: 3, Used: 2, Width: 96, Normed: true}
	case "qwen3moe":
		c.Experts = model.Experts{Count: 5, Used: 2, Width: 40, Normed: true}
	case "qwen2moe":
		c.QKVBias, c.Experts = true, model.Experts{Count: 3, Used: 2, Width: 40, Shared: 56}
	case "olmoe":
		c.KVHeads, c.Experts = 4, model.Experts{Count: 3, Used: 2, Width: 96}
	case "gemma3":
		c.Activation, c.Tied = kernels.GELUTanh, true
		c.Window, c.Windowed = 32, []bool{true, true, false}
	}
	return c
}

// randomFiles are the files of a checkpoint with random weights.
func randomFiles(t *testing.T, c *model.Config, typ dtype.Type) map[string][]byte {
	t.Helper()
	config, err := c.HF()
	if err != nil {
		t.Fatal(err)
	}
	files := tinymodel.Files(tinymodel.Spec{})
	files["config.json"] = config
	files["LICENSE"] = []byte("for tests\n")
	rng := rand.New(rand.NewPCG(7, 7))
	var infos []raw.Tensor
	for _, id := range c.IDs() {
		tensor := raw.Tensor{Name: c.Family.TensorName(formats.HuggingFace, id), Type: typ, Shape: c.Shape(id)}
		v := make([]float32, tensor.Elements())
		for i := range v {
			v[i] = float32(rng.NormFloat64()) * 0.1
			if c.Family.NormPlusOne && len(tensor.Shape) == 1 {
				v[i] = float32(rng.IntN(200)-100) / 64 // survives the addition of one
			}
		}
		tensor.Data = make([]byte, len(v)*typ.BlockBytes())
		if err := dtype.Encode(tensor.Data, v, typ); err != nil {
			t.Fatal(err)
		}
		infos = append(infos, tensor)
	}
	files["model.safetensors"] = safetensorsFile(infos)
	return files
}

// safetensorsFile writes a file by hand.
func safetensorsFile(tensors []raw.Tensor) []byte {
	var header []string
	at := 0
	for _, t := range tensors {
		shape := strings.ReplaceAll(fmt.Sprint(t.Shape), " ", ",")
		header = append(header, fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, t.Name, t.Type, shape, at, at+len(t.Data)))
		at += len(t.Data)
	}
	text := `{"__metadata__":{"format":"pt"},` + strings.Join(header, ",") + "}"
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	file = append(file, text...)
	for _, t := range tensors {
		file = append(file, t.Data...)
	}
	return file
}

// write exports a checkpoint without quantizing and returns what was written,
// opened.
func write(t *testing.T, c *formats.Checkpoint, kind formats.Kind, to dtype.Type, path string, threads int) *formats.Checkpoint {
	t.Helper()
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return writeWeights(t, c, w, kind, to, path, threads)
}

// writeWeights does that for weights that are not all the checkpoint's.
func writeWeights(t *testing.T, c *formats.Checkpoint, w *model.Weights, kind formats.Kind, to dtype.Type, path string, threads int) *formats.Checkpoint {
	t.Helper()
	items, err := Plain(w, kind, to)
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(c, w, Spec{Kind: kind, Items: items, FileType: FileType(items), Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Write(context.Background(), path, false, nil, nil); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

func open(t *testing.T, path string) *formats.Checkpoint {
	t.Helper()
	c, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func fromMemory(t *testing.T, files map[string][]byte) *formats.Checkpoint {
	t.Helper()
	c, err := formats.FromMemory(files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRoundTrip goes from Hugging Face to GGUF and back, for every family and
// plain type: names, shapes, types and bytes of all tensors are the same, and
// so is the configuration.
func TestRoundTrip(t *testing.T) {
	for _, f := range model.Families {
		for _, typ := range []dtype.Type{dtype.BF16, dtype.F16, dtype.F32} {
			t.Run(f.Name+"/"+typ.String(), func(t *testing.T) {
				cfg := tinyConfig(t, f.Name)
				cfg.TrainedType = torchNames[typ]
				source := fromMemory(t, randomFiles(t, &cfg, typ))
				dir := t.TempDir()
				there := write(t, source, formats.GGUF, dtype.Invalid, filepath.Join(dir, "model.gguf"), 2)
				back := write(t, there, formats.HuggingFace, dtype.Invalid, filepath.Join(dir, "back"), 2)
				sameTensors(t, source, back)
				sameConfig(t, source, back)
			})
		}
	}
}

func sameTensors(t *testing.T, want, got *formats.Checkpoint) {
	t.Helper()
	if a, b := len(want.Tensors()), len(got.Tensors()); a != b {
		t.Errorf("%d tensors became %d", a, b)
	}
	for _, a := range want.Tensors() {
		b, ok := got.Tensor(a.Name)
		switch {
		case !ok:
			t.Errorf("%s is gone", a.Name)
		case a.Type != b.Type || !slices.Equal(a.Shape, b.Shape):
			t.Errorf("%s: %s %v became %s %v", a.Name, a.Type, a.Shape, b.Type, b.Shape)
		case !bytes.Equal(a.Data, b.Data):
			t.Errorf("%s has other bytes", a.Name)
		}
	}
}

func sameConfig(t *testing.T, want, got *formats.Checkpoint) {
	t.Helper()
	a, err := model.ReadConfig(want)
	if err != nil {
		t.Fatal(err)
	}
	b, err := model.ReadConfig(got)
	if err != nil {
		t.Fatal(err)
	}
	if a.Family.GGUF != b.Family.GGUF {
		t.Errorf("family %s became %s", a.Family.Name, b.Family.Name)
	}
	// Where families share a GGUF name, the first stands for both.
	a.Family, a.Architecture = b.Family, b.Architecture
	if x, y := describe(a), describe(b); x != y {
		t.Errorf("configuration\n%s\nbecame\n%s", x, y)
	}
}

// describe writes a configuration with numbers rounded to float32, as GGUF
// holds them.
func describe(c model.Config) string {
	for _, v := range []*float64{&c.NormEps, &c.AttnScale, &c.EmbedScale, &c.LogitCap, &c.Rope.Theta, &c.LocalRope.Theta} {
		*v = float64(float32(*v))
	}
	c.Family = nil
	return fmt.Sprintf("%+v", c)
}

// TestTokenizerSurvives encodes the same text before and after two
// conversions.
func TestTokenizerSurvives(t *testing.T) {
	cfg := tinyConfig(t, "qwen2")
	source := fromMemory(t, randomFiles(t, &cfg, dtype.BF16))
	dir := t.TempDir()
	there := write(t, source, formats.GGUF, dtype.Invalid, filepath.Join(dir, "model.gguf"), 1)
	back := write(t, there, formats.HuggingFace, dtype.Invalid, filepath.Join(dir, "back"), 1)
	text := "Grüße, 世界! 12345\n\tthe end</s> "
	var want []int32
	for i, c := range []*formats.Checkpoint{source, there, back} {
		tok, err := model.OpenTokenizer(c)
		if err != nil {
			t.Fatal(err)
		}
		ids := tok.Encode(text, true, true)
		if i == 0 {
			want = ids
		}
		if len(ids) < 20 || !slices.Equal(ids, want) {
			t.Errorf("checkpoint %d: ids %v, want %v", i, ids, want)
		}
	}
}

// TestInterleave states which row goes where for two heads of four elements.
func TestInterleave(t *testing.T) {
	c := tinyConfig(t, "llama")
	c.Heads, c.KVHeads, c.HeadDim = 2, 1, 4
	q, k := model.ID{Role: model.Q}, model.ID{Role: model.K, Bias: true}
	if got, want := rowOrder(&c, q, formats.HuggingFace, formats.GGUF), []int{0, 2, 1, 3, 4, 6, 5, 7}; !slices.Equal(got, want) {
		t.Errorf("q to GGUF takes rows %v, want %v", got, want)
	}
	if got, want := rowOrder(&c, k, formats.GGUF, formats.HuggingFace), []int{0, 2, 1, 3}; !slices.Equal(got, want) {
		t.Errorf("k from GGUF takes rows %v, want %v", got, want)
	}
	c.HeadDim = 6
	if got, want := rowOrder(&c, k, formats.HuggingFace, formats.GGUF), []int{0, 3, 1, 4, 2, 5}; !slices.Equal(got, want) {
		t.Errorf("six elements: rows %v, want %v", got, want)
	}
	if got, want := rowOrder(&c, k, formats.GGUF, formats.HuggingFace), []int{0, 2, 4, 1, 3, 5}; !slices.Equal(got, want) {
		t.Errorf("six elements back: rows %v, want %v", got, want)
	}
	for _, id := range []model.ID{{Role: model.V}, {Role: model.O}, {Role: model.QNorm}} {
		if rowOrder(&c, id, formats.HuggingFace, formats.GGUF) != nil {
			t.Errorf("%s is reordered", id)
		}
	}
	if rowOrder(&c, q, formats.GGUF, formats.GGUF) != nil {
		t.Error("rows are reordered within a kind")
	}
}

// TestReorder moves the rows of every kind of matrix.
func TestReorder(t *testing.T) {
	order := []int{2, 0, 1}
	dense := kernels.FromFloat32s(3, 2, []float32{1, 2, 3, 4, 5, 6})
	groups := &kernels.Groups{
		Rows: 3, Cols: 2, Bits: 8, GroupSize: 1, Codes: []byte{1, 2, 3, 4, 5, 6},
		Scales: []float32{1, 2, 3, 4, 5, 6}, Zeros: []uint8{0, 1, 0, 1, 0, 1},
	}
	for _, m := range []kernels.Matrix{dense, groups, wrapped{dense}} {
		got := reorder(m, order)
		a, b := make([]float32, 2), make([]float32, 2)
		for r, from := range order {
			got.Row(a, r)
			m.Row(b, from)
			if !slices.Equal(a, b) {
				t.Errorf("%T: row %d is %v, want row %d, %v", m, r, a, from, b)
			}
		}
	}
}

type wrapped struct{ kernels.Matrix }

// TestTypes converts to each plain type, in both kinds, and checks a value.
func TestTypes(t *testing.T) {
	cfg := tinyConfig(t, "llama")
	cfg.TrainedType = "float32"
	source := fromMemory(t, randomFiles(t, &cfg, dtype.F32))
	for _, kind := range []formats.Kind{formats.GGUF, formats.HuggingFace} {
		for _, typ := range []dtype.Type{dtype.F32, dtype.F16, dtype.BF16} {
			path := filepath.Join(t.TempDir(), "out.gguf")
			got := write(t, source, kind, typ, path, 2)
			id := model.ID{Role: model.Down, Block: 1}
			a, _ := source.Tensor(cfg.Family.TensorName(formats.HuggingFace, id))
			b, ok := got.Tensor(cfg.Family.TensorName(kind, id))
			if !ok || b.Type != typ {
				t.Fatalf("%s: down is %s, want %s", kind, b.Type, typ)
			}
			x, y := make([]float32, a.Elements()), make([]float32, a.Elements())
			if err := errors.Join(dtype.Decode(x, a.Data, a.Type), dtype.Decode(y, b.Data, b.Type)); err != nil {
				t.Fatal(err)
			}
			for i := range x {
				if math.Abs(float64(x[i]-y[i])) > math.Abs(float64(x[i]))/128 {
					t.Fatalf("%s %s: %v became %v", kind, typ, x[i], y[i])
				}
			}
			norm, _ := got.Tensor(cfg.Family.TensorName(kind, model.ID{Role: model.FinalNorm, Block: -1}))
			if want := map[formats.Kind]dtype.Type{formats.GGUF: dtype.F32, formats.HuggingFace: typ}[kind]; norm.Type != want {
				t.Errorf("%s %s: the norm is %s, want %s", kind, typ, norm.Type, want)
			}
			if kind == formats.HuggingFace && !bytes.Contains(got.Config, []byte(`"torch_dtype": "`+torchNames[typ]+`"`)) {
				t.Errorf("config.json does not say %s: %s", torchNames[typ], got.Config)
			}
		}
	}
}

// TestKeepsCompanions writes a folder anew: every file is the same.
func TestKeepsCompanions(t *testing.T) {
	cfg := tinyConfig(t, "gemma3")
	files := randomFiles(t, &cfg, dtype.BF16)
	dir := filepath.Join(t.TempDir(), "again")
	write(t, fromMemory(t, files), formats.HuggingFace, dtype.Invalid, dir, 1)
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		if name != "model.safetensors" && !bytes.Equal(got, want) {
			t.Errorf("%s is not the same", name)
		}
	}
}

// TestThreadsDoNotMatter writes the same file with one thread and with many.
func TestThreadsDoNotMatter(t *testing.T) {
	cfg := tinyConfig(t, "llama")
	source := fromMemory(t, randomFiles(t, &cfg, dtype.F32))
	var want []byte
	for _, threads := range []int{1, 5} {
		path := filepath.Join(t.TempDir(), "m.gguf")
		write(t, source, formats.GGUF, dtype.BF16, path, threads)
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d threads write another file", threads)
		}
	}
}

// TestFailureLeavesNothing lets a source fail, give the wrong matrix, and be
// canceled half-way.
func TestFailureLeavesNothing(t *testing.T) {
	cfg := tinyConfig(t, "qwen3")
	c := fromMemory(t, randomFiles(t, &cfg, dtype.BF16))
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]func(cancel func(), id model.ID) (kernels.Matrix, error){
		"an error": func(_ func(), id model.ID) (kernels.Matrix, error) {
			if id.Block == 1 {
				return nil, errors.New("no more weights")
			}
			return w.Matrix(id)
		},
		"a wrong shape": func(_ func(), id model.ID) (kernels.Matrix, error) {
			return kernels.FromFloat32s(10, 1, make([]float32, 10)), nil
		},
		"an interrupt": func(cancel func(), id model.ID) (kernels.Matrix, error) {
			if id.Block == 2 {
				cancel()
			}
			return w.Matrix(id)
		},
	} {
		for _, kind := range []formats.Kind{formats.GGUF, formats.HuggingFace} {
			dir := t.TempDir()
			items, err := Plain(w, kind, dtype.Invalid)
			if err != nil {
				t.Fatal(err)
			}
			e, err := New(c, w, Spec{Kind: kind, Items: items})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			err = e.Write(ctx, filepath.Join(dir, "out.gguf"), false,
				func(_ context.Context, id model.ID) (kernels.Matrix, error) { return source(cancel, id) }, nil)
			cancel()
			if err == nil {
				t.Errorf("%s, %s: no error", name, kind)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%s, %s: %s is left", name, kind, left[0].Name())
			}
		}
	}
}

// TestLostWindow converts a model whose window GGUF cannot express.
func TestLostWindow(t *testing.T) {
	cfg := tinyConfig(t, "mistral")
	cfg.Window = 32
	c := fromMemory(t, randomFiles(t, &cfg, dtype.BF16))
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	items, err := Plain(w, formats.GGUF, dtype.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(c, w, Spec{Kind: formats.GGUF, Items: items})
	if err != nil {
		t.Fatal(err)
	}
	if notes := strings.Join(e.Notes, "\n"); !strings.Contains(notes, "sliding window") {
		t.Errorf("notes %q say nothing of the window", notes)
	}
}

// TestFitVocab makes vocabularies as long as the embedding.
func TestFitVocab(t *testing.T) {
	vocab := func() tokenizer.Vocab {
		v := tokenizer.NewVocab()
		v.Tokens, v.Scores, v.EOS = []string{"a", "b", "c"}, []float32{0, -1, -2}, 1
		return v
	}
	e := &Export{}
	v := vocab()
	if err := e.fitVocab(&v, 5); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "c", "[PAD3]", "[PAD4]"}; !slices.Equal(v.Tokens, want) {
		t.Errorf("tokens %q, want %q", v.Tokens, want)
	}
	if want := []int32{1, 1, 1, 5, 5}; !slices.Equal(v.Types, want) || len(v.Scores) != 5 {
		t.Errorf("types %v, want %v; %d scores", v.Types, want, len(v.Scores))
	}
	if v = vocab(); e.fitVocab(&v, 2) != nil || len(v.Tokens) != 2 || len(v.Scores) != 2 {
		t.Errorf("cut to 2: %d tokens, %d scores", len(v.Tokens), len(v.Scores))
	}
	if v = vocab(); e.fitVocab(&v, 1) == nil {
		t.Error("a special token without a row is let pass")
	}
	if len(e.Notes) != 2 {
		t.Errorf("notes %q, want one for each change", e.Notes)
	}
}
