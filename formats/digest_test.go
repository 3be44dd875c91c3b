package formats

import (
	"bytes"
	"context"
	"testing"

	"llmc/internal/tinymodel"
)

func digestOf(t *testing.T, files map[string][]byte) string {
	t.Helper()
	c, err := FromMemory(files)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Digest(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDigest changes one byte of every file of a checkpoint, and of a weight.
func TestDigest(t *testing.T) {
	files := func() map[string][]byte { return tinymodel.Files(tinymodel.Spec{Layers: 1}) }
	want := digestOf(t, files())
	if again := digestOf(t, files()); again != want {
		t.Errorf("the same files have digests %s and %s", want, again)
	}
	for _, change := range []struct{ file, old, new string }{
		{"config.json", "10000", "20000"},
		{"tokenizer.json", "BPE", "BPF"},
		{"generation_config.json", "257", "256"},
		{"model.safetensors", `"pt"`, `"tp"`},
	} {
		other := files()
		data := other[change.file]
		other[change.file] = bytes.Replace(data, []byte(change.old), []byte(change.new), 1)
		if bytes.Equal(data, other[change.file]) {
			t.Fatalf("%s has no %s", change.file, change.old)
		}
		if digestOf(t, other) == want {
			t.Errorf("another %s has the same digest", change.file)
		}
	}
	other := files()
	weights := other["model.safetensors"]
	weights[len(weights)/2] ^= 1
	if digestOf(t, other) == want {
		t.Error("another weight has the same digest")
	}
	other = files()
	delete(other, "generation_config.json")
	if digestOf(t, other) == want {
		t.Error("a missing companion has the same digest")
	}
}
