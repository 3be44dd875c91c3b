package export

import (
	"fmt"
	"path/filepath"

	"llmc/formats"
	"llmc/formats/gguf"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/tokenizer"
)

// quantizationVersion is GGML_QNT_VERSION: the layout of ggml's blocks.
const quantizationVersion = 2

// metadata returns the metadata of a GGUF output: the source's own within
// GGUF, else made of configuration and tokenizer.
func (e *Export) metadata() (*gguf.Metadata, error) {
	meta := &metaWriter{}
	if e.from.Kind == formats.GGUF {
		meta.Metadata = e.from.Meta.Clone()
		for _, key := range []string{"split.no", "split.count", "split.tensors.count"} {
			meta.Delete(key)
		}
		if err := e.editMetadata(meta); err != nil {
			return nil, err
		}
	} else if err := e.newMetadata(meta); err != nil {
		return nil, err
	}
	if !e.keepsTypes() {
		meta.set("general.file_type", e.spec.FileType)
	}
	meta.set("general.quantization_version", uint32(quantizationVersion))
	return meta.Metadata, meta.err
}

// editMetadata makes the source's metadata say what the model has become.
func (e *Export) editMetadata(meta *metaWriter) error {
	was, err := model.ReadConfig(e.from)
	if err != nil {
		return err
	}
	cfg := &e.weights.Config
	if cfg.Parameters() == was.Parameters() {
		return nil
	}
	if meta.Has("general.size_label") {
		meta.set("general.size_label", sizeLabel(cfg.Parameters()))
	}
	return cfg.EditGGUF(meta.Metadata)
}

// keepsTypes reports whether every tensor of a GGUF source is stored as it was,
// so that what its metadata says about that still holds.
func (e *Export) keepsTypes() bool {
	if e.from.Kind != formats.GGUF || !e.from.Meta.Has("general.file_type") {
		return false
	}
	for _, it := range e.spec.Items {
		part := "weight"
		if it.ID.Bias {
			part = "bias"
		}
		if e.weights.Stored(it.ID)[part].Type != it.Type {
			return false
		}
	}
	return true
}

// metaWriter sets keys and keeps the first error.
type metaWriter struct {
	*gguf.Metadata
	err error
}

func (m *metaWriter) set(key string, value any) {
	if err := m.Set(key, value); err != nil && m.err == nil {
		m.err = err
	}
}

// newMetadata fills the metadata of a model that comes from Hugging Face.
func (e *Export) newMetadata(meta *metaWriter) error {
	cfg := &e.weights.Config
	var err error
	if meta.Metadata, err = cfg.GGUF(); err != nil {
		return err
	}
	e.Notes = append(e.Notes, cfg.GGUFNotes()...)
	if cfg.Window > 0 && !meta.Has(cfg.Family.GGUF+".attention.sliding_window") {
		e.Notes = append(e.Notes, fmt.Sprintf("GGUF has no sliding window for %s: beyond %d tokens the model sees more than it was trained to", cfg.Family.Name, cfg.Window))
	}
	meta.set("general.type", "model")
	if name := modelName(e.from.Path); name != "" {
		meta.set("general.name", name)
	}
	meta.set("general.size_label", sizeLabel(cfg.Parameters()))
	tok, err := model.OpenTokenizer(e.from)
	if err != nil {
		return err
	}
	vocab, err := tok.Vocab()
	if err != nil {
		return fmt.Errorf("the tokenizer cannot be written as GGUF metadata: %w", err)
	}
	for _, note := range vocab.Notes {
		e.Notes = append(e.Notes, "tokenizer: from GGUF, "+note)
	}
	if err := e.fitVocab(&vocab, cfg.Vocab); err != nil {
		return err
	}
	template, err := companion(e.from, templateFile)
	if err != nil {
		return err
	}
	if template != nil {
		vocab.ChatTemplate = string(template) // transformers prefers the file, too
	}
	setVocab(meta, &vocab)
	return nil
}

// modelName is the name of the folder that a model lies in.
func modelName(path string) string {
	if path == "" {
		return ""
	}
	if filepath.Ext(path) == ".safetensors" {
		path = filepath.Dir(path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	return filepath.Base(abs)
}

// sizeLabel writes a number of parameters as model names do: 135M, 1.2B.
func sizeLabel(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2gB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.0fM", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0fK", float64(n)/1e3)
}

// Token types of tokenizer.ggml.token_type.
const (
	tokenNormal = 1
	tokenUnused = 5
)

// unusedScore is llama.cpp's score of tokens that only fill up.
const unusedScore = -10000

// fitVocab makes the vocabulary as long as the embedding: what the embedding
// has no row for goes, and rows without a token get one that never occurs, as
// llama.cpp's converter does it.
func (e *Export) fitVocab(v *tokenizer.Vocab, rows int) error {
	n := len(v.Tokens)
	switch {
	case n == 0:
		return fault.Invalid("the tokenizer has no tokens")
	case n > rows:
		for _, id := range []int{v.BOS, v.EOS, v.UNK, v.PAD, v.EOT} {
			if id >= rows {
				return fault.Invalid("the tokenizer's special token %d has no row among the %d of the embedding", id, rows)
			}
		}
		e.Notes = append(e.Notes, fmt.Sprintf("%d tokens without a row in the embedding are left out", n-rows))
		v.Tokens = v.Tokens[:rows]
		if v.Scores != nil {
			v.Scores = v.Scores[:rows]
		}
		if v.Types != nil {
			v.Types = v.Types[:rows]
		}
	case n < rows:
		e.Notes = append(e.Notes, fmt.Sprintf("%d rows of the embedding have no token and get one named [PAD...]", rows-n))
		if v.Types == nil {
			for range v.Tokens {
				v.Types = append(v.Types, tokenNormal)
			}
		}
		for id := n; id < rows; id++ {
			v.Tokens = append(v.Tokens, fmt.Sprintf("[PAD%d]", id))
			v.Types = append(v.Types, tokenUnused)
			if v.Scores != nil {
				v.Scores = append(v.Scores, unusedScore)
			}
		}
	}
	return nil
}

// setVocab writes a vocabulary under the keys that llama.cpp reads.
func setVocab(meta *metaWriter, v *tokenizer.Vocab) {
	const prefix = "tokenizer.ggml."
	meta.set(prefix+"model", v.Model)
	if v.Pre != "" {
		meta.set(prefix+"pre", v.Pre)
	}
	meta.set(prefix+"tokens", v.Tokens)
	if v.Scores != nil {
		meta.set(prefix+"scores", v.Scores)
	}
	if v.Types != nil {
		meta.set(prefix+"token_type", v.Types)
	}
	if v.Merges != nil {
		meta.set(prefix+"merges", v.Merges)
	}
	for _, special := range []struct {
		key string
		id  int
	}{
		{"bos_token_id", v.BOS}, {"eos_token_id", v.EOS}, {"unknown_token_id", v.UNK},
		{"padding_token_id", v.PAD}, {"seperator_token_id", v.SEP}, {"mask_token_id", v.MASK},
		{"eot_token_id", v.EOT}, {"eom_token_id", v.EOM},
	} {
		if special.id >= 0 {
			meta.set(prefix+special.key, uint32(special.id))
		}
	}
	for _, flag := range []struct {
		key   string
		value *bool
	}{
		{"add_bos_token", v.AddBOS}, {"add_eos_token", v.AddEOS},
		{"add_space_prefix", v.AddSpacePrefix}, {"remove_extra_whitespaces", v.RemoveExtraWhitespaces},
	} {
		if flag.value != nil {
			meta.set(prefix+flag.key, *flag.value)
		}
	}
	if len(v.PrecompiledCharsmap) > 0 {
		meta.set(prefix+"precompiled_charsmap", v.PrecompiledCharsmap)
	}
	if v.ChatTemplate != "" {
		meta.set("tokenizer.chat_template", v.ChatTemplate)
	}
}
