package kernels

// The matrix product c[n, out] = x[n, k] wᵀ, w [out, k].
//
// With more than maxDotRows rows of x the product is tiled: x is copied once into slabs of
// blockK columns, rows after rows, and each part of the task takes blockOut
// rows of w, dequantizes blockK columns of them into panels [blockK, nr], and
// multiplies every tile of mr rows of x with every panel. Each element of c is
// summed in the order of k within a block, and the blocks' sums are added in
// order, whatever n and the number of threads are.
//
// Fewer rows are dot products with each row of w: dequantized in registers for
// the formats that have a loop, else once in the cache.
const (
	maxDotRows   = 3   // with more, packing panels pays off
	maxBatchRows = 8   // as maxDotRows, where rows are multiplied four at a time
	blockK       = 256 // a multiple of columnStep
	blockOut     = 128 // a multiple of every nr
	slabPad      = 16  // keeps rows of a slab from falling into the same cache sets
	slabWidth    = blockK + slabPad
	// dotRows is how many rows of w one part of a few-row product has. Loops that
	// read two rows in step take one from each half, which are tens of pages apart
	// then; adjacent rows are slower than one after the other.
	dotRows = 64
)

// MatMul sets dst [n, out] to x [n, in] times wᵀ, w [out, in].
func (c *CPU) MatMul(dst, x *Tensor, w Weight) {
	m := w.(*weight)
	mustEqual("MatMul", x.Cols, m.cols)
	mustEqual("MatMul", dst.Cols, m.rows)
	mustEqual("MatMul", dst.Rows, x.Rows)
	if m.integer != nil {
		c.integer(dst, x, m.integer)
	} else if x.Rows <= m.maxDots() {
		c.few(dst, x, m)
	} else {
		c.tiled(dst, x, m)
	}
}

// maxDots is the most rows of x for which dot products are the faster way.
func (w *weight) maxDots() int {
	switch {
	case w.loops != nil && w.loops.batch != nil && w.loops.values == columnStep:
		return batchRows // two batches unpack twice, which takes these long
	case w.loops != nil && w.loops.batch != nil:
		return maxBatchRows
	case w.loops != nil || w.codes != nil || w.floats != nil:
		return maxDotRows
	}
	return 1
}

// few multiplies by dot products.
func (c *CPU) few(dst, x *Tensor, w *weight) {
	c.jobs.dots = dots{e: c.engine, dst: dst, x: x, w: w}
	c.pool.run(ceilDiv(w.rows, dotRows), &c.jobs.dots)
	c.jobs.dots = dots{}
}

// tiled multiplies by panels.
func (c *CPU) tiled(dst, x *Tensor, w *weight) {
	packed := floats(&c.packed, ceilDiv(x.Cols, blockK)*x.Rows*slabWidth)
	c.jobs.pack = pack{x: x, packed: packed}
	c.pool.run(x.Rows, &c.jobs.pack)
	c.jobs.product = product{e: c.engine, dst: dst, rows: x.Rows, k: x.Cols, packed: packed, w: w}
	c.pool.run(ceilDiv(w.rows, blockOut), &c.jobs.product)
	c.jobs.pack, c.jobs.product = pack{}, product{}
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// pack copies rows of x into slabs [k/blockK, rows, slabWidth].
type pack struct {
	x      *Tensor
	packed []float32
}

func (t *pack) run(_, row int) {
	x := t.x.row(row)
	for at := row * slabWidth; len(x) > 0; at += t.x.Rows * slabWidth {
		n := copy(t.packed[at:][:blockK], x)
		x = x[n:]
	}
}

// product multiplies all rows of x with blockOut rows of w in each part.
type product struct {
	e       *engine
	dst     *Tensor
	rows, k int
	packed  []float32
	w       *weight
}

func (t *product) run(worker, part int) {
	o := t.e.ops
	s := &t.e.scratch[worker]
	first := part * blockOut
	outs := min(blockOut, t.w.rows-first)
	panels := floats(&s.panel, blockOut*blockK)
	for from := 0; from < t.k; from += blockK {
		k := min(blockK, t.k-from)
		t.packWeights(s, panels, first, outs, from, k)
		slab := t.packed[from/blockK*t.rows*slabWidth:]
		for j := 0; j < outs; j += o.nr {
			t.multiply(s, slab, panels[j/o.nr*k*o.nr:], first+j, min(o.nr, outs-j), k, from > 0)
		}
	}
}

// multiply adds the product of a slab and one panel to columns [out, out+n) of
// the result, or sets them to it.
func (t *product) multiply(s *scratch, slab, panel []float32, out, n, k int, accumulate bool) {
	o := t.e.ops
	for i := 0; i < t.rows; i += o.mr {
		rows := min(o.mr, t.rows-i)
		c := t.dst.Data[i*t.dst.Cols+out:]
		if n == o.nr {
			o.micro(rows, k, slab[i*slabWidth:], slabWidth, panel, c, t.dst.Cols, accumulate)
			continue
		}
		tile := floats(&s.tile, rows*o.nr)
		o.micro(rows, k, slab[i*slabWidth:], slabWidth, panel, tile, o.nr, false)
		for r := range rows {
			dst, sum := c[r*t.dst.Cols:][:n], tile[r*o.nr:][:n]
			if accumulate {
				o.add(dst, sum)
			} else {
				copy(dst, sum)
			}
		}
	}
}

// packWeights dequantizes columns [from, from+k) of rows [first, first+outs)
// of w into panels [outs/nr, k, nr], with zeros after the last row.
func (t *product) packWeights(s *scratch, panels []float32, first, outs, from, k int) {
	o := t.e.ops
	for j := 0; j < outs; j += o.nr {
		rows := min(o.nr, outs-j)
		if t.w.floats != nil {
			o.panel(panels[j*k:], t.w.floats[(first+j)*t.k+from:], t.k, rows, k)
			continue
		}
		buf := floats(&s.row, o.nr*slabWidth)
		for r := range rows {
			t.w.columns(s, buf[r*slabWidth:][:k], first+j+r, from)
		}
		o.panel(panels[j*k:], buf, slabWidth, rows, k)
	}
}

// dots multiplies a few rows of x with dotRows rows of w in each part.
type dots struct {
	e   *engine
	dst *Tensor
	x   *Tensor
	w   *weight
}

func (t *dots) run(worker, part int) {
	first := part * dotRows
	rows := min(dotRows, t.w.rows-first)
	s := &t.e.scratch[worker]
	for i := 0; i < t.x.Rows; {
		if n := t.w.fused(t.dst, t.x, s, i, first, rows); n > 0 {
			i += n
			continue
		}
		dst := t.dst.row(i)[first:][:rows]
		for r := range rows {
			dst[r] = t.e.ops.dot(t.x.row(i), t.w.row(s, first+r))
		}
		i++
	}
}
