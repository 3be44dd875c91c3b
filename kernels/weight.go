package kernels

// weight is a Weight of the CPU: a matrix and what was found out about it.
type weight struct {
	rows, cols int
	ops        *ops
	matrix     Matrix         // nil for a copied weight, so that its memory can be freed
	floats     []float32      // the numbers, if they can be used where they lie
	dense      *Dense         // the matrix, if it is one of a format with loops
	loops      *loops         // of dense
	groups     *Groups        // the matrix, if it is one that codes can read
	codes      *codeLoops     // of groups; of their codes as bytes if there are none for their bits
	part       columnReader   // the matrix, if it can read a part of a row
	integer    *integerWeight // the matrix for integer products, if they are asked for
}

// Copied reports whether MatMul reads a copy of the matrix.
func (w *weight) Copied() bool { return w.integer != nil && w.integer.loop != nil }

// Shape returns the number of rows (outputs) and columns (inputs).
func (w *weight) Shape() (rows, cols int) { return w.rows, w.cols }

// LoadTable makes a weight ready for Embed. m's memory must stay valid as long
// as the weight is used.
func (c *CPU) LoadTable(m Matrix) Weight {
	rows, cols := m.Shape()
	return &weight{rows: rows, cols: cols, matrix: m}
}

// Load makes a weight ready for MatMul. Nothing is copied but packed weights
// for fast products; else m's memory must stay valid as long as the weight is
// used.
func (c *CPU) Load(m Matrix) Weight {
	rows, cols := m.Shape()
	w := &weight{rows: rows, cols: cols}
	if c.compute == Fast {
		w.integer = c.loadInteger(m)
	}
	if !w.Copied() {
		c.view(w, m)
	}
	return w
}

// view makes w a weight that reads m where it lies.
func (c *CPU) view(w *weight, m Matrix) {
	w.matrix, w.ops = m, c.ops
	w.part, _ = m.(columnReader)
	switch m := m.(type) {
	case *Dense:
		w.floats = m.float32s()
		if w.loops = c.ops.formats[m.Type]; w.loops != nil {
			w.dense = m
		}
	case *Groups:
		// Pairs of 4-bit codes must not straddle groups.
		if m.GroupOf == nil && (m.Bits != 4 || m.GroupSize%2 == 0 || m.GroupSize >= w.cols) {
			w.groups = m
			w.codes = c.ops.codes[m.Bits]
			if w.codes == nil {
				w.codes = c.ops.codes[8]
			}
		}
	}
}

// row returns the numbers of row r, in scratch memory unless they can be used
// where they lie.
func (w *weight) row(s *scratch, r int) []float32 {
	if w.floats != nil {
		return w.floats[r*w.cols:][:w.cols]
	}
	row := floats(&s.row, w.cols)
	w.columns(s, row, r, 0)
	return row
}

// columns dequantizes columns from on of row r; see columnReader.
func (w *weight) columns(s *scratch, dst []float32, r, from int) {
	switch {
	case w.loops != nil && w.loops.unpack != nil:
		n := len(dst) / w.loops.values
		if n > 0 {
			src := w.dense.bytes(r, from, len(dst))
			w.loops.unpack(&dst[0], &src[0], n)
		}
		if at := n * w.loops.values; at < len(dst) {
			w.dense.columns(dst[at:], r, from+at)
		}
	case w.codes != nil:
		w.codeColumns(dst, r, from)
	case w.part != nil:
		w.part.columns(dst, r, from)
	default:
		whole := floats(&s.tile, w.cols)
		w.matrix.Row(whole, r)
		copy(dst, whole[from:])
	}
}

// fused sets columns [first, first+n) of dst to the dot products of rows from
// i on of x and n rows of the weight, without the numbers of these leaving
// registers, and returns how many rows of x that were; 0 where it cannot be done.
func (w *weight) fused(dst, x *Tensor, s *scratch, i, first, n int) int {
	switch {
	case w.loops != nil:
		return w.fusedDense(dst, x, s, i, first, n)
	case w.codes != nil && w.codes.bits == w.groups.Bits && w.fusedCodes(dst.row(i)[first:][:n], x.row(i), first):
		return 1
	}
	return 0
}

func (w *weight) fusedDense(dst, x *Tensor, s *scratch, i, first, n int) int {
	batch := 1
	if w.loops.batch != nil && x.Rows-i >= batchRows {
		batch = batchRows
	}
	to := dst.Data[i*dst.Cols+first:]
	_ = to[(batch-1)*dst.Cols+n-1]
	src, stride := w.dense.bytes(first, 0, w.cols), len(w.dense.Data)/w.rows
	_ = w.dense.Data[(first+n)*stride-1]
	units := w.cols / w.loops.values
	switch {
	case units == 0:
		for b := range batch {
			clear(to[b*dst.Cols:][:n])
		}
	case batch > 1:
		w.batchDense(to, dst.Cols, x.Data[i*x.Cols:][:batch*x.Cols], s, src, n)
	default:
		w.loops.dots(&to[0], &x.row(i)[0], &src[0], units, n, stride)
	}
	at := units * w.loops.values
	if at == w.cols {
		return batch
	}
	var buf [32]float32 // only scalar types have a rest, shorter than a vector
	rest := buf[:w.cols-at]
	for r := range n {
		w.dense.columns(rest, first+r, at)
		for b := range batch {
			to[b*dst.Cols+r] += dotPortable(x.row(i + b)[at:], rest)
		}
	}
	return batch
}

// symmetric holds the zero point of codes of each width.
var symmetric = [9]uint8{2: 2, 3: 4, 4: 8, 5: 16, 6: 32, 7: 64, 8: 128}

// scales returns the scales and zero points of row r, and how far zero points
// of consecutive groups are apart.
func (g *Groups) scales(r int) (scales []float32, zeros []uint8, step int) {
	n := g.Groups()
	scales = g.Scales[r*n:][:n]
	if g.Zeros == nil {
		return scales, symmetric[g.Bits:], 0
	}
	return scales, g.Zeros[r*n:][:n], 1
}

func (w *weight) fusedCodes(dst, x []float32, first int) bool {
	g := w.groups
	size := min(g.GroupSize, g.Cols)
	if size%w.codes.values != 0 || g.Cols%size != 0 {
		return false
	}
	n := g.CodeBytes()
	for i := range dst {
		scales, zeros, step := g.scales(first + i)
		codes := g.Codes[(first+i)*n:][:n]
		dst[i] = w.codes.dot(&x[0], &codes[0], &scales[0], &zeros[0], step, g.Cols/size, size/w.codes.values)
	}
	return true
}

// codeColumns dequantizes the columns of each group with its scale.
func (w *weight) codeColumns(dst []float32, r, from int) {
	g := w.groups
	scales, zeros, step := g.scales(r)
	row := g.Codes[r*g.CodeBytes():][:g.CodeBytes()]
	var unpacked [columnStep]uint8
	for len(dst) > 0 {
		n := min(len(dst), columnStep)
		codes := row[from*g.Bits/8:]
		if w.codes.bits != g.Bits {
			codes = unpacked[:n]
			g.unpack(codes, r, from)
		}
		for i := 0; i < n; {
			group := (from + i) / g.GroupSize
			end := min(n, (group+1)*g.GroupSize-from)
			w.codes.scale(dst[i:end], codes[i*w.codes.bits/8:], zeros[group*step], scales[group])
			i = end
		}
		dst, from = dst[n:], from+n
	}
}

// scale sets dst to (code-zero)*scale.
func (c *codeLoops) scale(dst []float32, codes []byte, zero uint8, scale float32) {
	n := len(dst) / c.lanes
	if n > 0 {
		c.unpack(&dst[0], &codes[0], n, float32(zero), scale)
	}
	for i := n * c.lanes; i < len(dst); i++ {
		dst[i] = scale * float32(int32(codeAt(codes, i*c.bits, c.bits))-int32(zero))
	}
}
