package tokenizer

import "unicode"

type runeRange struct{ lo, hi rune }

// class is a set of runes: those of some categories and ranges, or all but
// those, and of those the ones that are also in another class.
type class struct {
	ascii   [128]bool // the answer for runes below 128
	mask    catMask
	ranges  []runeRange
	negated bool
	and     *class
}

func (c *class) addRange(lo, hi rune) { c.ranges = append(c.ranges, runeRange{lo, hi}) }

// addFolded adds the runes lo to hi and whatever differs from them in case only.
func (c *class) addFolded(lo, hi rune) {
	c.addRange(lo, hi)
	for r := lo; r <= hi && r < 0x2000; r++ {
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			c.addRange(f, f)
		}
	}
}

// seal computes the table of ASCII answers; the class is not changed after it.
func (c *class) seal() *class {
	loadCategories()
	for r := range rune(128) {
		c.ascii[r] = c.has(r)
	}
	return c
}

// has reports whether r is in the class, without the ASCII table.
func (c *class) has(r rune) bool {
	in := isCategory(r, c.mask)
	for i := 0; !in && i < len(c.ranges); i++ {
		in = c.ranges[i].lo <= r && r <= c.ranges[i].hi
	}
	if in == c.negated {
		return false
	}
	return c.and == nil || c.and.has(r)
}
