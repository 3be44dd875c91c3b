package distill

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"llmc/internal/fault"
	"llmc/kernels"
)

// Match returns, for each of some blocks, the block of a model of another depth
// that is as far through it: where their outputs can be compared.
func Match(blocks, others int) []int {
	list := make([]int, blocks)
	for i := range list {
		list[i] = max(0, int(math.Round(float64(i+1)*float64(others)/float64(blocks)))-1)
	}
	return list
}

// difference replaces x [rows, n] by scale times the gradient of the sum over
// the rows of ‖x-want‖²/‖want‖², which it returns: relative, so that the few
// positions with huge hidden states do not outweigh all others.
func difference(x, want []float32, n int, scale float64) float64 {
	total := 0.0
	for at := 0; at < len(x); at += n {
		x, want := x[at:at+n], want[at:at+n]
		size, sum := 1e-12, 0.0
		for i, w := range want {
			d := float64(x[i]) - float64(w)
			size += float64(w) * float64(w)
			sum += d * d
		}
		total += sum / size
		f := float32(2 * scale / size)
		for i, w := range want {
			x[i] = f * (x[i] - w)
		}
	}
	return total
}

// HiddenNetwork is a network that lets in on its hidden states;
// [train.Network] is one.
type HiddenNetwork interface {
	Network
	SetHiddenLoss(blocks []int, f func(block, seq int, hidden, grad *kernels.Tensor))
}

// Hidden is the goal of predictions and, besides, that what comes out of some of
// the student's blocks is, times a matrix that is learned, what comes out of
// the teacher's (arXiv 1909.10351, equation 8).
type Hidden struct {
	*Predictions
	dev     *kernels.CPU
	live    *Live
	weight  float64
	widths  [2]int      // of the student's and the teacher's hidden states
	matches map[int]int // by block of the student
	vars    map[int]*Variable
	order   []*Variable

	// Of the sequences that are run now.
	scale float64
	sum   float64
}

// NewHidden adds hidden states to a goal whose teacher is live and keeps those
// of the blocks in matches, the teacher's by the student's. weight is that of
// the mean relative squared difference of all.
func NewHidden(dev *kernels.CPU, net HiddenNetwork, p *Predictions, live *Live, matches []int, hidden int, weight float64, seed uint64) (*Hidden, error) {
	if !(weight > 0) || math.IsInf(weight, 0) {
		return nil, fault.Usage("the weight of hidden states is %g, allowed is more than 0", weight)
	}
	h := &Hidden{
		Predictions: p, dev: dev, live: live, weight: weight,
		widths:  [2]int{hidden, live.model.Config().Hidden},
		matches: map[int]int{}, vars: map[int]*Variable{},
	}
	rng := rand.New(rand.NewPCG(seed, 0x68696464656e))
	blocks := make([]int, len(matches))
	for i, j := range matches {
		blocks[i], h.matches[i] = i, j
		value := make([]float32, h.widths[0]*h.widths[1])
		for k := range value {
			switch {
			case h.widths[0] != h.widths[1]:
				value[k] = float32(rng.NormFloat64() / math.Sqrt(float64(h.widths[0])))
			case k%(h.widths[0]+1) == 0:
				value[k] = 1
			}
		}
		v := NewVariable(fmt.Sprintf("block %d's projection", i), value, make([]float32, len(value)))
		v.Decay = true
		h.vars[i], h.order = v, append(h.order, v)
	}
	net.SetHiddenLoss(blocks, h.compare)
	return h, nil
}

// Variables implements [Goal].
func (h *Hidden) Variables() []*Variable { return h.order }

// Gradients implements [Goal].
func (h *Hidden) Gradients(ctx context.Context, windows []int, seqs [][]int32, scale float64) (Value, error) {
	h.scale, h.sum = scale*h.weight/float64(len(h.matches)), 0
	if !h.loss.Teaches() { // else Predictions does it
		if err := h.live.Prepare(ctx, windows, predictors(seqs)); err != nil {
			return Value{}, err
		}
	}
	v, err := h.Predictions.Gradients(ctx, windows, seqs, scale)
	v.Loss += h.weight * h.sum / float64(len(h.matches))
	return v, err
}

// compare is told what came out of a block and sets the gradient.
func (h *Hidden) compare(block, seq int, hidden, grad *kernels.Tensor) {
	v := h.vars[block]
	want := h.live.seqs[seq].blocks[h.matches[block]]
	projection := kernels.NewBlock(v.Value, h.widths[1], h.widths[0])
	out := h.dev.NewTensor(hidden.Rows, h.widths[1])
	defer h.dev.Free(out)
	x, y := kernels.NewBlock(hidden.Data, hidden.Rows, hidden.Cols), kernels.NewBlock(out.Data, out.Rows, out.Cols)
	h.dev.Update(kernels.Update{Dst: y, Alpha: 1, A: x, B: projection, TransB: true})
	h.sum += difference(out.Data, want.Data, out.Cols, h.scale)
	h.dev.Update(kernels.Update{Dst: kernels.NewBlock(v.Grad, h.widths[1], h.widths[0]), Alpha: 1, A: y, TransA: true, B: x})
	h.dev.Update(kernels.Update{Dst: kernels.NewBlock(grad.Data, grad.Rows, grad.Cols), Alpha: 1, A: y, B: projection})
}
