package quantize

import (
	"strings"

	"llmc/dtype"
	"llmc/model"
)

// Mix is a recipe of GGUF types by the name llama.cpp gives it: one type for
// most tensors, and more bits where experience showed that they pay.
type Mix struct {
	Name     string
	FileType uint32     // general.file_type
	Default  dtype.Type // what tensors get that no rule names
}

// The mixes that can be written, from the smallest to the largest. File types
// are those of enum llama_ftype in llama.h; Q2_K is 3-bit in half its tensors,
// so Q2_K_S stands before it.
var mixes = []Mix{
	{"Q2_K_S", 21, dtype.Q2_K},
	{"Q2_K", 10, dtype.Q2_K},
	{"Q3_K_S", 11, dtype.Q3_K},
	{"Q3_K_M", 12, dtype.Q3_K},
	{"Q3_K_L", 13, dtype.Q3_K},
	{"MXFP4", 38, dtype.MXFP4},
	{"Q4_0", 2, dtype.Q4_0},
	{"IQ4_NL", 25, dtype.IQ4_NL},
	{"Q4_K_S", 14, dtype.Q4_K},
	{"Q4_K_M", 15, dtype.Q4_K},
	{"Q4_1", 3, dtype.Q4_1},
	{"Q5_0", 8, dtype.Q5_0},
	{"Q5_K_S", 16, dtype.Q5_K},
	{"Q5_K_M", 17, dtype.Q5_K},
	{"Q5_1", 9, dtype.Q5_1},
	{"Q6_K", 18, dtype.Q6_K},
	{"Q8_0", 7, dtype.Q8_0},
	{"MXFP4_MOE", 38, dtype.MXFP4},
	{"F16", 1, dtype.F16},
	{"BF16", 32, dtype.BF16},
	{"F32", 0, dtype.F32},
}

// ParseMix returns the mix of a name, in either case.
func ParseMix(name string) (Mix, bool) {
	for _, m := range mixes {
		if strings.EqualFold(m.Name, name) {
			return m, true
		}
	}
	return Mix{}, false
}

// MixNames lists the mixes that can be written.
func MixNames() []string {
	names := make([]string, len(mixes))
	for i, m := range mixes {
		names[i] = m.Name
	}
	return names
}

// MixOfBits returns the mix that people mean by a number of bits, false for 7.
func MixOfBits(bits int) (Mix, bool) {
	names := map[int]string{2: "Q2_K", 3: "Q3_K_M", 4: "Q4_K_M", 5: "Q5_K_M", 6: "Q6_K", 8: "Q8_0"}
	return ParseMix(names[bits])
}

// TypeOfBits returns the single type that --bits-for means by a number of
// bits in a GGUF file, false for 7.
func TypeOfBits(bits int) (dtype.Type, bool) {
	types := map[int]dtype.Type{
		2: dtype.Q2_K, 3: dtype.Q3_K, 4: dtype.Q4_K, 5: dtype.Q5_K, 6: dtype.Q6_K, 8: dtype.Q8_0, 16: dtype.F16,
	}
	t, ok := types[bits]
	return t, ok
}

// mixModel is what the rules ask of a model beyond the tensor at hand.
type mixModel struct {
	blocks     int
	shared     int  // query heads per key/value head
	large      bool // one of the 80-block models with shared heads
	tied       bool // no head of its own
	importance bool // an importance matrix was gathered
	eight      bool // a mixture of 8 experts, beside which attention is small
}

func newMixModel(c *model.Config, tied, importance bool) mixModel {
	gguf := c.Family.GGUF
	return mixModel{
		blocks:     c.Blocks,
		shared:     c.Heads / max(c.KVHeads, 1),
		large:      c.Blocks == 80 && (gguf == "qwen2" || gguf == "llama" && c.Heads != c.KVHeads),
		tied:       tied,
		importance: importance,
		eight:      c.Experts.Count == 8,
	}
}

// typeOf returns the type of a matrix before its rows are looked at: the rules
// of llama.cpp's quantizer (llama-quant.cpp).
func (m Mix) typeOf(id model.ID, cols int, a mixModel) dtype.Type {
	if m.Default.IsFloat() {
		return m.Default
	}
	switch id.Role {
	case model.Head:
		return m.headType(cols)
	case model.Embed:
		if a.tied {
			return m.headType(cols)
		}
		if m.Default == dtype.MXFP4 {
			return dtype.Q8_0
		}
		return m.Default
	}
	if m.Name == "MXFP4_MOE" && id.Expert == model.NoExpert { // 4 bits are for experts
		return dtype.Q8_0
	}
	switch id.Role {
	case model.V, model.K:
		if a.eight {
			return dtype.Q8_0
		}
	}
	switch id.Role {
	case model.V:
		return m.valueType(id.Block, a)
	case model.Down:
		return m.downType(id.Block, a)
	case model.O:
		if a.eight {
			return m.smallOutput()
		}
		switch m.Name {
		case "Q2_K":
			return dtype.Q3_K
		case "Q3_K_M":
			return dtype.Q4_K
		case "Q3_K_L":
			return dtype.Q5_K
		}
	}
	return m.Default
}

// smallOutput is the type of attention's output projection beside 8 experts.
func (m Mix) smallOutput() dtype.Type {
	switch m.Name {
	case "Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M":
		return dtype.Q5_K
	}
	return m.Default
}

// headType is the type of the output projection, or of the embedding that
// serves as one.
func (m Mix) headType(cols int) dtype.Type {
	switch {
	case m.Default == dtype.MXFP4, m.Default == dtype.Q8_0, cols%m.Default.BlockSize() != 0:
		return dtype.Q8_0
	}
	return dtype.Q6_K
}

// valueType is the type of the value projection: small where heads share it,
// and sensitive.
func (m Mix) valueType(block int, a mixModel) dtype.Type {
	t := m.Default
	switch m.Name {
	case "Q2_K":
		t = dtype.Q3_K
		if a.shared >= 4 {
			t = dtype.Q4_K
		}
	case "Q2_K_S":
		if a.shared >= 4 {
			t = dtype.Q4_K
		}
	case "Q3_K_M":
		t = dtype.Q4_K
		if block < 2 {
			t = dtype.Q5_K
		}
	case "Q3_K_L":
		t = dtype.Q5_K
	case "IQ4_NL":
		if a.shared >= 4 {
			t = dtype.Q5_K
		}
	case "Q4_K_M", "Q5_K_M":
		if moreBits(block, a.blocks) {
			t = dtype.Q6_K
		}
	case "Q4_K_S":
		if block < 4 {
			t = dtype.Q5_K
		}
	}
	if a.large && (t == dtype.Q3_K || t == dtype.Q4_K) {
		t = dtype.Q5_K
	}
	return t
}

// downType is the type of the feed-forward layer's second projection.
func (m Mix) downType(block int, a mixModel) dtype.Type {
	firstEighth := block < a.blocks/8
	switch m.Name {
	case "Q2_K":
		return dtype.Q3_K
	case "Q2_K_S":
		if firstEighth {
			return dtype.Q4_K
		}
	case "Q3_K_M":
		if block < a.blocks/16 {
			return dtype.Q5_K
		}
		return dtype.Q4_K
	case "Q3_K_L":
		return dtype.Q5_K
	case "Q4_K_M", "Q5_K_M":
		if moreBits(block, a.blocks) {
			return dtype.Q6_K
		}
	case "Q4_K_S":
		if firstEighth {
			return dtype.Q5_K
		}
	case "IQ4_NL":
		if firstEighth && !a.importance {
			return dtype.Q5_K
		}
	case "Q4_0":
		if firstEighth && a.importance {
			return dtype.Q4_1
		}
	case "Q5_0":
		if firstEighth && a.importance {
			return dtype.Q5_1
		}
	}
	return m.Default
}

// moreBits picks the first and last eighth of the blocks and every third one
// between.
func moreBits(block, blocks int) bool {
	return block < blocks/8 || block >= 7*blocks/8 || (block-blocks/8)%3 == 2
}

// fallbackType returns the type for rows that t does not divide, as
// llama.cpp's quantizer falls back: blocks of 32 about a bit wider, then F16.
func fallbackType(t dtype.Type, cols int) dtype.Type {
	if cols%t.BlockSize() == 0 {
		return t
	}
	switch t {
	case dtype.Q2_K, dtype.Q3_K:
		t = dtype.Q4_0
	case dtype.Q4_K:
		t = dtype.Q5_0
	case dtype.Q5_K:
		t = dtype.Q5_1
	case dtype.Q6_K:
		t = dtype.Q8_0
	}
	if cols%t.BlockSize() != 0 {
		return dtype.F16
	}
	return t
}
