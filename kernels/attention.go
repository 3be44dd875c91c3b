package kernels

import "math"

// attend is causal attention, tiled over queries and over pages of the cache,
// with the online softmax of arXiv 2205.14135: a tile holds, for each of its
// rows, the largest logit so far, the sum of exponentials and the weighted sum
// of values relative to it, so that memory does not grow with the context.
//
// A part of the task is one tile: up to mr rows that share a key head. Row q
// of a key head is position q/group, query head q%group of the head's group.
// Pages begin at multiples of pagePositions, so that a row's sums do not
// depend on how many rows came with it.
type attend struct {
	e     *engine
	dst   *Tensor // [n, heads*headDim]
	q     *Tensor // [n, heads*headDim]
	cache *cache
	spec  AttentionSpec
	group int // query heads of a key head
	start int // position of row 0 of q
	tiles int // of one key head

	phase func(t *attend, worker, part int) // of a split attention
}

// attentionTile is one worker's state of a tile.
type attentionTile struct {
	rows    int
	width   int       // of a row of sums: headDim, padded to nr
	queries []float32 // [rows, headDim]
	scores  []float32 // [rows, pagePositions]
	sums    []float32 // [rows, width]: values weighted by exp(logit-largest)
	largest []float32 // [rows]
	total   []float64 // [rows]: the sum of exp(logit-largest)
}

// Attention appends k and v [n, kvHeads*headDim] to the cache and sets dst
// [n, heads*headDim] to the causal attention of q [n, heads*headDim] over all
// of it; row i of q stands at position cache.Len()-n+i after the append.
func (c *CPU) Attention(dst, q, k, v *Tensor, kv Cache, spec AttentionSpec) {
	cache := kv.(*cache)
	mustEqual("Attention", spec.KVHeads, cache.kvHeads)
	mustEqual("Attention", spec.HeadDim, cache.headDim)
	mustEqual("Attention", spec.Heads%spec.KVHeads, 0)
	mustEqual("Attention", q.Cols, spec.Heads*spec.HeadDim)
	mustEqual("Attention", k.Cols, spec.KVHeads*spec.HeadDim)
	mustEqual("Attention", v.Cols, k.Cols)
	mustEqual("Attention", dst.Cols, q.Cols)
	mustEqual("Attention", dst.Rows, q.Rows)
	mustEqual("Attention", k.Rows, q.Rows)
	mustEqual("Attention", v.Rows, q.Rows)
	start := cache.length
	for i := range q.Rows {
		cache.append(k.row(i), v.row(i))
	}
	group := spec.Heads / spec.KVHeads
	t := &c.jobs.attend
	*t = attend{e: c.engine, dst: dst, q: q, cache: cache, spec: spec, group: group, start: start,
		tiles: ceilDiv(q.Rows*group, c.ops.mr)}
	if t.narrow() {
		t.split()
	} else {
		c.pool.run(spec.KVHeads*t.tiles, t)
	}
	*t = attend{}
}

func (t *attend) run(worker, part int) {
	if t.phase != nil {
		t.phase(t, worker, part)
		return
	}
	head, first := part/t.tiles, part%t.tiles*t.e.ops.mr
	rows := min(t.e.ops.mr, t.q.Rows*t.group-first)
	s := t.begin(worker, head, first, rows)
	from, to := t.pages(first, rows)
	for page := from; page < to; page++ {
		t.page(s, head, first, page)
	}
	for r := range rows {
		out := t.output(head, first+r)
		copy(out, s.sums[r*s.width:])
		t.e.ops.scale(out, float32(1/s.total[r]))
	}
}

// pages returns the pages [from, to) that rows see.
func (t *attend) pages(first, rows int) (from, to int) {
	last := t.start + (first+rows-1)/t.group
	return t.visibleFrom(first/t.group) / pagePositions, last/pagePositions + 1
}

// visibleFrom is the first position that row i of q sees.
func (t *attend) visibleFrom(i int) int {
	if t.spec.Window <= 0 {
		return 0
	}
	return max(0, t.start+i+1-t.spec.Window)
}

// at returns the elements of m that belong to row q of a key head.
func (t *attend) at(m *Tensor, head, q int) []float32 {
	d := t.spec.HeadDim
	return m.row(q / t.group)[(head*t.group+q%t.group)*d:][:d]
}

func (t *attend) output(head, q int) []float32 { return t.at(t.dst, head, q) }

// begin prepares the worker's memory for a tile.
func (t *attend) begin(worker, head, first, rows int) *attentionTile {
	w := &t.e.scratch[worker]
	s, d := &w.attn, t.spec.HeadDim
	s.rows, s.width = rows, t.cache.valuePanels*t.cache.nr
	queries := floats(&s.queries, rows*d)
	floats(&s.scores, rows*pagePositions)
	clear(floats(&s.sums, rows*s.width))
	largest := floats(&s.largest, rows)
	if cap(s.total) < rows {
		s.total = make([]float64, t.e.ops.mr)
	}
	s.total = s.total[:rows]
	for r := range rows {
		copy(queries[r*d:][:d], t.at(t.q, head, first+r))
		largest[r], s.total[r] = float32(math.Inf(-1)), 0
	}
	return s
}

// page adds the positions of one page to a tile.
func (t *attend) page(s *attentionTile, head, first, page int) {
	o := t.e.ops
	t.score(s.scores, s.queries, s.rows, head, page)
	for r := range s.rows {
		shrink := t.softmax(s.scores[r*pagePositions:][:pagePositions], first+r, page, &s.largest[r], &s.total[r])
		if shrink != 1 {
			o.scale(s.sums[r*s.width:][:s.width], shrink)
		}
	}
	held := t.held(page)
	for p := range t.cache.valuePanels {
		o.micro(s.rows, held, s.scores, pagePositions, t.cache.values(page, head, p), s.sums[p*o.nr:], s.width, true)
	}
}

// held is how many positions a page holds.
func (t *attend) held(page int) int { return min(pagePositions, t.cache.length-page*pagePositions) }

// score sets scores [rows, pagePositions] to the products of queries
// [rows, headDim] with the keys of a page.
func (t *attend) score(scores, queries []float32, rows, head, page int) {
	o, d := t.e.ops, t.spec.HeadDim
	for p := 0; p*o.nr < t.held(page); p++ {
		o.micro(rows, d, queries, d, t.cache.keys(page, head, p), scores[p*o.nr:], pagePositions, false)
	}
}

// softmax turns the scores of one row and page into weights relative to the
// largest logit so far, and those of positions that the row does not see into
// zeros. It returns what the sums so far must be multiplied by.
func (t *attend) softmax(scores []float32, row, page int, largest *float32, total *float64) (shrink float32) {
	o := t.e.ops
	base, i := page*pagePositions, row/t.group
	lo := max(0, t.visibleFrom(i)-base)
	hi := min(t.held(page), t.start+i+1-base)
	if lo >= hi {
		clear(scores)
		return 1
	}
	clear(scores[:lo])
	seen := scores[lo:hi]
	scale := t.spec.Scale
	if limit := t.spec.SoftCap; limit > 0 {
		o.scale(seen, scale)
		softCap(seen, limit)
		scale = 1
	}
	// Up to the end of a panel, so that loops go over whole vectors, positions
	// after the row's own get logits that make no weight.
	end := ceilDiv(hi, o.nr) * o.nr
	for j := hi; j < end; j++ {
		scores[j] = float32(math.Inf(-1))
	}
	clear(scores[end:])
	seen = scores[lo:end]
	shrink = 1
	if top := max(*largest, o.largest(seen)*scale); top > *largest {
		shrink = exp32(*largest - top)
		*largest = top
		*total *= float64(shrink)
	}
	*total += o.expSum(seen, scale, *largest)
	return shrink
}
