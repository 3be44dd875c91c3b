package kernels

// Strip holds columns of a few rows of a matrix with the rows side by side:
// column p is one number of each row. A recurrence along the columns, which no
// vector can shorten, so becomes one of vectors over the rows.
type Strip struct {
	ops   *ops
	width int
	data  []float32 // [columns, width]
}

// StripRows is how many rows a [Strip] holds.
func (c *CPU) StripRows() int { return c.ops.nr }

// NewStrip returns a strip of zeros. Several goroutines may use strips of one
// CPU at once, each its own.
func (c *CPU) NewStrip(columns int) *Strip {
	return &Strip{c.ops, c.ops.nr, alignedFloats(columns * c.ops.nr)}
}

// Col returns column p, a number for each of the strip's rows.
func (s *Strip) Col(p int) []float32 { return s.data[p*s.width:][:s.width:s.width] }

// Load sets the first columns to a block of at most StripRows rows, with zeros
// for the rows that it lacks.
func (s *Strip) Load(b Block) {
	if b.Rows < s.width {
		clear(s.data[:b.Cols*s.width])
	}
	s.ops.turn(s.data, s.width, b.Data, b.Stride, b.Rows, b.Cols)
}

// Store sets a block of at most StripRows rows to the first columns.
func (s *Strip) Store(b Block) {
	s.ops.turn(b.Data, b.Stride, s.data, s.width, b.Cols, b.Rows)
}

// AddProducts adds to column at+p, for each row p of f, the first columns k of x
// times f.Row(p)[k].
func (s *Strip) AddProducts(at int, x *Strip, f Block) {
	if f.Cols == 0 {
		return
	}
	for p := 0; p < f.Rows; p += s.ops.mr {
		rows := min(s.ops.mr, f.Rows-p)
		s.ops.micro(rows, f.Cols, f.Slice(p, p+rows, 0, f.Cols).Data, f.Stride, x.data, s.data[(at+p)*s.width:], s.width, true)
	}
}

// Copy sets the first n columns to those of x from at on.
func (s *Strip) Copy(x *Strip, at, n int) { copy(s.data[:n*s.width], x.data[at*s.width:]) }

// Put sets n columns from at on to the first of x.
func (s *Strip) Put(at int, x *Strip, n int) { copy(s.data[at*s.width:][:n*s.width], x.data) }

// Clear sets all columns to zero.
func (s *Strip) Clear() { clear(s.data) }
