package eval

import (
	"fmt"
	"iter"
	"strings"

	"llmc/internal/fault"
)

// Protocol says how a text is cut into windows and which tokens of a window
// are scored. A perplexity can be compared only with one of the same protocol,
// context and text.
type Protocol string

// The protocols.
const (
	// LlamaCpp is what llama-perplexity does: the text, without one newline at
	// its end, is encoded with the BOS that the tokenizer adds and cut into
	// windows of context tokens, the last partial one dropped. When the
	// tokenizer adds a BOS, the first token of every window is replaced by it.
	// Scored are the tokens at positions context/2+1 to context-1 of each
	// window, each given everything before it in the window.
	LlamaCpp Protocol = "llama.cpp"

	// Full encodes the text once, with the BOS that the tokenizer adds, and
	// cuts it into windows of context tokens, the last partial one dropped.
	// Every token after the first of each window is scored.
	Full Protocol = "full"

	// Stride is Hugging Face's sliding window: the text is encoded once, with
	// the BOS that the tokenizer adds; a window of context tokens moves by
	// stride tokens, up to and including the first that reaches the end of the
	// text, which may be shorter. Of each window, the tokens that no earlier
	// window had are scored (of the first one, all but its first token), each
	// given everything before it in the window. The mean is over tokens; the
	// recipe in transformers' documentation weighs windows by one token less
	// than they score, which changes the fifth digit at most.
	Stride Protocol = "stride"
)

// ParseProtocol returns the protocol of that name.
func ParseProtocol(name string) (Protocol, error) {
	switch p := Protocol(strings.ToLower(name)); p {
	case LlamaCpp, Full, Stride:
		return p, nil
	}
	return "", fault.Usage("--protocol is %q, allowed are llama.cpp, full and stride", name)
}

// minContext is the smallest context that leaves something to score in every
// protocol.
const minContext = 4

// window is what a model sees at once, and what is scored of it.
type window struct {
	ids    []int32 // the model's input
	first  int     // targets[i] is to be predicted by the model's output at ids[first+i]
	target []int32
	start  int64 // position of ids[0] in the encoded text
}

// layout is a protocol with its numbers.
type layout struct {
	protocol Protocol
	context  int
	stride   int   // of Stride
	bos      int32 // replaces the first token of each window of LlamaCpp; -1 for none
}

// check refuses numbers that make no sense.
func (l layout) check() error {
	if l.context < minContext {
		return fault.Usage("--context is %d, allowed is %d or more", l.context, minContext)
	}
	if l.protocol == Stride && (l.stride < 1 || l.stride > l.context) {
		return fault.Usage("--stride is %d, allowed are 1 to the context, %d", l.stride, l.context)
	}
	return nil
}

// windows cuts a text into windows. tokens yields it in pieces of any length.
// The slices of a window are valid until the next one.
func (l layout) windows(tokens iter.Seq[[]int32]) iter.Seq[window] {
	step := l.context
	if l.protocol == Stride {
		step = l.stride
	}
	return func(yield func(window) bool) {
		var buf []int32 // from position start on
		start, scored := int64(0), 1
		input := make([]int32, l.context)
		// buf needs one token more than a window, to know whether the text ends here.
		for piece := range tokens {
			buf = append(buf, piece...)
			for len(buf) > l.context {
				if !yield(l.window(buf[:l.context], input, start, scored)) {
					return
				}
				start += int64(step)
				scored = l.context - step // tokens of the next window that this one had
				buf = buf[step:]
			}
		}
		if len(buf) == l.context || l.protocol == Stride && len(buf) > max(scored, 1) {
			yield(l.window(buf, input, start, scored))
		}
	}
}

// window lays out one window; the first scored of its tokens are not scored
// when the protocol is Stride.
func (l layout) window(tokens, input []int32, start int64, scored int) window {
	first := 0 // the position that predicts the first scored token
	switch l.protocol {
	case LlamaCpp:
		first = l.context / 2
	case Stride:
		first = max(scored, 1) - 1
	}
	// Nothing is scored after the last token, so the model need not see it.
	input = append(input[:0], tokens[:len(tokens)-1]...)
	if l.protocol == LlamaCpp && l.bos >= 0 {
		input[0] = l.bos
	}
	return window{ids: input, first: first, target: tokens[first+1:], start: start}
}

// needs is the smallest number of tokens from which the layout makes a window.
func (l layout) needs() int {
	if l.protocol == Stride {
		return 2
	}
	return l.context
}

// String describes the layout for people.
func (l layout) String() string {
	if l.protocol == Stride {
		return fmt.Sprintf("%s, context %d, stride %d", l.protocol, l.context, l.stride)
	}
	return fmt.Sprintf("%s, context %d", l.protocol, l.context)
}
