package model

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"llmc/formats"
	"llmc/internal/testdata"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/tokenizer"
)

// TestStories260K runs llama2.c's smallest model: its greedy text must come out
// byte for byte.
func TestStories260K(t *testing.T) {
	dir := testdata.Shared(t, "models/stories260k")
	want := readFile(t, filepath.Join(dir, "expected_greedy.txt"))
	checkpoint, err := formats.FromMemory(storiesFiles(t, readFile(t, filepath.Join(dir, "stories260K.bin"))))
	if err != nil {
		t.Fatal(err)
	}
	weights, err := Open(checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(kernels.NewCPU(0), weights)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromVocab(storiesVocab(t, readFile(t, filepath.Join(dir, "tok512.bin"))))
	if err != nil {
		t.Fatal(err)
	}
	const bos = 1
	ids := []int32{bos}
	err = Generate(context.Background(), m, ids, 200, Sampling{}, []int{bos}, func(id int32) bool {
		ids = append(ids, id)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Decode(ids[1:]); got != string(want) {
		t.Errorf("the greedy text is\n%s\nwant\n%s", got, want)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// storiesFiles turns a llama2.c file, version 0, into a Hugging Face
// checkpoint: seven int32 of shape, then float32 tensors, all blocks of one
// role together.
func storiesFiles(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	var head struct{ Hidden, FFN, Blocks, Heads, KVHeads, Vocab, Context int32 }
	n, err := binary.Decode(data, binary.LittleEndian, &head)
	if err != nil {
		t.Fatal(err)
	}
	data = data[n:]
	var tensors []tinymodel.Tensor
	take := func(name string, heads int, shape ...int) {
		size := 4
		for _, d := range shape {
			size *= d
		}
		part := data[:size]
		data = data[size:]
		if heads > 0 {
			part = halfSplit(part, heads, shape[0]/heads, 4*shape[1])
		}
		tensors = append(tensors, tinymodel.Tensor{Name: name, Type: "F32", Shape: shape, Data: part})
	}
	hidden, ffn, vocab := int(head.Hidden), int(head.FFN), int(head.Vocab)
	kv := hidden / int(head.Heads) * int(head.KVHeads)
	take("model.embed_tokens.weight", 0, vocab, hidden)
	for _, part := range []struct {
		name  string
		heads int32
		shape []int
	}{
		{"input_layernorm", 0, []int{hidden}},
		{"self_attn.q_proj", head.Heads, []int{hidden, hidden}},
		{"self_attn.k_proj", head.KVHeads, []int{kv, hidden}},
		{"self_attn.v_proj", 0, []int{kv, hidden}},
		{"self_attn.o_proj", 0, []int{hidden, hidden}},
		{"post_attention_layernorm", 0, []int{hidden}},
		{"mlp.gate_proj", 0, []int{ffn, hidden}},
		{"mlp.down_proj", 0, []int{hidden, ffn}},
		{"mlp.up_proj", 0, []int{ffn, hidden}},
	} {
		for b := range head.Blocks {
			take(fmt.Sprintf("model.layers.%d.%s.weight", b, part.name), int(part.heads), part.shape...)
		}
	}
	take("model.norm.weight", 0, hidden)
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama",
		"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": head.Blocks,
		"num_attention_heads": head.Heads, "num_key_value_heads": head.KVHeads,
		"max_position_embeddings": head.Context, "vocab_size": vocab,
		"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"config.json": config, "model.safetensors": tinymodel.SafeTensors(tensors)}
}

// halfSplit reorders the rows of each head from pairs that rotate together,
// as llama2.c has them, to first halves before second halves.
func halfSplit(data []byte, heads, headDim, rowBytes int) []byte {
	out := make([]byte, 0, len(data))
	for h := range heads {
		for half := range 2 {
			for j := range headDim / 2 {
				row := (h*headDim + 2*j + half) * rowBytes
				out = append(out, data[row:row+rowBytes]...)
			}
		}
	}
	return out
}

// storiesVocab reads llama2.c's tokenizer: the longest length, then for each
// token its score, length and bytes.
func storiesVocab(t *testing.T, data []byte) tokenizer.Vocab {
	t.Helper()
	v := tokenizer.NewVocab()
	v.Model = "llama"
	v.BOS, v.EOS, v.UNK = 1, 2, 0
	const normal, unknown, control, byteToken = 1, 2, 3, 6
	for data = data[4:]; len(data) > 0; {
		score := math.Float32frombits(binary.LittleEndian.Uint32(data))
		size := binary.LittleEndian.Uint32(data[4:])
		token := string(data[8 : 8+size])
		data = data[8+size:]
		kind := int32(normal)
		var b byte
		switch id := len(v.Tokens); {
		case id == 0:
			kind = unknown
		case id < 3:
			kind = control
		default:
			if n, _ := fmt.Sscanf(token, "<0x%02X>", &b); n == 1 {
				kind = byteToken
			}
		}
		v.Tokens = append(v.Tokens, token)
		v.Scores = append(v.Scores, score)
		v.Types = append(v.Types, kind)
	}
	return v
}
