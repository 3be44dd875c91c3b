package tokenizer

import (
	"maps"
	"slices"
	"sync"
)

// ggufPre is how a kind of byte pair vocabulary of GGUF files cuts words.
type ggufPre struct {
	names       []string
	expressions []string
	wholeWords  bool // words that are tokens are not merged together
	addBOS      bool // where the metadata does not say
	noBOS       bool // there is none where the metadata does not say
	raw         bool // tokens are written as text, not as byteEncode does

	once  sync.Once
	steps []preTokenizer
}

// Expressions that several kinds share. They are those of llama.cpp, which
// differ from the original ones of the models where its engine made that
// necessary.
const (
	suffixes = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
	ending   = ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	slashEnd = ` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

	llama3Words   = suffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|` + ending
	qwen2Words    = suffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|` + ending
	deepseekWords = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" +
		`|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

	upper      = `[\p{L}&&[^a-z]]`
	lower      = `[\p{L}&&[^A-Z]]`
	upperMarks = `[\p{L}\p{M}&&[^a-z]]`
	lowerMarks = `[\p{L}\p{M}&&[^A-Z]]`
	casedWords = `[^\r\n\p{L}\p{N}]?` + upper + `*` + lower + `+` + suffixes + `?|[^\r\n\p{L}\p{N}]?` + upper + `+` + lower + `*` + suffixes + `?`
	lmWords    = `[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+` + suffixes + `?`

	chinese   = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
	notBreaks = `[^\n]+|[\n]+`
	finnish   = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
	// llama.cpp does not find white space beyond ASCII in ranges.
	eastAsian = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff&&[^\\s]]+"
	han       = "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f" +
		"\U0002b820-\U0002ceaf\U0002ceb0-\U0002ebef\uf900-\ufaff\U0002f800-\U0002fa1f"
	deepseekL = "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af" +
		"\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5" +
		"\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba" +
		"\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45" +
		"\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe" +
		"\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102" +
		"\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139" +
		"\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3" +
		"\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06" +
		"\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3" +
		"\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df" +
		"\U0001e900-\U0001e943"
)

// The names of splitters that are not expressions.
const (
	digitGroups  = "digit groups"
	digitTriples = "digit triples"
)

var ggufPreList = []*ggufPre{
	{names: []string{"", "default"}, expressions: []string{`[\p{P}\$\+<=>\^~\|]+`, gpt2Words, `\p{N}+`, `[0-9][0-9][0-9]`}},
	{names: []string{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"},
		expressions: []string{llama3Words}, wholeWords: true, addBOS: true},
	{names: []string{"dbrx", "smaug-bpe"}, expressions: []string{llama3Words}},
	{names: []string{"chatglm-bpe"}, expressions: []string{llama3Words}, noBOS: true},
	{names: []string{"glm4", "glm5"}, expressions: []string{llama3Words}, noBOS: true, wholeWords: true},
	{names: []string{"jais-2"}, expressions: []string{suffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+` +
		`|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`}},
	{names: []string{"minicpm5"}, expressions: []string{`\p{N}{1,3}`, suffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+|` + ending}, wholeWords: true},
	{names: []string{"deepseek-llm"}, expressions: []string{`[\r\n]`, `\s?[` + deepseekL + `]+`, "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002&&[^\\s]]+", `\s+$`, eastAsian, `\p{N}+`}},
	{names: []string{"deepseek-coder"}, expressions: []string{`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, eastAsian, `\p{N}`}},
	{names: []string{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"}, expressions: []string{`\p{N}{1,3}`, chinese, deepseekWords}},
	{names: []string{"spark2_5"}, expressions: []string{`\p{N}{1,3}`, chinese,
		"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" + `|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+`, `\p{N}`}},
	{names: []string{"youtu"}, expressions: []string{"[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", lmWords + `|\p{N}|` + slashEnd}, wholeWords: true},
	{names: []string{"falcon"}, expressions: []string{"[\\p{P}\\$\\+<=>\\^~\\|`]+", gpt2Words, `[0-9][0-9][0-9]`}},
	{names: []string{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"},
		expressions: []string{`\p{N}`, gpt2Words}},
	{names: []string{"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum", "modern-bert",
		"jina-v1-en", "jina-v2-code", "roberta-bpe", "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling"},
		expressions: []string{gpt2Words}},
	{names: []string{"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"},
		expressions: []string{qwen2Words}},
	{names: []string{"qwen35"}, expressions: []string{suffixes + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`}},
	{names: []string{"ufakzeka"}, expressions: []string{`[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|` + ending}},
	{names: []string{"poro-chat", "bloom", "gpt3-finnish"}, expressions: []string{finnish}},
	{names: []string{"viking"}, expressions: []string{finnish, `\p{N}`}},
	{names: []string{"tekken"}, wholeWords: true, addBOS: true, expressions: []string{
		`[^\r\n\p{L}\p{N}]?` + upper + `*` + lower + `+|[^\r\n\p{L}\p{N}]?` + upper + `+` + lower + `*|\p{N}|` + slashEnd}},
	{names: []string{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, expressions: []string{casedWords + `|\p{N}{1,3}|` + slashEnd}},
	{names: []string{"granite-embed-multi-97m"}, wholeWords: true, expressions: []string{
		`[^\r\n\p{L}\p{N}]?` + upperMarks + `*` + lowerMarks + `+` + suffixes + `?|[^\r\n\p{L}\p{N}]?` + upperMarks + `+` + lowerMarks + `*` + suffixes + `?|\p{N}{1,3}|` + slashEnd}},
	{names: []string{"tiny_aya", "cohere2moe"}, expressions: []string{digitGroups, lmWords + `|\p{N}{1,3}|` + slashEnd}},
	{names: []string{"chameleon"}, addBOS: true, expressions: []string{`<sentinel:[0-9]+>`, `IMGIMG[A-I]{1,4}Z`, `[\t\n]|    |  `, `\p{N}`, "[\\p{P}!-/:-@\\[-`{-~]", gpt2Words}},
	{names: []string{"kimi-k2"}, expressions: []string{`[` + han + `]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^` + han + `]]+` + suffixes + `?|\p{N}{1,3}|` + ending}},
	{names: []string{"superbpe"}, expressions: []string{`\p{N}+`, digitTriples}},
	{names: []string{"bailingmoe", "bailingmoe2", "llada-moe"}, expressions: []string{
		`'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`}},
	{names: []string{"seed-coder"}, expressions: []string{suffixes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`}},
	{names: []string{"afmoe"}, expressions: []string{digitGroups, "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+", deepseekWords}},
	{names: []string{"laguna"}, expressions: []string{notBreaks, qwen2Words}},
	{names: []string{"exaone-moe"}, expressions: []string{suffixes +
		`|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`}},
	{names: []string{"gemma4", "granite-embed-multi-311m", "sarvam-moe"}, expressions: []string{notBreaks}, raw: true},
}

// ggufPres finds the kinds by their names.
var ggufPres = func() map[string]*ggufPre {
	byName := make(map[string]*ggufPre)
	for _, p := range ggufPreList {
		for _, name := range p.names {
			byName[name] = p
		}
	}
	return byName
}()

// PreTokenizers returns the values of tokenizer.ggml.pre that [FromVocab]
// knows, sorted.
func PreTokenizers() []string {
	names := slices.Sorted(maps.Keys(ggufPres))
	return slices.DeleteFunc(names, func(s string) bool { return s == "" })
}

// split returns the pre-tokenizers, compiled when they are first asked for.
func (p *ggufPre) split() []preTokenizer {
	p.once.Do(func() {
		for _, expr := range p.expressions {
			var step preTokenizer
			switch expr {
			case digitGroups:
				step = groupDigits{}
			case digitTriples:
				step = tripleDigits{}
			default:
				m, err := compileRegex(expr)
				if err != nil {
					panic("tokenizer: " + err.Error()) // a test compiles them all
				}
				step = &splitter{match: m}
			}
			p.steps = append(p.steps, step)
		}
	})
	return p.steps
}

// groupDigits cuts each run of digits into groups of three from the right.
// What is before a run is cut off together with its first group.
type groupDigits struct{}

func (groupDigits) split(word string, begins bool, dst []string, s *scratch) ([]string, bool) {
	from := 0
	s.spans = digitRuns.matches(word, s.spans[:0])
	for _, run := range s.spans {
		n := 0
		for range word[run.start:run.end] {
			n++
		}
		for i := range word[run.start:run.end] {
			if i > 0 && n%3 == 0 {
				dst = append(dst, word[from:run.start+i])
				from = run.start + i
			}
			n--
		}
		dst = append(dst, word[from:run.end])
		from = run.end
	}
	return appendWord(dst, word[from:]), begins
}

var digitRuns = mustPattern(`\p{N}+`)

// tripleDigits cuts within a run of ASCII digits before every place that has a
// multiple of three of them after it.
type tripleDigits struct{}

func (tripleDigits) split(word string, begins bool, dst []string, _ *scratch) ([]string, bool) {
	from := 0
	for i := 0; i < len(word); i++ {
		if !isDigit(word[i]) {
			continue
		}
		end := i
		for end < len(word) && isDigit(word[end]) {
			end++
		}
		for ; i < end; i++ {
			if (end-i)%3 == 0 {
				dst = appendWord(dst, word[from:i])
				from = i
			}
		}
	}
	return appendWord(dst, word[from:]), begins
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }
