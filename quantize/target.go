package quantize

import (
	"fmt"
	"slices"
	"strings"

	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/export"
	"llmc/model/hfquant"
)

// Target is what a quantized model is written as.
type Target string

// The targets: GGUF, and the quantization methods of Hugging Face folders.
const (
	GGUF              Target = "gguf"
	CompressedTensors Target = "compressed-tensors"
	GPTQ              Target = "gptq"
	AWQ               Target = "awq"
)

// Targets lists them.
var Targets = []Target{CompressedTensors, GPTQ, AWQ, GGUF}

// Kind is the kind of checkpoint that the target is.
func (t Target) Kind() formats.Kind {
	if t == GGUF {
		return formats.GGUF
	}
	return formats.HuggingFace
}

// Check refuses a policy that the target cannot hold. It looks at no model.
func (t Target) Check(p *Policy) error {
	schemes := []Scheme{p.Scheme}
	for _, s := range p.Roles {
		schemes = append(schemes, s)
	}
	for _, s := range schemes {
		if err := t.checkScheme(s); err != nil {
			return err
		}
		if err := t.checkInputs(s, p.Inputs); err != nil {
			return err
		}
	}
	switch {
	case t == GGUF:
		return nil
	case p.Mix.Name != "":
		return fault.Hint(fault.Usage("%s is a GGUF type, and the output is %s", p.Mix.Name, t), "use --bits with --to %s, or --to gguf", t)
	case p.Embeddings || p.Roles[model.Embed].IsInteger():
		return fault.Hint(fault.Usage("%s has no place for quantized embeddings", t), "use --to gguf")
	case t == CompressedTensors:
		return nil
	case len(p.Roles) > 0:
		return fault.Hint(fault.Usage("%s has one number of bits for all linears", t), "use --to compressed-tensors or --to gguf")
	case p.Head:
		return fault.Hint(fault.Usage("the head is not quantized in %s", t), "use --to compressed-tensors or --to gguf")
	case t == GPTQ && len(p.Ignore) > 0:
		return fault.Hint(fault.Usage("gptq quantizes every linear, so none can be ignored"), "use --to compressed-tensors, awq or gguf")
	}
	return nil
}

// checkScheme refuses numbers that the target cannot hold.
func (t Target) checkScheme(s Scheme) error {
	if !s.IsInteger() {
		if s.Type.IsBlock() && t != GGUF {
			return fault.Hint(fault.Usage("%s is a GGUF type, and the output is %s", s.Type, t), "use --to gguf")
		}
		return nil
	}
	switch {
	case t == GGUF:
		return fault.Hint(fault.Usage("GGUF has block types, not groups chosen freely"), "use --type, one of Q4_K_M, Q8_0, ...")
	case t != CompressedTensors && s.Float:
		return fault.Hint(fault.Usage("%s has no 8-bit floats", t), "use --to compressed-tensors")
	case t == GPTQ && !slices.Contains([]int{2, 3, 4, 8}, s.Bits):
		return fault.Hint(fault.Usage("gptq holds 2, 3, 4 or 8 bits, not %d", s.Bits), "use --to compressed-tensors for 2 to 8 bits")
	case t == AWQ && s.Bits != 4:
		return fault.Hint(fault.Usage("awq holds 4 bits, not %d", s.Bits), "use --to compressed-tensors for 2 to 8 bits")
	case t == AWQ && s.Symmetric:
		return fault.Hint(fault.Usage("awq's codes are asymmetric"), "leave --symmetric out, or use --to compressed-tensors or gptq")
	}
	return nil
}

// checkInputs refuses rounding of activations that the target cannot say, or
// that no engine has products for with such weights.
func (t Target) checkInputs(s Scheme, in kernels.Rounding) error {
	switch {
	case in.Bits == 0 || s == Scheme{}:
		return nil
	case t != CompressedTensors:
		return fault.Hint(fault.Usage("%s has no place for rounded activations", t), "use --to compressed-tensors, or leave --activations out")
	case !s.IsInteger() || s.Bits != in.Bits || s.Float != in.Float || !s.Symmetric || s.GroupSize > 0:
		return fault.Hint(fault.Usage("activations of %d bits are multiplied with symmetric weights of as many, with scales per channel or tensor, and these are %s", in.Bits, s),
			"use --scheme W8A8 or FP8_DYNAMIC")
	}
	return nil
}

// ScaleType is what the target stores scales as: F16 where the format says so,
// else the type of most of the model's weights.
func (t Target) ScaleType(w *model.Weights) dtype.Type {
	if t == GPTQ || t == AWQ {
		return dtype.F16
	}
	return export.CommonType(w, formats.HuggingFace)
}

// Spec turns the plan into what is written.
func (p *Plan) Spec(w *model.Weights, t Target, mix Mix) (export.Spec, error) {
	spec := export.Spec{Kind: t.Kind(), FileType: mix.FileType}
	items, err := export.Plain(w, spec.Kind, dtype.Invalid)
	if err != nil {
		return spec, err
	}
	entries := map[model.ID]*Entry{}
	for i := range p.Entries {
		entries[p.Entries[i].ID] = &p.Entries[i]
	}
	for i := range items {
		e, ok := entries[items[i].ID]
		switch {
		case !ok || !e.Rounds():
		case e.To.IsInteger():
			items[i] = export.Item{ID: e.ID, Codes: e.To.hf(p.inputs)}
		default:
			items[i].Type = e.To.Type
		}
	}
	spec.Items = items
	if t != GGUF {
		spec.Quantization = p.quantization(w, t)
	}
	return spec, nil
}

// hf is a scheme of codes as Hugging Face formats name it. Where codes are
// packed, what is rounded per tensor is held per channel, with the same scale
// for all.
func (s Scheme) hf(in kernels.Rounding) hfquant.Scheme {
	return hfquant.Scheme{
		Bits: s.Bits, GroupSize: max(s.GroupSize, 0), Symmetric: s.Symmetric, Float: s.Float,
		PerTensor: s.GroupSize == PerTensor && !s.packed(in), Inputs: in,
	}
}

// packed reports whether codes are packed into words.
func (s Scheme) packed(in kernels.Rounding) bool { return in.Bits == 0 && !s.Float }

// quantization describes the plan in a Hugging Face configuration. The scheme
// that most linears have is for every linear; the others name theirs.
func (p *Plan) quantization(w *model.Weights, t Target) *hfquant.Config {
	groups, ignored := p.schemes(w)
	if len(groups) == 0 {
		return nil
	}
	first := groups[0].scheme
	switch t {
	case GPTQ:
		c := hfquant.NewGPTQ(first.Bits, max(first.GroupSize, 0), first.Symmetric, p.shuffled)
		c.Ignore = p.routers(w)
		return c
	case AWQ:
		return hfquant.NewAWQ(max(first.GroupSize, 0), ignored)
	}
	var schemes []hfquant.Scheme
	for i, g := range groups {
		s := g.scheme.hf(p.inputs)
		s.Name, s.Targets = fmt.Sprintf("group_%d", i), g.modules
		if i == 0 {
			s.Targets = []string{"Linear"}
		}
		schemes = append(schemes, s)
	}
	return hfquant.NewCompressed(schemes, ignored, first.ScaleType)
}

// routers are patterns for the linears that choose experts, for formats that
// take every linear for quantized.
func (p *Plan) routers(w *model.Weights) []string {
	var patterns []string
	for i := range p.Entries {
		if id := p.Entries[i].ID; id.Role.IsRouter() && id.Block == 0 {
			_, name, _ := strings.Cut(export.Stem(w, formats.HuggingFace, id), ".layers.0.")
			patterns = append(patterns, `re:.*\.`+strings.ReplaceAll(name, ".", `\.`)+"$")
		}
	}
	return patterns
}

// schemeGroup is the linears that have one scheme.
type schemeGroup struct {
	scheme  Scheme
	modules []string
}

// schemes groups the plan's linears by scheme, the most common first, and
// lists those that are kept. The head is a linear even when it is tied.
func (p *Plan) schemes(w *model.Weights) (groups []schemeGroup, ignored []string) {
	head := false
	for i := range p.Entries {
		e := &p.Entries[i]
		if !e.isMatrix() && !e.ID.Role.IsRouter() || e.ID.Role == model.Embed {
			continue
		}
		head = head || e.ID.Role == model.Head
		module := export.Stem(w, formats.HuggingFace, e.ID)
		if !e.To.IsInteger() {
			ignored = append(ignored, module)
			continue
		}
		scheme := e.To
		if scheme.packed(p.inputs) {
			scheme.GroupSize = max(scheme.GroupSize, 0)
		}
		at := slices.IndexFunc(groups, func(g schemeGroup) bool { return g.scheme == scheme })
		if at < 0 {
			groups = append(groups, schemeGroup{scheme: scheme})
			at = len(groups) - 1
		}
		groups[at].modules = append(groups[at].modules, module)
	}
	if !head {
		ignored = append(ignored, w.Config.Family.Stem(formats.HuggingFace, model.ID{Role: model.Head, Block: -1}))
	}
	for _, name := range w.Extra { // of an image encoder, say: "Linear" must not mean it
		if module, ok := strings.CutSuffix(name, ".weight"); ok {
			ignored = append(ignored, module)
		}
	}
	slices.SortStableFunc(groups, func(a, b schemeGroup) int { return len(b.modules) - len(a.modules) })
	return groups, ignored
}
