package tokenizer

import (
	"encoding/json"
	"slices"
	"strings"
)

// hfPre is a pre-tokenizer of tokenizer.json files that GGUF files have a name
// for: what each of its steps cuts by, except a last step that only spells
// bytes. A step is an expression, of Split or, for ByteLevel, gpt2Words, or one
// of the names below.
type hfPre struct {
	pre   string // the name that is written
	steps []string
}

// Steps that are components of their own.
const (
	eachDigit   = "Digits individually"
	digitRun    = "Digits together"
	punctuation = "Punctuation together"
)

// Expressions as they are in the tokenizer.json files of the models.
const (
	foldSuffixes = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`

	hfLlama3 = foldSuffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|` + ending
	hfQwen2  = foldSuffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|` + ending
	hfQwen35 = foldSuffixes + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	hfExaone = foldSuffixes + `|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`
	hfSeed   = foldSuffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`
	hfMini   = foldSuffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+|` + ending

	hfUpper  = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	hfLower  = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	hfGPT4o  = `[^\r\n\p{L}\p{N}]?` + hfUpper + `*` + hfLower + `+` + foldSuffixes + `?|[^\r\n\p{L}\p{N}]?` + hfUpper + `+` + hfLower + `*` + foldSuffixes + `?|\p{N}{1,3}|` + slashEnd
	hfTekken = `[^\r\n\p{L}\p{N}]?` + hfUpper + `*` + hfLower + `+|[^\r\n\p{L}\p{N}]?` + hfUpper + `+` + hfLower + `*|\p{N}|` + slashEnd

	hfBailing   = `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`
	hfBloom     = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
	hfEastAsian = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
	hfMarks     = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
)

var hfPres = []hfPre{
	{"gpt-2", []string{gpt2Words}},
	{"smollm", []string{eachDigit, gpt2Words}},
	{"llama-bpe", []string{hfLlama3}},
	{"dbrx", []string{hfLlama3}},
	{"qwen2", []string{hfQwen2}},
	{"qwen35", []string{hfQwen35}},
	{"gpt-4o", []string{hfGPT4o}},
	{"tekken", []string{hfTekken}},
	{"deepseek-v3", []string{`\p{N}{1,3}`, chinese, deepseekWords}},
	{"deepseek-llm", []string{`[\r\n]`, `\s?[` + deepseekL + `]+`, hfMarks, `\s+$`, hfEastAsian, eachDigit}},
	{"deepseek-coder", []string{`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, hfEastAsian, eachDigit}},
	{"falcon", []string{punctuation, gpt2Words, digitRun, `[0-9][0-9][0-9]`}},
	{"bloom", []string{hfBloom}},
	{"viking", []string{hfBloom, eachDigit}},
	{"exaone-moe", []string{hfExaone}},
	{"bailingmoe", []string{hfBailing}},
	{"seed-coder", []string{hfSeed}},
	{"minicpm5", []string{`\p{N}{1,3}`, hfMini}},
	{"tiny_aya", []string{`\d{1,3}(?=(?:\d{3})*\b)`, hfGPT4o}},
}

// preSteps describes a pre-tokenizer as hfPre does; ok is false if it has
// steps that cannot be described so.
func preSteps(raw json.RawMessage) (steps []string, ok bool) {
	ok = true
	err := eachComponent(raw, "pre_tokenizer", 0,
		func(c *component) []json.RawMessage { return c.Pretokenizers },
		func(c *component) error {
			step, known := c.preStep()
			ok = ok && known
			if step != "" {
				steps = append(steps, step)
			}
			return nil
		})
	return steps, ok && err == nil
}

func (c *component) preStep() (step string, ok bool) {
	switch c.Type {
	case "ByteLevel":
		if isTrue(c.UseRegex, true) {
			step = gpt2Words
		}
		return step, !isTrue(c.AddPrefixSpace, true)
	case "Digits":
		if c.IndividualDigits {
			return eachDigit, true
		}
		return digitRun, true
	case "Punctuation":
		return punctuation, c.Behavior == "Contiguous"
	case "Split":
		if c.Pattern == nil || c.Pattern.Regex == nil {
			return "", false
		}
		step = *c.Pattern.Regex
		// What is not found is removed by some: of no effect where all is found.
		whole := c.Behavior == "Removed" && c.Invert && strings.HasSuffix(step, `|\s+`)
		return sameExpression(step), c.Behavior == "Isolated" && !c.Invert || whole
	}
	return "", false
}

// sameExpression undoes spellings that differ between files of the same kind.
func sameExpression(expr string) string {
	switch expr {
	case `\p{N}`:
		return eachDigit
	case `\p{N}+`:
		return digitRun
	}
	// GPT-2's expression has an alternative at its end that is never used.
	if expr == strings.TrimSuffix(gpt2Words, `|\s+`) {
		return gpt2Words
	}
	return expr
}

// ggufPreName returns the name for a pre-tokenizer; wholeWords is whether words
// that are tokens are not merged together, exact whether the name implies the
// same.
func ggufPreName(steps []string, wholeWords bool) (name string, exact bool) {
	for _, p := range hfPres {
		if !slices.Equal(p.steps, steps) {
			continue
		}
		if ggufPres[p.pre].wholeWords == wholeWords {
			return p.pre, true
		}
		if name == "" {
			name = p.pre
		}
	}
	return name, false
}

// preJSON writes the pre-tokenizer that a name stands for.
func preJSON(name string) any {
	p := ggufPres[name]
	steps := p.expressions
	for _, h := range hfPres {
		if ggufPres[h.pre] == p {
			steps = h.steps
			break
		}
	}
	// The last step also spells bytes, after which no step cuts by text.
	var parts []any
	last := byteLevelJSON(false)
	for i, step := range steps {
		if i == len(steps)-1 && step == gpt2Words {
			last = byteLevelJSON(true)
			break
		}
		parts = append(parts, stepJSON(step))
	}
	parts = append(parts, last)
	if len(parts) == 1 {
		return parts[0]
	}
	return object{"type": "Sequence", "pretokenizers": parts}
}

// object is a JSON object.
type object map[string]any

func stepJSON(step string) any {
	switch step {
	case eachDigit, digitRun:
		return object{"type": "Digits", "individual_digits": step == eachDigit}
	case punctuation:
		return object{"type": "Punctuation", "behavior": "Contiguous"}
	case digitGroups:
		return splitJSON(`\d{1,3}(?=(?:\d{3})*\b)`)
	case digitTriples:
		return splitJSON(`(?=(\d{3})+(?!\d))`)
	}
	return splitJSON(step)
}

func splitJSON(expr string) any {
	return object{"type": "Split", "pattern": object{"Regex": expr}, "behavior": "Isolated", "invert": false}
}

func byteLevelJSON(regex bool) any {
	return object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex}
}
