package distill

import (
	"math/rand/v2"

	"llmc/calibrate"
	"llmc/tokenizer"
)

// Text is what windows are cut from.
type Text struct {
	Name    string // what errors call it
	Content string
	Special bool // special tokens written in it, such as </s>, are these tokens
}

// Windows cuts a text into windows that do not overlap, each of context tokens
// that are predicted from and the one after: all of them, in the order of the
// text. A BOS, where the tokenizer puts one, begins every window.
func Windows(t *tokenizer.Tokenizer, text Text, context int) ([][]int32, error) {
	const all = 1 << 40
	return calibrate.Windows(t, text.Content, calibrate.Sampling{
		Samples: all, Context: context + 1, Text: text.Name, Special: text.Special,
	})
}

// order is an endless sequence of windows: all of them in a random order, then
// all in another. It is a function of the seed alone, so that a run can go on
// anywhere in it.
type order struct {
	windows int
	seed    uint64

	epoch int // that perm is of
	perm  []int
}

func newOrder(windows int, seed uint64) *order {
	return &order{windows: windows, seed: seed, epoch: -1}
}

// at returns element i of the sequence.
func (o *order) at(i int) int {
	if epoch := i / o.windows; epoch != o.epoch {
		o.epoch = epoch
		o.perm = rand.New(rand.NewPCG(o.seed, 0x64697374696c6c00+uint64(epoch))).Perm(o.windows)
	}
	return o.perm[i%o.windows]
}

// batch returns the windows of step t, from 1, of n windows each.
func (o *order) batch(t, n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = o.at((t-1)*n + i)
	}
	return list
}
