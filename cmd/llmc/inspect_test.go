package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// hugeModel makes a llama of 140 GB, all of it holes.
func hugeModel(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const hidden, ffn, kv, vocab, blocks = 8192, 28672, 1024, 128256, 80
	header := map[string]any{}
	offset := int64(0)
	add := func(name string, shape ...int64) {
		size := int64(2)
		for _, d := range shape {
			size *= d
		}
		header[name] = map[string]any{"dtype": "BF16", "shape": shape, "data_offsets": []int64{offset, offset + size}}
		offset += size
	}
	add("model.embed_tokens.weight", vocab, hidden)
	for i := range blocks {
		p := fmt.Sprintf("model.layers.%d.", i)
		add(p+"input_layernorm.weight", hidden)
		add(p+"self_attn.q_proj.weight", hidden, hidden)
		add(p+"self_attn.k_proj.weight", kv, hidden)
		add(p+"self_attn.v_proj.weight", kv, hidden)
		add(p+"self_attn.o_proj.weight", hidden, hidden)
		add(p+"post_attention_layernorm.weight", hidden)
		add(p+"mlp.gate_proj.weight", ffn, hidden)
		add(p+"mlp.up_proj.weight", ffn, hidden)
		add(p+"mlp.down_proj.weight", hidden, ffn)
	}
	add("model.norm.weight", hidden)
	add("lm_head.weight", vocab, hidden)
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(file, append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 8+int64(len(text))+offset); err != nil {
		t.Skipf("needs a file system with sparse files: %v", err)
	}
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": hidden,
		"intermediate_size": ffn, "num_hidden_layers": blocks, "num_attention_heads": 64, "num_key_value_heads": 8,
		"vocab_size": vocab, "tie_word_embeddings": false, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "max_position_embeddings": 131072,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestInspectHuge: what a checkpoint holds is known without reading it.
func TestInspectHuge(t *testing.T) {
	dir := hugeModel(t)
	var out bytes.Buffer
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	if err := runInspect(context.Background(), &ui{out: &out, err: &out, json: true}, dir, false, false); err != nil {
		t.Fatal(err)
	}
	elapsed := time.Since(start)
	runtime.ReadMemStats(&after)
	var info inspection
	if err := json.Unmarshal(out.Bytes(), &info); err != nil {
		t.Fatal(err)
	}
	if info.Parameters != 70553706496 || info.SizeBytes < 2*info.Parameters {
		t.Errorf("%d parameters in %d bytes, want 70553706496 in a little more than twice as many", info.Parameters, info.SizeBytes)
	}
	allocated := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d GB took %v and %d KB", info.SizeBytes/1e9, elapsed, allocated/1000)
	// Some 10 ms; the limit leaves room for a busy machine.
	if allocated > 32<<20 || elapsed > 2*time.Second {
		t.Errorf("inspecting %d GB took %v and allocated %d MB", info.SizeBytes/1e9, elapsed, allocated>>20)
	}
}
