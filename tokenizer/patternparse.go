package tokenizer

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// errPattern says that an expression uses what pattern does not know, so that
// the general engine has to run it.
var errPattern = errors.New("not a simple pattern")

const maxPatternNodes = 1 << 12

// The syntax tree: an alternation of sequences of items.
type (
	altTree struct{ seqs [][]itemTree }

	itemTree struct {
		set        *class   // a class, or
		group      *altTree // a group, or
		look       *altTree // a look-ahead
		end        opcode   // opTextEnd or opLineEnd, else opAccept
		negative   bool
		min, max   int
		lazy, poss bool
	}
)

// compilePattern parses a regular expression in the syntax of Oniguruma, as
// far as pre-tokenizers use it, and errPattern otherwise.
func compilePattern(expr string) (*pattern, error) {
	ps := &patternParser{src: expr}
	tree, err := ps.alternation(0)
	if err != nil {
		return nil, err
	}
	if ps.pos != len(expr) {
		return nil, errPattern
	}
	p := &pattern{}
	accept, err := p.add(node{op: opAccept})
	if err != nil {
		return nil, err
	}
	for _, seq := range tree.seqs {
		start, err := p.sequence(seq, accept)
		if err != nil {
			return nil, err
		}
		p.alts = append(p.alts, start)
	}
	for _, alt := range p.alts {
		var set [129]bool
		p.firstBytes(alt, &set, make([]bool, len(p.nodes)))
		for b, in := range set {
			if in {
				p.first[b] = append(p.first[b], alt)
			}
		}
	}
	return p, nil
}

func mustPattern(expr string) *pattern {
	p, err := compilePattern(expr)
	if err != nil {
		panic("tokenizer: " + expr + ": " + err.Error())
	}
	return p
}

func (p *pattern) add(n node) (int32, error) {
	if len(p.nodes) >= maxPatternNodes {
		return 0, errPattern
	}
	p.nodes = append(p.nodes, n)
	return int32(len(p.nodes) - 1), nil
}

// sequence compiles items so that they go on with next, and returns the first.
func (p *pattern) sequence(seq []itemTree, next int32) (int32, error) {
	var err error
	for i := len(seq) - 1; i >= 0; i-- {
		if next, err = p.item(seq[i], next); err != nil {
			return 0, err
		}
	}
	return next, nil
}

func (p *pattern) item(it itemTree, next int32) (int32, error) {
	switch {
	case it.set != nil:
		return p.add(node{op: opRun, set: it.set, min: it.min, max: it.max, lazy: it.lazy, possessive: it.poss, next: next})
	case it.look != nil:
		accept, err := p.add(node{op: opAccept})
		if err != nil {
			return 0, err
		}
		look, err := p.group(it.look, accept)
		if err != nil {
			return 0, err
		}
		return p.add(node{op: opLook, look: look, negative: it.negative, next: next})
	case it.group != nil:
		return p.repeatGroup(it, next)
	}
	return p.add(node{op: it.end, next: next})
}

// repeatGroup unrolls a group that is repeated a bounded number of times.
func (p *pattern) repeatGroup(it itemTree, next int32) (int32, error) {
	if it.max < 0 || it.max > 8 || it.lazy || it.poss {
		return 0, errPattern
	}
	exit := next
	for range it.max - it.min {
		start, err := p.group(it.group, next)
		if err != nil {
			return 0, err
		}
		if next, err = p.add(node{op: opSplit, alts: []int32{start, exit}}); err != nil {
			return 0, err
		}
	}
	for range it.min {
		start, err := p.group(it.group, next)
		if err != nil {
			return 0, err
		}
		next = start
	}
	return next, nil
}

func (p *pattern) group(tree *altTree, next int32) (int32, error) {
	var starts []int32
	for _, seq := range tree.seqs {
		start, err := p.sequence(seq, next)
		if err != nil {
			return 0, err
		}
		starts = append(starts, start)
	}
	if len(starts) == 1 {
		return starts[0], nil
	}
	return p.add(node{op: opSplit, alts: starts})
}

// firstBytes adds to set the bytes that a match from node n on can begin with,
// and all of them if it can be empty.
func (p *pattern) firstBytes(n int32, set *[129]bool, seen []bool) {
	if seen[n] {
		return
	}
	seen[n] = true
	nd := &p.nodes[n]
	switch nd.op {
	case opRun:
		for b, in := range nd.set.ascii {
			set[b] = set[b] || in
		}
		set[128] = true
		if nd.min == 0 {
			p.firstBytes(nd.next, set, seen)
		}
	case opSplit:
		for _, alt := range nd.alts {
			p.firstBytes(alt, set, seen)
		}
	case opLook:
		p.firstBytes(nd.next, set, seen)
	default:
		for b := range set {
			set[b] = true
		}
	}
}

// patternParser reads an expression by recursive descent.
type patternParser struct {
	src  string
	pos  int
	fold bool // (?i:...)
}

func (ps *patternParser) peek() byte {
	if ps.pos < len(ps.src) {
		return ps.src[ps.pos]
	}
	return 0
}

func (ps *patternParser) accept(s string) bool {
	if strings.HasPrefix(ps.src[ps.pos:], s) {
		ps.pos += len(s)
		return true
	}
	return false
}

func (ps *patternParser) alternation(depth int) (*altTree, error) {
	if depth > 50 {
		return nil, errPattern
	}
	tree := &altTree{}
	for {
		seq, err := ps.sequence(depth)
		if err != nil {
			return nil, err
		}
		tree.seqs = append(tree.seqs, seq)
		if !ps.accept("|") {
			return tree, nil
		}
	}
}

func (ps *patternParser) sequence(depth int) ([]itemTree, error) {
	var seq []itemTree
	for ps.pos < len(ps.src) && ps.peek() != '|' && ps.peek() != ')' {
		it, err := ps.item(depth)
		if err != nil {
			return nil, err
		}
		if err := ps.quantifier(&it); err != nil {
			return nil, err
		}
		seq = append(seq, it)
	}
	return seq, nil
}

func (ps *patternParser) item(depth int) (itemTree, error) {
	it := itemTree{min: 1, max: 1}
	var err error
	switch c := ps.peek(); c {
	case '(':
		err = ps.parenthesis(&it, depth)
	case '[':
		ps.pos++
		it.set, err = ps.bracket(0)
	case '\\':
		it.set, err = ps.escape()
	case '$':
		ps.pos++
		it.end = opLineEnd
	case '.', '^', '*', '+', '?', '{', '}', ']':
		err = errPattern
	default:
		r, size := utf8.DecodeRuneInString(ps.src[ps.pos:])
		ps.pos += size
		it.set = ps.literal(r)
	}
	return it, err
}

func (ps *patternParser) literal(r rune) *class {
	c := &class{}
	if ps.fold {
		c.addFolded(r, r)
	} else {
		c.addRange(r, r)
	}
	return c.seal()
}

func (ps *patternParser) parenthesis(it *itemTree, depth int) error {
	fold := ps.fold
	switch {
	case ps.accept("(?:"):
	case ps.accept("(?i:"):
		ps.fold = true
	case ps.accept("(?="):
		it.look = &altTree{}
	case ps.accept("(?!"):
		it.look, it.negative = &altTree{}, true
	case ps.accept("(?"), ps.accept("(*"):
		return errPattern
	default:
		ps.pos++
	}
	tree, err := ps.alternation(depth + 1)
	if err != nil || !ps.accept(")") {
		return errPattern
	}
	ps.fold = fold
	if it.look != nil {
		it.look = tree
	} else {
		it.group = tree
	}
	return nil
}

func (ps *patternParser) quantifier(it *itemTree) error {
	switch {
	case ps.accept("?"):
		it.min, it.max = 0, 1
	case ps.accept("*"):
		it.min, it.max = 0, -1
	case ps.accept("+"):
		it.min, it.max = 1, -1
	case ps.peek() == '{':
		end := strings.IndexByte(ps.src[ps.pos:], '}')
		if end < 0 {
			return errPattern
		}
		lo, hi, found := strings.Cut(ps.src[ps.pos+1:ps.pos+end], ",")
		ps.pos += end + 1
		var err1, err2 error
		it.min, err1 = strconv.Atoi(lo)
		it.max = it.min
		if found {
			if it.max = -1; hi != "" {
				it.max, err2 = strconv.Atoi(hi)
			}
		}
		if err1 != nil || err2 != nil || it.min < 0 || it.max >= 0 && it.max < it.min || it.min > 1<<16 || it.max > 1<<16 {
			return errPattern
		}
		if c := ps.peek(); c == '+' || c == '?' || c == '*' {
			return errPattern
		}
	default:
		return nil
	}
	if it.set == nil && it.group == nil {
		return errPattern
	}
	it.lazy = ps.accept("?")
	it.poss = !it.lazy && ps.accept("+")
	if c := ps.peek(); c == '+' || c == '?' || c == '*' || c == '{' {
		return errPattern
	}
	return nil
}

// escape reads an escape outside brackets.
func (ps *patternParser) escape() (*class, error) {
	c := &class{}
	r, err := ps.escapeInto(c)
	if err != nil {
		return nil, err
	}
	if r >= 0 {
		return ps.literal(r), nil
	}
	return c.seal(), nil
}

// escapeInto reads an escape: a single rune, which it returns, or a class,
// which it adds to c, returning -1.
func (ps *patternParser) escapeInto(c *class) (rune, error) {
	ps.pos++ // the backslash
	b := ps.peek()
	if b == 0 || b >= utf8.RuneSelf {
		return 0, errPattern
	}
	ps.pos++
	switch b {
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'f':
		return '\f', nil
	case 'v':
		return '\v', nil
	case 's':
		c.mask |= maskSpace
	case 'S':
		c.mask |= maskAll &^ maskSpace
	case 'd':
		c.mask |= 1 << catNd
	case 'D':
		c.mask |= maskAll &^ (1 << catNd)
	case 'w':
		c.mask |= maskWord
		c.ranges = slices.Concat(c.ranges, circledLetters, onigWordDigits)
	case 'p', 'P':
		return -1, ps.property(c, b == 'P')
	default:
		if b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' {
			return 0, errPattern
		}
		return rune(b), nil
	}
	return -1, nil
}

func (ps *patternParser) property(c *class, negated bool) error {
	rest := ps.src[ps.pos:]
	end := strings.IndexByte(rest, '}')
	if end < 1 || rest[0] != '{' {
		return errPattern
	}
	name := rest[1:end]
	if strings.HasPrefix(name, "^") {
		name, negated = name[1:], !negated
	}
	mask, ok := maskNames[name]
	if !ok {
		return errPattern
	}
	if negated {
		mask = maskAll &^ mask
	}
	c.mask |= mask
	ps.pos += end + 1
	return nil
}

// bracket reads a character class after its opening bracket. A class within
// it adds to it, or is what the rest is intersected with: [a-z&&[^aeiou]].
func (ps *patternParser) bracket(depth int) (*class, error) {
	c := &class{negated: ps.accept("^")}
	for first := true; ; first = false {
		switch {
		case ps.pos >= len(ps.src) || depth > 4:
			return nil, errPattern
		case ps.peek() == ']' && !first:
			ps.pos++
			return c.seal(), nil
		case ps.accept("&&["):
			and, err := ps.bracket(depth + 1)
			if err != nil || c.negated || !ps.accept("]") {
				return nil, errPattern
			}
			c.and = and
			return c.seal(), nil
		case strings.HasPrefix(ps.src[ps.pos:], "&&"), strings.HasPrefix(ps.src[ps.pos:], "[:"):
			return nil, errPattern
		case ps.accept("["):
			inner, err := ps.bracket(depth + 1)
			if err != nil || inner.negated || inner.and != nil {
				return nil, errPattern
			}
			c.mask |= inner.mask
			c.ranges = append(c.ranges, inner.ranges...)
		default:
			if err := ps.bracketItem(c); err != nil {
				return nil, err
			}
		}
	}
}

func (ps *patternParser) bracketItem(c *class) error {
	lo, err := ps.bracketRune(c)
	if err != nil || lo < 0 {
		return err
	}
	hi := lo
	if rest := ps.src[ps.pos:]; len(rest) > 1 && rest[0] == '-' && rest[1] != ']' {
		ps.pos++
		if hi, err = ps.bracketRune(c); err != nil || hi < lo {
			return errPattern
		}
	}
	if ps.fold {
		c.addFolded(lo, hi)
	} else {
		c.addRange(lo, hi)
	}
	return nil
}

func (ps *patternParser) bracketRune(c *class) (rune, error) {
	if ps.peek() == '\\' {
		return ps.escapeInto(c)
	}
	r, size := utf8.DecodeRuneInString(ps.src[ps.pos:])
	ps.pos += size
	return r, nil
}
