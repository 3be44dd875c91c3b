package tokenizer

import (
	"unicode/utf8"
)

// pattern is a compiled regular expression of the kind that pre-tokenizers
// use: alternatives that are sequences of repeated character classes, with
// optional groups and look-ahead. It matches as a backtracking engine with
// ordered alternatives does (Oniguruma, .NET, ECMAScript), needs no conversion
// of the text, and knows from the first byte which alternatives can match.
//
// There are no loops but those of one class. That keeps the work near linear
// for every expression in use; for hostile ones it is bounded by [workLimit],
// and what lies behind the limit is not matched.
type pattern struct {
	nodes []node
	alts  []int32      // the first node of each alternative
	first [129][]int32 // the alternatives that can begin with a byte; 128 is any above ASCII
}

type opcode uint8

const (
	opAccept  opcode = iota // the match ends here
	opRun                   // min to max runes of a class
	opSplit                 // one of several continuations, in order
	opLook                  // look-ahead
	opTextEnd               // the end of the text
	opLineEnd               // the end of the text or of a line
)

type node struct {
	op         opcode
	negative   bool // opLook: must not match
	possessive bool // opRun: never gives back
	lazy       bool // opRun: as few as possible
	min, max   int  // opRun; max < 0 is no limit
	set        *class
	next       int32
	alts       []int32 // opSplit
	look       int32   // opLook
}

// span is a piece of a text, as byte offsets.
type span struct{ start, end int }

// workLimit is how many nodes may be visited to find all matches in a text.
func workLimit(text string) int { return 1<<22 + 256*len(text) }

// search is the state of finding the matches in a text.
type search struct {
	p    *pattern
	text string
	work int // nodes that may still be visited
}

// match returns the end of the match that begins at pos, or -1.
func (s *search) match(pos int) int {
	alts := s.p.alts
	if pos < len(s.text) {
		b := s.text[pos]
		if b >= utf8.RuneSelf {
			b = utf8.RuneSelf
		}
		alts = s.p.first[b]
	}
	for _, start := range alts {
		if end := s.from(start, pos); end >= 0 {
			return end
		}
	}
	return -1
}

// from returns where the match ends that goes on with node n at pos, or -1.
func (s *search) from(n int32, pos int) int {
	for {
		nd := &s.p.nodes[n]
		if s.work--; s.work < 0 {
			return -1
		}
		switch nd.op {
		case opAccept:
			return pos
		case opRun:
			if nd.lazy {
				return s.lazyRun(nd, pos)
			}
			end, count := nd.scan(s.text, pos, nd.max)
			if count < nd.min {
				return -1
			}
			if count > nd.min && !nd.possessive && s.p.nodes[nd.next].op != opAccept {
				return s.giveBack(nd, end, count)
			}
			pos, n = end, nd.next
		case opSplit:
			last := len(nd.alts) - 1
			for _, alt := range nd.alts[:last] {
				if end := s.from(alt, pos); end >= 0 {
					return end
				}
			}
			n = nd.alts[last]
		case opLook:
			if (s.from(nd.look, pos) >= 0) == nd.negative {
				return -1
			}
			n = nd.next
		case opTextEnd, opLineEnd:
			if pos < len(s.text) && (nd.op == opTextEnd || s.text[pos] != '\n') {
				return -1
			}
			n = nd.next
		}
	}
}

// giveBack goes on after a run of count runes that ends at end, then after one
// rune less, and so on.
func (s *search) giveBack(nd *node, end, count int) int {
	for {
		if r := s.from(nd.next, end); r >= 0 {
			return r
		}
		if count == nd.min {
			return -1
		}
		_, size := utf8.DecodeLastRuneInString(s.text[:end])
		end -= size
		count--
	}
}

func (s *search) lazyRun(nd *node, pos int) int {
	end, count := nd.scan(s.text, pos, nd.min)
	for {
		if count < nd.min {
			return -1
		}
		if r := s.from(nd.next, end); r >= 0 || count == nd.max {
			return r
		}
		next, more := nd.scan(s.text, end, 1)
		if more == 0 {
			return -1
		}
		end, count = next, count+1
	}
}

// scan returns the end and the number of runes of the longest run of the
// node's class at pos, of at most limit runes if limit is not negative.
func (nd *node) scan(text string, pos, limit int) (end, count int) {
	set := nd.set
	for pos < len(text) && count != limit {
		b := text[pos]
		if b < utf8.RuneSelf {
			if !set.ascii[b] {
				break
			}
			pos++
		} else {
			r, size := utf8.DecodeRuneInString(text[pos:])
			if !set.has(r) {
				break
			}
			pos += size
		}
		count++
	}
	return pos, count
}

// matches appends every match in text, from left to right and not overlapping.
// As in Oniguruma, an empty match directly after another match does not count.
func (p *pattern) matches(text string, dst []span) []span {
	s := search{p: p, text: text, work: workLimit(text)}
	pos, lastEnd := 0, -1
	for pos <= len(text) && s.work > 0 {
		end := s.match(pos)
		if end < 0 || end == pos && lastEnd == pos {
			if pos == len(text) {
				break
			}
			_, size := utf8.DecodeRuneInString(text[pos:])
			pos += size
			continue
		}
		dst = append(dst, span{pos, end})
		pos, lastEnd = end, end
	}
	return dst
}
