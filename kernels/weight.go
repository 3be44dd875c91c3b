package kernels

// weight is a Weight of the CPU: a matrix and what was found out about it.
type weight struct {
	Matrix
	rows, cols int
	part       columnReader // the matrix, if it can read a part of a row
	dense      *Dense       // the matrix, if it is one with loops of its own
	loops      *loops       // of dense; nil otherwise
	floats     []float32    // the numbers, if they can be used where they lie
}

// Load makes a weight ready for MatMul and Embed. Nothing is copied: m's
// memory must stay valid as long as the weight is used.
func (c *CPU) Load(m Matrix) Weight {
	rows, cols := m.Shape()
	w := &weight{Matrix: m, rows: rows, cols: cols}
	w.part, _ = m.(columnReader)
	if d, ok := m.(*Dense); ok {
		w.floats = d.float32s()
		if w.loops = c.ops.formats[d.Type]; w.loops != nil {
			w.dense = d
		}
	}
	return w
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
		src := w.dense.bytes(r, from, len(dst))
		n := len(dst) / w.loops.values
		if n > 0 {
			w.loops.unpack(&dst[0], &src[0], n)
		}
		if at := n * w.loops.values; at < len(dst) {
			w.dense.columns(dst[at:], r, from+at)
		}
	case w.part != nil:
		w.part.columns(dst, r, from)
	default:
		whole := floats(&s.tile, w.cols)
		w.Row(whole, r)
		copy(dst, whole[from:])
	}
}

// fused sets dst[r] to the dot product of x and row first+r, without the
// dequantized numbers leaving registers.
func (w *weight) fused(dst, x []float32, first int) {
	n := w.cols / w.loops.values
	if n > 0 {
		src := w.dense.bytes(first, 0, w.cols)
		stride := len(src)
		_ = w.dense.Data[(first+len(dst))*stride-1]
		w.loops.dots(&dst[0], &x[0], &src[0], n, len(dst), stride)
	} else {
		clear(dst)
	}
	at := n * w.loops.values
	if at == w.cols {
		return
	}
	var buf [32]float32 // only scalar types have a rest, shorter than a vector
	rest := buf[:w.cols-at]
	for r := range dst {
		w.dense.columns(rest, first+r, at)
		dst[r] += dotPortable(x[at:], rest)
	}
}
