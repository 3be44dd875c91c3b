package kernels

import "math"

// attentionGrad is the backward pass of causal attention. A part of the task is
// one key head of one sequence, which no other part writes to: it goes over tiles
// of its queries, computes their weights again, and with P the weights, dO the
// gradient of the result and D the sums of rows of P∘dO Vᵀ,
//
//	dS = P ∘ (dO Vᵀ - D)    dQ = scale dS K    dK = scale dSᵀ Q    dV = Pᵀ dO
//
// so that no matrix of positions by positions is ever held, but for one tile of
// rows in each worker.
type attentionGrad struct {
	e          *engine
	dq, dk, dv *Tensor
	q, k, v    *Tensor
	dy         *Tensor
	spec       AttentionSpec
	starts     []int // the first row of every sequence, and the end
}

// gradientTile is how many queries are worked on at a time.
const gradientTile = 64

// gradientTiles is one worker's memory of an attentionGrad. A head's keys and
// values are held in panels, both to be multiplied along positions and along
// elements.
type gradientTiles struct {
	keys, values    []float32 // panels of Kᵀ and Vᵀ: [positions/nr, headDim, nr]
	keyRows         []float32 // panels of K: [headDim/nr, positions, nr]
	weights, slopes []float32 // P and dS of a tile [gradientTile, width]
	turned          []float32 // one of them, transposed [width, gradientTile]
	rows            []float32 // panels of queries or of dO [headDim/nr, gradientTile, nr]
	edge            []float32 // a tile of the product that does not fit
}

// AttentionGrad is the backward pass of [Device.Attention] over whole sequences
// that follow each other in the rows of all tensors and begin at position 0:
// lengths gives the number of rows of each. It sets dq, dk and dv to the
// gradients with respect to q, k and v, given dy, that with respect to the
// result. The tensors must not overlap. A cap on logits is not supported.
func (c *CPU) AttentionGrad(dq, dk, dv, q, k, v, dy *Tensor, lengths []int, spec AttentionSpec) {
	mustEqual("AttentionGrad", q.Cols, spec.Heads*spec.HeadDim)
	mustEqual("AttentionGrad", k.Cols, spec.KVHeads*spec.HeadDim)
	if spec.SoftCap > 0 {
		panic("kernels: AttentionGrad: a cap on logits is not supported")
	}
	t := &attentionGrad{e: c.engine, dq: dq, dk: dk, dv: dv, q: q, k: k, v: v, dy: dy, spec: spec, starts: []int{0}}
	for i, n := range lengths {
		t.starts = append(t.starts, t.starts[i]+n)
	}
	for _, m := range []*Tensor{dq, dk, dv, q, k, v, dy} {
		mustEqual("AttentionGrad", m.Rows, t.starts[len(lengths)])
	}
	c.pool.run(len(lengths)*spec.KVHeads, t)
}

func (t *attentionGrad) run(worker, part int) {
	head, d := part%t.spec.KVHeads, t.spec.HeadDim
	top := t.starts[part/t.spec.KVHeads]
	n := t.starts[part/t.spec.KVHeads+1] - top
	at := func(m *Tensor, head int) Block {
		return Block{m.Data, m.Rows, m.Cols, m.Cols}.Slice(top, top+n, head*d, (head+1)*d)
	}
	s := &t.e.scratch[worker].gradient
	k, v, dk, dv := at(t.k, head), at(t.v, head), at(t.dk, head), at(t.dv, head)
	for i := range n {
		clear(dk.Row(i))
		clear(dv.Row(i))
	}
	t.e.panelsOf(&s.keys, k)
	t.e.panelsOf(&s.values, v)
	t.e.rowPanels(&s.keyRows, k)
	group := t.spec.Heads / t.spec.KVHeads
	for h := head * group; h < (head+1)*group; h++ {
		q, dy, dq := at(t.q, h), at(t.dy, h), at(t.dq, h)
		for from := 0; from < n; from += gradientTile {
			to := min(from+gradientTile, n)
			t.tile(s, from, q.Slice(from, to, 0, d), dy.Slice(from, to, 0, d), dq.Slice(from, to, 0, d), dk, dv)
		}
	}
}

// tile does the queries from position from on.
func (t *attentionGrad) tile(s *gradientTiles, from int, q, dy, dq, dk, dv Block) {
	d, nr := t.spec.HeadDim, t.e.ops.nr
	rows, seen := q.Rows, from+q.Rows
	first := 0 // position that the tile's first row sees
	if t.spec.Window > 0 {
		first = max(0, from+1-t.spec.Window) / nr * nr
	}
	width := ceilDiv(seen-first, nr) * nr
	weights, slopes := floats(&s.weights, rows*width), floats(&s.slopes, rows*width)
	p := Block{weights, rows, seen - first, width}
	ds := Block{slopes, rows, seen - first, width}
	t.e.timesPanels(p, q, s.keys[first*d:], false, s)
	t.e.timesPanels(ds, dy, s.values[first*d:], false, s)
	for i := range rows {
		t.softmaxGrad(weights[i*width:][:width], slopes[i*width:][:width], from+i-first)
	}
	for i := range rows {
		clear(dq.Row(i))
	}
	for j := 0; j < d; j += nr { // the panels of K from position first on
		panel := s.keyRows[(j*dk.Rows)+first*nr:]
		t.e.timesPanels(dq.Slice(0, rows, j, min(j+nr, d)), ds, panel, true, s)
	}
	t.addTurned(s, dk.Slice(first, seen, 0, d), ds, q)
	t.addTurned(s, dv.Slice(first, seen, 0, d), p, dy)
}

// softmaxGrad turns the scores of one row into weights and the products dO Vᵀ
// into dS times the scale of the scores. The row stands at index at and sees what
// its window allows. Both rows are whole panels.
func (t *attentionGrad) softmaxGrad(p, ds []float32, at int) {
	o, lo := t.e.ops, 0
	if t.spec.Window > 0 {
		lo = max(0, at+1-t.spec.Window)
	}
	clear(p[:lo])
	clear(ds[:lo])
	// Up to the end of a panel, so that loops go over whole vectors, positions
	// after the row's own get logits that make no weight.
	end := ceilDiv(at+1, o.nr) * o.nr
	clear(p[end:])
	clear(ds[end:])
	for j := at + 1; j < end; j++ {
		p[j], ds[j] = float32(math.Inf(-1)), 0
	}
	p, ds = p[lo:end], ds[lo:end]
	total := o.expSum(p, t.spec.Scale, o.largest(p)*t.spec.Scale)
	o.scale(p, float32(1/total))
	o.softmaxGrad(ds, p, o.dot(p, ds), t.spec.Scale)
}

// softmaxGradPortable sets dp to p*(dp-dot)*s.
func softmaxGradPortable(dp, p []float32, dot, s float32) {
	p = p[:len(dp)]
	for i, v := range p {
		dp[i] = v * (dp[i] - dot) * s
	}
}

// addTurned adds aᵀ b to c: a [rows, positions], b [rows, headDim].
func (t *attentionGrad) addTurned(s *gradientTiles, c, a, b Block) {
	turned := floats(&s.turned, a.Cols*gradientTile)
	t.e.ops.turn(turned, gradientTile, a.Data, a.Stride, a.Rows, a.Cols)
	t.e.rowPanels(&s.rows, b)
	t.e.timesPanels(c, Block{turned, a.Cols, a.Rows, gradientTile}, s.rows, true, s)
}

// panelsOf packs the transpose of b [n, k] into panels [n/nr, k, nr].
func (e *engine) panelsOf(buf *[]float32, b Block) {
	nr := e.ops.nr
	panels := floats(buf, ceilDiv(b.Rows, nr)*nr*b.Cols)
	for i := 0; i < b.Rows; i += nr {
		e.ops.panel(panels[i*b.Cols:], b.Data[i*b.Stride:], b.Stride, min(nr, b.Rows-i), b.Cols)
	}
}

// rowPanels packs b [k, n] into panels [n/nr, k, nr], with zeros after the last
// column.
func (e *engine) rowPanels(buf *[]float32, b Block) {
	nr := e.ops.nr
	panels := floats(buf, ceilDiv(b.Cols, nr)*nr*b.Rows)
	for j := 0; j < b.Cols; j += nr {
		n := min(nr, b.Cols-j)
		for p := range b.Rows {
			to := panels[j*b.Rows+p*nr:][:nr]
			clear(to[copy(to, b.Row(p)[j:][:n]):])
		}
	}
}

// timesPanels sets c [m, n] to a [m, k] times panels [n/nr, k, nr], or adds that.
func (e *engine) timesPanels(c, a Block, panels []float32, accumulate bool, s *gradientTiles) {
	o := e.ops
	for j := 0; j < c.Cols; j += o.nr {
		n, panel := min(o.nr, c.Cols-j), panels[j*a.Cols:]
		for i := 0; i < c.Rows; i += o.mr {
			rows := min(o.mr, c.Rows-i)
			to := c.Data[i*c.Stride+j:]
			if n == o.nr {
				o.micro(rows, a.Cols, a.Data[i*a.Stride:], a.Stride, panel, to, c.Stride, accumulate)
				continue
			}
			edge := floats(&s.edge, rows*o.nr)
			o.micro(rows, a.Cols, a.Data[i*a.Stride:], a.Stride, panel, edge, o.nr, false)
			for r := range rows {
				if accumulate {
					o.add(to[r*c.Stride:][:n], edge[r*o.nr:][:n])
				} else {
					copy(to[r*c.Stride:][:n], edge[r*o.nr:][:n])
				}
			}
		}
	}
}
