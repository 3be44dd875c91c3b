package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"llmc/internal/fault"
)

// Vocab returns the tokenizer as the metadata of a GGUF file, with which
// llama.cpp gives the same ids. Where a tokenizer.json asks for what GGUF files
// cannot say, the error names it; what makes a difference for rare text only is
// in the result's Notes.
func (t *Tokenizer) Vocab() (Vocab, error) {
	if v, ok := t.source.(*Vocab); ok {
		return *v, nil
	}
	src := t.source.(*jsonSource)
	v := NewVocab()
	v.ChatTemplate = src.config.chatTemplate()
	v.Tokens = slices.Clone(t.tokens)
	v.Types = slices.Clone(t.kinds)
	for i, token := range v.Tokens {
		if token == "" && v.Types[i] == kindUnused {
			v.Tokens[i] = fmt.Sprintf("[PAD%d]", i)
		}
	}
	var err error
	switch m := t.model.(type) {
	case *unigram:
		err = t.exportUnigram(&v, m, src)
	case *bpe:
		switch {
		case t.pieces.byteLevel:
			err = t.exportByteLevel(&v, m, src)
		case t.marksSpaces(src):
			err = t.exportSentencePiece(&v, m, src)
		default:
			err = notInGGUF("a vocabulary that spells neither bytes as GPT-2 nor spaces as SentencePiece does")
		}
	}
	if err != nil {
		return Vocab{}, err
	}
	t.exportSpecials(&v, src)
	return v, nil
}

func notInGGUF(format string, args ...any) error {
	return fault.Hint(fault.Invalid("GGUF files cannot hold a tokenizer with "+format, args...),
		"keep the model in the Hugging Face format")
}

// exportSpecials sets the special tokens and what is added around a text.
func (t *Tokenizer) exportSpecials(v *Vocab, src *jsonSource) {
	find := func(name tokenName) int {
		if id, ok := t.ids[string(name)]; ok {
			return int(id)
		}
		return -1
	}
	v.BOS, v.EOS = int(t.bos), int(t.eos)
	v.UNK, v.PAD = find(src.config.UNK), find(src.config.PAD)
	addEOS := t.eos >= 0 && slices.Contains(t.after, t.eos)
	v.AddBOS = &t.addsBOS
	if addEOS || v.Model == "t5" { // else the default
		v.AddEOS = &addEOS
	}
	if n := len(t.before) + len(t.after); n > 2 || n > 0 && !t.addsBOS && !addEOS {
		v.Notes = append(v.Notes, "of the special tokens around a text only one before and one after it are kept")
	}
	var fussy []string
	for _, a := range src.file.AddedTokens {
		if a.SingleWord || a.LStrip || a.RStrip {
			fussy = append(fussy, a.Content)
		}
	}
	if len(fussy) > 0 {
		v.Notes = append(v.Notes, fmt.Sprintf("the added tokens %q are found everywhere and take no white space with them", fussy))
	}
}

// exportByteLevel writes a byte-level vocabulary, kind gpt2.
func (t *Tokenizer) exportByteLevel(v *Vocab, m *bpe, src *jsonSource) error {
	steps, ok := preSteps(src.file.PreTokenizer)
	if !ok {
		return notInGGUF("this pre-tokenizer; %s", knownPres())
	}
	pre, exact := ggufPreName(steps, m.wholeWords)
	if pre == "" {
		return notInGGUF("a pre-tokenizer that cuts by %q; %s", steps, knownPres())
	}
	if !exact && !m.reachesAll(t) {
		return notInGGUF("ignore_merges %v and the pre-tokenizer of %s", m.wholeWords, pre)
	}
	for _, kind := range componentTypes(src.file.Normalizer) {
		if kind != "NFC" {
			return notInGGUF("the normalizer %s and a byte-level vocabulary", kind)
		}
		v.Notes = append(v.Notes, "text is not brought to normalization form C first")
	}
	v.Model, v.Pre = "gpt2", pre
	v.Merges = mergeStrings(src.model.Merges)
	return nil
}

func knownPres() string {
	var names []string
	for _, p := range hfPres {
		names = append(names, p.pre)
	}
	return "they know those of " + strings.Join(names, ", ")
}

// mergeStrings writes merges the way GGUF files do.
func mergeStrings(merges []jsonMerge) []string {
	out := make([]string, len(merges))
	for i, m := range merges {
		out[i] = m.left + " " + m.right
	}
	return out
}

// reachesAll reports whether merging alone leads to every token, so that
// looking for whole words first makes no difference.
func (m *bpe) reachesAll(t *Tokenizer) bool {
	merging := *m
	merging.wholeWords = false
	s := t.scratch()
	for token, id := range m.ids {
		if t.kinds[id] != kindNormal {
			continue
		}
		if m.byteLevel {
			token, _ = byteDecode(token)
		}
		if got := merging.encode(token, s, nil); len(got) != 1 {
			return false
		}
	}
	return true
}

// marksSpaces reports whether the tokenizer is one of SentencePiece's: spaces
// become marks, and words are cut at most at marks.
func (t *Tokenizer) marksSpaces(src *jsonSource) bool {
	marks := false
	for _, c := range components(src.file.Normalizer, (*component).normalizers) {
		switch {
		case c.Type == "Prepend" && c.Prepend == spaceMark:
		case c.replaces(" ", spaceMark):
			marks = true
		default:
			return false
		}
	}
	for _, c := range components(src.file.PreTokenizer, (*component).pretokenizers) {
		switch {
		case c.Type == "Metaspace":
			marks = true
		case c.Type == "Split" && c.Pattern != nil && c.Pattern.String != nil && *c.Pattern.String == " ":
			// There are none any more.
		default:
			return false
		}
	}
	return marks
}

func (c *component) replaces(old, content string) bool {
	return c.Type == "Replace" && c.Pattern != nil && c.Pattern.String != nil && *c.Pattern.String == old && c.Content == content
}

// prefixesSpace reports whether text gets a space before it.
func prefixesSpace(src *jsonSource) bool {
	for _, c := range components(src.file.Normalizer, (*component).normalizers) {
		if c.Type == "Prepend" {
			return true
		}
	}
	for _, c := range components(src.file.PreTokenizer, (*component).pretokenizers) {
		if c.Type == "Metaspace" {
			_, scheme, _ := c.metaspaceOptions()
			return scheme != prependNever
		}
	}
	return false
}

// exportSentencePiece writes a vocabulary with marks for spaces: kind llama if
// its merges are those that scores lead to.
func (t *Tokenizer) exportSentencePiece(v *Vocab, m *bpe, src *jsonSource) error {
	scores, ok := t.scoresOfMerges(src.model.Merges)
	if !ok {
		return t.exportMerges(v, m, src)
	}
	v.Model, v.Pre = "llama", "default"
	v.Scores = scores
	for id, token := range v.Tokens {
		switch _, isByte := byteToken(token); {
		case isByte && v.Types[id] == kindNormal:
			v.Types[id] = kindByte
		case int32(id) == m.unk:
			v.Types[id] = kindUnknown
		case v.Types[id] == kindUserDefined && !t.isNormalized(src, token):
			// llama.cpp looks for it in the text as it is.
			v.Tokens[id] = strings.ReplaceAll(token, spaceMark, " ")
		}
	}
	prefix := prefixesSpace(src)
	v.AddSpacePrefix = &prefix
	return nil
}

// isNormalized reports whether an added token is looked for in normalized text.
func (t *Tokenizer) isNormalized(src *jsonSource, content string) bool {
	return slices.ContainsFunc(src.file.AddedTokens, func(a jsonAddedToken) bool {
		return a.Content == content && a.Normalized
	})
}

// scoresOfMerges gives tokens scores in the order in which merges lead to
// them. ok is false if going by these scores would merge otherwise: if the
// merges to a token are not all of one rank, or not all there are.
func (t *Tokenizer) scoresOfMerges(merges []jsonMerge) (scores []float32, ok bool) {
	const unreachable = -math.MaxInt32
	scores = slices.Repeat([]float32{unreachable}, len(t.tokens))
	pairs := make(map[jsonMerge]bool, len(merges))
	place, last := float32(0), int32(-1)
	for _, m := range merges {
		pairs[m] = true
		id := t.ids[m.left+m.right]
		if id == last {
			continue
		}
		if last = id; scores[id] != unreachable {
			return nil, false
		}
		scores[id] = place
		place--
	}
	for id, token := range t.tokens {
		if _, isByte := byteToken(token); isByte || t.kinds[id] != kindNormal {
			continue
		}
		for i := range token {
			_, left := t.ids[token[:i]]
			_, right := t.ids[token[i:]]
			if i > 0 && left && right && !pairs[jsonMerge{token[:i], token[i:]}] {
				return nil, false
			}
		}
	}
	return scores, true
}

// exportMerges writes a vocabulary with marks for spaces and merges that
// scores do not lead to, as one of the byte pair kinds that hardly cut text.
func (t *Tokenizer) exportMerges(v *Vocab, m *bpe, src *jsonSource) error {
	if m.wholeWords {
		return notInGGUF("ignore_merges and marks for spaces")
	}
	inner, digits, breaks := t.mixed(src.model.Merges)
	if inner != "" && t.cutsAtMarks(src) {
		return notInGGUF("the token %q, which has a space within, and a pre-tokenizer that cuts there", inner)
	}
	switch {
	case digits == "":
		t.exportAsBytes(v, src)
	case breaks == "":
		t.exportAsText(v, src)
	default:
		return notInGGUF("merges that scores do not lead to and tokens like %q and %q, which have digits or line breaks within", digits, breaks)
	}
	if prefixesSpace(src) {
		v.Notes = append(v.Notes, "text does not get a space before it")
	}
	if m.unk >= 0 && !m.hasBytes(allBytes) {
		v.Notes = append(v.Notes, "characters that are not in the vocabulary are left out")
	}
	return nil
}

// allBytes has each byte once.
var allBytes = func() string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}()

// mixed finds results of merges that have a mark of a space within, numbers
// and more than one character, and line breaks and other characters; "" each
// if there is none.
func (t *Tokenizer) mixed(merges []jsonMerge) (inner, digits, breaks string) {
	for _, m := range merges {
		token := m.left + m.right
		if strings.LastIndex(token, spaceMark) > 0 {
			inner = token
		}
		if strings.ContainsFunc(token, func(r rune) bool { return isCategory(r, maskN) }) {
			digits = token
		}
		if strings.Contains(token, "\n") && strings.Trim(token, "\n") != "" {
			breaks = token
		}
	}
	return inner, digits, breaks
}

func (t *Tokenizer) cutsAtMarks(src *jsonSource) bool {
	for _, c := range components(src.file.PreTokenizer, (*component).pretokenizers) {
		if c.Type == "Metaspace" && isTrue(c.Split, true) {
			return true
		}
	}
	return false
}

// exportAsText writes tokens as they are, for text that is cut at line breaks.
func (t *Tokenizer) exportAsText(v *Vocab, src *jsonSource) {
	v.Model, v.Pre = "gpt2", "sarvam-moe"
	v.Merges = mergeStrings(src.model.Merges)
	for id, token := range v.Tokens {
		if _, isByte := byteToken(token); isByte && v.Types[id] == kindNormal {
			v.Types[id] = kindByte
		}
	}
}

// exportAsBytes writes a byte-level vocabulary, for text that is cut at digits.
// Its characters are merged from their bytes first.
func (t *Tokenizer) exportAsBytes(v *Vocab, src *jsonSource) {
	v.Model, v.Pre = "gpt2", "superbpe"
	spell := func(token string) string { return byteEncode(strings.ReplaceAll(token, spaceMark, " ")) }
	taken := make(map[string]bool)
	for id, token := range t.tokens {
		if _, isByte := byteToken(token); !isByte && t.kinds[id] == kindNormal {
			v.Tokens[id] = spell(token)
			taken[v.Tokens[id]] = true
		}
	}
	for id, token := range t.tokens {
		if b, isByte := byteToken(token); isByte && !taken[string(byteToRune[b])] {
			v.Tokens[id] = string(byteToRune[b])
		}
	}
	v.Merges = characterMerges(t.tokens)
	for _, merge := range src.model.Merges {
		v.Merges = append(v.Merges, spell(merge.left)+" "+spell(merge.right))
	}
}

// characterMerges makes characters of more than one byte from their bytes.
func characterMerges(tokens []string) []string {
	var merges []string
	seen := make(map[string]bool)
	for _, token := range tokens {
		for _, r := range strings.ReplaceAll(token, spaceMark, " ") {
			char := string(r)
			for end := 2; end <= len(char); end++ {
				merge := byteEncode(char[:end-1]) + " " + byteEncode(char[end-1:end])
				if !seen[merge] {
					seen[merge] = true
					merges = append(merges, merge)
				}
			}
		}
	}
	return merges
}

// exportUnigram writes a unigram vocabulary, kind t5.
func (t *Tokenizer) exportUnigram(v *Vocab, m *unigram, src *jsonSource) error {
	merge := false
	for _, c := range components(src.file.Normalizer, (*component).normalizers) {
		switch c.Type {
		case "Precompiled":
			v.PrecompiledCharsmap = c.Charsmap
		case "Replace":
			merge = true // of spaces
		case "Strip":
		default:
			return notInGGUF("the normalizer %s and a unigram vocabulary", c.Type)
		}
	}
	for _, c := range components(src.file.PreTokenizer, (*component).pretokenizers) {
		switch c.Type {
		case "Metaspace":
		case "WhitespaceSplit":
			merge = true
		default:
			return notInGGUF("the pre-tokenizer %s and a unigram vocabulary", c.Type)
		}
	}
	v.Model, v.Pre = "t5", "default"
	for _, score := range m.scores {
		v.Scores = append(v.Scores, float32(score))
	}
	for len(v.Scores) < len(v.Tokens) {
		v.Scores = append(v.Scores, 0)
	}
	if m.unk >= 0 {
		v.Types[m.unk] = kindUnknown
	}
	prefix := prefixesSpace(src)
	v.AddSpacePrefix, v.RemoveExtraWhitespaces = &prefix, &merge
	if merge {
		v.Notes = append(v.Notes, "spaces at the ends of a text are dropped")
	}
	if m.byteFallback {
		v.Notes = append(v.Notes, "characters that are not in the vocabulary become the unknown token, not bytes")
	}
	return nil
}
