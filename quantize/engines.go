package quantize

import (
	"fmt"
	"slices"

	"llmc/model"
)

// Engine is a program that loads what is written.
type Engine struct {
	Name  string `json:"name"`
	Loads bool   `json:"loads"`          // false: not known to
	Note  string `json:"note,omitempty"` // what it needs besides, or why it is not known to load it
}

// Engines says which engines load what the plan makes, as far as their loaders
// leave no doubt.
func (p *Plan) Engines(t Target) []Engine {
	if t == GGUF {
		return []Engine{{Name: "llama.cpp", Loads: true}}
	}
	return []Engine{p.transformers(t), p.vLLM(t)}
}

// transformers loads all of it with the package of the format. Codes that do
// not divide a word of 32 bits have another layout in older ones.
func (p *Plan) transformers(t Target) Engine {
	e := Engine{Name: "transformers", Loads: true}
	if t != CompressedTensors && slices.ContainsFunc(p.Entries, func(e Entry) bool { return e.ID.Expert != model.NoExpert }) {
		return Engine{Name: e.Name, Note: fmt.Sprintf("it unpacks experts from compressed-tensors, not from %s", t)}
	}
	switch t {
	case CompressedTensors:
		e.Note = "with compressed-tensors"
		for i := range p.Entries {
			if s := p.Entries[i].To; s.IsInteger() && 32%s.Bits != 0 {
				e.Note = "with compressed-tensors 0.18 or newer"
			}
		}
	case GPTQ:
		e.Note = "with optimum and gptqmodel"
	case AWQ:
		e.Note = "with gptqmodel or autoawq"
	}
	return e
}

// vLLM has kernels for some codes, groups and shapes only (Marlin's, on NVIDIA
// GPUs since Turing), and fuses q, k, v and gate, up.
func (p *Plan) vLLM(t Target) Engine {
	for i := range p.Entries {
		e := &p.Entries[i]
		if !e.To.IsInteger() {
			continue
		}
		why := p.expertsLack(e, t)
		if why != "" {
			return Engine{Name: "vLLM", Note: why}
		}
		if e.To.packed(p.inputs) {
			why = marlinLacks(e, t)
		} else {
			why = cutlassLacks(e)
		}
		if why != "" {
			return Engine{Name: "vLLM", Note: why}
		}
	}
	if p.splitsFused() {
		return Engine{Name: "vLLM", Note: "it fuses q, k, v and gate, up and all experts, which differ within a block"}
	}
	capability := "7.5"
	if p.floats() {
		capability = "8.9"
	}
	return Engine{Name: "vLLM", Loads: true, Note: fmt.Sprintf("on NVIDIA GPUs of compute capability %s and more", capability)}
}

// floats reports whether any weight becomes 8-bit floats.
func (p *Plan) floats() bool {
	return slices.ContainsFunc(p.Entries, func(e Entry) bool { return e.To.Float })
}

// expertsLack says what the kernels for experts lack besides, "" for nothing.
func (p *Plan) expertsLack(e *Entry, t Target) string {
	switch {
	case e.ID.Expert == model.NoExpert || t != CompressedTensors:
	case e.To.packed(p.inputs) && !e.To.Symmetric:
		return "its kernels for experts take symmetric codes only"
	case p.inputs.Static && !p.inputs.Float:
		return "its kernels for experts round activations to integers token by token, not with static scales"
	}
	return ""
}

// cutlassLacks says what the kernels for 8-bit activations lack for an entry, ""
// for nothing.
func cutlassLacks(e *Entry) string {
	s, rows, cols := e.To, e.Shape[0], e.Shape[1]
	switch {
	case s.GroupSize > 0 && s.GroupSize < cols:
		return fmt.Sprintf("its kernels take scales per channel or tensor here, not groups of %d", s.GroupSize)
	case rows%16 != 0 || cols%16 != 0:
		return fmt.Sprintf("its kernels take multiples of 16 rows and columns, and %s has shape %v", e.Name, e.Shape)
	}
	return ""
}

// marlinLacks says what Marlin's kernels lack for an entry, "" for nothing.
func marlinLacks(e *Entry, t Target) string {
	s, rows, cols := e.To, e.Shape[0], e.Shape[1]
	switch {
	case s.Bits != 4 && s.Bits != 8:
		return fmt.Sprintf("its kernels take 4 and 8 bits, not %d", s.Bits)
	case !s.Symmetric && s.Bits != 4:
		return "its kernels take asymmetric codes of 4 bits only"
	case !s.Symmetric && t == GPTQ:
		return "its kernels take symmetric codes from gptq only"
	case s.GroupSize > 0 && s.GroupSize < cols && !slices.Contains([]int{32, 64, 128}, s.GroupSize):
		return fmt.Sprintf("its kernels take groups of 32, 64, 128 and whole rows, not %d", s.GroupSize)
	case rows%64 != 0 || cols%128 != 0:
		return fmt.Sprintf("its kernels take multiples of 64 rows and 128 columns, and %s has shape %v", e.Name, e.Shape)
	}
	return ""
}

// splitsFused reports whether projections that vLLM fuses get different
// schemes: q, k and v, gate and up, all of a block's experts.
func (p *Plan) splitsFused() bool {
	type fused struct {
		block int
		kind  byte
	}
	first := map[fused]Scheme{}
	for _, e := range p.Entries {
		if e.ID.Bias || !e.ID.Role.IsLinear() {
			continue
		}
		key := fused{e.ID.Block, fusedKind(e.ID)}
		if key.kind == 0 {
			continue
		}
		if s, seen := first[key]; seen && s != e.To {
			return true
		}
		first[key] = e.To
	}
	return false
}

// fusedKind tells what is fused from what else is, 0 for what is not.
func fusedKind(id model.ID) byte {
	switch {
	case id.Expert != model.NoExpert:
		return 'e'
	case id.Role == model.Q, id.Role == model.K, id.Role == model.V:
		return 'a'
	case id.Role == model.Gate, id.Role == model.Up:
		return 'f'
	}
	return 0
}
