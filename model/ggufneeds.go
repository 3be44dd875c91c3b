package model

import (
	"fmt"
	"math"

	"llmc/internal/fault"
	"llmc/kernels"
)

// checkGGUF refuses configurations of which llama.cpp would not load the file,
// or would compute something else from it without saying so: per architecture
// it knows one activation, one attention scale and no switches for biases
// (src/models/*.cpp).
func (c *Config) checkGGUF() error {
	f := c.Family
	refuse := func(format string, args ...any) error {
		return fault.Invalid("the model has "+format+", which GGUF's %s architecture cannot hold", append(args, f.GGUF)...)
	}
	if own := f.activation(); c.Activation != own {
		return refuse("the activation %s", activationName(c.Activation))
	}
	if m := f.Mixture; m != nil {
		switch {
		case c.Experts.Count < 2:
			return refuse("a mixture of %d expert", c.Experts.Count)
		case c.Experts.Normed != m.GGUFNormed:
			return refuse("norm_topk_prob %v", c.Experts.Normed)
		case m.WideQKNorm && c.KVHeads != c.Heads:
			return refuse("%d key and value heads for %d query heads", c.KVHeads, c.Heads)
		case m.WideQKNorm && c.Tied:
			return refuse("a head that is tied to the embedding")
		}
	}
	if want := c.ggufAttnScale(); math.Abs(c.AttnScale-want) > 1e-6*want {
		return refuse("an attention scale of 1/sqrt(%.4g)", 1/(c.AttnScale*c.AttnScale))
	}
	if f.GGUF != "llama" {
		switch {
		case c.QKVBias && !f.QKVBias, c.OBias:
			return refuse("attention biases")
		case c.MLPBias:
			return refuse("biases in the feed-forward layers")
		case c.Rope.Type == RopeLlama3:
			return refuse("rope_scaling of type llama3")
		}
	} else if c.Rope.Dims != c.HeadDim {
		return refuse("heads that rotate only in part")
	}
	if width := c.Heads * c.HeadDim; f.SquareO && width != c.Hidden {
		return refuse("%d heads of %d beside a hidden width of %d", c.Heads, c.HeadDim, c.Hidden)
	}
	if local := c.LocalRope; f.LocalRope && c.Window > 0 && (local.Type != RopeDefault || local.Dims != c.Rope.Dims) {
		return refuse("rope_scaling in the blocks with a window")
	}
	return nil
}

// ggufAttnScale is what llama.cpp scales q·k by.
func (c *Config) ggufAttnScale() float64 {
	if c.Family.EmbedScale && c.Blocks == 62 {
		// Gemma 3 27B alone scales by the width of a head's share, and
		// llama.cpp tells it by its blocks.
		return 1 / math.Sqrt(float64(c.Hidden/max(c.Heads, 1)))
	}
	return 1 / math.Sqrt(float64(c.HeadDim))
}

// activation is the nonlinearity of the family's own models.
func (f *Family) activation() (a kernels.Activation) {
	for _, key := range []string{"hidden_activation", "hidden_act"} {
		if name, ok := f.Defaults[key].(string); ok {
			return activations[name]
		}
	}
	return a
}

// GGUFNotes says where llama.cpp runs a GGUF file of the model otherwise than
// the configuration asks: differences that most uses never meet.
func (c *Config) GGUFNotes() []string {
	var notes []string
	if c.Window > 0 && c.Family.Window != windowPattern {
		notes = append(notes, fmt.Sprintf("llama.cpp knows no sliding window for %s: texts of more than %d tokens are attended whole", c.Family.GGUF, c.Window))
	}
	if r := c.Rope; r.Type == RopeYaRN && (r.BetaFast != 32 || r.BetaSlow != 1 || r.NoTruncate) {
		notes = append(notes, fmt.Sprintf("llama.cpp stretches %s with YaRN's usual beta_fast 32, beta_slow 1 and whole dimensions, the model asks for %g, %g and truncate %v", c.Family.GGUF, r.BetaFast, r.BetaSlow, !r.NoTruncate))
	}
	return notes
}
