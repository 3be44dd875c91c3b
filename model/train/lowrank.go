package train

import "llmc/kernels"

// LowRank is a product of two thin matrices that is added to a weight which stays
// as it is:
//
//	W + Scale B A,  B [rows, rank], A [rank, cols]
//
// Whoever trains it sets Param.Effective to that sum.
type LowRank struct {
	Rank         int
	Scale        float32
	A, B         []float32
	GradA, GradB []float32
}

// AddGrad adds the gradients of y = x (W + Scale B A)ᵀ by A and B to GradA and
// GradB, x [n, cols] and dy [n, rows]: Scale (dy B)ᵀ x and Scale dyᵀ (x Aᵀ). That
// of W, which would be a third of all work of a step, is never computed.
func (l *LowRank) AddGrad(dev *kernels.CPU, x, dy *kernels.Tensor) {
	block := func(t *kernels.Tensor) kernels.Block { return kernels.NewBlock(t.Data, t.Rows, t.Cols) }
	a, b := kernels.NewBlock(l.A, l.Rank, x.Cols), kernels.NewBlock(l.B, dy.Cols, l.Rank)
	thin := dev.NewTensor(x.Rows, l.Rank)
	defer dev.Free(thin)
	dev.Update(kernels.Update{Dst: block(thin), Alpha: 1, A: block(x), B: a, TransB: true})
	dev.Update(kernels.Update{Dst: kernels.NewBlock(l.GradB, dy.Cols, l.Rank), Alpha: l.Scale, A: block(dy), TransA: true, B: block(thin)})
	clear(thin.Data)
	dev.Update(kernels.Update{Dst: block(thin), Alpha: 1, A: block(dy), B: b})
	dev.Update(kernels.Update{Dst: kernels.NewBlock(l.GradA, l.Rank, x.Cols), Alpha: l.Scale, A: block(thin), TransA: true, B: block(x)})
}
