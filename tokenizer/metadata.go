package tokenizer

import (
	"slices"

	"llmc/internal/fault"
)

// Metadata is the metadata of a GGUF file: values by key, ok false where there
// is none of that kind.
type Metadata interface {
	String(key string) (value string, ok bool)
	Bool(key string) (value, ok bool)
	Int(key string) (value int64, ok bool)
	Strings(key string) (values []string, ok bool)
	Ints(key string) (values []int64, ok bool)
	Floats(key string) (values []float32, ok bool)
}

const keyPrefix = "tokenizer.ggml."

// idKeys are the keys of the special tokens.
func (v *Vocab) idKeys() []struct {
	key string
	id  *int
} {
	return []struct {
		key string
		id  *int
	}{
		{"bos_token_id", &v.BOS}, {"eos_token_id", &v.EOS}, {"unknown_token_id", &v.UNK},
		{"padding_token_id", &v.PAD}, {"seperator_token_id", &v.SEP}, {"mask_token_id", &v.MASK},
		{"eot_token_id", &v.EOT}, {"eom_token_id", &v.EOM},
	}
}

func (v *Vocab) flagKeys() []struct {
	key  string
	flag **bool
} {
	return []struct {
		key  string
		flag **bool
	}{
		{"add_bos_token", &v.AddBOS}, {"add_eos_token", &v.AddEOS},
		{"add_space_prefix", &v.AddSpacePrefix}, {"remove_extra_whitespaces", &v.RemoveExtraWhitespaces},
	}
}

// ReadVocab takes the tokenizer out of a GGUF file's metadata. Its errors are
// of the kind fault.InvalidFile.
func ReadVocab(m Metadata) (Vocab, error) {
	v := NewVocab()
	var ok bool
	if v.Model, ok = m.String(keyPrefix + "model"); !ok {
		return v, fault.Invalid("the metadata has no %smodel", keyPrefix)
	}
	if v.Tokens, ok = m.Strings(keyPrefix + "tokens"); !ok {
		return v, fault.Invalid("the metadata has no %stokens", keyPrefix)
	}
	v.Pre, _ = m.String(keyPrefix + "pre")
	v.Merges, _ = m.Strings(keyPrefix + "merges")
	v.ChatTemplate, _ = m.String("tokenizer.chat_template")
	v.Name, _ = m.String("general.name")
	if v.Scores, ok = m.Floats(keyPrefix + "scores"); !ok {
		scores, _ := m.Ints(keyPrefix + "scores")
		for _, s := range scores {
			v.Scores = append(v.Scores, float32(s))
		}
	}
	types, _ := m.Ints(keyPrefix + "token_type")
	for _, t := range types {
		v.Types = append(v.Types, int32(t))
	}
	charsmap, _ := m.Ints(keyPrefix + "precompiled_charsmap")
	for _, b := range charsmap {
		v.PrecompiledCharsmap = append(v.PrecompiledCharsmap, byte(b))
	}
	for _, k := range v.idKeys() {
		// An id that no token has counts as absent, as in llama.cpp.
		if id, ok := m.Int(keyPrefix + k.key); ok && id >= 0 && id < int64(len(v.Tokens)) {
			*k.id = int(id)
		}
	}
	for _, k := range v.flagKeys() {
		if flag, ok := m.Bool(keyPrefix + k.key); ok {
			*k.flag = &flag
		}
	}
	return v, nil
}

// KeyValue is an entry of a GGUF file's metadata. The value is a string,
// uint32, bool, []string, []float32, []int32 or []uint8.
type KeyValue struct {
	Key   string
	Value any
}

// Pairs returns the metadata of v in the order in which converters write it,
// without general.name. What is absent in v is absent there.
func (v Vocab) Pairs() []KeyValue {
	var pairs []KeyValue
	add := func(present bool, key string, value any) {
		if present {
			pairs = append(pairs, KeyValue{key, value})
		}
	}
	add(true, keyPrefix+"model", v.Model)
	add(v.Pre != "", keyPrefix+"pre", v.Pre)
	add(true, keyPrefix+"tokens", v.Tokens)
	add(len(v.Scores) > 0, keyPrefix+"scores", v.Scores)
	add(len(v.Types) > 0, keyPrefix+"token_type", v.Types)
	add(len(v.Merges) > 0, keyPrefix+"merges", v.Merges)
	for _, k := range v.idKeys() {
		add(*k.id >= 0, keyPrefix+k.key, uint32(*k.id))
	}
	for _, k := range v.flagKeys() {
		add(*k.flag != nil, keyPrefix+k.key, isTrue(*k.flag, false))
	}
	add(len(v.PrecompiledCharsmap) > 0, keyPrefix+"precompiled_charsmap", slices.Clone(v.PrecompiledCharsmap))
	add(v.ChatTemplate != "", "tokenizer.chat_template", v.ChatTemplate)
	return pairs
}
