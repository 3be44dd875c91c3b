package hfquant

import "fmt"

// String describes the quantization for reports: "gptq int4 g128 sym",
// "compressed-tensors int8 channel sym, activations int8 per token".
func (c *Config) String() string {
	s := c.Schemes[0]
	numbers := fmt.Sprintf("int%d", s.Bits)
	if s.Float {
		numbers = fmt.Sprintf("fp%d", s.Bits)
	}
	group := "channel"
	switch {
	case s.PerTensor:
		group = "tensor"
	case s.GroupSize > 0:
		group = fmt.Sprintf("g%d", s.GroupSize)
	}
	symmetry := "asym"
	if s.Symmetric {
		symmetry = "sym"
	}
	text := fmt.Sprintf("%s %s %s %s", c.Method, numbers, group, symmetry)
	if s.Inputs.Bits > 0 {
		text += ", activations " + s.Inputs.String()
	}
	if len(c.Schemes) > 1 {
		text += fmt.Sprintf(" and %d more", len(c.Schemes)-1)
	}
	return text
}
