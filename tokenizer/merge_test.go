package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// letters merges any two neighbours that a table has.
type letters map[string]int32

func (l letters) pair(word string, left, right *symbol) (rank, id int32, ok bool) {
	rank, ok = l[word[left.start:right.end]]
	return rank, rank, ok
}

func symbolsOf(word string) []symbol {
	s := make([]symbol, len(word))
	for i := range s {
		s[i] = symbol{id: -1, start: i, end: i + 1}
	}
	return s
}

// slowMerge merges the leftmost pair of the lowest rank until there is none.
func slowMerge(word string, by merger) []symbol {
	s := symbolsOf(word)
	for {
		best, at, to := int32(noMerge), -1, int32(0)
		for i := range len(s) - 1 {
			if rank, id, ok := by.pair(word, &s[i], &s[i+1]); ok && rank < best {
				best, at, to = rank, i, id
			}
		}
		if at < 0 {
			return s
		}
		s[at].id, s[at].end = to, s[at+1].end
		s = slices.Delete(s, at+1, at+2)
	}
}

func TestMergesAreThoseOfTheDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 400 {
		table := letters{}
		for range 30 {
			b := make([]byte, 2+rng.IntN(4))
			for i := range b {
				b[i] = "abc"[rng.IntN(3)]
			}
			table[string(b)] = int32(rng.IntN(12)) // equal ranks occur
		}
		word := make([]byte, 1+rng.IntN(70))
		for i := range word {
			word[i] = "abc"[rng.IntN(3)]
		}
		want := spans(slowMerge(string(word), table))
		short := mergeState{symbols: symbolsOf(string(word))}
		short.mergeShort(string(word), table)
		long := mergeState{symbols: symbolsOf(string(word))}
		long.mergeLong(string(word), table)
		if got := spans(short.symbols); !slices.Equal(got, want) {
			t.Fatalf("short %s: got %v, want %v", word, got, want)
		}
		if got := spans(long.symbols); !slices.Equal(got, want) {
			t.Fatalf("long %s: got %v, want %v", word, got, want)
		}
	}
}

func spans(symbols []symbol) []span {
	var out []span
	for _, s := range symbols {
		out = append(out, span{s.start, s.end})
	}
	return out
}

func TestLongWordTakesNoTime(t *testing.T) {
	table := letters{}
	for n := 2; n <= 16; n *= 2 {
		table[strings.Repeat("a", n)] = int32(n)
	}
	word := strings.Repeat("a", 1<<20)
	m := mergeState{symbols: symbolsOf(word)}
	start := time.Now()
	m.mergeAll(word, table)
	if n := len(m.symbols); n != 1<<16 {
		t.Errorf("%d symbols are left", n)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}
