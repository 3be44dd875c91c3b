package formats

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
)

var small = tinymodel.Spec{Hidden: 16, FFN: 32, Heads: 2, KVHeads: 1}

// tiny is a safetensors file of tensors named so, four bytes each.
func tiny(names ...string) []byte {
	var list []tinymodel.Tensor
	for i, name := range names {
		list = append(list, tinymodel.Tensor{Name: name, Shape: []int{2}, Data: []byte{byte(i), 1, 2, 3}})
	}
	return tinymodel.SafeTensors(list)
}

// put writes files into a new folder.
func put(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func with(files map[string][]byte, more map[string]string) map[string][]byte {
	all := maps.Clone(files)
	for name, text := range more {
		all[name] = []byte(text)
	}
	return all
}

// TestOpenWays opens the same model in all ways that it can be given.
func TestOpenWays(t *testing.T) {
	files := tinymodel.Files(small)
	want := []raw.Tensor{}
	for _, tensor := range tinymodel.Tensors(small) {
		want = append(want, raw.Tensor{Name: tensor.Name, Type: dtype.BF16, Shape: tensor.Shape, Data: tensor.Data})
	}
	dir := put(t, with(files, map[string]string{
		"README.md": "x", "pytorch_model.bin": "x", "model.onnx": "x", ".gitattributes": "x", "other.gguf": "x", "extra.safetensors": "x",
	}))
	if err := os.Mkdir(filepath.Join(dir, "original"), 0o700); err != nil {
		t.Fatal(err)
	}
	memory, err := FromMemory(files)
	if err != nil {
		t.Fatal(err)
	}
	companions := []string{"README.md", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
	for name, c := range map[string]*Checkpoint{
		"folder": open(t, dir), "file": open(t, filepath.Join(dir, "model.safetensors")), "memory": memory,
	} {
		same(t, c, want)
		if c.Kind != HuggingFace || string(c.Config) != string(files["config.json"]) || c.Size() != int64(len(files["model.safetensors"])) {
			t.Errorf("%s: kind %v, config %q, size %d", name, c.Kind, c.Config, c.Size())
		}
		want := companions
		if name == "memory" {
			want = companions[1:] // no README.md
		}
		if got := c.Companions(); !slices.Equal(got, want) {
			t.Errorf("%s: companions %v", name, got)
		}
		if data, err := c.Companion("tokenizer.json"); err != nil || string(data) != string(files["tokenizer.json"]) {
			t.Errorf("%s: tokenizer %q, %v", name, data, err)
		}
		for _, bad := range []string{"vocab.json", "config.json", "../x", ""} {
			if _, err := c.Companion(bad); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: companion %q: %v", name, bad, err)
			}
		}
		if _, ok := c.Tensor("model"); ok {
			t.Errorf("%s: a tensor that is not there was found", name)
		}
	}
}

// TestSymbolicLinks opens a folder as the download cache lays it out.
func TestSymbolicLinks(t *testing.T) {
	blobs := put(t, tinymodel.Files(small))
	snapshot := t.TempDir()
	for _, name := range list(t, blobs) {
		if err := os.Symlink(filepath.Join(blobs, name), filepath.Join(snapshot, name)); err != nil {
			t.Skip(err)
		}
	}
	if got := open(t, snapshot).Companions(); len(got) != 3 {
		t.Errorf("companions %v", got)
	}
}

func TestIndex(t *testing.T) {
	files := map[string][]byte{
		"config.json": []byte("{}"), "a.safetensors": tiny("x", "y"), "b.safetensors": tiny("z", "more"),
		"model.safetensors.index.json": []byte(`{"metadata":{"total_size":12},"weight_map":{"z":"b.safetensors","x":"a.safetensors","y":"a.safetensors"}}`),
	}
	c := open(t, put(t, files))
	var names []string
	for _, tensor := range c.Tensors() {
		names = append(names, tensor.Name)
	}
	// What the index forgets is there all the same.
	if want := []string{"x", "y", "z", "more"}; !slices.Equal(names, want) {
		t.Errorf("tensors %v, want %v", names, want)
	}
	if len(c.Companions()) != 0 || len(c.Files()) != 2 {
		t.Errorf("companions %v, files %v", c.Companions(), c.Files())
	}
}

// TestMalformedFolder has every malformation with a part of its message.
func TestMalformedFolder(t *testing.T) {
	whole := map[string][]byte{"config.json": []byte("{}"), "model.safetensors": tiny("x")}
	shards := map[string][]byte{"config.json": []byte("{}"), "a.safetensors": tiny("x"), "b.safetensors": tiny("y")}
	index := func(weights string) map[string][]byte {
		return with(shards, map[string]string{"model.safetensors.index.json": `{"weight_map":{` + weights + `}}`})
	}
	text := func(text string) map[string][]byte {
		return with(shards, map[string]string{"model.safetensors.index.json": text})
	}
	for _, test := range []struct {
		name  string
		files map[string][]byte
		want  string
		hint  string
	}{
		{"empty", nil, "has no weights", "a model is"},
		{"no config", map[string][]byte{"model.safetensors": tiny("x")}, "there is no", "config.json"},
		{"pickle", with(map[string][]byte{}, map[string]string{"config.json": "{}", "pytorch_model.bin": "x"}), "weights in pytorch_model.bin, which is not supported", "safe_serialization"},
		{"gguf inside", with(map[string][]byte{}, map[string]string{"x.gguf": "x"}), "has no safetensors file", "x.gguf"},
		{"two files", shards, "has 2 safetensors files (a.safetensors, ...) and no model.safetensors.index.json", ""},
		{"one shard", map[string][]byte{"config.json": []byte("{}"), "model-00001-of-00002.safetensors": tiny("x")}, "has 1 safetensors files", ""},
		{"damaged", with(whole, map[string]string{"model.safetensors": "short"}), "model.safetensors has 5 bytes", ""},
		{"index empty", text(``), "it ends where an object is needed", ""},
		{"index cut off", text(`{"weight_map":{"x":"a.safet`), "ends inside a string", ""},
		{"index an array", text(`[]`), "an object is needed", ""},
		{"index without weights", text(`{}`), `the key "weight_map" is missing`, ""},
		{"index of nothing", index(``), "names no tensor", ""},
		{"index twice", text(`{"weight_map":{},"weight_map":{}}`), `"weight_map" appears twice`, ""},
		{"index deep", text(`{"metadata":` + strings.Repeat(`[`, 1e6)), "nested more than 64", ""},
		{"index not UTF-8", text("{\"weight_map\":{\"\xfe\":\"a.safetensors\"}}"), "not UTF-8", ""},
		{"index with more after it", text(`{"weight_map":{"x":"a.safetensors"}}x`), "the end is needed", ""},
		{"number for a file", index(`"x":1`), "a string is needed", ""},
		{"tensor twice", index(`"x":"a.safetensors","x":"b.safetensors"`), `"x" appears twice`, ""},
		{"path up", index(`"x":"../a.safetensors"`), "not a file of the same folder", ""},
		{"path down", index(`"x":"sub/a.safetensors"`), "not a file of the same folder", ""},
		{"absolute path", index(`"x":"/a.safetensors"`), "not a file of the same folder", ""},
		{"path of Windows", index(`"x":"..\\a.safetensors"`), "not a file of the same folder", ""},
		{"drive", index(`"x":"c:a.safetensors"`), "not a file of the same folder", ""},
		{"zero byte", index(`"x":"a\u0000.safetensors"`), "not a file of the same folder", ""},
		{"itself", index(`"x":"model.safetensors.index.json"`), "not a .safetensors file", ""},
		{"parent", index(`"x":".."`), "not a file of the same folder", ""},
		{"no name", index(`"x":""`), "not a .safetensors file", ""},
		{"too many shards", index(manyShards(maxShards + 1)), "more than 10000 files", ""},
		{"missing shard", index(`"x":"a.safetensors","y":"c.safetensors"`), "c.safetensors is missing", ""},
		{"wrong shard", index(`"x":"b.safetensors","y":"a.safetensors"`), `"x" is said to be in b.safetensors and is in a.safetensors`, ""},
		{"missing tensor", index(`"x":"a.safetensors","w":"b.safetensors"`), `"w" is not in b.safetensors`, ""},
		{"in two shards", with(index(`"x":"a.safetensors","y":"b.safetensors"`), map[string]string{"b.safetensors": string(tiny("x", "y"))}),
			`"x" is in a.safetensors and in b.safetensors`, ""},
		{"damaged shard", with(index(`"x":"a.safetensors","y":"b.safetensors"`), map[string]string{"b.safetensors": "damaged."}), "b.safetensors says its header", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := put(t, test.files)
			_, err := Open(dir)
			if err == nil {
				t.Fatal("no error")
			}
			if fault.KindOf(err) != fault.InvalidFile {
				t.Errorf("kind %v", fault.KindOf(err))
			}
			if text := err.Error(); !strings.Contains(text, dir) || !strings.Contains(text, test.want) {
				t.Errorf("error %q, want %q in it", text, test.want)
			}
			if !strings.Contains(fault.HintOf(err), test.hint) {
				t.Errorf("hint %q, want %q in it", fault.HintOf(err), test.hint)
			}
			if _, err := FromMemory(test.files); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("from memory: %v", err)
			}
		})
	}
}

// manyShards is a weight_map of n tensors in n files.
func manyShards(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%d":"%d.safetensors",`, i, i)
	}
	return strings.TrimSuffix(b.String(), ",")
}

// TestNoCheckpoint opens what is none.
func TestNoCheckpoint(t *testing.T) {
	dir := put(t, map[string][]byte{
		"text.txt": []byte("text"), "empty.gguf": nil, "model-00001-of-00002.safetensors": tiny("x"), "config.json": []byte("{}"),
	})
	for name, want := range map[string]string{
		"text.txt": "is not a checkpoint", "empty.gguf": "has 0 bytes", "config.json": "is not a checkpoint",
		"model-00001-of-00002.safetensors": "one of several files",
	} {
		_, err := Open(filepath.Join(dir, name))
		if fault.KindOf(err) != fault.InvalidFile || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "nowhere") {
		t.Error(err)
	}
	// Opening a device must not read from it for ever.
	if _, err := Open(os.DevNull); fault.KindOf(err) != fault.InvalidFile {
		t.Error(err)
	}
}

// TestOwnName opens a GGUF file that lost its extension.
func TestOwnName(t *testing.T) {
	dir := put(t, map[string][]byte{"blob": append([]byte("GGUF\x03"), make([]byte, 19)...)})
	if c := open(t, filepath.Join(dir, "blob")); c.Kind != GGUF || c.Meta.Len() != 0 {
		t.Errorf("%+v", c)
	}
}

// TestHugeCheckpoint opens 100 GB that are a hole, which takes milliseconds
// and megabytes since nothing is read.
func TestHugeCheckpoint(t *testing.T) {
	const layers, rows, columns = 100, 1 << 20, 512 // a GB each
	var plan []raw.Tensor
	for i := range layers {
		plan = append(plan, raw.Tensor{Name: fmt.Sprint("layer.", i), Type: dtype.BF16, Shape: []int{rows, columns}})
	}
	dir := put(t, map[string][]byte{"config.json": []byte("{}")})
	path := filepath.Join(dir, "model.safetensors")
	size := sparse(t, path, plan)
	if err := os.Truncate(path, size); err != nil {
		t.Skipf("no sparse files of %d bytes here: %v", size, err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	c, err := Open(dir)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Size() < 100<<30 || len(c.Tensors()) != layers {
		t.Errorf("%d bytes, %d tensors", c.Size(), len(c.Tensors()))
	}
	if last, _ := c.Tensor("layer.99"); last.Data[len(last.Data)-1] != 0 {
		t.Error("the hole is not empty")
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
	if took > 500*time.Millisecond {
		t.Errorf("opening took %v", took)
	}
}

// sparse writes the header for a plan and returns how long the file has to be.
func sparse(t *testing.T, path string, plan []raw.Tensor) int64 {
	t.Helper()
	header := "{"
	var offset int64
	for i, tensor := range plan {
		n := int64(tensor.Elements()) * 2
		if i > 0 {
			header += ","
		}
		header += fmt.Sprintf(`%q:{"dtype":"BF16","shape":[%d,%d],"data_offsets":[%d,%d]}`, tensor.Name, tensor.Shape[0], tensor.Shape[1], offset, offset+n)
		offset += n
	}
	header += "}"
	length := make([]byte, 8)
	for i := range 8 {
		length[i] = byte(len(header) >> (8 * i))
	}
	if err := os.WriteFile(path, append(length, header...), 0o600); err != nil {
		t.Fatal(err)
	}
	return int64(len(length)+len(header)) + offset
}

// FuzzIndex: no index makes the reader panic, leave the folder or allocate
// without bound.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":8},"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"x":"../a.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"x":"a.safetensors","x":"a.safetensors"}}`))
	f.Add([]byte(`{"a":[[[{}]]],"weight_map":{"\u0078":"model.safetensors.index.json"}}`))
	shards := map[string][]byte{"config.json": []byte("{}"), "a.safetensors": tiny("x"), "b.safetensors": tiny("y")}
	f.Fuzz(func(t *testing.T, index []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		weights, err := parseIndex(index)
		runtime.ReadMemStats(&after)
		if used := int(after.TotalAlloc - before.TotalAlloc); used > 16*len(index)+1<<16 {
			t.Errorf("%d bytes for an index of %d", used, len(index))
		}
		if err == nil {
			for _, w := range weights {
				if !filepath.IsLocal(w.file) || filepath.Base(w.file) != w.file {
					t.Errorf("%q leads out of the folder", w.file)
				}
			}
		}
		c, err := FromMemory(with(shards, map[string]string{indexName: string(index)}))
		if err != nil {
			if fault.KindOf(err) != fault.InvalidFile {
				t.Errorf("kind %v: %v", fault.KindOf(err), err)
			}
			return
		}
		for _, w := range weights {
			if _, ok := c.Tensor(w.tensor); !ok {
				t.Errorf("%q was accepted and is missing", w.tensor)
			}
		}
	})
}
