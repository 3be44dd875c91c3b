package kernels

// Dot products of a few rows of x at once: weights are unpacked once for four of
// them. Columns are taken in parts, since that many whole rows would not stay in
// the first cache level while rows of the weight go past; the partial sums wait
// in the second one meanwhile. Each row's sums are those of the row alone.

// batchNumbers is how many numbers of x a part has, of all its rows: half of the
// first cache level. The columns are then a multiple of what a round of partial
// sums takes in every format.
const batchNumbers = 4096

// batchRows is how many rows of x are multiplied at once.
const batchRows = 4

// batchDense sets to[b*ldd+r] to the dot product of row b of x [batchRows, cols] and
// row r of src, for r < n.
func (w *weight) batchDense(to []float32, ldd int, x []float32, s *scratch, src []byte, n int) {
	vector := w.ops.lanes * partialSums
	sums := floats(&s.tile, n*batchRows*(vector+1))
	totals, sums := sums[:n*batchRows], sums[n*batchRows:]
	clear(sums)
	units, step := w.cols/w.loops.values, batchNumbers/batchRows/w.loops.values
	stride := len(src)
	unitBytes := stride / (w.cols / w.dense.Type.BlockSize()) * w.loops.values / w.dense.Type.BlockSize()
	for u := 0; u < units; u += step {
		w.loops.batch(&sums[0], &x[u*w.loops.values], &src[u*unitBytes], min(step, units-u), n, stride, w.cols)
	}
	w.ops.totals(&totals[0], &sums[0], n*batchRows)
	for r := range n {
		for b := range batchRows {
			to[b*ldd+r] = totals[r*batchRows+b]
		}
	}
}
