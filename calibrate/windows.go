package calibrate

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"

	"llmc/internal/fault"
	"llmc/tokenizer"
)

// Sampling says which windows of a text are used.
type Sampling struct {
	Samples int    // windows, at most
	Context int    // tokens of a window, the BOS included
	Seed    uint64 // chooses the windows
	Text    string // what errors call the text; "" is "the calibration text"
	Special bool   // special tokens written in the text, such as </s>, are these tokens
}

func (s Sampling) check() error {
	switch {
	case s.Samples < 1:
		return fault.Usage("%d samples of calibration text asked for, allowed is 1 and more", s.Samples)
	case s.Context < 2:
		return fault.Usage("samples of %d tokens of calibration text asked for, allowed is 2 and more", s.Context)
	}
	return nil
}

// Windows cuts a text into windows of s.Context tokens that do not overlap and
// returns s.Samples of them, chosen by s.Seed, in the order of the text; all of
// them when there are fewer. A tokenizer that puts a BOS before a text puts it
// before every window, because that is what the model sees in use.
//
// Text that is binary, shorter than one window, or little more than one token
// over and over is an error: what a method would learn from it is nothing.
func Windows(t *tokenizer.Tokenizer, text string, s Sampling) ([][]int32, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	name := cmp.Or(s.Text, "the calibration text")
	if i := strings.IndexByte(text, 0); i >= 0 {
		return nil, fault.Invalid("%s is not text: NUL byte at offset %d", name, i)
	}
	if !utf8.ValidString(text) {
		return nil, fault.Invalid("%s is not UTF-8", name)
	}
	ids := t.Encode(text, false, s.Special)
	body := s.Context
	bos, hasBOS := t.BOS()
	hasBOS = hasBOS && t.AddsBOS()
	if hasBOS {
		body--
	}
	count := len(ids) / body
	if count == 0 {
		return nil, fault.Hint(fault.Invalid("%s has %d tokens, one sample needs %d", name, len(ids), body),
			"use a longer text, or a shorter context")
	}
	var windows [][]int32
	for _, i := range choose(count, s) {
		var window []int32
		if hasBOS {
			window = append(window, bos)
		}
		windows = append(windows, append(window, ids[i*body:][:body]...))
	}
	if id, share := commonest(ids); share > mostRepeated {
		return nil, fault.Hint(fault.Invalid("%s is one token over and over: %.4g%% of it is %q", name, 100*share, t.Piece(id)),
			"use text like what the model will read")
	}
	return windows, nil
}

// choose returns which of count windows are taken, in order.
func choose(count int, s Sampling) []int {
	// The second word only sets this choice apart from others with the seed.
	order := rand.New(rand.NewPCG(s.Seed, 0x63616c6962726174)).Perm(count)
	order = order[:min(count, s.Samples)]
	slices.Sort(order)
	return order
}

// mostRepeated is the share of a text that one token may have.
const mostRepeated = 0.9

// commonest returns the token that a text has most of, and its share.
func commonest(ids []int32) (id int32, share float64) {
	counts := map[int32]int{}
	for _, i := range ids {
		counts[i]++
		if counts[i] > counts[id] || counts[i] == counts[id] && i < id {
			id = i
		}
	}
	return id, float64(counts[id]) / float64(len(ids))
}
