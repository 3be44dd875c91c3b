package tokenizer

import (
	"slices"
	"strings"
)

// Tokens that llama.cpp treats as control tokens by their text, whatever their
// type: all those that end a generation, and of each group of fill-in-the-middle
// tokens the one that is there.
var (
	endTexts = []string{
		"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
		"<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
		"<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
		"<｜end▁of▁sentence｜>", "[e~[",
	}
	fillTexts = [][]string{
		{"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"},
		{"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"},
		{"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"},
		{"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"},
		{"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"},
		{"<|file_sep|>"},
	}
	// shownTexts are control tokens that are shown nevertheless.
	shownTexts = []string{"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}
)

// markSpecials corrects the kinds of tokens by their text.
func (t *Tokenizer) markSpecials() {
	has := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(s string) bool { _, ok := t.ids[s]; return ok })
	}
	set := func(kind tokenKind, texts ...string) {
		for _, s := range texts {
			if id, ok := t.ids[s]; ok {
				t.kinds[id] = kind
			}
		}
	}
	for _, group := range fillTexts {
		for _, s := range group {
			if has(s) {
				set(kindControl, s)
				break
			}
		}
	}
	for _, s := range endTexts {
		set(kindControl, s)
	}
	set(kindUserDefined, shownTexts...)
	if has("<|end|>") && (has("<|return|>") && has("<|call|>", "<|calls|>") || has("<|call|>", "<|calls|>") && has("<|flush|>")) {
		set(kindUserDefined, "<|end|>")
	}
	if has("<|tool_response>", "<|plamo:eos|>") {
		set(kindNormal, "</s>")
	}
}

// loadSpecials settles the special tokens and what is added around a text.
func (t *Tokenizer) loadSpecials(v *Vocab, d *ggufDefaults) {
	pick := func(id, otherwise int) int32 {
		switch {
		case id >= 0 && id < len(t.tokens):
			return int32(id)
		case otherwise < len(t.tokens):
			return int32(otherwise)
		}
		return -1
	}
	t.bos, t.eos = pick(v.BOS, d.bos), pick(v.EOS, d.eos)
	addBOS := isTrue(v.AddBOS, d.addBOS) || v.Model == "gemma4" || v.Pre == "gemma4"
	if addBOS && t.bos >= 0 {
		t.before = []int32{t.bos}
		t.addsBOS = true
	}
	if isTrue(v.AddEOS, d.addEOS) && t.eos >= 0 {
		t.after = []int32{t.eos}
	}
}

// loadPartition sets up which tokens are looked for in the text.
func (t *Tokenizer) loadPartition(v *Vocab) {
	t.rawAdded.byLength = true
	name := strings.ToLower(v.Name)
	phi3 := strings.Contains(name, "phi-3") || strings.Contains(name, "phi3")
	for id, kind := range t.kinds {
		if kind != kindControl && kind != kindUserDefined && kind != kindUnknown {
			continue
		}
		content := t.tokens[id]
		tok := addedToken{id: int32(id), special: kind != kindUserDefined}
		switch content {
		case "<unk>", "<s>", "<|endoftext|>":
		case "<mask>":
			tok.lstrip = strings.Contains(v.Pre, "jina-v2-")
		case "[MASK]":
			tok.lstrip = strings.Contains(name, "modern-bert")
		default:
			tok.rstrip = phi3
		}
		t.rawAdded.add(tok, content)
	}
}
