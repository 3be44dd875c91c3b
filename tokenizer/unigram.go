package tokenizer

import "math"

// unigram finds the sequence of tokens with the highest sum of scores
// (Viterbi), as SentencePiece's unigram model does.
type unigram struct {
	tokens       trie
	scores       []float64 // by token
	unk          int32     // -1 if there is none
	unkScore     float64
	byteFallback bool
	bytes        [256]int32
	// ids finds what a run of unknown characters is; nil if it is always unk.
	ids map[string]int32
}

// bestPath is the best way to reach a position.
type bestPath struct {
	score float64
	start int // of its last token
	id    int32
}

// unknownPenalty is how much worse than the worst token an unknown character is.
const unknownPenalty = 10

func (m *unigram) encode(word string, s *scratch, out []int32) []int32 {
	if word == "" {
		return out
	}
	best := append(s.viterbi[:0], bestPath{})
	for range len(word) {
		best = append(best, bestPath{score: math.Inf(-1), start: -1})
	}
	s.viterbi = best
	for pos := 0; pos < len(word); {
		n := unitLength(word[pos:])
		if !m.extend(word, pos, n, best) {
			best[pos+n].offer(best[pos].score+m.unkScore, pos, m.unk)
		}
		pos += n
	}
	return m.trace(word, best, out)
}

// extend offers every token that begins at pos, and reports whether one of
// them is exactly the character there, of n bytes.
func (m *unigram) extend(word string, pos, n int, best []bestPath) bool {
	single := false
	node := int32(0)
	for i := pos; i < len(word); i++ {
		if node = m.tokens.step(node, word[i]); node == 0 {
			break
		}
		if id := m.tokens.values[node]; id >= 0 {
			best[i+1].offer(best[pos].score+m.scores[id], pos, id)
			single = single || i+1-pos == n
		}
	}
	return single
}

func (b *bestPath) offer(score float64, start int, id int32) {
	if b.start < 0 || score > b.score {
		*b = bestPath{score, start, id}
	}
}

// trace follows the best path back from the end. Neighbouring unknown
// characters are one unknown token.
func (m *unigram) trace(word string, best []bestPath, out []int32) []int32 {
	first := len(out)
	for end := len(word); end > 0; {
		p := best[end]
		start := p.start
		if p.id != m.unk {
			out = append(out, p.id)
			end = start
			continue
		}
		for start > 0 && best[start].id == m.unk {
			start = best[start].start
		}
		out = m.unknown(word[start:end], out)
		end = start
	}
	for i, j := first, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// unknown appends what a run of unknown characters becomes, last id first.
func (m *unigram) unknown(run string, out []int32) []int32 {
	if id, ok := m.ids[run]; ok {
		return append(out, id)
	}
	if m.byteFallback {
		first := len(out)
		for i := len(run) - 1; i >= 0; i-- {
			id := m.bytes[run[i]]
			if id < 0 {
				out = out[:first]
				break
			}
			out = append(out, id)
		}
		if len(out) > first {
			return out
		}
	}
	if m.unk < 0 {
		return out
	}
	return append(out, m.unk)
}
