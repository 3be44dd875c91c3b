package tokenizer

import (
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// readSize is how much text EncodeReader reads at a time.
const readSize = 1 << 18

// EncodeReader encodes the text that r yields, with the ids that
// Encode(text, addSpecial, false) gives for the whole, and hands them to emit
// in order, in portions that emit must not keep. It ends with the first error
// of r or emit.
//
// Text is held until a place is found where the rest can make no difference
// for the ids before it: at the latest the next space between two words for
// most tokenizers, the end of the text for some with unusual components.
func (t *Tokenizer) EncodeReader(r io.Reader, addSpecial bool, emit func([]int32) error) error {
	return t.encodeReader(r, readSize, addSpecial, emit)
}

func (t *Tokenizer) encodeReader(r io.Reader, readSize int, addSpecial bool, emit func([]int32) error) error {
	s := t.scratch()
	defer t.pool.Put(s)
	var held strings.Builder // text without a place to cut, but at its end
	var out []int32
	if addSpecial {
		out = append(out, t.before...)
	}
	buffer := make([]byte, readSize)
	continued := false
	for {
		n, err := io.ReadFull(r, buffer)
		held.Write(buffer[:n])
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return err
		}
		text := held.String()
		at := len(text)
		if !ended {
			if at = t.cutBefore(text, max(0, len(text)-n-2)); at == 0 {
				continue
			}
		}
		out = t.encodeText(text[:at], false, continued, s, out)
		if ended && addSpecial {
			out = append(out, t.after...)
		}
		if len(out) > 0 {
			if err := emit(out); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
		continued = true
		out = out[:0]
		held.Reset()
		held.WriteString(text[at:])
	}
}

// cutter tells whether text may be cut before text[i], where 0 < i and
// i < len(text)-1.
type cutter func(text string, i int) bool

// cutBefore returns the last place after low where text may be cut, 0 if there
// is none.
func (t *Tokenizer) cutBefore(text string, low int) int {
	t.cutOnce.Do(func() { t.cut = t.findCut() })
	if t.cut == nil {
		return 0
	}
	for i := len(text) - 2; i > low; i-- {
		if t.cut(text, i) {
			return i
		}
	}
	return 0
}

// findCut finds out where text may be cut, nil if nowhere.
func (t *Tokenizer) findCut() cutter {
	gap := ' ' // what a space is for the pre-tokenizers
	for _, n := range t.normalizers {
		if !n.local {
			return nil
		}
		if n.apply(" ") == spaceMark && !n.first {
			gap = markRune
		}
	}
	if len(t.pre) == 1 {
		if p, ok := t.pre[0].(*pairSplit); ok {
			return t.cutAtPairs(p, gap)
		}
	}
	if !t.addedAllow() {
		return nil
	}
	bounds := false
	for _, p := range t.pre {
		local, bound := localAt(p, gap)
		if !local {
			return nil
		}
		bounds = bounds || bound
	}
	if !bounds {
		return nil
	}
	return betweenWords
}

// betweenWords allows cuts before a single space between ASCII letters.
func betweenWords(text string, i int) bool {
	return text[i] == ' ' && isLetter(text[i-1]) && isLetter(text[i+1])
}

func isLetter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }

// cutAtPairs allows cuts between ASCII characters that p cuts between and no
// added token has.
func (t *Tokenizer) cutAtPairs(p *pairSplit, gap rune) cutter {
	added := newPairSplit(slices.Values([]string(nil)))
	for _, set := range []*addedSet{&t.rawAdded, &t.normalizedAdded} {
		for _, tok := range set.tokens {
			if tok.lstrip || tok.rstrip || tok.singleWord {
				return nil
			}
			added.join(strings.ReplaceAll(tok.content, spaceMark, " "))
		}
	}
	for _, n := range t.normalizers {
		// Other normalizers than those of spaces look at more than a character.
		if !n.first && n.apply(" ") != spaceMark {
			return nil
		}
	}
	mark := func(b byte) rune {
		if b == ' ' {
			return gap
		}
		return rune(b)
	}
	return func(text string, i int) bool {
		a, b := text[i-1], text[i]
		return a < utf8.RuneSelf && b < utf8.RuneSelf && !added.joined[a][b] && p.cuts(mark(a), mark(b)) && !insideUnit(text, i)
	}
}

// insideUnit reports whether the bytes before text[i] may be those of a
// character that reaches further, as they may where text is not UTF-8.
func insideUnit(text string, i int) bool {
	for k := max(0, i-3); k < i; k++ {
		if text[k] >= 0xc0 {
			return true
		}
	}
	return false
}

// addedAllow reports whether no added token can reach across a cut between
// words.
func (t *Tokenizer) addedAllow() bool {
	for _, set := range []*addedSet{&t.rawAdded, &t.normalizedAdded} {
		for _, tok := range set.tokens {
			content := strings.ReplaceAll(tok.content, spaceMark, " ")
			last := content[len(content)-1]
			if tok.rstrip && isLetter(last) || last == ' ' && (len(content) == 1 || isLetter(content[len(content)-2])) {
				return false
			}
			for i := range len(content) - 1 {
				if content[i] == ' ' && isLetter(content[i+1]) && (i == 0 || isLetter(content[i-1])) {
					return false
				}
			}
		}
	}
	return true
}

// localAt reports whether what a pre-tokenizer does on one side of a cut
// between words does not depend on the other side, and whether it cuts there
// itself.
func localAt(p preTokenizer, gap rune) (local, bound bool) {
	switch p := p.(type) {
	case *splitter:
		return p.localAt(gap)
	case *byteLevelSplit:
		if p.mapBytes {
			return false, false
		}
		if p.words == nil {
			return true, false
		}
		return p.words.localAt(gap)
	case *metaspace:
		return true, p.cut
	case groupDigits, tripleDigits:
		return true, false
	}
	return false, false
}

func (sp *splitter) localAt(gap rune) (local, bound bool) {
	switch m := sp.match.(type) {
	case *pattern:
		local = m.localAt(gap) && (sp.behavior == isolated || sp.behavior == removed)
		return local, local && m.matchesLetters(gap)
	case runeMatcher:
		// Digits, punctuation and white space: at most the gap is one of them.
		return sp.behavior != mergedWithPrevious && !sp.invert, sp.behavior != contiguous && m(gap)
	case wordsAndSymbols:
		return true, gap == ' '
	case literal:
		// Spaces are not looked for where there are none any more.
		return string(m) == " " && gap != ' ' || string(m) == " " && sp.behavior != mergedWithPrevious && sp.behavior != contiguous && !sp.invert,
			string(m) == " " && gap == ' '
	}
	return false, false
}

// localAt reports whether no match, and nothing that a match looks at, has an
// ASCII letter and a gap after it.
func (p *pattern) localAt(gap rune) bool {
	for i := range p.nodes {
		nd := &p.nodes[i]
		if nd.op != opRun || !nd.hasLetter() {
			continue
		}
		if nd.max != 1 && nd.set.has(gap) || !p.canStop(nd.next, gap, make([]bool, len(p.nodes))) {
			return false
		}
	}
	return true
}

func (nd *node) hasLetter() bool {
	for b := range byte(utf8.RuneSelf) {
		if isLetter(b) && nd.set.ascii[b] {
			return true
		}
	}
	return false
}

// canStop reports whether from node n on nothing matches or looks at a gap.
func (p *pattern) canStop(n int32, gap rune, seen []bool) bool {
	if seen[n] {
		return true
	}
	seen[n] = true
	switch nd := &p.nodes[n]; nd.op {
	case opRun:
		return !nd.set.has(gap) && (nd.min > 0 || p.canStop(nd.next, gap, seen))
	case opSplit:
		for _, alt := range nd.alts {
			if !p.canStop(alt, gap, seen) {
				return false
			}
		}
	case opLook, opTextEnd, opLineEnd:
		return false
	}
	return true
}

// matchesLetters reports whether an ASCII letter before a gap is always part
// of a match, which then ends at the gap.
func (p *pattern) matchesLetters(gap rune) bool {
	for b := range byte(utf8.RuneSelf) {
		if !isLetter(b) {
			continue
		}
		text := string(b) + string(gap) + "x"
		s := search{p: p, text: text, work: workLimit(text)}
		if s.match(0) != 1 {
			return false
		}
	}
	return true
}
