package kernels

// pagePositions is how many positions one page of a cache holds: a multiple of
// every nr.
const pagePositions = 64

// cache holds keys and values in pages, so that it grows without copying and
// each page is a pair of packed panels for the tiles of a matrix product:
//
//	page.keys   [kvHeads][pagePositions/nr][headDim][nr]
//	page.values [kvHeads][valuePanels][pagePositions][nr]
type cache struct {
	kvHeads, headDim int
	nr               int
	valuePanels      int // headDim/nr, rounded up
	length           int
	pages            []page
	rounding         *cacheRounding // nil for float32
}

type page struct{ keys, values []float32 }

// NewCache returns an empty cache of keys and values of one block. It takes
// memory by pages of 64 positions. Rounded ones are held as the float32 numbers
// that their codes stand for.
func (c *CPU) NewCache(kvHeads, headDim int, bits CacheBits) Cache {
	nr := c.ops.nr
	return &cache{kvHeads: kvHeads, headDim: headDim, nr: nr, valuePanels: ceilDiv(headDim, nr),
		rounding: newCacheRounding(bits, kvHeads, headDim)}
}

// Len is the number of positions held.
func (c *cache) Len() int { return c.length }

// Truncate forgets all positions from n on. Their memory is kept for others.
func (c *cache) Truncate(n int) { c.length = max(0, min(n, c.length)) }

// append adds one position: k and v [kvHeads*headDim].
func (c *cache) append(k, v []float32) {
	if c.rounding != nil {
		k, v = c.rounding.round(k, v, c.headDim)
	}
	at, slot := c.length/pagePositions, c.length%pagePositions
	if at == len(c.pages) {
		c.pages = append(c.pages, page{
			keys:   alignedFloats(c.kvHeads * pagePositions * c.headDim),
			values: alignedFloats(c.kvHeads * c.valuePanels * pagePositions * c.nr),
		})
	}
	for h := range c.kvHeads {
		keys := c.keys(at, h, slot/c.nr)
		for d, x := range k[h*c.headDim:][:c.headDim] {
			keys[d*c.nr+slot%c.nr] = x
		}
		for p := range c.valuePanels {
			from := p * c.nr
			copy(c.values(at, h, p)[slot*c.nr:][:c.nr], v[h*c.headDim+from:(h+1)*c.headDim])
		}
	}
	c.length++
}

// keys returns panel p of head h: keys of positions [p*nr, (p+1)*nr) of the
// page, [headDim, nr].
func (c *cache) keys(page, h, p int) []float32 {
	size := c.headDim * c.nr
	return c.pages[page].keys[(h*(pagePositions/c.nr)+p)*size:][:size]
}

// values returns panel p of head h: elements [p*nr, (p+1)*nr) of the values of
// all positions of the page, [pagePositions, nr].
func (c *cache) values(page, h, p int) []float32 {
	size := pagePositions * c.nr
	return c.pages[page].values[(h*c.valuePanels+p)*size:][:size]
}
