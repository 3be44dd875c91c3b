package quantize

import (
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/kernels"
	"llmc/model"
)

func TestEngines(t *testing.T) {
	scheme := func(bits, group int, symmetric bool) Scheme {
		return Scheme{Bits: bits, GroupSize: group, Symmetric: symmetric, ScaleType: dtype.F16}
	}
	entry := func(role model.Role, rows, cols int, s Scheme) Entry {
		return Entry{Tensor: Tensor{ID: model.ID{Role: role}, Name: role.String(), Shape: []int{rows, cols}}, To: s}
	}
	for _, c := range []struct {
		name    string
		target  Target
		entries []Entry
		vLLM    string // why not, "" for yes
	}{
		{"4 bits", CompressedTensors, []Entry{entry(model.Q, 256, 256, scheme(4, 128, true))}, ""},
		{"asymmetric", AWQ, []Entry{entry(model.Q, 256, 256, scheme(4, 32, false))}, ""},
		{"8 bits a row", GPTQ, []Entry{entry(model.Down, 64, 384, scheme(8, PerChannel, true))}, ""},
		{"a group of all columns", GPTQ, []Entry{entry(model.Down, 64, 384, scheme(8, 384, true))}, ""},
		{"kept ones do not matter", GPTQ, []Entry{entry(model.Down, 63, 385, Scheme{})}, ""},
		{"3 bits", CompressedTensors, []Entry{entry(model.Q, 256, 256, scheme(3, 128, true))}, "not 3"},
		{"8 bits asymmetric", CompressedTensors, []Entry{entry(model.Q, 256, 256, scheme(8, 128, false))}, "asymmetric"},
		{"gptq asymmetric", GPTQ, []Entry{entry(model.Q, 256, 256, scheme(4, 128, false))}, "symmetric"},
		{"odd groups", GPTQ, []Entry{entry(model.Q, 256, 256, scheme(4, 16, true))}, "not 16"},
		{"odd rows", GPTQ, []Entry{entry(model.K, 96, 256, scheme(4, 32, true))}, "k has shape [96 256]"},
		{"odd columns", GPTQ, []Entry{entry(model.Q, 576, 576, scheme(4, 32, true))}, "q has shape [576 576]"},
		{"fused", CompressedTensors, []Entry{entry(model.Q, 256, 256, scheme(4, 32, true)), entry(model.V, 256, 256, scheme(8, 32, true))}, "fuses"},
	} {
		p := &Plan{Entries: c.entries}
		engines := p.Engines(c.target)
		v := engines[1]
		if v.Name != "vLLM" || v.Loads != (c.vLLM == "") || !strings.Contains(v.Note, c.vLLM) {
			t.Errorf("%s: %+v, want %q", c.name, v, c.vLLM)
		}
		if tf := engines[0]; tf.Name != "transformers" || !tf.Loads || strings.Contains(tf.Note, "0.18") != (c.name == "3 bits") {
			t.Errorf("%s: %+v", c.name, tf)
		}
	}
	expert := func(s Scheme) Entry {
		e := entry(model.Down, 256, 256, s)
		e.ID.Expert = model.ExpertAt(2)
		return e
	}
	static := kernels.Rounding{Bits: 8, Static: true}
	for _, c := range []struct {
		target   Target
		plan     Plan
		tf, vLLM string // why not, "" for yes
	}{
		{CompressedTensors, Plan{Entries: []Entry{expert(scheme(4, 128, true))}}, "", ""},
		{CompressedTensors, Plan{Entries: []Entry{expert(scheme(4, 128, false))}}, "", "symmetric"},
		{CompressedTensors, Plan{Entries: []Entry{expert(scheme(8, PerChannel, true))}, inputs: static}, "", "token by token"},
		{AWQ, Plan{Entries: []Entry{expert(scheme(4, 128, false))}}, "not from awq", ""},
		{CompressedTensors, Plan{Entries: []Entry{expert(scheme(4, 128, true)), func() Entry {
			e := expert(scheme(8, 128, true))
			e.ID.Role = model.Gate
			return e
		}()}}, "", "fuses"},
	} {
		for i, want := range []string{c.tf, c.vLLM} {
			e := c.plan.Engines(c.target)[i]
			if e.Loads != (want == "") || !strings.Contains(e.Note, want) {
				t.Errorf("experts in %s: %+v, want %q", c.target, e, want)
			}
		}
	}
	float := Scheme{Bits: 8, Float: true, Symmetric: true, ScaleType: dtype.F16}
	for _, c := range []struct {
		plan  Plan
		loads bool
		note  string
	}{
		{Plan{Entries: []Entry{entry(model.Q, 48, 80, scheme(8, PerChannel, true))}, inputs: kernels.Rounding{Bits: 8}}, true, "7.5"},
		{Plan{Entries: []Entry{entry(model.Q, 48, 80, float)}}, true, "8.9"},
		{Plan{Entries: []Entry{entry(model.Q, 48, 72, float)}}, false, "multiples of 16"},
		{Plan{Entries: []Entry{entry(model.Q, 64, 64, Scheme{Bits: 8, Float: true, Symmetric: true, GroupSize: 32})}}, false, "not groups of 32"},
	} {
		if v := c.plan.Engines(CompressedTensors)[1]; v.Loads != c.loads || !strings.Contains(v.Note, c.note) {
			t.Errorf("%s: %+v, want %t, %q", c.plan.Entries[0].To, v, c.loads, c.note)
		}
	}
	if e := (&Plan{}).Engines(GGUF); len(e) != 1 || e[0].Name != "llama.cpp" || !e[0].Loads {
		t.Errorf("GGUF: %+v", e)
	}
}
