package eval

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"unicode/utf8"
)

// runes is a tokenizer whose tokens are the characters of a text, numbered
// from 1 in order of the alphabet; 0 is the BOS.
type runes struct {
	alphabet string
	addBOS   bool
	drop     string // a character that is left out
	piece    int    // tokens emitted at once
}

const letters = " abcdefghijklmnopqrstuvwxyz\n"

func (t runes) Size() int { return 1 + utf8.RuneCountInString(t.alphabet) }

func (t runes) Piece(id int32) string {
	if id == 0 {
		return "<s>"
	}
	return string([]rune(t.alphabet)[id-1])
}

func (t runes) EncodeReader(r io.Reader, addSpecial bool, emit func([]int32) error) error {
	in := bufio.NewReader(r)
	var ids []int32
	if t.addBOS && addSpecial {
		ids = append(ids, 0)
	}
	for {
		c, _, err := in.ReadRune()
		if err == nil && string(c) != t.drop {
			at := utf8.RuneCountInString(t.alphabet[:max(0, strings.IndexRune(t.alphabet, c))])
			ids = append(ids, int32(at)+1)
		}
		if len(ids) >= max(1, t.piece) || err != nil {
			if err := emit(ids); err != nil {
				return err
			}
			ids = nil
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// markov is a model whose logits depend on the last three tokens and on the
// position: enough to notice a wrong context, offset or window.
type markov struct {
	size  int
	seed  uint64
	noise float32 // added to the logits, different for every seed
	seen  []int32
	from  int // first token of the last forward
	bad   int // the position at which a logit is NaN; 0 for none
}

func (m *markov) reset()                      { m.seen, m.from = nil, 0 }
func (m *markov) vocab() int                  { return m.size }
func (m *markov) check(context.Context) error { return nil }

func (m *markov) forward(ctx context.Context, ids []int32) error {
	m.from = len(m.seen)
	m.seen = append(m.seen, ids...)
	return ctx.Err()
}

func (m *markov) logits(first, n int) []float32 {
	out := make([]float32, 0, n*m.size)
	for i := first; i < first+n; i++ {
		if m.from+i >= len(m.seen) {
			panic(fmt.Sprintf("row %d of %d asked for", i, len(m.seen)-m.from))
		}
		out = append(out, m.row(m.seen[:m.from+i+1])...)
	}
	return out
}

// row is the logits after a context.
func (m *markov) row(context []int32) []float32 {
	n := len(context)
	state := uint64(n)
	for _, id := range context[max(0, n-3):] {
		state = state*1000003 + uint64(id)
	}
	common, own := rand.New(rand.NewPCG(state, 1)), rand.New(rand.NewPCG(state, 2+m.seed))
	row := make([]float32, m.size)
	for i := range row {
		row[i] = 4*common.Float32() + m.noise*own.Float32()
	}
	if m.bad > 0 && n == m.bad {
		row[m.size/2] /= 0 * row[0]
		row[m.size/2] *= 0
	}
	return row
}

// subject wraps a fake model.
func subject(name string, enc runes, m *markov) *Subject {
	s := &Subject{Path: name, encoder: enc, runner: m, bosID: -1}
	if enc.addBOS {
		s.bosID = 0
	}
	return s
}
