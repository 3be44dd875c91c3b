package export

import (
	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
)

// rowOrder returns which row of the source each row of the output is, nil when
// they are the same. GGUF's llama family rotates neighbouring elements of a
// head, Hugging Face the first half with the second, so the rows of q and k
// trade places within each head.
func rowOrder(c *model.Config, id model.ID, from, to formats.Kind) []int {
	if from == to || !c.Family.PermutedQK {
		return nil
	}
	heads := c.Heads
	switch id.Role {
	case model.Q:
	case model.K:
		heads = c.KVHeads
	default:
		return nil
	}
	order := make([]int, heads*c.HeadDim)
	half := c.HeadDim / 2
	for head := range heads {
		start := head * c.HeadDim
		for j := range half {
			for part := range 2 {
				apart, interleaved := start+part*half+j, start+2*j+part
				if to == formats.GGUF {
					order[interleaved] = apart
				} else {
					order[apart] = interleaved
				}
			}
		}
	}
	return order
}

// reorder returns the matrix whose row r is row order[r] of m, in m's own
// numbers: only stored bytes move.
func reorder(m kernels.Matrix, order []int) kernels.Matrix {
	if order == nil {
		return m
	}
	switch m := m.(type) {
	case *kernels.Dense:
		return &kernels.Dense{Rows: m.Rows, Cols: m.Cols, Type: m.Type, Data: gather(m.Data, order)}
	case *kernels.Groups:
		out := *m
		out.Codes = gather(m.Codes, order)
		out.Scales = gather(m.Scales, order)
		out.Zeros = gather(m.Zeros, order)
		return &out
	case *kernels.Float8:
		if m.High == 1 || m.High == m.Rows {
			out := *m
			out.Codes = gather(m.Codes, order)
			if m.High == 1 {
				out.Scales = gather(m.Scales, order)
			}
			return &out
		}
	}
	return permuted{m, order}
}

// gather returns the len(order) equal parts of data in another order.
func gather[T any](data []T, order []int) []T {
	if data == nil {
		return nil
	}
	size := len(data) / len(order)
	out := make([]T, 0, len(data))
	for _, r := range order {
		out = append(out, data[r*size:(r+1)*size]...)
	}
	return out
}

// permuted is any other matrix with its rows in another order.
type permuted struct {
	kernels.Matrix
	order []int
}

// Row implements kernels.Matrix.
func (p permuted) Row(dst []float32, r int) { p.Matrix.Row(dst, p.order[r]) }
