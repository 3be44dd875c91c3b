package model

import (
	"reflect"

	"llmc/formats/gguf"
	"llmc/internal/fault"
	"llmc/internal/jsonobj"
)

// EditHF returns a config.json that says what c says, with everything else as
// it is in data, the config.json that c was changed from. Where nothing has
// changed it is data. What the family's config.json cannot say is an error.
func (c *Config) EditHF(data []byte) ([]byte, error) {
	was, err := ParseHF(data)
	if err != nil {
		return nil, err
	}
	if reflect.DeepEqual(was, *c) {
		return data, nil
	}
	if err := c.CheckHF(); err != nil {
		return nil, err
	}
	obj, err := jsonobj.Parse(data)
	if err != nil {
		return nil, fault.Invalid("config.json: %w", err)
	}
	if err := c.editSizes(obj, &was); err != nil {
		return nil, err
	}
	text, err := obj.Indented()
	if err != nil {
		return nil, err
	}
	if now, err := ParseHF(text); err != nil || !reflect.DeepEqual(now, *c) {
		return nil, fault.Invalid("the %s family's config.json cannot say what the model has become", c.Family.Name)
	}
	return text, nil
}

// editSizes sets the keys of what has changed, in the text model's part of a
// multimodal configuration.
func (c *Config) editSizes(obj *jsonobj.Object, was *Config) error {
	if obj.Has("text_config") {
		text, err := jsonobj.Parse(obj.Values["text_config"])
		if err != nil {
			return fault.Invalid("config.json: text_config: %w", err)
		}
		if err := c.editSizes(text, was); err != nil {
			return err
		}
		return obj.Set("text_config", text)
	}
	var err error
	set := func(key string, value any) {
		if e := obj.Set(key, value); e != nil && err == nil {
			err = e
		}
	}
	for _, size := range []struct {
		key      string
		was, now int
	}{
		{"hidden_size", was.Hidden, c.Hidden},
		{"intermediate_size", was.FFN, c.FFN},
		{"num_hidden_layers", was.Blocks, c.Blocks},
		{"num_attention_heads", was.Heads, c.Heads},
		{"num_key_value_heads", was.KVHeads, c.KVHeads},
		{c.expertWidthKey(), was.Experts.Width, c.Experts.Width},
	} {
		if size.was != size.now {
			set(size.key, size.now)
		}
	}
	if was.Heads != c.Heads || was.Hidden != c.Hidden {
		set("head_dim", c.HeadDim) // it may no longer be what the two make
		set("num_key_value_heads", c.KVHeads)
	}
	if was.Blocks != c.Blocks && (obj.Has("layer_types") || c.Windowed != nil) {
		set("layer_types", c.layerTypes())
	}
	return err
}

// expertWidthKey is the key of the width of an expert, "" without experts.
func (c *Config) expertWidthKey() string {
	if c.Family.Mixture == nil {
		return ""
	}
	return c.Family.Mixture.WidthKey
}

// layerTypes is Hugging Face's list of the kinds of attention.
func (c *Config) layerTypes() []string {
	types := make([]string, c.Blocks)
	for i := range types {
		types[i] = fullAttention
		if c.WindowOf(i) > 0 {
			types[i] = slidingAttention
		}
	}
	return types
}

// CheckHF refuses sizes with which transformers does not make a model of the
// family.
func (c *Config) CheckHF() error {
	if c.Family.WidthOfHeads && c.Hidden%c.Heads != 0 {
		return fault.Invalid("a hidden width of %d is not a multiple of %d heads, which transformers asks of the family %s", c.Hidden, c.Heads, c.Family.Name)
	}
	return nil
}

// ggufSizes are the keys of metadata that say how large a model is, in Hugging
// Face's spelling.
var ggufSizes = []string{
	"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
	"head_dim", "attention.value_length", "partial_rotary_factor", "layer_types", "moe_intermediate_size",
}

// EditGGUF makes the metadata that c was changed from say what c says, with
// everything else as it is. What GGUF cannot say is an error.
func (c *Config) EditGGUF(meta *gguf.Metadata) error {
	own, err := c.GGUF()
	if err != nil {
		return err
	}
	arch := c.Family.GGUF
	for _, size := range ggufSizes {
		key := (&ggufReader{arch: arch}).key(size)
		value, ok := own.Get(key)
		if !ok {
			meta.Delete(key)
			continue
		}
		if err := meta.Set(key, value); err != nil {
			return err
		}
	}
	return nil
}
