package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/internal/jsonobj"
	"llmc/model"
	"llmc/model/hfquant"
)

// ReportFile is what llmc leaves in a folder about how it was made. It is not
// copied to what is made of the folder.
const ReportFile = "llmc_report.json"

const (
	configFile     = "config.json"
	generationFile = "generation_config.json"
	tokenizerFile  = "tokenizer.json"
	tokenizerSetup = "tokenizer_config.json"
	templateFile   = "chat_template.jinja"
	gptqFile       = "quantize_config.json"
)

// folder returns the files of a Hugging Face output that are not those of the
// source: config.json, and from GGUF the tokenizer. A nil file is one of the
// source that is left out.
func (e *Export) folder() (map[string][]byte, error) {
	var files map[string][]byte
	var err error
	if e.from.Kind == formats.HuggingFace {
		files, err = e.editedConfig()
	} else {
		files, err = e.newFolder()
	}
	if err != nil {
		return nil, err
	}
	if e.from.Kind == formats.HuggingFace {
		files[ReportFile] = nil
		files[gptqFile] = nil
	}
	q := e.spec.Quantization
	if q == nil || q.Method != hfquant.GPTQ {
		return files, nil
	}
	if files[gptqFile], err = q.JSON(); err != nil {
		return nil, err
	}
	return files, nil
}

// editedConfig is the source's config.json with what must change.
func (e *Export) editedConfig() (map[string][]byte, error) {
	config, err := e.weights.Config.EditHF(e.from.Config)
	if err != nil {
		return nil, err
	}
	obj, err := jsonobj.Parse(config)
	if err != nil {
		return nil, fault.Invalid("%s: %w", configFile, err)
	}
	changed := false
	if e.weights.Quantization != nil {
		changed = true
		if err := dropQuantization(obj); err != nil {
			return nil, err
		}
	}
	if name, differs := e.plainType(); differs && name != "" && name != e.weights.Config.TrainedType {
		changed = true
		if err := setType(obj, name); err != nil {
			return nil, err
		}
	}
	if q := e.spec.Quantization; q != nil {
		changed = true
		text, err := q.JSON()
		if err != nil {
			return nil, err
		}
		if err := obj.Set("quantization_config", json.RawMessage(text)); err != nil {
			return nil, err
		}
	}
	if !changed {
		return map[string][]byte{configFile: config}, nil
	}
	text, err := obj.Indented()
	return map[string][]byte{configFile: text}, err
}

// quantizationKeys are where a config.json says how it is quantized.
var quantizationKeys = []string{"quantization_config", "compression_config"}

// dropQuantization removes what says that a checkpoint is quantized, from the
// object and from the text model in it.
func dropQuantization(obj *jsonobj.Object) error {
	for _, key := range quantizationKeys {
		obj.Delete(key)
	}
	return editText(obj, dropQuantization)
}

// editText changes the configuration of the text model within that of a
// multimodal one, if there is any.
func editText(obj *jsonobj.Object, edit func(*jsonobj.Object) error) error {
	if !obj.Has("text_config") {
		return nil
	}
	text, err := jsonobj.Parse(obj.Values["text_config"])
	if err != nil {
		return fault.Invalid("%s: text_config: %w", configFile, err)
	}
	if err := edit(text); err != nil {
		return err
	}
	return obj.Set("text_config", text)
}

// setType writes the number format of the weights where the configuration has
// it: torch_dtype, or dtype in newer ones.
func setType(obj *jsonobj.Object, name string) error {
	key := "torch_dtype"
	if obj.Has("dtype") && !obj.Has(key) {
		key = "dtype"
	}
	if err := obj.Set(key, name); err != nil {
		return err
	}
	return editText(obj, func(text *jsonobj.Object) error {
		for _, key := range []string{"torch_dtype", "dtype"} {
			if text.Has(key) {
				if err := text.Set(key, name); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// torchNames are what PyTorch calls the types that plain tensors are written in.
var torchNames = map[dtype.Type]string{dtype.F32: "float32", dtype.F16: "float16", dtype.BF16: "bfloat16"}

// plainType returns what PyTorch calls the number format of most weights that
// are not packed, and whether any weight changes its format.
func (e *Export) plainType() (name string, changed bool) {
	elements := map[dtype.Type]int{}
	best := dtype.Invalid
	for i, parts := range e.layout {
		it := &e.spec.Items[i]
		if it.packed() || it.ID.Bias || !it.ID.Role.IsMatrix() {
			continue
		}
		changed = changed || e.weights.Stored(it.ID)["weight"].Type != it.Type
		elements[it.Type] += parts[0].Elements()
		if elements[it.Type] > elements[best] {
			best = it.Type
		}
	}
	return torchNames[best], changed
}

// newFolder makes the files of a Hugging Face folder from GGUF metadata.
func (e *Export) newFolder() (map[string][]byte, error) {
	cfg := e.weights.Config
	if err := cfg.CheckHF(); err != nil {
		return nil, err
	}
	cfg.TrainedType, _ = e.plainType()
	if err := e.findLlama3(&cfg); err != nil {
		return nil, err
	}
	text, err := cfg.HF()
	if err != nil {
		return nil, err
	}
	if q := e.spec.Quantization; q != nil {
		if text, err = withQuantization(text, q); err != nil {
			return nil, err
		}
	}
	tok, err := model.OpenTokenizer(e.from)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{configFile: text}
	if files[tokenizerFile], files[tokenizerSetup], err = tok.JSON(); err != nil {
		return nil, fmt.Errorf("the tokenizer cannot be written for Hugging Face: %w", err)
	}
	files[generationFile], err = generation(&cfg)
	return files, err
}

// findLlama3 finds the scaling that GGUF's frequency factors come from, since
// Hugging Face has no place for the factors themselves.
func (e *Export) findLlama3(c *model.Config) error {
	id := model.ID{Role: model.RopeFreqs, Block: -1}
	if len(e.weights.Stored(id)) == 0 {
		return nil
	}
	factors, err := plainVector(e.weights, id, formats.HuggingFace)
	if err != nil {
		return err
	}
	rope, ok := model.MatchLlama3(c.Rope, factors)
	if !ok {
		return fault.Invalid("the rotation is scaled by factors of its own (rope_freqs), which config.json cannot express")
	}
	c.Rope = rope
	return nil
}

func withQuantization(config []byte, q *hfquant.Config) ([]byte, error) {
	obj, err := jsonobj.Parse(config)
	if err != nil {
		return nil, err
	}
	text, err := q.JSON()
	if err != nil {
		return nil, err
	}
	if err := obj.Set("quantization_config", json.RawMessage(text)); err != nil {
		return nil, err
	}
	return obj.Indented()
}

// generation is a generation_config.json that stops where the model does.
func generation(c *model.Config) ([]byte, error) {
	obj := &jsonobj.Object{}
	set := func(key string, ids []int) error {
		switch len(ids) {
		case 0:
			return nil
		case 1:
			return obj.Set(key, ids[0])
		}
		return obj.Set(key, ids)
	}
	err := errors.Join(obj.Set("_from_model_config", true), set("bos_token_id", c.BOS), set("eos_token_id", c.EOS))
	if err != nil {
		return nil, err
	}
	return obj.Indented()
}

// companion reads a file beside the weights, nil when there is none.
func companion(c *formats.Checkpoint, name string) ([]byte, error) {
	data, err := c.Companion(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}
