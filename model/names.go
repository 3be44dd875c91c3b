package model

import (
	"fmt"
	"strconv"
	"strings"

	"llmc/formats"
)

// table returns the names that one kind of file gives the family's tensors.
func (f *Family) table(kind formats.Kind) map[Role]string {
	if kind == formats.GGUF {
		return f.Ggml
	}
	return f.HF
}

// Has reports whether the family has tensors of a role at all.
func (f *Family) Has(r Role) bool {
	_, ok := f.Ggml[r]
	return ok
}

// TensorName returns what a file of one kind calls a tensor, and "" when that
// kind does not store it: "blk.3.attn_q.weight".
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
	pattern, ok := f.table(kind)[id.Role]
	if !ok {
		return ""
	}
	if strings.Contains(pattern, "%d") {
		return fmt.Sprintf(pattern, id.Block)
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

// ParseName returns which tensor a name means.
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
		return parseStem(f.Ggml, stem)
	}
	for _, p := range hfPrefixes {
		if rest, ok := strings.CutPrefix(stem, p.written); ok {
			if id, ok := parseStem(f.HF, p.means+rest); ok {
				return id, true
			}
		}
	}
	return ID{}, false
}

// parseStem matches a stem with the patterns of a table: its one number, as a
// part of its own between dots, is the block.
func parseStem(table map[Role]string, stem string) (ID, bool) {
	block, parts := -1, strings.Split(stem, ".")
	for i, p := range parts {
		if p == "%d" {
			return ID{}, false // a pattern is no name
		}
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil || strconv.FormatUint(n, 10) != p {
			continue
		}
		if block >= 0 {
			return ID{}, false
		}
		block, parts[i] = int(n), "%d"
	}
	pattern := strings.Join(parts, ".")
	for role, p := range table {
		if p == pattern {
			return ID{Role: role, Block: block}, true
		}
	}
	return ID{}, false
}

// String names a tensor the way reports do: "block 3 q", "embed".
func (id ID) String() string {
	s := id.Role.String()
	if id.Bias {
		s += " bias"
	}
	if id.Block >= 0 {
		return fmt.Sprintf("block %d %s", id.Block, s)
	}
	return s
}
