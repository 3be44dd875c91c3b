package model

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestEditHF changes configurations and looks at the keys.
func TestEditHF(t *testing.T) {
	for _, c := range []struct {
		name, config string
		cut          Cut
		want         map[string]string // keys in order of the text model
	}{
		{
			name: "heads make head_dim explicit",
			config: `{"model_type": "llama", "vocab_size": 9, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1,
				"num_attention_heads": 4, "auto_map": {"x": 1}}`,
			cut: Cut{Heads: [][]int{{0, 1, 3}}},
			want: map[string]string{"num_attention_heads": "3", "num_key_value_heads": "3", "head_dim": "6",
				"hidden_size": "24", "auto_map": `{"x":1}`},
		},
		{
			name: "layer_types that nobody looks at",
			config: `{"model_type": "qwen2", "vocab_size": 9, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 3,
				"num_attention_heads": 4, "num_key_value_heads": 2, "use_sliding_window": false,
				"layer_types": ["full_attention", "full_attention", "full_attention"]}`,
			cut:  Cut{Blocks: []int{0, 2}},
			want: map[string]string{"num_hidden_layers": "2", "layer_types": `["full_attention","full_attention"]`, "head_dim": ""},
		},
		{
			name: "a pattern that no number says",
			config: `{"model_type": "gemma3_text", "vocab_size": 9, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 6,
				"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "sliding_window": 5, "sliding_window_pattern": 3}`,
			cut: Cut{Blocks: []int{0, 2, 3, 5}, Neurons: [][]int{{1}, {1}, {1}, {1}, {1}, {1}}},
			want: map[string]string{"num_hidden_layers": "4", "intermediate_size": "1",
				"layer_types": `["sliding_attention","full_attention","sliding_attention","full_attention"]`},
		},
		{
			name: "the text model of a multimodal one",
			config: `{"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": {"vocab_size": 9,
				"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
				"num_key_value_heads": 2, "head_dim": 4, "sliding_window": null}}`,
			cut:  Cut{Neurons: [][]int{{1, 5}, {2, 3}}},
			want: map[string]string{"intermediate_size": "2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			was, err := ParseHF([]byte(c.config))
			if err != nil {
				t.Fatal(err)
			}
			same, err := was.EditHF([]byte(c.config))
			if err != nil || string(same) != c.config {
				t.Errorf("without a change it became %s, %v", same, err)
			}
			cfg, err := was.Cut(&c.cut)
			if err != nil {
				t.Fatal(err)
			}
			text, err := cfg.EditHF([]byte(c.config))
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]json.RawMessage
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			if inner, ok := got["text_config"]; ok {
				if err := json.Unmarshal(inner, &got); err != nil {
					t.Fatal(err)
				}
			}
			for key, want := range c.want {
				if is := strings.Join(strings.Fields(string(got[key])), ""); is != want {
					t.Errorf("%s is %s, want %s", key, is, want)
				}
			}
		})
	}
}

func TestEditHFRefuses(t *testing.T) {
	const config = `{"model_type": "llama", "vocab_size": 9, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}`
	was, err := ParseHF([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := was.Cut(&Cut{Heads: [][]int{{0, 1, 3}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = cfg.EditHF([]byte(config))
	if want := "16 is not a multiple of 3 heads, which transformers asks of the family llama"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	cfg = was
	cfg.Rope.Theta = 77 // a change that EditHF does not know how to write
	if _, err = cfg.EditHF([]byte(config)); err == nil || !strings.Contains(err.Error(), "cannot say") {
		t.Errorf("got %v", err)
	}
}
