package kernels

// Block is a matrix [Rows, Cols] that lies within a row-major one: its rows
// begin Stride numbers apart.
type Block struct {
	Data               []float32
	Rows, Cols, Stride int
}

// NewBlock is the whole of a row-major matrix.
func NewBlock(data []float32, rows, cols int) Block {
	mustEqual("NewBlock", len(data), rows*cols)
	return Block{data, rows, cols, cols}
}

// Slice is the part of b in rows [top, bottom) and columns [left, right).
func (b Block) Slice(top, bottom, left, right int) Block {
	b.Rows, b.Cols = bottom-top, right-left
	if b.Rows == 0 || b.Cols == 0 {
		b.Data = nil
		return b
	}
	b.Data = b.Data[top*b.Stride+left:][:(b.Rows-1)*b.Stride+b.Cols]
	return b
}

// Row returns row i of b.
func (b Block) Row(i int) []float32 { return b.Data[i*b.Stride:][:b.Cols:b.Cols] }

// Update is C += Alpha A B, A [m, k], B [k, n]. Dst must not overlap A or B.
type Update struct {
	Dst   Block // C [m, n]
	Alpha float32
	A, B  Block
	// TransA and TransB say that A, or B, is the transpose of what is given.
	TransA, TransB bool
	// UpperA and UpperB say that A, or B, is upper triangular: what is stored
	// below its diagonal does not count.
	UpperA, UpperB bool
	// Upper says that only what is on and above the diagonal of C is wanted.
	// What is close to it below is changed as well.
	Upper bool
}

// How an update is tiled: as many columns of A and rows of B are packed as a
// few blocks have, then every part multiplies updateRows rows of A with
// updateCols columns of B, block after block. An element of C is summed in the
// order of k within a block, and the blocks' sums are added in order.
const (
	updateDepth = 4 * blockK // columns of A packed at a time
	updateRows  = 252        // a multiple of every mr
	updateCols  = 128        // a multiple of every nr
)

// Update adds a product of matrices to a matrix. The result does not depend on
// the number of threads.
func (c *CPU) Update(u Update) {
	t := &c.jobs.update
	*t = update{e: c.engine, Update: u, m: u.Dst.Rows, n: u.Dst.Cols, k: u.A.Cols}
	inner := u.B.Rows
	rows, cols := u.A.Rows, u.B.Cols
	if u.TransA {
		t.k, rows = u.A.Rows, u.A.Cols
	}
	if u.TransB {
		inner, cols = u.B.Cols, u.B.Rows
	}
	mustEqual("Update", rows, t.m)
	mustEqual("Update", cols, t.n)
	mustEqual("Update", inner, t.k)
	if t.m == 0 || t.n == 0 {
		return
	}
	t.width = ceilDiv(t.n, c.ops.nr) * c.ops.nr
	t.chunks, t.strips = ceilDiv(t.m, updateRows), ceilDiv(t.n, updateCols)
	depth := ceilDiv(min(t.k, updateDepth), blockK)
	t.slabs = floats(&c.packed, depth*t.m*slabWidth)
	t.panels = floats(&c.packedB, depth*t.width*blockK)
	for t.from = 0; t.from < t.k; t.from = t.to {
		t.to = min(t.from+updateDepth, t.k)
		depth := ceilDiv(t.to-t.from, blockK)
		c.pool.run(depth*(t.chunks+t.strips), (*packUpdate)(t))
		c.pool.run(t.chunks*t.strips, t)
	}
	*t = update{}
}

// update is an [Update] at work on columns [from, to) of A.
type update struct {
	e *engine
	Update
	m, n, k        int
	width          int // n, rounded up to panels
	chunks, strips int // into which rows and columns of C are cut
	from, to       int
	slabs          []float32 // of A [depth, m, slabWidth], depth blocks of k
	panels         []float32 // of B [depth, width/nr, k of the block, nr]
}

// block returns the columns of A in a block and where the block's slab and
// panels are.
func (t *update) block(i int) (from, k int, slab, panels []float32) {
	from = t.from + i*blockK
	return from, min(blockK, t.to-from), t.slabs[i*t.m*slabWidth:], t.panels[i*t.width*blockK:]
}

// packUpdate packs blocks of A and B: every part a chunk of rows or a strip of
// columns of one block.
type packUpdate update

func (t *packUpdate) run(_, part int) {
	from, k, slab, panels := (*update)(t).block(part / (t.chunks + t.strips))
	if part %= t.chunks + t.strips; part < t.chunks {
		first := part * updateRows
		t.packA(slab[first*slabWidth:], first, min(updateRows, t.m-first), from, k)
		return
	}
	first := (part - t.chunks) * updateCols
	t.packB(panels[first*k:], first, min(updateCols, t.n-first), from, k)
}

// packA copies columns [from, from+k) of some rows of A, times Alpha, into rows
// of a slab.
func (t *packUpdate) packA(slab []float32, first, rows, from, k int) {
	a, o := &t.A, t.e.ops
	if t.TransA {
		o.turn(slab, slabWidth, a.Data[from*a.Stride+first:], a.Stride, k, rows)
	}
	for r := range rows {
		to := slab[r*slabWidth:][:k]
		if !t.TransA {
			copy(to, a.Data[(first+r)*a.Stride+from:])
		}
		if t.UpperA {
			clear(to[:min(k, max(0, first+r-from))])
		}
		if t.Alpha != 1 {
			o.scale(to, t.Alpha)
		}
	}
}

// packB copies rows [from, from+k) of some columns of B into panels, with zeros
// after the last column.
func (t *packUpdate) packB(panels []float32, first, cols, from, k int) {
	b, nr := &t.B, t.e.ops.nr
	for j := 0; j < cols; j += nr {
		n, panel := min(nr, cols-j), panels[j*k:]
		if t.TransB {
			t.e.ops.panel(panel, b.Data[(first+j)*b.Stride+from:], b.Stride, n, k)
		} else {
			for p := range k {
				to := panel[p*nr:][:nr]
				clear(to[copy(to, b.Data[(from+p)*b.Stride+first+j:][:n]):])
			}
		}
		if !t.UpperB {
			continue
		}
		for p := max(0, first+j-from); p < k; p++ {
			clear(panel[p*nr:][:min(nr, from+p-first-j)])
		}
	}
}

func (t *update) run(worker, part int) {
	top, left := part%t.chunks*updateRows, part/t.chunks*updateCols
	bottom, right := min(top+updateRows, t.m), min(left+updateCols, t.n)
	for i := range ceilDiv(t.to-t.from, blockK) {
		from, k, slab, panels := t.block(i)
		for j := left; j < right; j += t.e.ops.nr {
			t.multiply(&t.e.scratch[worker], slab, panels[j*k:], top, bottom, j, from, k)
		}
	}
}

// multiply adds the product of rows [top, bottom) of a slab, columns [from,
// from+k) of A, and one panel to the columns of C from left on.
func (t *update) multiply(s *scratch, slab, panel []float32, top, bottom, left, from, k int) {
	o := t.e.ops
	n := min(o.nr, t.n-left)
	if t.Upper {
		bottom = min(bottom, left+n)
	}
	if t.UpperB {
		k = min(k, left+n-from)
	}
	for i := top; i < bottom; i += o.mr {
		skip := 0
		if t.UpperA {
			skip = max(0, i-from)
		}
		if skip >= k {
			return
		}
		rows, a, b := min(o.mr, bottom-i), slab[i*slabWidth+skip:], panel[skip*o.nr:]
		c := t.Dst.Data[i*t.Dst.Stride+left:]
		if n == o.nr {
			o.micro(rows, k-skip, a, slabWidth, b, c, t.Dst.Stride, true)
			continue
		}
		tile := floats(&s.tile, rows*o.nr)
		o.micro(rows, k-skip, a, slabWidth, b, tile, o.nr, false)
		for r := range rows {
			o.add(c[r*t.Dst.Stride:][:n], tile[r*o.nr:][:n])
		}
	}
}

// AddScaled adds x times s to dst; x is at least as long. Several goroutines may
// call it at once.
func (c *CPU) AddScaled(dst, x []float32, s float32) { c.ops.addScaled(dst, x, s) }

// AddGram adds xᵀx, x [n, cols], to dst [cols, cols]: the symmetric matrix
// whose elements on and above the diagonal are right; [Mirror] gives the others.
func (c *CPU) AddGram(dst, x *Tensor) {
	mustEqual("AddGram", dst.Rows, x.Cols)
	h, b := NewBlock(dst.Data, dst.Rows, dst.Cols), NewBlock(x.Data, x.Rows, x.Cols)
	c.Update(Update{Dst: h, Alpha: 1, A: b, TransA: true, B: b, Upper: true})
}

// GramBytes is the memory that AddGram of x [rows, cols] takes besides dst and x.
func GramBytes(rows, cols int) int64 {
	depth := ceilDiv(min(rows, updateDepth), blockK)
	return 4 * int64(depth) * (int64(cols)*slabWidth + int64(cols+updateCols)*blockK)
}

// Mirror sets what is below the diagonal of a square matrix to what is above.
func Mirror(b Block) {
	const tile = 32 // both sides stay in the first cache level
	for top := 0; top < b.Rows; top += tile {
		for left := 0; left <= top; left += tile {
			for i := top; i < min(top+tile, b.Rows); i++ {
				row := b.Data[i*b.Stride:]
				for j := left; j < min(left+tile, i); j++ {
					row[j] = b.Data[j*b.Stride+i]
				}
			}
		}
	}
}
