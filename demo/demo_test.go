package demo

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"llmc/demo/corpus"
	"llmc/eval"
	"llmc/kernels"
	"llmc/tokenizer"
)

// The built-in model must not make the program large.
const largest = 3_000_000

func TestCheckpointOpens(t *testing.T) {
	c, err := Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var config struct {
		Architectures []string `json:"architectures"`
		Hidden        int      `json:"hidden_size"`
		FFN           int      `json:"intermediate_size"`
		Heads         int      `json:"num_attention_heads"`
		KVHeads       int      `json:"num_key_value_heads"`
		HeadDim       int      `json:"head_dim"`
		Layers        int      `json:"num_hidden_layers"`
		Vocab         int      `json:"vocab_size"`
		Tied          bool     `json:"tie_word_embeddings"`
	}
	if err := json.Unmarshal(c.Config, &config); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Architectures, []string{"LlamaForCausalLM"}) || !config.Tied {
		t.Errorf("config.json says %+v, want a llama with tied embeddings", config)
	}
	want := map[string][]int{
		"model.embed_tokens.weight":                      {config.Vocab, config.Hidden},
		"model.layers.0.self_attn.q_proj.weight":         {config.Heads * config.HeadDim, config.Hidden},
		"model.layers.0.self_attn.k_proj.weight":         {config.KVHeads * config.HeadDim, config.Hidden},
		"model.layers.0.mlp.up_proj.weight":              {config.FFN, config.Hidden},
		"model.layers.0.mlp.down_proj.weight":            {config.Hidden, config.FFN},
		"model.layers.0.post_attention_layernorm.weight": {config.Hidden},
		"model.norm.weight":                              {config.Hidden},
	}
	for name, shape := range want {
		if tensor, ok := c.Tensor(name); !ok || !slices.Equal(tensor.Shape, shape) {
			t.Errorf("tensor %s has the shape %v, want %v", name, tensor.Shape, shape)
		}
	}
	if got, want := len(c.Tensors()), 2+9*config.Layers; got != want {
		t.Errorf("%d tensors, want %d", got, want)
	}
	for _, tensor := range c.Tensors() {
		checkValues(t, tensor.Name, tensor.Data)
		// Blocks of 256 weights along a row, so that no K-quant falls back.
		if row := tensor.Shape[len(tensor.Shape)-1]; row%256 != 0 {
			t.Errorf("tensor %s has rows of %d weights, not a multiple of 256", tensor.Name, row)
		}
	}
}

// checkValues looks at bfloat16 weights: none is NaN, infinite or huge.
func checkValues(t *testing.T, name string, data []byte) {
	t.Helper()
	for i := 0; i+1 < len(data); i += 2 {
		v := math.Float32frombits(uint32(data[i])<<16 | uint32(data[i+1])<<24)
		if !(math.Abs(float64(v)) < 100) {
			t.Errorf("tensor %s has the weight %v at %d", name, v, i/2)
			return
		}
	}
}

func TestFilesAreSmall(t *testing.T) {
	entries, err := files.ReadDir("model")
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > largest {
		t.Errorf("the model's files have %d bytes, want at most %d", total, largest)
	}
}

func TestCompanions(t *testing.T) {
	c, err := Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "generation_config.json"} {
		data, err := c.Companion(name)
		if err != nil || !json.Valid(data) {
			t.Errorf("%s is not there or no JSON: %v", name, err)
		}
	}
}

// TestTokenizerFits encodes the held-out text: ids within the vocabulary, the
// begin token first, and the text back.
func TestTokenizerFits(t *testing.T) {
	c, err := Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var parts [2][]byte
	for i, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		if parts[i], err = c.Companion(name); err != nil {
			t.Fatal(err)
		}
	}
	tok, err := tokenizer.FromJSON(parts[0], parts[1])
	if err != nil {
		t.Fatal(err)
	}
	embedding, _ := c.Tensor("model.embed_tokens.weight")
	if tok.Size() != embedding.Shape[0] {
		t.Errorf("the tokenizer has %d tokens, the embedding %d rows", tok.Size(), embedding.Shape[0])
	}
	ids := tok.Encode(EvalText(), true, false)
	if bos, ok := tok.BOS(); !ok || !tok.AddsBOS() || ids[0] != bos {
		t.Errorf("the text begins with token %d, want the begin token", ids[0])
	}
	if got := tok.Decode(ids[1:]); got != EvalText() {
		t.Error("the held-out text is not what its token ids decode to")
	}
	if perToken := float64(len(EvalText())) / float64(len(ids)); perToken < 2.5 {
		t.Errorf("%.2f bytes a token, want at least 2.5", perToken)
	}
}

// TestModelIsTrained measures the model on a part of both texts. Without
// training the perplexity is about the vocabulary's size, 1024.
func TestModelIsTrained(t *testing.T) {
	c, err := Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dev := kernels.NewCPU(0)
	defer dev.Close()
	subject, err := eval.Load(dev, c, Name)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"evaluation": EvalText(), "calibration": CalibrationText()} {
		report, err := eval.Run(t.Context(), []*eval.Subject{subject}, eval.StringText(name, text), eval.Options{Chunks: 8})
		if err != nil {
			t.Fatal(err)
		}
		if got := report.Models[0].Perplexity; got < 1.2 || got > 1.8 {
			t.Errorf("the perplexity of the %s text is %.3f, want 1.2 to 1.8", name, got)
		}
	}
}

func TestTexts(t *testing.T) {
	for name, text := range map[string]string{"evaluation": EvalText(), "calibration": CalibrationText()} {
		if !utf8.ValidString(text) || len(text) < 100_000 || len(text) > 250_000 {
			t.Errorf("the %s text has %d bytes, want 100,000 to 250,000 of UTF-8", name, len(text))
		}
		if n := len(corpus.Documents(text)); n < 200 {
			t.Errorf("the %s text has %d documents, want at least 200", name, n)
		}
	}
	if strings.HasPrefix(CalibrationText(), EvalText()[:1000]) {
		t.Error("calibration and evaluation text begin alike")
	}
}
