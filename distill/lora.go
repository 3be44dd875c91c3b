package distill

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model/train"
)

// LoRA trains a product of two thin matrices for each linear, which is added to
// its weight, and leaves everything else alone (arXiv 2106.09685, section 4.1):
//
//	W + 2 B A,  B [out, rank],  A [rank, in]
//
// A begins random and B with zeros, so that the network begins as it is.
type LoRA struct {
	dev    *kernels.CPU
	layers []adapter
	vars   []*Variable
}

type adapter struct {
	p    *train.Param
	a, b *Variable
	rank int
}

// loraScale is the paper's alpha over the rank.
const loraScale = 2

// NewLoRA returns the form in which adapters of a rank are trained for all
// linears of the blocks.
func NewLoRA(dev *kernels.CPU, params []*train.Param, rank int, seed uint64) (*LoRA, error) {
	l := &LoRA{dev: dev}
	rng := rand.New(rand.NewPCG(seed, 0x6c6f7261))
	for _, p := range params {
		if !isMatrix(p.ID) {
			continue // the gradients of vectors cost nothing
		}
		p.Frozen, p.Grad = true, nil
		if !p.ID.Role.IsLinear() {
			continue
		}
		if rank < 1 || rank > min(p.Rows, p.Cols) {
			return nil, fault.Usage("the rank of the adapters is %d, allowed are 1 to %d, the smaller side of %s", rank, min(p.Rows, p.Cols), p.ID)
		}
		a := make([]float32, rank*p.Cols)
		for i := range a {
			a[i] = float32(rng.NormFloat64() / math.Sqrt(float64(p.Cols)))
		}
		name := p.ID.String()
		layer := adapter{
			p: p, rank: rank,
			a: NewVariable(fmt.Sprintf("%s, A", name), a, make([]float32, len(a))),
			b: NewVariable(fmt.Sprintf("%s, B", name), make([]float32, p.Rows*rank), make([]float32, p.Rows*rank)),
		}
		layer.a.Decay, layer.b.Decay = true, true
		p.Effective = make([]float32, len(p.Value))
		p.Low = &train.LowRank{
			Rank: rank, Scale: loraScale, A: layer.a.Value, B: layer.b.Value, GradA: layer.a.Grad, GradB: layer.b.Grad,
		}
		l.layers = append(l.layers, layer)
		l.vars = append(l.vars, layer.a, layer.b)
	}
	return l, nil
}

// Variables implements Form.
func (l *LoRA) Variables() []*Variable { return l.vars }

// Gather implements Form: the network has added to the adapters' gradients.
func (l *LoRA) Gather() {}

// Refresh implements Form.
func (l *LoRA) Refresh(context.Context) error {
	for _, k := range l.layers {
		copy(k.p.Effective, k.p.Value)
		l.dev.Update(kernels.Update{
			Dst: kernels.NewBlock(k.p.Effective, k.p.Rows, k.p.Cols), Alpha: loraScale,
			A: kernels.NewBlock(k.b.Value, k.p.Rows, k.rank), B: kernels.NewBlock(k.a.Value, k.rank, k.p.Cols),
		})
	}
	return nil
}
