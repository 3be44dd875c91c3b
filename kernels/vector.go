package kernels

import "math"

// rowTask runs one of the row-wise operations on ranges of rows.
type rowTask struct {
	e      *engine
	op     func(t *rowTask, row int)
	rows   int
	step   int // rows of one part
	dst    *Tensor
	x, y   *Tensor
	act    Activation
	s      float32
	angles *angles
	rope   *Rope
	size   int
	table  Matrix
	ids    []int32
	scales []float32

	rounding Rounding
}

// partElements is about how many elements one part of a row-wise task has:
// some microseconds of work.
const partElements = 1 << 14

func (t *rowTask) run(_, part int) {
	for row := part * t.step; row < min(t.rows, (part+1)*t.step); row++ {
		t.op(t, row)
	}
}

// forRows runs op for all rows, which have the given number of elements.
func (c *CPU) forRows(rows, elements int, job rowTask) {
	job.e, job.rows = c.engine, rows
	job.step = max(1, partElements/max(1, elements))
	c.jobs.rows = job
	c.pool.run((rows+job.step-1)/job.step, &c.jobs.rows)
	c.jobs.rows = rowTask{}
}

// Embed sets row i of dst to row ids[i] of table.
func (c *CPU) Embed(dst *Tensor, table Weight, ids []int32) {
	w := table.(*weight)
	mustEqual("Embed", dst.Rows, len(ids))
	mustEqual("Embed", dst.Cols, w.cols)
	c.forRows(dst.Rows, dst.Cols, rowTask{dst: dst, table: w.matrix, ids: ids, op: func(t *rowTask, i int) {
		t.table.Row(t.dst.row(i), int(t.ids[i]))
	}})
}

// Select sets row i of dst to row rows[i] of x.
func (c *CPU) Select(dst, x *Tensor, rows []int32) {
	mustEqual("Select", dst.Rows, len(rows))
	mustEqual("Select", dst.Cols, x.Cols)
	c.forRows(dst.Rows, dst.Cols, rowTask{dst: dst, x: x, ids: rows, op: func(t *rowTask, i int) {
		copy(t.dst.row(i), t.x.row(int(t.ids[i])))
	}})
}

// AddRows adds row i of x, multiplied by scale[i], to row rows[i] of dst. No row
// is there twice.
func (c *CPU) AddRows(dst, x *Tensor, rows []int32, scale []float32) {
	mustEqual("AddRows", x.Rows, len(rows))
	mustEqual("AddRows", x.Rows, len(scale))
	mustEqual("AddRows", x.Cols, dst.Cols)
	c.forRows(x.Rows, x.Cols, rowTask{dst: dst, x: x, ids: rows, scales: scale, op: func(t *rowTask, i int) {
		t.e.ops.addScaled(t.dst.row(int(t.ids[i])), t.x.row(i), t.scales[i])
	}})
}

// Add adds x to dst: the same shape, or one row added to every row.
func (c *CPU) Add(dst, x *Tensor) {
	mustEqual("Add", x.Cols, dst.Cols)
	if x.Rows != 1 {
		mustEqual("Add", x.Rows, dst.Rows)
	}
	c.forRows(dst.Rows, dst.Cols, rowTask{dst: dst, x: x, op: func(t *rowTask, i int) {
		from := i
		if t.x.Rows == 1 {
			from = 0
		}
		t.e.ops.add(t.dst.row(i), t.x.row(from))
	}})
}

// Scale multiplies every element of x by s.
func (c *CPU) Scale(x *Tensor, s float32) {
	c.forRows(x.Rows, x.Cols, rowTask{x: x, s: s, op: func(t *rowTask, i int) {
		t.e.ops.scale(t.x.row(i), t.s)
	}})
}

// SoftCap sets every element of x to limit*tanh(x/limit).
func (c *CPU) SoftCap(x *Tensor, limit float32) {
	c.forRows(x.Rows, x.Cols, rowTask{x: x, s: limit, op: func(t *rowTask, i int) {
		softCap(t.x.row(i), t.s)
	}})
}

func softCap(x []float32, limit float32) {
	for i, v := range x {
		x[i] = limit * float32(math.Tanh(float64(v/limit)))
	}
}

// RMSNorm normalizes every run of weight.Cols elements of x by its root mean
// square and multiplies by weight [1, n] (arXiv 1910.07467). n is x.Cols, or a
// divisor of it: then each head is normalized by itself. dst may be x. The
// squares are summed in float64.
func (c *CPU) RMSNorm(dst, x, weight *Tensor, eps float32) {
	mustEqual("RMSNorm", dst.Rows, x.Rows)
	mustEqual("RMSNorm", dst.Cols, x.Cols)
	mustEqual("RMSNorm", x.Cols%weight.Cols, 0)
	c.forRows(x.Rows, x.Cols, rowTask{dst: dst, x: x, y: weight, s: eps, op: func(t *rowTask, i int) {
		dst, x, w := t.dst.row(i), t.x.row(i), t.y.Data
		for n := len(w); len(x) > 0; dst, x = dst[n:], x[n:] {
			mean := t.e.ops.sumSquares(x[:n]) / float64(n)
			t.e.ops.normalize(dst[:n], x, w, float32(1/math.Sqrt(mean+float64(t.s))))
		}
	}})
}

// Gate sets dst to act(gate) * up, elementwise. dst may be gate or up.
func (c *CPU) Gate(dst, gate, up *Tensor, act Activation) {
	mustEqual("Gate", len(gate.Data), len(dst.Data))
	mustEqual("Gate", len(up.Data), len(dst.Data))
	c.forRows(dst.Rows, dst.Cols, rowTask{dst: dst, x: gate, y: up, act: act, op: func(t *rowTask, i int) {
		t.e.ops.gate[t.act](t.dst.row(i), t.x.row(i), t.y.row(i))
	}})
}

// Rotate applies rotary position embedding (arXiv 2104.09864) to every head of
// headDim elements of x; row i is at position start+i. Angles are computed in
// float64, their sines and cosines rounded to float32.
func (c *CPU) Rotate(x *Tensor, headDim int, rope *Rope, start int) {
	mustEqual("Rotate", x.Cols%headDim, 0)
	a := c.anglesFor(rope, start, x.Rows)
	c.forRows(x.Rows, x.Cols, rowTask{x: x, size: headDim, rope: rope, angles: a, op: func(t *rowTask, i int) {
		row, n := t.x.row(i), t.angles.n
		cos, sin := t.angles.cos[i*n:][:n], t.angles.sin[i*n:][:n]
		for ; len(row) > 0; row = row[t.size:] {
			if t.rope.Interleaved {
				t.e.ops.rotatePairs(row[:n], cos, sin)
			} else {
				t.e.ops.rotate(row[:n], row[n:2*n], cos, sin)
			}
		}
	}})
}

// angles are the cosines and sines of consecutive positions. Every block of a
// model rotates by the same ones, so the last are kept.
type angles struct {
	start, rows int
	n           int // numbers of a row: one for each pair of a head, or two for interleaved pairs
	cos, sin    []float32
}

// maxAngles is for how many ropes angles are kept: two for most models.
const maxAngles = 8

func (e *engine) anglesFor(rope *Rope, start, rows int) *angles {
	a := e.angles[rope]
	if a == nil {
		if len(e.angles) == maxAngles {
			clear(e.angles)
		}
		a = &angles{}
		e.angles[rope] = a
	}
	if a.start == start && a.rows >= rows {
		return a
	}
	repeat := 1
	if rope.Interleaved {
		repeat = 2
	}
	a.start, a.rows, a.n = start, rows, repeat*len(rope.InvFreq)
	cos, sin := floats(&a.cos, rows*a.n)[:0], floats(&a.sin, rows*a.n)[:0]
	for i := range rows {
		for _, freq := range rope.InvFreq {
			s, c := math.Sincos(float64(start+i) * freq)
			for range repeat {
				cos = append(cos, float32(c*rope.Scale))
				sin = append(sin, float32(s*rope.Scale))
			}
		}
	}
	return a
}
