package tokenizer

import (
	"encoding/json"
	"slices"

	"llmc/internal/fault"
)

func (t *Tokenizer) loadPostProcessor(src *jsonSource) error {
	err := eachComponent(src.file.PostProcessor, "post_processor", 0,
		func(c *component) []json.RawMessage { return c.Processors }, t.surround)
	if err != nil {
		return err
	}
	if t.bos, err = t.named(src.config.BOS, "bos_token"); err != nil {
		return err
	}
	if t.eos, err = t.named(src.config.EOS, "eos_token"); err != nil {
		return err
	}
	t.before = adjust(t.before, t.bos, src.config.AddBOS, func(ids []int32) []int32 { return slices.Insert(ids, 0, t.bos) })
	t.after = adjust(t.after, t.eos, src.config.AddEOS, func(ids []int32) []int32 { return append(ids, t.eos) })
	if t.bos < 0 && len(t.before) > 0 {
		t.bos = t.before[0]
	}
	t.addsBOS = t.bos >= 0 && slices.Contains(t.before, t.bos)
	return nil
}

// adjust brings the tokens on one side of a text in line with add_bos_token or
// add_eos_token, which win over the post-processor where they are given.
func adjust(ids []int32, id int32, add *bool, put func([]int32) []int32) []int32 {
	has := slices.Contains(ids, id)
	switch {
	case id < 0 || add == nil || *add == has:
		return ids
	case *add:
		return put(ids)
	}
	return slices.DeleteFunc(ids, func(i int32) bool { return i == id })
}

func (t *Tokenizer) named(name tokenName, key string) (int32, error) {
	if name == "" {
		return -1, nil
	}
	id, ok := t.ids[string(name)]
	if !ok {
		return -1, fault.Invalid("tokenizer_config.json: %s %q is not in the vocabulary", key, string(name))
	}
	return id, nil
}
