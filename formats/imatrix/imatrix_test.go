package imatrix

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/internal/fault"
)

// sample has a linear, one of four experts of which one saw nothing.
func sample() *File {
	return &File{
		Entries: []Entry{
			{Name: "blk.0.attn_q.weight", Sums: []float32{100, 0, 51.2}, Counts: []int64{1000}},
			{Name: "blk.1.ffn_up_exps.weight", Sums: []float32{10, 20, 3, 4, 0, 0, 7, 8}, Counts: []int64{10, 5, 0, 1}},
		},
		Datasets: []string{"first.txt", "second.txt"}, Chunks: 4, ChunkSize: 256,
	}
}

func written(t testing.TB, write func(*File, *bytes.Buffer) error, f *File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := write(f, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asGGUF(f *File, b *bytes.Buffer) error   { return f.Write(b) }
func asLegacy(f *File, b *bytes.Buffer) error { return f.WriteLegacy(b) }

func TestGGUFRoundTrip(t *testing.T) {
	want := sample()
	got, err := Parse("test", written(t, asGGUF, want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestGGUFLayout compares with what llama-imatrix writes: tensors in the order
// of the names, sums before counts, in one dimension unless there are experts.
func TestGGUFLayout(t *testing.T) {
	g, err := gguf.Parse("test", written(t, asGGUF, sample()))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"}; !slices.Equal(g.Meta.Keys(), want) {
		t.Errorf("keys %v, want %v", g.Meta.Keys(), want)
	}
	var got []string
	for _, tensor := range g.Tensors {
		got = append(got, tensor.Name)
	}
	if want := []string{"blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts", "blk.1.ffn_up_exps.weight.in_sum2", "blk.1.ffn_up_exps.weight.counts"}; !slices.Equal(got, want) {
		t.Errorf("tensors %v, want %v", got, want)
	}
	for i, want := range [][]int{{3}, {1}, {4, 2}, {4, 1}} {
		if !slices.Equal(g.Tensors[i].Shape, want) {
			t.Errorf("%s has shape %v, want %v", g.Tensors[i].Name, g.Tensors[i].Shape, want)
		}
	}
}

// TestLegacyBytes spells the older form out.
func TestLegacyBytes(t *testing.T) {
	f := &File{
		Entries:  []Entry{{Name: "ab", Sums: []float32{6, 0}, Counts: []int64{3}}},
		Datasets: []string{"x"}, Chunks: 2, ChunkSize: 2,
	}
	want := "\x01\x00\x00\x00" + "\x02\x00\x00\x00ab" + "\x02\x00\x00\x00" + "\x02\x00\x00\x00" + // 3 tokens are 2 calls
		"\x00\x00\x80\x40\x00\x00\x00\x00" + // 6/3*2, 0
		"\x02\x00\x00\x00" + "\x01\x00\x00\x00x"
	got := written(t, asLegacy, f)
	if string(got) != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	// What may be missing at the end.
	for _, data := range []string{want, want[:len(want)-5], want[:len(want)-9]} {
		read, err := Parse("test", []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		if mean := read.Entries[0].Mean(); !slices.Equal(mean, []float32{2, 0}) {
			t.Errorf("the mean squares are %v, want [2 0]", mean)
		}
	}
}

func TestMean(t *testing.T) {
	f := sample()
	if got := f.Entries[1].Mean(); !slices.Equal(got, []float32{1, 2, 0.6, 0.8, 1, 1, 7, 8}) {
		t.Errorf("the means are %v", got)
	}
	// The older form has one count for all experts, and ones for those not seen.
	read, err := Parse("test", written(t, asLegacy, f))
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range read.Entries[1].Mean() {
		if want := f.Entries[1].Mean()[i]; math.Abs(float64(v-want)) > 1e-6 {
			t.Errorf("mean %d is %v from the older form, want %v", i, v, want)
		}
	}
}

func TestSave(t *testing.T) {
	dir := t.TempDir()
	for name, start := range map[string]string{"a.gguf": "GGUF", "a.dat": "\x02\x00\x00\x00", "plain": "GGUF"} {
		path := filepath.Join(dir, name)
		if err := sample().Save(path, false); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(data), start) {
			t.Errorf("%s begins with %.4q, want %q (%v)", name, data, start, err)
		}
		if _, err := Open(path); err != nil {
			t.Error(err)
		}
		if err := sample().Save(path, false); fault.KindOf(err) != fault.UsageError {
			t.Errorf("%s is written over: %v", name, err)
		}
	}
	long := sample()
	long.Entries[0].Name = strings.Repeat("n", 70)
	if err := long.Save(filepath.Join(dir, "long.gguf"), false); err == nil {
		t.Error("a name that ggml does not take is written")
	}
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Errorf("%d files are left, want 3", len(left))
	}
}

// hostile are files that are refused, and why.
func hostile(t testing.TB) map[string][]byte {
	change := func(change func(f *File)) []byte {
		f := sample()
		change(f)
		return written(t, asGGUF, f)
	}
	tensors := func(kind string, list ...raw.Tensor) []byte {
		meta := &gguf.Metadata{}
		if err := meta.Set("general.type", kind); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w, err := gguf.Create(&b, meta, list)
		if err != nil {
			t.Fatal(err)
		}
		for _, tensor := range list {
			if err := w.WriteTensor(tensor.Data); err != nil {
				t.Fatal(err)
			}
		}
		return b.Bytes()
	}
	sums := raw.Tensor{Name: "a.in_sum2", Type: dtype.F32, Shape: []int{2}, Data: make([]byte, 8)}
	counts := raw.Tensor{Name: "a.counts", Type: dtype.F32, Shape: []int{1}, Data: floatBytes([]float32{-3})}
	half := raw.Tensor{Name: "a.in_sum2", Type: dtype.F16, Shape: []int{2}, Data: make([]byte, 4)}
	other := raw.Tensor{Name: "a.weight", Type: dtype.F32, Shape: []int{2}, Data: make([]byte, 8)}
	legacy := string(written(t, asLegacy, sample()))
	return map[string][]byte{
		"the number of entries":            {},
		"it says it has 0 entries":         []byte("\x00\x00\x00\x00"),
		"it says it has -1 entries":        []byte("\xff\xff\xff\xff"),
		"has 2147483647 bytes":             []byte("\x01\x00\x00\x00\xff\xff\xff\x7f"),
		"has -2 bytes":                     []byte("\x01\x00\x00\x00\xfe\xff\xff\xff"),
		"has 8589934588 bytes":             []byte("\x01\x00\x00\x00\x01\x00\x00\x00a\x01\x00\x00\x00\xff\xff\xff\x7f"),
		"the number of calls":              []byte(legacy[:8+19+2]),
		"the name of the text":             []byte(legacy[:len(legacy)-2]),
		"there are two entries":            []byte("\x02\x00\x00\x00" + strings.Repeat("\x01\x00\x00\x00a\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00", 2)),
		"an entry has no name":             change(func(f *File) { f.Entries[0].Name = "" }),
		`"blk.0.attn_q.weight" holds NaN`:  change(func(f *File) { f.Entries[0].Sums[1] = float32(math.NaN()) }),
		`"blk.0.attn_q.weight" holds -1`:   change(func(f *File) { f.Entries[0].Sums[0] = -1 }),
		`"blk.0.attn_q.weight" holds +Inf`: change(func(f *File) { f.Entries[0].Sums[0] = float32(math.Inf(1)) }),
		"which do not divide them":         tensors("imatrix", sums, raw.Tensor{Name: "a.counts", Type: dtype.F32, Shape: []int{3}, Data: make([]byte, 12)}),
		"is empty":                         tensors("imatrix", sums),
		"allowed are counts":               tensors("imatrix", sums, counts),
		"allowed is F32":                   tensors("imatrix", half),
		"is not of an importance matrix":   tensors("imatrix", other),
		`of the type "model"`:              tensors("model", other),
		"without entries of an importance": tensors("imatrix"),
		"the file has 5 bytes":             []byte("GGUF\x03"),
	}
}

func TestHostileFiles(t *testing.T) {
	for want, data := range hostile(t) {
		_, err := Parse("test", data)
		if err == nil || !strings.Contains(err.Error(), want) || fault.KindOf(err) != fault.InvalidFile {
			t.Errorf("got %v, want an invalid file with %q", err, want)
		}
	}
	for _, write := range []func(*File, *bytes.Buffer) error{asGGUF, asLegacy} {
		whole := written(t, write, sample())
		for n := range whole {
			if f, err := Parse("test", whole[:n]); err == nil && len(f.Entries) != 2 {
				t.Errorf("the first %d bytes of %d are read as %d entries", n, len(whole), len(f.Entries))
			}
		}
	}
}

// FuzzImatrix looks for files that make Parse panic, or give what is written
// and read again as something else.
func FuzzImatrix(f *testing.F) {
	f.Add(written(f, asGGUF, sample()))
	f.Add(written(f, asLegacy, sample()))
	for _, data := range hostile(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse("test", data)
		if err != nil {
			if fault.KindOf(err) != fault.InvalidFile {
				t.Fatalf("%v is not said to be an invalid file", err)
			}
			return
		}
		var b bytes.Buffer
		if err := m.Write(&b); err != nil {
			return // names that GGUF does not hold
		}
		again, err := Parse("again", b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for i := range m.Entries {
			if !slices.Equal(m.Entries[i].Sums, again.Entries[i].Sums) || len(m.Entries[i].Counts) != len(again.Entries[i].Counts) {
				t.Fatalf("entry %q changes", m.Entries[i].Name)
			}
		}
	})
}
