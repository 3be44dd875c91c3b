package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
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
)

// file puts a header before data.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	for i := range data {
		b = append(b, byte(i))
	}
	return b
}

func TestParse(t *testing.T) {
	// In another order than the data, with white space, an escape, an unknown
	// key, an odd offset, a scalar and an empty tensor.
	header := ` {"__metadata__":{"format":"pt","":"x"},
		"b\u0041/\ud83d\ude00":{"shape":[2,1],"extra":[{"a":[1.5e3,null,"\""]}],"dtype":"F32","data_offsets":[1,9]},
		"empty":{"dtype":"F64","shape":[3,0],"data_offsets":[9,9]},
		"scalar":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}   `
	f, err := Parse("x.safetensors", file(strings.TrimSpace(header), 9))
	if err != nil {
		t.Fatal(err)
	}
	want := []raw.Tensor{
		{Name: "scalar", Type: dtype.U8, Shape: []int{}, Data: []byte{0}},
		{Name: "bA/😀", Type: dtype.F32, Shape: []int{2, 1}, Data: []byte{1, 2, 3, 4, 5, 6, 7, 8}},
		{Name: "empty", Type: dtype.F64, Shape: []int{3, 0}, Data: []byte{}},
	}
	if got := fmt.Sprint(f.Tensors); got != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if f.Metadata["format"] != "pt" || len(f.Metadata) != 2 {
		t.Errorf("metadata %v", f.Metadata)
	}
}

// TestMalformed has every malformation with a part of its message.
func TestMalformed(t *testing.T) {
	const entry = `"dtype":"F32","shape":[2],"data_offsets":[0,8]`
	good := file(`{"a":{`+entry+`}}`, 8)
	if _, err := Parse("good", good); err != nil {
		t.Fatal(err)
	}
	long := func(n uint64) []byte { return append(binary.LittleEndian.AppendUint64(nil, n), good[8:]...) }
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "has 0 bytes"},
		{"short", good[:7], "has 7 bytes"},
		{"header longer than the file", long(1000), "header has 1000 bytes, 62 are left"},
		{"header length overflows", long(1<<64 - 1), "header has 18446744073709551615 bytes"},
		{"no header", file("", 0), "begin with '{'"},
		{"not an object", file("[]", 0), "begin with '{'"},
		{"leading space", file(" {}", 0), "begin with '{'"},
		{"cut off", file(`{"a":{"dtype":"F32"`, 8), "ends where"},
		{"cut off in a string", file(`{"a`, 8), "ends inside a string"},
		{"something after it", file(`{}{}`, 0), "the end is needed"},
		{"zero byte after it", file("{}\x00", 0), "the end is needed"},
		{"comma at the end", file(`{"a":{`+entry+`},}`, 8), "a string is needed"},
		{"not UTF-8", file("{\"a\xff\":{"+entry+"}}", 8), "not UTF-8 at byte 3"},
		{"half a surrogate", file(`{"\ud83d":{`+entry+`}}`, 8), "escape"},
		{"control character", file("{\"a\n\":{"+entry+"}}", 8), "control character"},
		{"name twice", file(`{"a":{`+entry+`},"a":{`+entry+`}}`, 8), `"a" appears twice`},
		{"name twice, escaped", file(`{"a":{`+entry+`},"\u0061":{`+entry+`}}`, 8), `"a" appears twice`},
		{"metadata twice", file(`{"__metadata__":{},"__metadata__":{}}`, 0), "appears twice"},
		{"metadata key twice", file(`{"__metadata__":{"a":"1","a":"2"}}`, 0), `"a" appears twice`},
		{"metadata not a text", file(`{"__metadata__":{"a":1}}`, 0), "a string is needed"},
		{"tensor not an object", file(`{"a":[]}`, 0), `tensor "a": an object is needed`},
		{"dtype twice", file(`{"a":{"dtype":"F32",`+entry+`}}`, 8), `"dtype" appears twice`},
		{"shape twice", file(`{"a":{"shape":[2],`+entry+`}}`, 8), `"shape" appears twice`},
		{"offsets twice", file(`{"a":{"data_offsets":[0,8],`+entry+`}}`, 8), `"data_offsets" appears twice`},
		{"no dtype", file(`{"a":{"shape":[2],"data_offsets":[0,8]}}`, 8), "not all are there"},
		{"unknown dtype", file(`{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}`, 8), `"F33" is not supported, allowed are F64, F32`},
		{"block dtype", file(`{"a":{"dtype":"Q4_0","shape":[2],"data_offsets":[0,8]}}`, 8), `"Q4_0" is not supported`},
		{"negative dimension", file(`{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`, 8), "a number from 0 up"},
		{"fractional dimension", file(`{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}`, 8), "not a whole one"},
		{"dimension too large", file(`{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}`, 8), "not a whole one"},
		{"dimension beyond int", file(`{"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}}`, 8), "no file can hold"},
		{"shape overflows", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 8), "no file can hold"},
		{"shape overflows before a zero", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296,0],"data_offsets":[0,0]}}`, 8), "no file can hold"},
		{"too many dimensions", file(`{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}}`, 8), "more than 8 dimensions"},
		{"one offset", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}`, 8), "data_offsets has 1 numbers"},
		{"three offsets", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}`, 8), "data_offsets has 3 numbers"},
		{"offsets backwards", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, 8), `"a" ends at byte 0 of the data, before`},
		{"offsets do not fit the shape", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), `"a" takes 4 bytes (0 to 4), F32 of shape [2] needs 8`},
		{"beyond the data", good[:len(good)-1], `"a" ends at byte 8 of the data, which has 7 bytes`},
		{"bytes after the last tensor", append(slices.Clone(good), 1, 2), "2 bytes follow the last tensor, which ends at byte 8"},
		{"hole at the beginning", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[2,10]}}`, 10), "2 bytes after the end of the beginning"},
		{"hole", file(`{"a":{`+entry+`},"b":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}}`, 10), `"b" begins at byte 9 of the data, 1 bytes after the end of tensor "a"`},
		{"overlap", file(`{"a":{`+entry+`},"b":{"dtype":"U8","shape":[2],"data_offsets":[7,9]}}`, 9), `"b" begins at byte 7 of the data, inside tensor "a", which ends at byte 8`},
		{"the same bytes", file(`{"a":{`+entry+`},"b":{`+entry+`}}`, 8), `inside tensor "a"`},
		{"deep", file(`{"a":{"x":`+strings.Repeat("[", 100000)+strings.Repeat("]", 100000)+`,`+entry+`}}`, 8), "nested more than 64"},
		{"deep objects", file(`{"a":{"x":`+strings.Repeat(`{"a":`, 100000), 8), "nested more than 64"},
		{"not a number", file(`{"a":{"x":1e,`+entry+`}}`, 8), "is not one"},
		{"not a value", file(`{"a":{"x":nil,`+entry+`}}`, 8), "a value is needed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("x.safetensors", test.data)
			if err == nil {
				t.Fatal("no error")
			}
			if fault.KindOf(err) != fault.InvalidFile {
				t.Errorf("kind %v", fault.KindOf(err))
			}
			if text := err.Error(); !strings.HasPrefix(text, "x.safetensors") || !strings.Contains(text, test.want) || len(text) > 400 {
				t.Errorf("error %q, want %q in it", text, test.want)
			}
		})
	}
}

// TestHeaderLimit needs a header of more than 100 MB, most of it a hole.
func TestHeaderLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, binary.LittleEndian.AppendUint64(nil, maxHeader+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxHeader+9); err != nil {
		t.Skip("no sparse files here")
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "at most 100000000 are allowed") {
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
// a table of metadata with the largest allowed number of keys. Small files get
// less, so that a fuzzer can see it exceeded.
func bound(n int) int { return min(2*n+10<<20, 32*n+1<<16) }

// TestMemory gives headers whose descriptions are as short as they can be.
func TestMemory(t *testing.T) {
	const n = 200_000
	build := func(entry func(i int) string) []byte {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(entry(i))
		}
		return file("{"+b.String()+"}", 0)
	}
	for name, data := range map[string][]byte{
		"tensors": build(func(i int) string { return fmt.Sprintf(`"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, i) }),
		"dims": build(func(i int) string {
			return fmt.Sprintf(`"%x":{"dtype":"U8","shape":[0,1,1,1,1,1,1,1],"data_offsets":[0,0]}`, i)
		}),
		"cheat": file(`{"__metadata__":{"a":"`+strings.Repeat("data_offsets", n)+`"}}`, 0),
		"metadata": file(`{"__metadata__":`+string(build(func(i int) string {
			return fmt.Sprintf(`"%x":""`, i)
		})[8:])+`}`, 0),
	} {
		start := time.Now()
		var err error
		got := allocated(func() { _, err = Parse(name, data) })
		if got > bound(len(data)) {
			t.Errorf("%s: %d bytes for a file of %d", name, got, len(data))
		}
		if name != "metadata" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// memory is an io.WriterAt.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	if end := int(offset) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[offset:], p), nil
}

// TestWriterAligns plans tensors of odd lengths before wide ones.
func TestWriterAligns(t *testing.T) {
	plan := []raw.Tensor{
		{Name: "bytes", Type: dtype.U8, Shape: []int{3}, Data: []byte{1, 2, 3}},
		{Name: `half "<é>"`, Type: dtype.BF16, Shape: []int{1, 3}, Data: []byte{4, 5, 6, 7, 8, 9}},
		{Name: "float", Type: dtype.F32, Shape: []int{}, Data: []byte{10, 11, 12, 13}},
		{Name: "none", Type: dtype.F64, Shape: []int{0}, Data: []byte{}},
	}
	var m memory
	w, err := Create(&m, plan, map[string]string{"b": "<2>", "a": "1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tensor := range plan {
		if err := w.WriteTensor(tensor.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := Parse("x", m.b)
	if err != nil {
		t.Fatalf("%v in %q", err, m.b)
	}
	for _, tensor := range f.Tensors {
		i := slices.IndexFunc(plan, func(p raw.Tensor) bool { return p.Name == tensor.Name })
		if i < 0 || !bytes.Equal(tensor.Data, plan[i].Data) || !slices.Equal(tensor.Shape, plan[i].Shape) {
			t.Errorf("got %v", tensor)
		}
	}
	header := string(m.b[8 : 8+binary.LittleEndian.Uint64(m.b)])
	want := `{"__metadata__":{"a":"1","b":"<2>"},` +
		`"none":{"dtype":"F64","shape":[0],"data_offsets":[0,0]},` +
		`"float":{"dtype":"F32","shape":[],"data_offsets":[0,4]},` +
		`"half \"<é>\"":{"dtype":"BF16","shape":[1,3],"data_offsets":[4,10]},` +
		`"bytes":{"dtype":"U8","shape":[3],"data_offsets":[10,13]}}`
	if strings.TrimRight(header, " ") != want || len(header)%8 != 0 {
		t.Errorf("header %q", header)
	}
}

// TestWriterKeepsOrder plans what is aligned as it is.
func TestWriterKeepsOrder(t *testing.T) {
	plan := []raw.Tensor{
		{Name: "z", Type: dtype.BF16, Shape: []int{4}},
		{Name: "y", Type: dtype.F32, Shape: []int{2}},
		{Name: "x", Type: dtype.I64, Shape: []int{2}},
	}
	var m memory
	w, err := Create(&m, plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, size := range []int{8, 8, 16} {
		err := w.StreamTensor(func(out io.Writer) error {
			_, err := out.Write(bytes.Repeat([]byte{byte(i)}, size))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := Parse("x", m.b)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"z", "y", "x"} {
		if f.Tensors[i].Name != name || f.Tensors[i].Data[0] != byte(i) {
			t.Errorf("tensor %d is %v", i, f.Tensors[i])
		}
	}
}

// FuzzSafetensors: no input makes the reader panic or allocate more than twice
// its size, and what is accepted adds up and can be written again.
func FuzzSafetensors(f *testing.F) {
	f.Add(file(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}`, 10))
	f.Add(file(`{"a":{"x":[[[{"b":[1e5,-0.5,null,true]}]]],"dtype":"U8","shape":[3],"data_offsets":[0,3]}}  `, 3))
	f.Add(file(`{"\u00e9\ud83d\ude00\"\\":{"dtype":"I64","shape":[0,7],"data_offsets":[0,0]}}`, 0))
	f.Add(file(`{}`, 0))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\x7f{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var file *File
		var err error
		if got := allocated(func() { file, err = Parse("x", data) }); got > bound(len(data)) {
			t.Errorf("%d bytes for a file of %d", got, len(data))
		}
		if err != nil {
			return
		}
		total := 0
		for _, tensor := range file.Tensors {
			size, ok := tensor.Type.RowBytes(tensor.Elements())
			if !ok || size != len(tensor.Data) {
				t.Errorf("%v has %d bytes", tensor, size)
			}
			total += size
		}
		if header := int(binary.LittleEndian.Uint64(data)); total != len(data)-8-header {
			t.Errorf("tensors have %d bytes of %d", total, len(data)-8-header)
		}
		again(t, file)
	})
}

// again writes a file anew and reads it.
func again(t *testing.T, f *File) {
	var m memory
	w, err := Create(&m, f.Tensors, f.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	for _, tensor := range f.Tensors {
		if err := w.WriteTensor(tensor.Data); err != nil {
			t.Fatal(err)
		}
	}
	g, err := Parse("again", m.b)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(g.Metadata) != fmt.Sprint(f.Metadata) || len(g.Tensors) != len(f.Tensors) {
		t.Errorf("%v became %v", f, g)
	}
	for _, tensor := range g.Tensors {
		i := slices.IndexFunc(f.Tensors, func(u raw.Tensor) bool { return u.Name == tensor.Name })
		if i < 0 || fmt.Sprint(f.Tensors[i]) != fmt.Sprint(tensor) {
			t.Errorf("%v was not there", tensor)
		}
	}
}
