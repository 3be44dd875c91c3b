package model

import (
	"fmt"
	"strconv"
	"strings"

	"llmc/formats"
)

// table returns the names that one kind of file gives the family's tensors, or
// those of its experts.
func (f *Family) table(kind formats.Kind, expert bool) map[Role]string {
	switch {
	case !expert && kind == formats.GGUF:
		return f.Ggml
	case !expert:
		return f.HF
	case f.Mixture == nil:
		return nil
	case kind == formats.GGUF:
		return ggmlExperts
	}
	return f.Mixture.HF
}

// Has reports whether the family has tensors of a role at all.
func (f *Family) Has(r Role) bool {
	_, ok := f.Ggml[r]
	return ok
}

// TensorName returns what a file of one kind calls a tensor, and "" when that
// kind does not store it: "blk.3.attn_q.weight". All experts of a GGUF file
// have one name: they are stacked in one tensor.
func (f *Family) TensorName(kind formats.Kind, id ID) string {
	stem := f.Stem(kind, id)
	switch {
	case stem == "":
		return ""
	case id.Bias:
		return stem + ".bias"
	}
	return stem + ".weight"
}

// Stem returns the tensor's name without ".weight" or ".bias": what quantized
// Hugging Face checkpoints append their own endings to.
func (f *Family) Stem(kind formats.Kind, id ID) string {
	pattern, ok := f.table(kind, id.Expert != NoExpert)[id.Role]
	if !ok {
		return ""
	}
	switch strings.Count(pattern, "%d") {
	case 1:
		return fmt.Sprintf(pattern, id.Block)
	case 2:
		return fmt.Sprintf(pattern, id.Block, id.Expert.Index())
	}
	return pattern
}

// hfPrefixes are what checkpoints put before the names of the table, and what
// they leave out: multimodal ones nest the language model, old and new way.
var hfPrefixes = []struct{ written, means string }{
	{"", ""},
	{"language_model.", ""},
	{"model.language_model.", "model."},
}

// ParseName returns which tensor a name means. The name of a stack of experts
// means the first of them.
func (f *Family) ParseName(kind formats.Kind, name string) (ID, bool) {
	stem, bias := strings.CutSuffix(name, ".bias")
	if !bias {
		var ok bool
		if stem, ok = strings.CutSuffix(name, ".weight"); !ok {
			return ID{}, false
		}
	}
	id, ok := f.ParseStem(kind, stem)
	id.Bias = bias
	return id, ok
}

// ParseStem is ParseName for a name without its last part.
func (f *Family) ParseStem(kind formats.Kind, stem string) (ID, bool) {
	if kind == formats.GGUF {
		return f.parseStem(kind, stem)
	}
	for _, p := range hfPrefixes {
		if rest, ok := strings.CutPrefix(stem, p.written); ok {
			if id, ok := f.parseStem(kind, p.means+rest); ok {
				return id, true
			}
		}
	}
	return ID{}, false
}

func (f *Family) parseStem(kind formats.Kind, stem string) (ID, bool) {
	pattern, numbers, ok := patternOf(stem)
	if !ok {
		return ID{}, false
	}
	id := ID{Block: -1}
	if len(numbers) > 0 {
		id.Block = numbers[0]
	}
	if len(numbers) < 2 {
		if id.Role, ok = roleOf(f.table(kind, false), pattern); ok {
			return id, true
		}
	}
	id.Expert = ExpertAt(0)
	if len(numbers) == 2 {
		id.Expert = ExpertAt(numbers[1])
	}
	id.Role, ok = roleOf(f.table(kind, true), pattern)
	if !ok && kind == formats.GGUF && f.Mixture != nil {
		id.Role, ok = roleOf(ggmlOldExperts, pattern)
	}
	return id, ok
}

// roleOf finds a pattern in a table.
func roleOf(table map[Role]string, pattern string) (Role, bool) {
	for role, p := range table {
		if p == pattern {
			return role, true
		}
	}
	return NoRole, false
}

// patternOf takes the numbers out of a stem: at most two, each a part of its own
// between dots, first the block and then the expert.
func patternOf(stem string) (pattern string, numbers []int, ok bool) {
	parts := strings.Split(stem, ".")
	for i, p := range parts {
		if p == "%d" {
			return "", nil, false // a pattern is no name
		}
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil || strconv.FormatUint(n, 10) != p {
			continue
		}
		if len(numbers) == 2 {
			return "", nil, false
		}
		numbers = append(numbers, int(n))
		parts[i] = "%d"
	}
	return strings.Join(parts, "."), numbers, true
}

// String names a tensor the way reports do: "block 3 q", "block 3 expert 5 up",
// "embed".
func (id ID) String() string {
	s := id.Role.String()
	if id.Bias {
		s += " bias"
	}
	if id.Expert != NoExpert {
		s = fmt.Sprintf("expert %d %s", id.Expert.Index(), s)
	}
	if id.Block >= 0 {
		s = fmt.Sprintf("block %d %s", id.Block, s)
	}
	return s
}
