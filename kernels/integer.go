package kernels

import (
	"unsafe"

	"llmc/dtype"
)

// The fast product c[n, out] = x[n, k] wᵀ of packed weights: x is rounded to 8
// bits in blocks of 32 columns, codes are multiplied and added as integers, and
// each block's sum is scaled. For one row of x and one of w,
//
//	c = sum over blocks of (float32(sum of x.codes*w.codes)*w.scale)*x.scale + w.minimum*x.sum
//
// in float32, in the order of the blocks, every operation rounded. Types with
// scales for each 16 columns have two terms in place of one, both for the
// products and for the minima, added before the next step. Integers do not
// round, so that all CPU levels give the same to the last bit; portable Go is
// in integer_portable.go.
//
// Levels with assembly rearrange the weights when they are loaded: the blocks
// of as many rows as a vector has lanes lie together, element after element, in
// panels that take as much memory as the rows did. One kernel unpacks a block
// of a panel and takes it through a tile of rows of x, so that the same loops
// serve one row and a batch.

// record is one block of activations. Its layout is that of
// internal/asmgen/integer.go. Assembly moves signed codes up by the offset of
// their type to make them unsigned; bias takes that out again.
type record struct {
	codes [32]int8
	scale float32
	bias  [3]int32   // -offset times the sum of codes: of all, the first half, the last half
	sum   [3]float32 // scale times the sum of codes, likewise
	_     float32
}

// panelLoop adds to c [rows, lanes] the products of x [units*blocks, rows] with
// the lanes of a panel. x is records.
type panelLoop func(c *float32, x, w *byte, rows, units int)

// groupLoop is panelLoop for groups of blocks times 32 columns.
type groupLoop func(c *float32, x, w *byte, rows, units, blocks int)

// integerOps are the integer loops of one CPU level.
type integerOps struct {
	lanes int // rows of a panel
	// quantize rounds blocks of 32 numbers to records stride bytes apart.
	quantize func(dst *byte, x *float32, blocks, stride int, offset int32)
	panels   map[dtype.Type]panelLoop // of all types in integerFormats
	groups   map[int]groupLoop        // by the bits of stored codes
	// transpose rearranges elements of 4 bytes, lanes rows at a time.
	transpose transposeKernel
	// peak runs n rounds of integer products in registers and returns the
	// operations of one round.
	peak func(n int) float64
}

// integerWeight is a packed matrix made ready for integer products.
type integerWeight struct {
	format *integerFormat
	rows   int
	units  int    // of a row
	rowLen int    // bytes of a row
	data   []byte // rows, or panels where loop is not nil
	loop   panelLoop
	lanes  int // of a panel
}

// integerTile is how many rows of x one pass over a panel takes: enough to
// make the unpacking of codes cheap, few enough for the first cache level to
// hold their sums.
const integerTile = 64

// quantized is activations in records: tiles of integerTile rows, the last one
// shorter, each [blocks][rows of the tile].
type quantized struct {
	rows, blocks int
	records      []record
}

// tile returns the rows of x from first on, and their number.
func (q *quantized) tile(first int) ([]record, int) {
	rows := min(integerTile, q.rows-first)
	return q.records[first*q.blocks:][:rows*q.blocks], rows
}

// loadInteger makes a matrix ready for integer products; nil when it has none.
func (c *CPU) loadInteger(m Matrix) *integerWeight {
	switch m := m.(type) {
	case *Dense:
		return c.loadBlocks(m)
	case *Groups:
		return c.loadGroups(m)
	}
	return nil
}

func (c *CPU) loadBlocks(d *Dense) *integerWeight {
	f := integerFormats[d.Type]
	if f == nil {
		return nil
	}
	w := &integerWeight{format: f, rows: d.Rows, units: d.Cols / d.Type.BlockSize(), lanes: 1}
	w.rowLen = w.units * f.bytes
	o := c.ops.integer
	if o == nil {
		w.data = d.Data
		return w
	}
	w.loop, w.lanes = o.panels[d.Type], o.lanes
	c.pack(w, d)
	return w
}

func (c *CPU) loadGroups(g *Groups) *integerWeight {
	f := newGroupFormat(g)
	if f == nil {
		return nil
	}
	w := &integerWeight{format: f, rows: g.Rows, units: g.Cols / (32 * f.blocks), lanes: 1}
	w.rowLen = w.units * f.bytes
	if o := c.ops.integer; o != nil {
		loop := o.groups[storedBits(g.Bits)]
		w.lanes = o.lanes
		w.loop = func(c *float32, x, panel *byte, rows, units int) { loop(c, x, panel, rows, units, f.blocks) }
	}
	c.pack(w, &groupUnits{g, f})
	return w
}

// integer multiplies by integer products.
func (c *CPU) integer(dst, x *Tensor, w *integerWeight) {
	q := &c.quantized
	q.rows, q.blocks = x.Rows, x.Cols/32
	if n := q.rows * q.blocks; cap(q.records) < n {
		q.records = make([]record, n)
	} else {
		q.records = q.records[:n]
	}
	j := &c.jobs
	j.quantize = quantizeTask{e: c.engine, x: x, q: q, offset: w.format.offset}
	if x.Rows <= maxQuantizeAlone {
		for row := range x.Rows {
			j.quantize.run(0, row)
		}
	} else {
		c.pool.run(x.Rows, &j.quantize)
	}
	step := integerStep(w, x.Rows)
	j.integer = integerProduct{e: c.engine, dst: dst, x: q, w: w, step: step}
	c.pool.run(ceilDiv(ceilDiv(w.rows, w.lanes), step), &j.integer)
	j.quantize, j.integer = quantizeTask{}, integerProduct{}
}

// maxQuantizeAlone is how many rows are rounded sooner than a thread wakes.
const maxQuantizeAlone = 2

// integerStep is how many panels one part of a product takes: for few rows,
// enough memory to be worth a part.
func integerStep(w *integerWeight, rows int) int {
	const bytes, outs = 1 << 16, 64
	if rows > maxDotRows {
		return max(1, outs/w.lanes)
	}
	return max(1, bytes/(w.rowLen*w.lanes))
}

// quantizeTask rounds rows of x, one in each part.
type quantizeTask struct {
	e      *engine
	x      *Tensor
	q      *quantized
	offset int32
}

func (t *quantizeTask) run(_, row int) {
	first := row / integerTile * integerTile
	records, rows := t.q.tile(first)
	records = records[row-first:]
	if o := t.e.ops.integer; o != nil {
		o.quantize(recordBytes(records), &t.x.row(row)[0], t.q.blocks, rows*int(unsafe.Sizeof(record{})), t.offset)
		return
	}
	quantizePortable(records, t.x.row(row), rows, t.offset)
}

// recordBytes is the address of records for assembly.
func recordBytes(r []record) *byte { return (*byte)(unsafe.Pointer(&r[0])) }

// integerProduct multiplies all rows of x with step panels of w in each part.
type integerProduct struct {
	e    *engine
	dst  *Tensor
	x    *quantized
	w    *integerWeight
	step int
}

func (t *integerProduct) run(worker, part int) {
	w := t.w
	from := part * t.step * w.lanes
	to := min(w.rows, from+t.step*w.lanes)
	sums := floats(&t.e.scratch[worker].tile, integerTile*w.lanes)
	for first := 0; first < t.x.rows; first += integerTile {
		x, rows := t.x.tile(first)
		for out := from; out < to; out += w.lanes {
			tile := sums[:rows*w.lanes]
			clear(tile)
			if w.loop != nil {
				size := w.rowLen * w.lanes
				panel := w.data[out/w.lanes*size:][:size]
				w.loop(&tile[0], recordBytes(x), &panel[0], rows, w.units)
			} else {
				w.format.multiply(tile, x, w.data[out*w.rowLen:][:w.rowLen])
			}
			n := min(w.lanes, to-out)
			for r := range rows {
				copy(t.dst.row(first + r)[out:out+n], tile[r*w.lanes:])
			}
		}
	}
}
