// Package structured makes a model smaller by whole parts, so that what is left
// is a model of the same family that every engine runs faster: key and value
// heads with their query heads, feed-forward neurons, channels of the residual
// stream, or layers.
//
// [Widths] lists what can be left of an [Axis], [Rank] orders its units by what
// a text shows of their [Importance], [Ranking.Cut] turns a width into what is
// cut, and [Apply] cuts and makes what stays do the work of what is gone. The
// cuts of one ranking are nested: what a smaller model has, a larger one has too
// (MatFormer, arXiv 2310.07707).
package structured

import (
	"fmt"
	"math"
	"slices"

	"llmc/formats"
	"llmc/internal/fault"
	"llmc/model"
)

// Axis is what kind of parts is removed.
type Axis uint8

// The axes.
const (
	Heads  Axis = iota // key and value heads with the query heads that share them
	FFN                // feed-forward neurons, as many in every block, and of a mixture in every expert
	Hidden             // channels of the residual stream
	Layers             // whole blocks
)

var axisNames = []string{"heads", "ffn", "hidden", "layers"}

// AxisNames lists the names of all axes.
func AxisNames() []string { return axisNames }

// ParseAxis returns the axis of a name.
func ParseAxis(name string) (Axis, bool) {
	for i, n := range axisNames {
		if n == name {
			return Axis(i), true
		}
	}
	return 0, false
}

// String returns the name.
func (a Axis) String() string { return axisNames[a] }

// Unit names what is removed of a model, for messages: "key and value heads".
func (a Axis) Unit(c *model.Config) string {
	switch {
	case a == Heads && c.KVHeads > 1:
		return "key and value heads"
	case a == Heads:
		return "query heads"
	case a == FFN && c.Experts.Count > 0:
		return "neurons of each expert"
	case a == FFN:
		return "feed-forward neurons"
	case a == Hidden:
		return "hidden channels"
	}
	return "layers"
}

// Units is how many there are, in each block or in the model. Query heads that
// share one key and value head for all are removed one by one.
func (a Axis) Units(c *model.Config) int {
	switch {
	case a == Heads && c.KVHeads > 1:
		return c.KVHeads
	case a == Heads:
		return c.Heads
	case a == FFN && c.Experts.Count > 0:
		return c.Experts.Width
	case a == FFN:
		return c.FFN
	case a == Hidden:
		return c.Hidden
	}
	return c.Blocks
}

// DefaultMultiple is what feed-forward and hidden widths are multiples of: the
// blocks of llama.cpp's smaller types.
const DefaultMultiple = 32

// Widths lists in ascending order how many units of an axis can be left, fewer
// than there are: of neurons and channels multiples of multiple, and only what
// the configuration of a checkpoint of a kind can say. That nothing can be
// removed is an error that says why.
func Widths(c *model.Config, a Axis, multiple int, kind formats.Kind) ([]int, error) {
	if _, err := c.Cut(&model.Cut{}); err != nil {
		return nil, err
	}
	units, step := a.Units(c), 1
	if a == FFN || a == Hidden {
		step = multiple
	}
	if units < 2 {
		return nil, fault.Invalid("the model has %d %s, none of which can go", units, a.Unit(c))
	}
	var widths []int
	var refused error
	for n := step; n < units; n += step {
		if err := check(c, a, n, kind); err != nil {
			refused = err
			continue
		}
		widths = append(widths, n)
	}
	switch {
	case len(widths) > 0:
		return widths, nil
	case refused != nil:
		return nil, fault.Hint(fault.Invalid("no number of %s below %d is allowed: %w", a.Unit(c), units, refused), "prune another part: %v", axisNames)
	}
	return nil, fault.Hint(fault.Invalid("the model has %d %s, of which multiples of %d can be left", units, a.Unit(c), step),
		"allow other widths with --multiple")
}

// check says whether a checkpoint can hold what is left.
func check(c *model.Config, a Axis, n int, kind formats.Kind) error {
	cut, err := c.Cut(Outline(c, a, n))
	if err != nil {
		return err
	}
	if kind == formats.GGUF {
		_, err = cut.GGUF()
		return err
	}
	return cut.CheckHF()
}

// Outline is a cut that leaves n units, without regard to which: enough to know
// how large the model becomes.
func Outline(c *model.Config, a Axis, n int) *model.Cut {
	return NewRanking(a, a.zeros(c)).Cut(c, n)
}

// lists is how many lists of units an axis has: one for each block or for each of
// its experts, or one for the model.
func (a Axis) lists(c *model.Config) int {
	switch {
	case a == FFN:
		return c.Blocks * max(c.Experts.Count, 1)
	case a == Heads:
		return c.Blocks
	}
	return 1
}

// list is which of the lists has the units that a linear multiplies.
func (a Axis) list(c *model.Config, id model.ID) int {
	if a == FFN && c.Experts.Count > 0 {
		return id.Block*c.Experts.Count + id.Expert.Index()
	}
	return id.Block
}

// zeros are scores of all units.
func (a Axis) zeros(c *model.Config) [][]float64 {
	scores := make([][]float64, a.lists(c))
	for i := range scores {
		scores[i] = make([]float64, a.Units(c))
	}
	return scores
}

// Nearest returns the width that leaves closest to a share of the units, the
// larger of two that are as close. A share that is as close to all units or to
// none is an error.
func Nearest(c *model.Config, a Axis, widths []int, share float64) (int, error) {
	units := a.Units(c)
	want := share * float64(units)
	best := units
	for i := len(widths) - 1; i >= 0; i-- {
		if math.Abs(float64(widths[i])-want) < math.Abs(float64(best)-want) {
			best = widths[i]
		}
	}
	what := ""
	switch {
	case best == units:
		what = "removes none"
	case want < float64(widths[0])/2:
		what = "removes all"
	default:
		return best, nil
	}
	return 0, fault.Hint(fault.Usage("leaving %.4g%% of %d %s %s", 100*share, units, a.Unit(c), what), "what can be left: %s", listWidths(widths))
}

// Without returns the width that is left when so many units are removed, which
// has to be one of widths.
func Without(c *model.Config, a Axis, widths []int, removed int) (int, error) {
	units := a.Units(c)
	if left := units - removed; slices.Contains(widths, left) {
		return left, nil
	}
	return 0, fault.Hint(fault.Usage("%d of %d %s cannot be removed", removed, units, a.Unit(c)), "what can be left: %s", listWidths(widths))
}

// Largest returns the largest width that fits. That all units do is an error, for
// then nothing has to go.
func Largest(c *model.Config, a Axis, widths []int, fits func(width int) bool) (int, error) {
	if units := a.Units(c); fits(units) {
		return 0, fault.Usage("the whole model with its %d %s is small enough", units, a.Unit(c))
	}
	for i := len(widths) - 1; i >= 0; i-- {
		if fits(widths[i]) {
			return widths[i], nil
		}
	}
	return 0, fault.Usage("a model with %d of %d %s is still too large", widths[0], a.Units(c), a.Unit(c))
}

// listWidths writes some of them for people.
func listWidths(widths []int) string {
	if n := len(widths); n > 6 {
		return fmt.Sprintf("%d, %d, ... %d, %d", widths[0], widths[1], widths[n-2], widths[n-1])
	}
	text := ""
	for i, n := range widths {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprint(n)
	}
	return text
}
