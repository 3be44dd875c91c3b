package model

import (
	"testing"

	"llmc/formats"
)

// Reference is a reference for tests of packages that build on this one.
type Reference struct{ m *reference }

// References returns one model of each family.
func References() (all []Reference) {
	for _, m := range references() {
		all = append(all, Reference{m})
	}
	return all
}

// Name is the family's.
func (r Reference) Name() string { return r.m.name }

// Mixture reports whether it is a mixture of experts.
func (r Reference) Mixture() bool { return r.m.moe != nil }

// Logits returns the predictions at every position.
func (r Reference) Logits(ids []int32) [][]float64 { return r.m.logits(ids) }

// Values returns the numbers of a tensor by its Hugging Face name: to change them
// changes the model.
func (r Reference) Values(name string) []float32 { return r.m.tensors[name].values }

// Open returns the model as a Hugging Face checkpoint.
func (r Reference) Open(t testing.TB) *formats.Checkpoint { return r.m.open(t) }

// OpenGGUF returns it as a GGUF file.
func (r Reference) OpenGGUF(t testing.TB, c *Config) *formats.Checkpoint {
	t.Helper()
	meta, err := c.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	var factors []float32
	if c.Rope.Type == RopeLlama3 {
		for _, f := range c.Rope.Llama3Factors() {
			factors = append(factors, float32(f))
		}
	}
	return r.m.openGGUF(t, meta, factors)
}
