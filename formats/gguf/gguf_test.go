package gguf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/internal/testdata"
)

// maker puts a GGUF file together, valid or not.
type maker struct{ b []byte }

func begin(version uint32, tensors, keys uint64) *maker {
	return new(maker).raw("GGUF").u32(version).u64(tensors).u64(keys)
}

func (m *maker) raw(s string) *maker { m.b = append(m.b, s...); return m }
func (m *maker) u32(v uint32) *maker { m.b = binary.LittleEndian.AppendUint32(m.b, v); return m }
func (m *maker) u64(v uint64) *maker { m.b = binary.LittleEndian.AppendUint64(m.b, v); return m }
func (m *maker) text(s string) *maker {
	return m.u64(uint64(len(s))).raw(s)
}

func (m *maker) tensor(name string, number uint32, offset uint64, ne ...uint64) *maker {
	m.text(name).u32(uint32(len(ne)))
	for _, n := range ne {
		m.u64(n)
	}
	return m.u32(number).u64(offset)
}

func (m *maker) data(n int) []byte {
	for len(m.b)%32 != 0 {
		m.b = append(m.b, 0)
	}
	for i := range n {
		m.b = append(m.b, byte(i))
	}
	return m.b
}

// everyType has a key of each of the thirteen types, and arrays of them.
func everyType(t *testing.T) *Metadata {
	t.Helper()
	m := &Metadata{}
	for _, value := range []any{
		uint8(200), int8(-100), uint16(60000), int16(-30000), uint32(4e9), int32(-2e9),
		float32(1.5), true, "text é", uint64(1 << 63), int64(-1 << 62), math.Inf(-1), "",
		[]uint8{1, 2}, []int8{-1}, []uint16{1, 60000}, []int16{-2}, []uint32{4e9}, []int32{-2e9, 5}, []float32{1.5, -0.25},
		[]bool{true, false}, []string{"a", "", "\xff\x00b"}, []uint64{1 << 63}, []int64{-1 << 62}, []float64{1e300}, []string{},
		[]any{[]int32{1, 2}, []string{"x"}, []any{[]bool{true}}, []any{}},
	} {
		if err := m.Set(fmt.Sprintf("key.%d", m.Len()), value); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func write(t *testing.T, meta *Metadata, tensors []raw.Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := Create(&b, meta, tensors)
	if err != nil {
		t.Fatal(err)
	}
	for _, tensor := range tensors {
		if err := w.WriteTensor(tensor.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEveryTypeRoundTrip(t *testing.T) {
	meta := everyType(t)
	var tensors []raw.Tensor
	for number := range uint32(43) {
		typ, err := TypeOf(number)
		if err != nil {
			continue
		}
		shape := []int{3, typ.BlockSize()}
		if number%3 == 0 {
			shape = []int{typ.BlockSize()}
		}
		tensor := raw.Tensor{Name: typ.String(), Type: typ, Shape: shape}
		size, err := Size(tensor)
		if err != nil {
			t.Fatal(err)
		}
		for i := range size {
			tensor.Data = append(tensor.Data, byte(int64(number)+i))
		}
		tensors = append(tensors, tensor)
	}
	if len(tensors) != 33 {
		t.Errorf("%d types", len(tensors))
	}
	for _, alignment := range []uint32{0, 8, 256} {
		if alignment > 0 {
			if err := meta.Set("general.alignment", alignment); err != nil {
				t.Fatal(err)
			}
		}
		f, err := Parse("x", write(t, meta, tensors))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(f.Meta.Keys(), meta.Keys()) {
			t.Errorf("keys %v", f.Meta.Keys())
		}
		for _, key := range meta.Keys() {
			got, _ := f.Meta.Get(key)
			want, _ := meta.Get(key)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s is %#v, want %#v", key, got, want)
			}
		}
		if !reflect.DeepEqual(f.Tensors, tensors) {
			t.Errorf("alignment %d: tensors differ", alignment)
		}
	}
}

func TestGetters(t *testing.T) {
	m := everyType(t)
	for _, test := range []struct {
		name      string
		got, want any
	}{
		{"uint from uint64", first(m.Uint("key.9")), uint64(1 << 63)},
		{"uint from int64", first(m.Uint("key.10")), nil},
		{"uint from uint8", first(m.Uint("key.0")), uint64(200)},
		{"uint from float", first(m.Uint("key.6")), nil},
		{"int from int8", first(m.Int("key.1")), int64(-100)},
		{"int from uint64", first(m.Int("key.9")), nil},
		{"float from float32", first(m.Float("key.6")), 1.5},
		{"float from int16", first(m.Float("key.3")), -30000.0},
		{"float from uint64", first(m.Float("key.9")), 9223372036854775808.0},
		{"float from text", first(m.Float("key.8")), nil},
		{"bool", first(m.Bool("key.7")), true},
		{"bool from uint8", first(m.Bool("key.0")), nil},
		{"text", first(m.String("key.8")), "text é"},
		{"absent", first(m.String("key")), nil},
		{"ints from int32", first(m.Ints("key.18")), []int64{-2e9, 5}},
		{"ints from uint64", first(m.Ints("key.22")), nil},
		{"floats from float64", first(m.Floats("key.24")), []float32{float32(math.Inf(1))}},
		{"strings", first(m.Strings("key.21")), []string{"a", "", "\xff\x00b"}},
		{"bools", first(m.Bools("key.20")), []bool{true, false}},
	} {
		if !reflect.DeepEqual(test.got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, test.got, test.want)
		}
	}
	c := m.Clone()
	c.Delete("key.0")
	c.Delete("absent")
	if err := c.Set("key.1", "new"); err != nil {
		t.Fatal(err)
	}
	if c.Len() != m.Len()-1 || c.Keys()[0] != "key.1" || first(m.Int("key.1")) != int64(-100) || !m.Has("key.0") {
		t.Error("a clone is not a copy")
	}
	for _, bad := range []any{1, nil, []int{1}, struct{}{}, []any{1}, []any{[]any{[]any{[]any{[]any{}}}}}} {
		if c.Set("bad", bad) == nil {
			t.Errorf("%T was taken", bad)
		}
	}
	if c.Set("", "x") == nil {
		t.Error("an empty key was taken")
	}
}

func first[T any](v T, ok bool) any {
	if !ok {
		return nil
	}
	return v
}

// TestMalformed has every malformation with a part of its message.
func TestMalformed(t *testing.T) {
	good := func() *maker { return begin(3, 1, 1).text("k").u32(4).u32(7).tensor("a", 0, 0, 2, 1) }
	if _, err := Parse("good", good().data(8)); err != nil {
		t.Fatal(err)
	}
	key := func() *maker { return begin(3, 0, 1).text("k") }
	tensor := func(number uint32, offset uint64, ne ...uint64) []byte {
		return begin(3, 1, 0).tensor("a", number, offset, ne...).data(64)
	}
	nested := key().u32(9)
	for range 100000 {
		nested.u32(9).u64(1)
	}
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "has 0 bytes"},
		{"short", good().b[:23], "has 23 bytes"},
		{"magic", []byte("GGML" + strings.Repeat("\x00", 40)), `begins with "GGML"`},
		{"version 0", begin(0, 0, 0).b, "version 0 is not supported"},
		{"version 1", begin(1, 0, 0).b, "version 1 is not supported"},
		{"version 4", begin(4, 0, 0).b, "version 4 is not supported"},
		{"big-endian", begin(3<<24, 0, 0).b, "big-endian"},
		{"too many keys", begin(3, 0, 1<<62).b, "4611686018427387904 metadata keys"},
		{"too many tensors", begin(3, 1<<62, 0).b, "4611686018427387904 tensors"},
		{"cut off in the key's length", begin(3, 0, 1).raw("abc").b, "metadata key 1 of 1: 8 bytes are needed at byte 24, the file has 3 more"},
		{"key longer than the file", begin(3, 0, 1).u64(1 << 63).b, "9223372036854775808 bytes are needed at byte 32"},
		{"empty key", begin(3, 0, 1).text("").u32(0).raw("x").b, "name has 0 bytes"},
		{"long key", begin(3, 0, 1).text(strings.Repeat("k", 1<<16)).u32(0).raw("x").b, "name has 65536 bytes"},
		{"key not UTF-8", begin(3, 0, 1).text("k\xff").u32(0).raw("x").b, "not UTF-8"},
		{"key twice", begin(3, 0, 2).text("k").u32(0).raw("x").text("k").u32(0).raw("x").b, `"k" appears twice`},
		{"unknown value type", key().u32(13).u64(0).b, `metadata key "k": the value has type 13, allowed are 0 to 12`},
		{"cut off in a value", key().u32(10).u32(0).b, "8 bytes are needed"},
		{"truth value", key().u32(7).raw("\x02").b, "a truth value is 2"},
		{"truth values", key().u32(9).u32(7).u64(2).raw("\x01\x02").b, "a truth value is 2"},
		{"text longer than the file", key().u32(8).u64(1 << 40).b, "1099511627776 bytes are needed"},
		{"array longer than the file", key().u32(9).u32(5).u64(1 << 61).u64(0).b, "array of 2305843009213693952 values"},
		{"texts more than the file", key().u32(9).u32(8).u64(3).u64(0).u64(0).b, "array of 3 values needs at least 8 bytes"},
		{"text in an array", key().u32(9).u32(8).u64(2).u64(0).u64(9).b, "string 1 of 2: 9 bytes are needed"},
		{"unknown element type", key().u32(9).u32(99).u64(0).b, "type 99"},
		{"nested too deep", nested.b, "nested more than 4 deep"},
		{"too many nested", begin(3, 0, 1).text("k").u32(9).u32(9).u64(70000).raw(strings.Repeat("\x00", 12*70000)).b, "more than 65536 arrays within arrays"},
		{"alignment 0", begin(3, 0, 1).text("general.alignment").u32(4).u32(0).b, "general.alignment is 0"},
		{"alignment 24", begin(3, 0, 1).text("general.alignment").u32(4).u32(24).b, "general.alignment is 24"},
		{"alignment 4", begin(3, 0, 1).text("general.alignment").u32(4).u32(4).b, "general.alignment is 4"},
		{"alignment a text", begin(3, 0, 1).text("general.alignment").u32(8).text("32").b, "general.alignment is a string"},
		{"tensor cut off", good().b[:len(good().b)-4], `tensor "a": 8 bytes are needed`},
		{"tensor without name", begin(3, 1, 0).tensor("", 0, 0, 2).data(8), "tensor 1 of 1: its name has 0 bytes"},
		{"tensor twice", begin(3, 2, 0).tensor("a", 0, 0, 2).tensor("a", 0, 32, 2).data(64), `tensor "a" appears twice`},
		{"five dimensions", tensor(0, 0, 1, 1, 1, 1, 1), "5 dimensions"},
		{"dimension 0", tensor(0, 0, 2, 0), "dimension of 0"},
		{"dimension negative", tensor(0, 0, 1<<63), "dimension of 9223372036854775808"},
		{"shape overflows", tensor(0, 0, 1<<32, 1<<32), "no file can hold"},
		{"size overflows", tensor(0, 0, 1<<62), "no file can hold"},
		{"rows not of whole blocks", tensor(2, 0, 48, 2), "rows of 48 values, Q4_0 has blocks of 32"},
		{"removed type", tensor(4, 0, 32), "type 4, Q4_2, which ggml removed"},
		{"removed type 33", tensor(33, 0, 32), "type 33, Q4_0_8_8, which ggml removed"},
		{"type not supported", tensor(41, 0, 128), "type 41, Q1_0, which is not supported"},
		{"unknown type", tensor(99, 0, 32), `tensor "a": has type 99`},
		{"offset not aligned", tensor(0, 8, 2), "begins at byte 8 of the data, which is not a multiple of 32"},
		{"offset beyond the data", tensor(0, 96, 2), "takes 8 bytes from byte 96 of the data, which has 64 bytes"},
		{"offset near overflow", tensor(0, 1<<64-32, 2), "takes 8 bytes from byte 18446744073709551584"},
		{"end beyond the data", tensor(0, 32, 9), "takes 36 bytes from byte 32 of the data"},
		{"data missing", good().b, "takes 8 bytes from byte 0 of the data, which has 0 bytes"},
		{"overlap", begin(3, 2, 0).tensor("a", 0, 0, 16).tensor("b", 0, 32, 2).data(64), `"b" begins at byte 32 of the data, inside tensor "a", which ends at byte 64`},
		{"part of a split", begin(3, 0, 1).text("split.count").u32(2).raw("\x02\x00").b, "one of 2 parts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("x.gguf", test.data)
			if err == nil {
				t.Fatal("no error")
			}
			if fault.KindOf(err) != fault.InvalidFile {
				t.Errorf("kind %v", fault.KindOf(err))
			}
			if text := err.Error(); !strings.HasPrefix(text, "x.gguf") || !strings.Contains(text, test.want) || len(text) > 400 {
				t.Errorf("error %q, want %q in it", text, test.want)
			}
		})
	}
}

// TestVersion2 differs from version 3 in nothing that matters here.
func TestVersion2(t *testing.T) {
	f, err := Parse("x", begin(2, 1, 0).tensor("a", 0, 0, 2, 3).data(24))
	if err != nil || f.Version != 2 || !slices.Equal(f.Tensors[0].Shape, []int{3, 2}) {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestSplitMalformed damages a file of three parts.
func TestSplitMalformed(t *testing.T) {
	tensor := func(name string) raw.Tensor {
		return raw.Tensor{Name: name, Type: dtype.F32, Shape: []int{1}, Data: []byte{1, 2, 3, 4}}
	}
	meta := &Metadata{}
	meta.set("general.architecture", "llama")
	for name, test := range map[string]struct {
		damage func(t *testing.T, part func(i int) string)
		want   string
	}{
		"missing": {func(t *testing.T, part func(int) string) {
			os.Remove(part(1))
		}, "m-00002-of-00003.gguf, part 2 of 3 of a split file, is missing"},
		"wrong part": {func(t *testing.T, part func(int) string) {
			os.Rename(part(2), part(1))
		}, "says it is part 3 of 3, its name that it is part 2 of 3"},
		"other name": {func(t *testing.T, part func(int) string) {
			os.Rename(part(0), filepath.Join(filepath.Dir(part(0)), "m-00001-of-00004.gguf"))
		}, "m-00001-of-00003.gguf, part 1 of 3 of a split file, is missing"},
		"not a part": {func(t *testing.T, part func(int) string) {
			os.WriteFile(part(1), write(t, meta, nil), 0o600)
		}, "does not say that it is part 2 of 3"},
		"tensor in two parts": {func(t *testing.T, part func(int) string) {
			m, _ := SplitMetadata(meta, 1, 3, 3)
			os.WriteFile(part(1), write(t, m, []raw.Tensor{tensor("t2")}), 0o600)
		}, `"t2" is in two parts`},
		"count of tensors": {func(t *testing.T, part func(int) string) {
			m, _ := SplitMetadata(meta, 1, 3, 3)
			os.WriteFile(part(1), write(t, m, nil), 0o600)
		}, "the parts hold 2 tensors, split.tensors.count is 3"},
		"damaged part": {func(t *testing.T, part func(int) string) {
			os.Truncate(part(1), 60)
		}, "m-00002-of-00003.gguf: metadata key"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			part := func(i int) string { return SplitPath(filepath.Join(dir, "m"), i, 3) }
			for i := range 3 {
				m, err := SplitMetadata(meta, i, 3, 3)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(part(i), write(t, m, []raw.Tensor{tensor(fmt.Sprint("t", i))}), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f, err := Open(part(1))
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			test.damage(t, part)
			start := part(0)
			if _, err := os.Stat(start); err != nil {
				start = part(1)
			}
			f, err = Open(start)
			if err == nil {
				f.Close()
				t.Fatal("no error")
			}
			if fault.KindOf(err) != fault.InvalidFile || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
		})
	}
	if _, err := SplitMetadata(meta, 0, 70000, 3); err == nil {
		t.Error("70000 parts were taken")
	}
}

// TestSplitName: a part under a name that says nothing cannot be joined.
func TestSplitName(t *testing.T) {
	m, _ := SplitMetadata(&Metadata{}, 1, 3, 3)
	path := filepath.Join(t.TempDir(), "download.gguf")
	if err := os.WriteFile(path, write(t, m, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "its name has to end in -00002-of-00003.gguf") {
		t.Error(err)
	}
}

// allocated is how many bytes f allocates, freed ones included.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// bound is how much may be allocated for a file of n bytes: twice as much, and
// what the largest allowed number of keys and nested arrays takes. Small files
// get less, so that a fuzzer can see it exceeded.
func bound(n int) int { return min(2*n+20<<20, 32*n+1<<16) }

// TestMemory gives the contents that take the most memory for their bytes.
func TestMemory(t *testing.T) {
	const n = 200_000
	tensors := begin(3, n, 0)
	for i := range n {
		tensors.tensor(fmt.Sprintf("%x", i), 24, 32*uint64(i), 1)
	}
	names := begin(3, 0, 1).text("k").u32(9).u32(8).u64(n)
	for range n {
		names.text("")
	}
	keys := begin(3, 0, maxKeys)
	for i := range maxKeys {
		keys.text(fmt.Sprintf("%x", i)).u32(0).raw("x")
	}
	nested := begin(3, 0, 1).text("k").u32(9).u32(9).u64(maxNested)
	nested.raw(strings.Repeat("\x00", 12*maxNested))
	for name, data := range map[string][]byte{
		"tensors": tensors.data(32 * n), "strings": names.b, "keys": keys.b, "nested": nested.b,
	} {
		var err error
		got := allocated(func() { _, err = Parse(name, data) })
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got > bound(len(data)) {
			t.Errorf("%s: %d bytes for a file of %d", name, got, len(data))
		}
	}
}

// TestVocabularyAllocations reads 256k tokens into a few pieces of memory.
func TestVocabularyAllocations(t *testing.T) {
	tokens := make([]string, 256_000)
	for i := range tokens {
		tokens[i] = fmt.Sprint("token", i)
	}
	meta := &Metadata{}
	meta.set("tokenizer.ggml.tokens", tokens)
	data := write(t, meta, nil)
	allocations := testing.AllocsPerRun(1, func() {
		f, err := Parse("x", data)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := f.Meta.Strings("tokenizer.ggml.tokens"); !slices.Equal(got, tokens) {
			t.Fatal("the tokens differ")
		}
	})
	if allocations > 50 {
		t.Errorf("%v allocations", allocations)
	}
}

// TestVocabularies reads what llama.cpp's converter wrote and writes the same.
func TestVocabularies(t *testing.T) {
	for _, name := range []string{"gpt-2", "llama-spm", "phi-3", "starcoder"} {
		path := testdata.Shared(t, "vectors/ggml-vocab-"+name+".gguf")
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := write(t, f.Meta, f.Tensors)
		binary.LittleEndian.PutUint32(got[4:], f.Version) // some are version 2
		if !bytes.HasPrefix(got, want) && !bytes.HasPrefix(want, got) {
			t.Errorf("%s: %d bytes written, %d read, and they differ", name, len(got), len(want))
		}
	}
}

// FuzzGGUF: no input makes the reader panic or allocate more than its size
// allows, and what is accepted adds up and can be written again.
func FuzzGGUF(f *testing.F) {
	f.Add(begin(3, 2, 2).text("general.alignment").u32(4).u32(32).text("s").u32(9).u32(8).u64(2).text("a").text("").
		tensor("a", 0, 0, 2, 1).tensor("b", 2, 32, 32).data(64))
	f.Add(begin(2, 1, 1).text("k").u32(9).u32(9).u64(1).u32(9).u64(1).u32(7).u64(1).raw("\x01").tensor("a", 30, 0).data(32))
	f.Add(begin(3, 0, 1).text("split.count").u32(2).raw("\x01\x00").b)
	f.Add(begin(3, 1<<62, 1<<16).b)
	f.Fuzz(func(t *testing.T, data []byte) {
		var file *File
		var err error
		if got := allocated(func() { file, err = Parse("x", data) }); got > bound(len(data)) {
			t.Errorf("%d bytes for a file of %d", got, len(data))
		}
		if err != nil {
			return
		}
		for _, tensor := range file.Tensors {
			if size, err := sizeOf(tensor.Type, tensor.Shape); err != nil || size != uint64(len(tensor.Data)) {
				t.Errorf("%v: %d bytes, %v", tensor, size, err)
			}
		}
		var b bytes.Buffer
		w, err := Create(&b, file.Meta, file.Tensors)
		if err != nil {
			return // a name that is longer than what is written
		}
		for _, tensor := range file.Tensors {
			if err := w.WriteTensor(tensor.Data); err != nil {
				t.Fatal(err)
			}
		}
		g, err := Parse("again", b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(g.Meta) != fmt.Sprint(file.Meta) || fmt.Sprint(g.Tensors) != fmt.Sprint(file.Tensors) {
			t.Errorf("%v %v became %v %v", file.Meta, file.Tensors, g.Meta, g.Tensors)
		}
	})
}
