package model

import (
	"math"

	"llmc/formats"
	"llmc/internal/fault"
	"llmc/kernels"
)

// Config is what a model is, whichever file it came from: the shape of its
// parts and the constants of its forward pass. [ReadConfig] makes one;
// [Config.HF] and [Config.GGUF] write it.
type Config struct {
	Family *Family
	// Architecture is the Hugging Face class that the file named, or the
	// family's own when it came from GGUF.
	Architecture string

	Vocab   int     // rows of the embedding
	Hidden  int     // width of the residual stream
	FFN     int     // width of the feed-forward layer
	Experts Experts // of a mixture
	Blocks  int
	Heads   int // query heads
	KVHeads int // key and value heads, a divisor of Heads
	HeadDim int // elements of a head; Heads*HeadDim need not be Hidden
	Context int // positions it was trained for; not a limit

	NormEps    float64
	Activation kernels.Activation
	Tied       bool // the head is the embedding

	QKVBias bool // q, k, v have biases
	OBias   bool
	MLPBias bool // gate, up, down have biases

	Rope      Rope // blocks without a window, or all
	LocalRope Rope // blocks with a window, in families that tell them apart

	Window   int    // positions a windowed block sees, itself included; 0: none
	Windowed []bool // per block; nil: every block, when Window > 0

	EmbedScale  float64 // multiplies embeddings; 1 for most
	AttnScale   float64 // multiplies q·k
	LogitCap    float64 // logits become cap*tanh(x/cap); 0: not
	BOS, EOS    []int   // token ids, as the configuration gives them; may be empty
	Pad         int     // -1: none
	TrainedType string  // torch_dtype or dtype: "bfloat16"; may be empty
}

// The largest sizes that a configuration may give: far above every model, and
// far below where a product of two of them overflows.
const (
	maxBlocks  = 1 << 12
	maxWidth   = 1 << 20
	maxVocab   = 1 << 24
	maxHeads   = 1 << 12
	maxContext = 1 << 30
)

// ReadConfig reads a checkpoint's configuration. Errors name the key, the
// value seen and what is allowed, and are of the kind fault.InvalidFile.
func ReadConfig(c *formats.Checkpoint) (Config, error) {
	if c.Kind == formats.GGUF {
		return configFromGGUF(c)
	}
	return ParseHF(c.Config)
}

// validate checks what every source has to fulfil; name gives the source's own
// key for a field.
func (c *Config) validate(name func(string) string) error {
	for _, f := range []struct {
		key   string
		value int
		max   int
	}{
		{"vocab_size", c.Vocab, maxVocab},
		{"hidden_size", c.Hidden, maxWidth},
		{"intermediate_size", c.FFN, maxWidth},
		{"num_hidden_layers", c.Blocks, maxBlocks},
		{"num_attention_heads", c.Heads, maxHeads},
		{"num_key_value_heads", c.KVHeads, maxHeads},
		{"head_dim", c.HeadDim, maxWidth},
		{"max_position_embeddings", c.Context, maxContext},
	} {
		if f.value < 1 || f.value > f.max {
			return fault.Invalid("%s is %d, allowed is 1 to %d", name(f.key), f.value, f.max)
		}
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fault.Invalid("%s is %d, which is not a multiple of %s, %d", name("num_attention_heads"), c.Heads, name("num_key_value_heads"), c.KVHeads)
	case c.Heads*c.HeadDim > maxWidth:
		return fault.Invalid("%s times %s is %d, allowed is up to %d", name("num_attention_heads"), name("head_dim"), c.Heads*c.HeadDim, maxWidth)
	case !(c.NormEps >= 0 && c.NormEps < 1):
		return fault.Invalid("%s is %g, allowed is 0 to 1", name("rms_norm_eps"), c.NormEps)
	case c.Window < 0 || c.Window > maxContext:
		return fault.Invalid("%s is %d, allowed is 0 to %d", name("sliding_window"), c.Window, maxContext)
	case c.Windowed != nil && len(c.Windowed) != c.Blocks:
		return fault.Invalid("%s has %d entries for %d blocks", name("layer_types"), len(c.Windowed), c.Blocks)
	case !(c.AttnScale > 0) || math.IsInf(c.AttnScale, 0):
		return fault.Invalid("%s gives an attention scale of %g, allowed is more than 0", name("query_pre_attn_scalar"), c.AttnScale)
	case !(c.LogitCap >= 0) || math.IsInf(c.LogitCap, 0):
		return fault.Invalid("%s is %g, allowed is 0 or more", name("final_logit_softcapping"), c.LogitCap)
	}
	if err := c.Experts.validate(c.Family, c.Blocks, name); err != nil {
		return err
	}
	if err := c.Rope.validate(c.HeadDim, name); err != nil {
		return err
	}
	return c.LocalRope.validate(c.HeadDim, name)
}

// finish fills what follows from the rest, the same for every source.
func (c *Config) finish() {
	c.EmbedScale = 1
	if c.Family.EmbedScale {
		// transformers and llama.cpp both round the root to float32.
		c.EmbedScale = float64(float32(math.Sqrt(float64(c.Hidden))))
	}
	if !c.Family.LocalRope || c.Window == 0 {
		c.LocalRope = c.Rope
	}
	if c.Window == 0 {
		c.Windowed = nil
	}
}

// WindowOf returns how many positions a block sees, 0 for all.
func (c *Config) WindowOf(block int) int {
	if c.Windowed == nil || c.Windowed[block] {
		return c.Window
	}
	return 0
}

// RopeOf returns the rotation of a block.
func (c *Config) RopeOf(block int) Rope {
	if c.Window > 0 && (c.Windowed == nil || c.Windowed[block]) {
		return c.LocalRope
	}
	return c.Rope
}

// IDs lists the tensors of the model in the order of its forward pass: the
// embedding, block after block, the final norm, the head. The experts of a
// mixture follow each other role by role.
func (c *Config) IDs() []ID {
	ids := []ID{{Role: Embed, Block: -1}}
	for b := range c.Blocks {
		for r := AttnNorm; r < numRoles; r++ {
			if c.Family.Has(r) {
				ids = append(ids, ID{Role: r, Block: b})
				if c.hasBias(r) {
					ids = append(ids, ID{Role: r, Block: b, Bias: true})
				}
			}
			for e := range c.Experts.Count {
				if !r.IsFFN() {
					break
				}
				ids = append(ids, ID{Role: r, Block: b, Expert: ExpertAt(e)})
			}
		}
	}
	ids = append(ids, ID{Role: FinalNorm, Block: -1})
	if !c.Tied {
		ids = append(ids, ID{Role: Head, Block: -1})
	}
	return ids
}

func (c *Config) hasBias(r Role) bool {
	switch r {
	case Q, K, V:
		return c.QKVBias
	case O:
		return c.OBias
	case Gate, Up, Down:
		return c.MLPBias
	}
	return false
}

// Shape returns a tensor's shape: [out, in] for a matrix, [n] for a vector.
func (c *Config) Shape(id ID) []int {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	width := c.FFN
	switch {
	case id.Expert != NoExpert:
		width = c.Experts.Width
	case c.Experts.Shared > 0:
		width = c.Experts.Shared
	}
	var s []int
	switch id.Role {
	case Embed, Head:
		s = []int{c.Vocab, c.Hidden}
	case Q:
		s = []int{q, c.Hidden}
	case K, V:
		s = []int{kv, c.Hidden}
	case O:
		s = []int{c.Hidden, q}
	case Gate, Up:
		s = []int{width, c.Hidden}
	case Router:
		s = []int{c.Experts.Count, c.Hidden}
	case SharedGate:
		s = []int{1, c.Hidden}
	case Down:
		s = []int{c.Hidden, width}
	case QNorm, KNorm:
		s = []int{c.HeadDim}
		if m := c.Family.Mixture; m != nil && m.WideQKNorm {
			s = []int{map[Role]int{QNorm: q, KNorm: kv}[id.Role]}
		}
	case RopeFreqs:
		s = []int{c.Rope.Dims / 2}
	default:
		s = []int{c.Hidden}
	}
	if id.Bias {
		return s[:1]
	}
	return s
}

// Parameters is the number of weights, each counted once.
func (c *Config) Parameters() int64 {
	var n int64
	for _, id := range c.IDs() {
		n += elements(c.Shape(id))
	}
	return n
}
