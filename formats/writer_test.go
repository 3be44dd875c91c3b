package formats

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
)

// someTensors are five tensors of 2 kB and less whose bytes all differ.
func someTensors() []raw.Tensor {
	list := []raw.Tensor{
		{Name: "embed.weight", Type: dtype.BF16, Shape: []int{32, 32}},
		{Name: "down.weight", Type: dtype.F32, Shape: []int{4, 32}},
		{Name: "norm.weight", Type: dtype.F32, Shape: []int{32}},
		{Name: "odd.weight", Type: dtype.F16, Shape: []int{3, 1, 5}},
		{Name: "head.weight", Type: dtype.I64, Shape: []int{7}},
	}
	for i := range list {
		n := list[i].Elements() * list[i].Type.BlockBytes()
		for j := range n {
			list[i].Data = append(list[i].Data, byte(17*i+j+j>>8))
		}
	}
	return list
}

// writeAll writes the data of all tensors, every second one in pieces.
func writeAll(t *testing.T, w *Writer, tensors []raw.Tensor) {
	t.Helper()
	for i, tensor := range tensors {
		var err error
		if i%2 == 0 {
			err = w.WriteTensor(tensor.Data)
		} else {
			err = w.StreamTensor(func(out io.Writer) error {
				for piece := range slices.Chunk(tensor.Data, 7) {
					if _, err := out.Write(piece); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// same compares an open checkpoint's tensors, by name, with those written.
func same(t *testing.T, c *Checkpoint, want []raw.Tensor) {
	t.Helper()
	if len(c.Tensors()) != len(want) {
		t.Errorf("%d tensors, want %d", len(c.Tensors()), len(want))
	}
	for _, w := range want {
		got, ok := c.Tensor(w.Name)
		if !ok {
			t.Errorf("%s is missing", w.Name)
			continue
		}
		if got.Type != w.Type || !slices.Equal(got.Shape, w.Shape) || !bytes.Equal(got.Data, w.Data) {
			t.Errorf("%s: %v %v, %d bytes; want %v %v", w.Name, got.Type, got.Shape, len(got.Data), w.Type, w.Shape)
		}
	}
}

func open(t *testing.T, path string) *Checkpoint {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// list returns the names in a folder, hidden ones included.
func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestFolderRoundTrip(t *testing.T) {
	source, err := FromMemory(tinymodel.Files(tinymodel.Spec{Hidden: 16, FFN: 32, Heads: 2, KVHeads: 1}))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		maxShard int64
		files    []string
	}{
		{0, []string{"model.safetensors"}},
		{2600, []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}},
		{1, []string{"model-00001-of-00005.safetensors", "model-00002-of-00005.safetensors", "model-00003-of-00005.safetensors",
			"model-00004-of-00005.safetensors", "model-00005-of-00005.safetensors", "model.safetensors.index.json"}},
	} {
		t.Run(fmt.Sprint(test.maxShard), func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "out")
			tensors := someTensors()
			w, err := CreateFolder(out, false, Folder{
				Config: []byte("{}\n"), Source: source, MaxShard: test.maxShard,
				Files: map[string][]byte{"generation_config.json": nil, "report.json": []byte("1")},
			}, tensors)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			writeAll(t, w, tensors)
			if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the output is there before Commit: %v", err)
			}
			if err := w.Commit(); err != nil {
				t.Fatal(err)
			}
			c := open(t, out)
			same(t, c, tensors)
			if string(c.Config) != "{}\n" || !maps.Equal(c.Metadata, map[string]string{"format": "pt"}) {
				t.Errorf("config %q, metadata %v", c.Config, c.Metadata)
			}
			want := append([]string{"config.json", "report.json", "tokenizer.json", "tokenizer_config.json"}, test.files...)
			slices.Sort(want)
			if got := list(t, out); !slices.Equal(got, want) {
				t.Errorf("files %v, want %v", got, want)
			}
			if got := list(t, dir); len(got) != 1 {
				t.Errorf("beside the output: %v", got)
			}
			kept, err := c.Companion("tokenizer.json")
			before, _ := source.Companion("tokenizer.json")
			if err != nil || !bytes.Equal(kept, before) {
				t.Errorf("the tokenizer changed: %v", err)
			}
		})
	}
}

func TestGGUFRoundTrip(t *testing.T) {
	meta := &gguf.Metadata{}
	for key, value := range map[string]any{"general.architecture": "llama", "tokenizer.ggml.tokens": []string{"a", "", "b"}} {
		if err := meta.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		maxSplit int64
		files    []string
	}{
		{0, []string{"m.gguf"}},
		{2600, []string{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}},
	} {
		t.Run(fmt.Sprint(test.maxSplit), func(t *testing.T) {
			dir := t.TempDir()
			tensors := someTensors()
			w, err := CreateGGUF(filepath.Join(dir, "m.gguf"), false, meta, tensors, test.maxSplit)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			writeAll(t, w, tensors)
			if err := w.Commit(); err != nil {
				t.Fatal(err)
			}
			if got := list(t, dir); !slices.Equal(got, test.files) {
				t.Errorf("files %v, want %v", got, test.files)
			}
			for _, name := range test.files { // any part opens the whole
				c := open(t, filepath.Join(dir, name))
				same(t, c, tensors)
				keys := c.Meta.Keys()
				slices.Sort(keys)
				if want := []string{"general.architecture", "tokenizer.ggml.tokens"}; !slices.Equal(keys, want) {
					t.Errorf("keys %v, want %v", keys, want)
				}
			}
		})
	}
}

// TestNothingIsLeft ends an output in every way but Commit.
func TestNothingIsLeft(t *testing.T) {
	boom := errors.New("boom")
	tensors := someTensors()
	for name, end := range map[string]func(w *Writer) error{
		"abort":      func(w *Writer) error { w.Abort(); return nil },
		"incomplete": func(w *Writer) error { return w.Commit() },
		"too short": func(w *Writer) error {
			w.WriteTensor(tensors[0].Data[1:])
			return w.Commit()
		},
		"too long": func(w *Writer) error {
			w.WriteTensor(append(tensors[0].Data, 0))
			return w.Commit()
		},
		"producer fails": func(w *Writer) error {
			w.StreamTensor(func(io.Writer) error { return boom })
			if err := w.Commit(); !errors.Is(err, boom) {
				return fmt.Errorf("Commit gave %w", err)
			}
			return boom
		},
		"one too many": func(w *Writer) error {
			for _, t := range tensors {
				w.WriteTensor(t.Data)
			}
			w.WriteTensor(nil)
			return w.Commit()
		},
	} {
		for _, kind := range []Kind{HuggingFace, GGUF} {
			t.Run(name+"/"+kind.String(), func(t *testing.T) {
				dir := t.TempDir()
				var w *Writer
				var err error
				if kind == GGUF {
					w, err = CreateGGUF(filepath.Join(dir, "out.gguf"), false, &gguf.Metadata{}, tensors, 2600)
				} else {
					w, err = CreateFolder(filepath.Join(dir, "out"), false, Folder{MaxShard: 2600}, tensors)
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := end(w); err == nil && name != "abort" {
					t.Error("no error")
				}
				w.Abort()
				if got := list(t, dir); len(got) != 0 {
					t.Errorf("left: %v", got)
				}
			})
		}
	}
}

// TestForce replaces a checkpoint only when asked, and only when complete.
func TestForce(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	tensors := someTensors()
	write := func(force bool, config string) (*Writer, error) {
		w, err := CreateFolder(out, force, Folder{Config: []byte(config)}, tensors)
		if err == nil {
			writeAll(t, w, tensors)
		}
		return w, err
	}
	w, err := write(false, "first")
	if err != nil || w.Commit() != nil {
		t.Fatal(err)
	}
	_, err = write(false, "second")
	if fault.KindOf(err) != fault.UsageError || !strings.Contains(fault.HintOf(err), "--force") {
		t.Errorf("without force: %v, hint %q", err, fault.HintOf(err))
	}
	if w, err = write(true, "third"); err != nil {
		t.Fatal(err)
	}
	if c := open(t, out); string(c.Config) != "first" {
		t.Errorf("replaced before Commit: %q", c.Config)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if c := open(t, out); string(c.Config) != "third" {
		t.Errorf("not replaced: %q", c.Config)
	}
	if got := list(t, dir); !slices.Equal(got, []string{"out"}) {
		t.Errorf("left: %v", got)
	}
}

// TestPlanThatCannotBeWritten fails before anything is created.
func TestPlanThatCannotBeWritten(t *testing.T) {
	for name, bad := range map[string]raw.Tensor{
		"block type in safetensors": {Name: "a", Type: dtype.Q4_0, Shape: []int{32}},
		"no type":                   {Name: "a", Shape: []int{32}},
		"negative":                  {Name: "a", Type: dtype.F32, Shape: []int{-1}},
		"too large":                 {Name: "a", Type: dtype.F32, Shape: []int{1 << 40, 1 << 40}},
		"twice":                     {Name: "embed.weight", Type: dtype.F32, Shape: []int{1}},
		"metadata":                  {Name: "__metadata__", Type: dtype.F32, Shape: []int{1}},
		"name":                      {Name: "a\xff", Type: dtype.F32, Shape: []int{1}},
	} {
		dir := t.TempDir()
		_, err := CreateFolder(filepath.Join(dir, "out"), false, Folder{MaxShard: 1}, append(someTensors(), bad))
		if err == nil || len(list(t, dir)) > 0 {
			t.Errorf("%s: %v, left %v", name, err, list(t, dir))
		}
	}
	for name, bad := range map[string]raw.Tensor{
		"rows":       {Name: "a", Type: dtype.Q4_0, Shape: []int{32, 48}},
		"type":       {Name: "a", Type: dtype.U8, Shape: []int{32}},
		"zero":       {Name: "a", Type: dtype.F32, Shape: []int{4, 0}},
		"dimensions": {Name: "a", Type: dtype.F32, Shape: []int{1, 1, 1, 1, 1}},
		"too large":  {Name: "a", Type: dtype.Q4_K, Shape: []int{1 << 40, 1 << 40}},
		"twice":      {Name: "embed.weight", Type: dtype.F32, Shape: []int{1}},
		"name":       {Name: strings.Repeat("a", 64), Type: dtype.F32, Shape: []int{1}},
	} {
		dir := t.TempDir()
		_, err := CreateGGUF(filepath.Join(dir, "out.gguf"), false, &gguf.Metadata{}, append(someTensors(), bad), 1)
		if err == nil || len(list(t, dir)) > 0 {
			t.Errorf("gguf, %s: %v, left %v", name, err, list(t, dir))
		}
	}
}
