package kernels

import "math"

// One token's attention with few key heads has too few tiles for the threads.
// It is then split otherwise: into pages for the products with the keys, into
// rows for the softmax, into columns of the values for the sums. Each sum is
// taken in the order of the whole tile's, so that the result is the same to
// the last bit.

// splitTiles is the state of a split attention, for each key head and row.
type splitTiles struct {
	rows    int       // of a tile
	from    int       // the first page
	pages   int       // how many
	queries []float32 // [kvHeads, rows, headDim]
	scores  []float32 // [kvHeads, pages, rows, pagePositions]
	shrinks []float32 // [kvHeads, pages, rows]: what the sums are multiplied by before a page is added
	factors []float32 // [kvHeads, rows]: what they are multiplied by in the end
}

// splitPages is how many pages a split is worth.
const splitPages = 4

// narrow reports whether there are fewer tiles than would keep the threads
// busy, and enough positions to split.
func (t *attend) narrow() bool {
	if t.tiles > 1 || t.spec.KVHeads >= 2*t.e.pool.threads || t.e.pool.threads == 1 {
		return false
	}
	from, to := t.pages(0, t.q.Rows*t.group)
	return to-from >= splitPages
}

func (t *attend) split() {
	s, heads := &t.e.split, t.spec.KVHeads
	s.rows = t.q.Rows * t.group
	from, to := t.pages(0, s.rows)
	s.from, s.pages = from, to-from
	floats(&s.queries, heads*s.rows*t.spec.HeadDim)
	floats(&s.scores, heads*s.pages*s.rows*pagePositions)
	floats(&s.shrinks, heads*s.pages*s.rows)
	floats(&s.factors, heads*s.rows)
	for head := range heads {
		for r := range s.rows {
			copy(s.queries[(head*s.rows+r)*t.spec.HeadDim:], t.at(t.q, head, r))
		}
	}
	for _, p := range []struct {
		parts int
		run   func(t *attend, worker, part int)
	}{
		{heads * s.pages, (*attend).splitScores},
		{heads * s.rows, (*attend).splitSoftmax},
		{heads * t.cache.valuePanels, (*attend).splitValues},
	} {
		t.phase = p.run
		t.e.pool.run(p.parts, t)
	}
}

// tile returns the scores [rows, pagePositions] of a head and page.
func (s *splitTiles) tile(head, page int) []float32 {
	size := s.rows * pagePositions
	return s.scores[(head*s.pages+page)*size:][:size]
}

func (t *attend) splitScores(_, part int) {
	s := &t.e.split
	head, page := part/s.pages, part%s.pages
	t.score(s.tile(head, page), s.queries[head*s.rows*t.spec.HeadDim:], s.rows, head, s.from+page)
}

func (t *attend) splitSoftmax(_, part int) {
	s := &t.e.split
	head, row := part/s.rows, part%s.rows
	largest, total := float32(math.Inf(-1)), 0.0
	for page := range s.pages {
		scores := s.tile(head, page)[row*pagePositions:][:pagePositions]
		s.shrinks[(head*s.pages+page)*s.rows+row] = t.softmax(scores, row, s.from+page, &largest, &total)
	}
	s.factors[part] = float32(1 / total)
}

func (t *attend) splitValues(worker, part int) {
	o, s := t.e.ops, &t.e.split
	head, panel := part/t.cache.valuePanels, part%t.cache.valuePanels
	sums := floats(&t.e.scratch[worker].tile, s.rows*o.nr)
	clear(sums)
	for page := range s.pages {
		for row := range s.rows {
			if shrink := s.shrinks[(head*s.pages+page)*s.rows+row]; shrink != 1 {
				o.scale(sums[row*o.nr:][:o.nr], shrink)
			}
		}
		o.micro(s.rows, t.held(s.from+page), s.tile(head, page), pagePositions, t.cache.values(s.from+page, head, panel), sums, o.nr, true)
	}
	for row := range s.rows {
		out := t.output(head, row)[panel*o.nr:]
		n := copy(out, sums[row*o.nr:][:o.nr])
		o.scale(out[:n], s.factors[head*s.rows+row])
	}
}
