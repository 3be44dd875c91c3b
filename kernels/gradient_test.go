package kernels

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// attend64 is causal attention of one sequence as its definition has it, in
// float64, and the sum of its result times dy.
func attend64(q, k, v, dy []float64, n int, s AttentionSpec) float64 {
	total, d := 0.0, s.HeadDim
	for i := range n {
		first := 0
		if s.Window > 0 {
			first = max(0, i+1-s.Window)
		}
		for h := range s.Heads {
			query := q[(i*s.Heads+h)*d:][:d]
			kv := h / (s.Heads / s.KVHeads)
			sum, mixed := 0.0, 0.0
			for j := first; j <= i; j++ {
				dot, value := 0.0, 0.0
				for e := range d {
					dot += query[e] * k[(j*s.KVHeads+kv)*d+e]
					value += dy[(i*s.Heads+h)*d+e] * v[(j*s.KVHeads+kv)*d+e]
				}
				w := math.Exp(dot * float64(s.Scale))
				sum += w
				mixed += w * value
			}
			total += mixed / sum
		}
	}
	return total
}

func wide(v []float32) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}

// TestAttentionGrad compares some elements with central differences: one tile
// and several, heads that fit the panels and do not, windows, sequences that
// follow each other.
func TestAttentionGrad(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(3, 4))
		c := newCPU(2, o)
		defer c.Close()
		for _, f := range []struct {
			spec    AttentionSpec
			lengths []int
		}{
			{AttentionSpec{Heads: 2, KVHeads: 2, HeadDim: 6, Scale: 0.5}, []int{5, 1, 9}},
			{AttentionSpec{Heads: 4, KVHeads: 2, HeadDim: 32, Scale: 0.2}, []int{70, 150}},
			{AttentionSpec{Heads: 3, KVHeads: 1, HeadDim: 20, Scale: 0.3, Window: 40}, []int{133}},
		} {
			s, n := f.spec, 0
			for _, l := range f.lengths {
				n += l
			}
			q, dy := randomTensor(c, r, n, s.Heads*s.HeadDim), randomTensor(c, r, n, s.Heads*s.HeadDim)
			k, v := randomTensor(c, r, n, s.KVHeads*s.HeadDim), randomTensor(c, r, n, s.KVHeads*s.HeadDim)
			dq, dk, dv := randomTensor(c, r, n, q.Cols), randomTensor(c, r, n, k.Cols), randomTensor(c, r, n, k.Cols)
			c.AttentionGrad(dq, dk, dv, q, k, v, dy, f.lengths, s)
			for seq, from := 0, 0; seq < len(f.lengths); seq, from = seq+1, from+f.lengths[seq] {
				l := f.lengths[seq]
				part := func(t *Tensor) []float64 { return wide(t.Data[from*t.Cols : (from+l)*t.Cols]) }
				in := [][]float64{part(q), part(k), part(v)}
				for j, got := range [][]float64{part(dq), part(dk), part(dv)} {
					for range 12 {
						i, h := r.IntN(len(got)), 1e-4
						keep := in[j][i]
						in[j][i] = keep + h
						up := attend64(in[0], in[1], in[2], part(dy), l, s)
						in[j][i] = keep - h
						want := (up - attend64(in[0], in[1], in[2], part(dy), l, s)) / (2 * h)
						in[j][i] = keep
						if math.Abs(got[i]-want) > 2e-5*(1+math.Abs(want)) {
							t.Errorf("%+v, sequence %d: element %d of the gradient of operand %d is %g, want %g", s, seq, i, j, got[i], want)
						}
					}
				}
			}
		}
	})
}

// TestGateGrad compares every activation with central differences, and expects
// numbers far out to be numbers.
func TestGateGrad(t *testing.T) {
	act := map[Activation]func(float64) float64{
		SiLU:     func(x float64) float64 { return x / (1 + math.Exp(-x)) },
		GELUTanh: func(x float64) float64 { return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) },
		GELU:     func(x float64) float64 { return x / 2 * (1 + math.Erf(x/math.Sqrt2)) },
		ReLU:     func(x float64) float64 { return max(x, 0) },
	}
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(5, 6))
		c := newCPU(2, o)
		defer c.Close()
		for a, f := range act {
			gate, up, dy := randomTensor(c, r, 3, 37), randomTensor(c, r, 3, 37), randomTensor(c, r, 3, 37)
			copy(gate.Data, []float32{200, -200, 30, -30, 1e4, -1e4})
			dgate, dup := c.NewTensor(3, 37), c.NewTensor(3, 37)
			c.GateGrad(dgate, dup, gate, up, dy, a)
			for i, x := range wide(gate.Data) {
				const h = 1e-5
				u, y := float64(up.Data[i]), float64(dy.Data[i])
				wantGate, wantUp := (f(x+h)-f(x-h))/(2*h)*u*y, f(x)*y
				if math.Abs(float64(dgate.Data[i])-wantGate) > 1e-5*(1+math.Abs(wantGate)) || math.Abs(float64(dup.Data[i])-wantUp) > 1e-5*(1+math.Abs(wantUp)) {
					t.Errorf("activation %d at %g: gradients %g and %g, want %g and %g", a, x, dgate.Data[i], dup.Data[i], wantGate, wantUp)
				}
			}
			c.GateGrad(gate, dy, gate, up, dy, a)
			if !slices.Equal(gate.Data, dgate.Data) || !slices.Equal(dy.Data, dup.Data) {
				t.Errorf("activation %d: other gradients in place", a)
			}
		}
	})
}

// TestRowSums adds more rows than one part has, over what is there.
func TestRowSums(t *testing.T) {
	eachLevel(t, func(t *testing.T, o *ops) {
		r := rand.New(rand.NewPCG(7, 8))
		x := randomTensor(newCPU(1, o), r, 3*gradientRows+5, 19)
		got := make([][]float32, 3)
		for i, threads := range []int{1, 2, 7} {
			c := newCPU(threads, o)
			got[i] = slices.Repeat([]float32{1}, 19)
			c.AddRowSums(got[i], x)
			c.Close()
			if !slices.Equal(got[i], got[0]) {
				t.Errorf("%d threads give other sums", threads)
			}
		}
		for j, v := range got[0] {
			want := 1.0
			for i := range x.Rows {
				want += float64(x.row(i)[j])
			}
			if math.Abs(float64(v)-want) > 1e-4 {
				t.Errorf("column %d sums to %g, want %g", j, v, want)
			}
		}
	})
}
