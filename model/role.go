package model

// Role is what a tensor does in a transformer. Policies match roles, never
// the names that one file format gives them.
type Role uint8

// The roles of the supported families.
const (
	NoRole Role = iota
	Embed       // token embedding [vocab, hidden]
	Head        // output projection [vocab, hidden]; absent when tied to Embed
	FinalNorm
	RopeFreqs // llama 3's frequency factors, stored by GGUF

	AttnNorm // before attention
	Q
	K
	V
	O
	QNorm
	KNorm
	PostAttnNorm // after attention, before the residual (Gemma)

	FFNNorm // before the feed-forward layer
	Router  // scores the experts of a mixture [experts, hidden]
	Gate
	Up
	Down
	SharedGate  // says how much the expert counts that every token goes through [1, hidden]
	PostFFNNorm // after the feed-forward layer, before the residual (Gemma)

	numRoles
)

var roleNames = [numRoles]string{
	"none", "embed", "head", "final_norm", "rope_freqs",
	"attn_norm", "q", "k", "v", "o", "q_norm", "k_norm", "post_attn_norm",
	"ffn_norm", "router", "gate", "up", "down", "shared_gate", "post_ffn_norm",
}

// String returns the name used on the command line and in reports.
func (r Role) String() string {
	if r >= numRoles {
		return "none"
	}
	return roleNames[r]
}

// ParseRole returns the role of a name as String writes it.
func ParseRole(name string) (Role, bool) {
	for r := NoRole + 1; r < numRoles; r++ {
		if roleNames[r] == name {
			return r, true
		}
	}
	return NoRole, false
}

// IsLinear reports whether the role is a weight inside a block that multiplies
// activations: what quantizers and pruners work on by default.
func (r Role) IsLinear() bool {
	switch r {
	case Q, K, V, O, Gate, Up, Down:
		return true
	}
	return false
}

// IsMatrix reports whether the role is a two-dimensional weight.
func (r Role) IsMatrix() bool { return r.IsLinear() || r.IsRouter() || r == Embed || r == Head }

// IsRouter reports whether the role is a weight that decides where a token goes
// in a mixture of experts. It is tiny, what it decides matters, and no engine
// reads it in fewer bits.
func (r Role) IsRouter() bool { return r == Router || r == SharedGate }

// IsFFN reports whether the role is a linear of a feed-forward layer, of which a
// mixture has one for each expert.
func (r Role) IsFFN() bool { return r == Gate || r == Up || r == Down }

// IsNorm reports whether the role is the weights of a norm.
func (r Role) IsNorm() bool {
	switch r {
	case FinalNorm, AttnNorm, QNorm, KNorm, PostAttnNorm, FFNNorm, PostFFNNorm:
		return true
	}
	return false
}

// ID says which tensor of a model one is.
type ID struct {
	Role   Role
	Block  int    // 0-based; -1 outside the blocks
	Expert Expert // of a mixture; NoExpert for all that belongs to no single one
	Bias   bool   // the bias of the linear, not its weight
}

// Expert says which expert of a block's mixture a linear belongs to. Its zero
// value is none of them, so that an ID without an expert needs not say so.
type Expert int

// NoExpert is the Expert of what all tokens go through.
const NoExpert Expert = 0

// ExpertAt is the expert of a 0-based index, which is what names count by.
func ExpertAt(index int) Expert { return Expert(index + 1) }

// Index is the 0-based index of an expert, -1 for NoExpert.
func (e Expert) Index() int { return int(e) - 1 }
