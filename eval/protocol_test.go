package eval

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// scored is one scored token of the definitions below: what the model sees
// before it, and the token.
type scored struct {
	context []int32
	target  int32
}

// define writes every protocol out as its documentation defines it, for a
// text whose tokens are all in memory.
func define(l layout, tokens []int32) []scored {
	var out []scored
	n := len(tokens)
	switch l.protocol {
	case LlamaCpp, Full:
		for start := 0; start+l.context <= n; start += l.context {
			chunk := slices.Clone(tokens[start : start+l.context])
			from := 1
			if l.protocol == LlamaCpp {
				from = l.context/2 + 1
				if l.bos >= 0 {
					chunk[0] = l.bos
				}
			}
			for i := from; i < l.context; i++ {
				out = append(out, scored{chunk[:i], chunk[i]})
			}
		}
	case Stride:
		// The loop of transformers' documentation on perplexity.
		previous := 0
		for begin := 0; begin < n; begin += l.stride {
			end := min(begin+l.context, n)
			for i := max(previous, begin+1); i < end; i++ {
				out = append(out, scored{tokens[begin:i], tokens[i]})
			}
			previous = end
			if end == n {
				break
			}
		}
	}
	return out
}

func reference(m *markov, all []scored) (nll, stderr float64) {
	var values []float64
	for _, s := range all {
		row := m.row(s.context)
		sum := 0.0
		for _, v := range row {
			sum += math.Exp(float64(v))
		}
		values = append(values, math.Log(sum)-float64(row[s.target]))
	}
	for _, v := range values {
		nll += v / float64(len(values))
	}
	for _, v := range values {
		stderr += (v - nll) * (v - nll)
	}
	n := float64(len(values))
	return nll, math.Sqrt(stderr / n / (n - 1))
}

func randomText(n int) string {
	rng := rand.New(rand.NewPCG(7, 7))
	var b strings.Builder
	for range n {
		b.WriteByte(letters[rng.IntN(len(letters))])
	}
	return b.String()
}

func encodeAll(t *testing.T, enc runes, text string) []int32 {
	t.Helper()
	var ids []int32
	err := enc.EncodeReader(strings.NewReader(text), true, func(p []int32) error {
		ids = append(ids, p...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestProtocols compares every protocol with its definition, over texts that
// end before, at and after the end of a window.
func TestProtocols(t *testing.T) {
	model := &markov{size: 30}
	for _, protocol := range []Protocol{LlamaCpp, Full, Stride} {
		for _, bos := range []bool{false, true} {
			for _, length := range []int{2, 15, 16, 17, 31, 32, 33, 100, 128, 129} {
				for _, stride := range []int{1, 5, 8, 16} {
					if protocol != Stride && stride != 8 {
						continue
					}
					name := fmt.Sprintf("%s bos=%v length=%d stride=%d", protocol, bos, length, stride)
					enc := runes{alphabet: letters, addBOS: bos, piece: 1 + length%7}
					text := randomText(length-1) + "x"
					l := layout{protocol: protocol, context: 16, stride: stride, bos: -1}
					if bos {
						l.bos = 0
					}
					want := define(l, encodeAll(t, enc, text))
					report, err := Run(context.Background(), []*Subject{subject("m", enc, model)}, StringText("text", text),
						Options{Protocol: protocol, Context: 16, Stride: stride})
					if len(want) == 0 {
						if err == nil || !strings.Contains(err.Error(), "too short") {
							t.Errorf("%s: error %v, want that the text is too short", name, err)
						}
						continue
					}
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					nll, stderr := reference(model, want)
					got := report.Models[0]
					if got.Tokens != int64(len(want)) || math.Abs(got.NLL-nll) > 1e-7 ||
						math.Abs(got.PerplexityStderr/got.Perplexity-stderr) > 1e-7 {
						t.Errorf("%s: nll %.12f ± %.9f of %d tokens, want %.12f ± %.9f of %d", name,
							got.NLL, got.PerplexityStderr/got.Perplexity, got.Tokens, nll, stderr, len(want))
					}
				}
			}
		}
	}
}

// TestLlamaCppDropsLastNewline: llama-perplexity cuts one newline off a file,
// which matters when the last window is exactly full with it.
func TestLlamaCppDropsLastNewline(t *testing.T) {
	enc := runes{alphabet: letters}
	for text, want := range map[string]int64{
		randomText(31) + "x":    2,
		randomText(31) + "\n":   1,
		randomText(31) + "x\n":  2,
		randomText(31) + "\n\n": 2,
	} {
		report, err := Run(context.Background(), []*Subject{subject("m", enc, &markov{size: 30})},
			StringText("text", text), Options{Context: 16})
		if err != nil {
			t.Fatal(err)
		}
		if got := report.Models[0].Windows; got != want {
			t.Errorf("%q: %d windows, want %d", text[30:], got, want)
		}
	}
}

func TestChunksLimit(t *testing.T) {
	enc := runes{alphabet: letters}
	text := randomText(1000)
	run := func(text string, chunks int) ModelReport {
		report, err := Run(context.Background(), []*Subject{subject("m", enc, &markov{size: 30})},
			StringText("text", text), Options{Context: 16, Chunks: chunks})
		if err != nil {
			t.Fatal(err)
		}
		return report.Models[0]
	}
	limited, short := run(text, 5), run(text[:80], 0)
	if limited.Windows != 5 || limited.NLL != short.NLL {
		t.Errorf("5 chunks: %+v, want what the text's first 80 tokens give: %+v", limited, short)
	}
}
