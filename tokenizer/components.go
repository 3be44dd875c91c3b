package tokenizer

import (
	"encoding/json"
	"strings"
)

func (c *component) normalizers() []json.RawMessage   { return c.Normalizers }
func (c *component) pretokenizers() []json.RawMessage { return c.Pretokenizers }

// components returns the parts of a chain that has been loaded without error.
func components(raw json.RawMessage, nested func(*component) []json.RawMessage) []*component {
	var parts []*component
	_ = eachComponent(raw, "", 0, nested, func(c *component) error {
		parts = append(parts, c)
		return nil
	})
	return parts
}

func componentTypes(normalizer json.RawMessage) []string {
	var types []string
	for _, c := range components(normalizer, (*component).normalizers) {
		types = append(types, c.Type)
	}
	return types
}

// chatTemplate returns the chat template of tokenizer_config.json: the only
// one, or the one that is named default.
func (c *jsonConfig) chatTemplate() string {
	var one string
	if json.Unmarshal(c.ChatTemplate, &one) == nil {
		return one
	}
	var named []struct{ Name, Template string }
	if json.Unmarshal(c.ChatTemplate, &named) == nil {
		for _, n := range named {
			if strings.EqualFold(n.Name, "default") {
				return n.Template
			}
		}
	}
	return ""
}
