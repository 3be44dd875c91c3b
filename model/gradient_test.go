package model_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/train"
)

// Two sequences, both longer than the windows of the references.
var sequences = [][]int32{{3, 22, 0, 7, 7, 11, 19, 1, 2}, {16, 5, 9, 14, 3, 3, 8}}

// slope is what the losses of these tests weigh a logit with.
func slope(seq, row, token int) float64 {
	return math.Sin(float64(1 + token + 31*row + 557*seq))
}

func open(t testing.TB, c *formats.Checkpoint, threads int) *train.Network {
	t.Helper()
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	n, err := train.New(kernels.NewCPU(threads), w)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// step takes the sequences through the network; the loss is the sum of all
// logits times their slopes.
func step(t testing.TB, n *train.Network) {
	t.Helper()
	err := n.Step(context.Background(), sequences, func(seq, first int, logits *kernels.Tensor) error {
		for i := range logits.Data {
			logits.Data[i] = float32(slope(seq, first+i/logits.Cols, i%logits.Cols))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// lossOf is the same loss in float64.
func lossOf(ref model.Reference) float64 {
	total := 0.0
	for seq, ids := range sequences {
		for row, logits := range ref.Logits(ids) {
			for token, v := range logits {
				total += v * slope(seq, row, token)
			}
		}
	}
	return total
}

// coarse rounds a weight so that what differences add to it is exact.
func coarse(values []float32) {
	for i, v := range values {
		values[i] = float32(math.Round(float64(v)*(1<<16))) / (1 << 16)
	}
}

// derivative returns the derivative of the loss along a direction of some weights,
// in float64, from two central differences that cancel each other's error of the
// third order.
func derivative(ref model.Reference, values, direction []float32) float64 {
	const h = 1. / 8192
	keep := slices.Clone(values)
	defer copy(values, keep)
	at := func(steps float32) float64 {
		for i, d := range direction {
			values[i] = keep[i] + steps*h*d
		}
		return lossOf(ref)
	}
	return (8*(at(1)-at(-1)) - (at(2) - at(-2))) / (12 * h)
}

// TestGradients compares the gradient of every weight of every family with central
// differences of the reference: along a random direction, in which every element
// has a part, and of one element alone.
func TestGradients(t *testing.T) {
	for _, ref := range model.References() {
		t.Run(ref.Name(), func(t *testing.T) {
			n := open(t, ref.Open(t), 2)
			name := func(p *train.Param) string { return n.Config().Family.TensorName(formats.HuggingFace, p.ID) }
			for _, p := range n.Params() {
				coarse(p.Value)
				coarse(ref.Values(name(p)))
			}
			step(t, n)
			rng := rand.New(rand.NewPCG(1, 2))
			for _, p := range n.Params() {
				largest := 0.0
				for _, g := range p.Grad {
					largest = max(largest, math.Abs(float64(g)))
				}
				all, one := make([]float32, len(p.Value)), make([]float32, len(p.Value))
				for i := range all {
					all[i] = float32(1 - 2*rng.IntN(2))
				}
				one[rng.IntN(len(one))] = 1
				for _, direction := range [][]float32{all, one} {
					got, size := 0.0, 0.0
					for i, d := range direction {
						got += float64(d * p.Grad[i])
						size += float64(d * d)
					}
					want := derivative(ref, ref.Values(name(p)), direction)
					if !(math.Abs(got-want) <= 5e-5*largest*math.Sqrt(size)) {
						t.Errorf("%s: the slope along %g elements is %g, want %g (largest gradient %g)", name(p), size, got, want, largest)
					}
				}
			}
		})
	}
}

// gradients returns all of them, one after the other.
func gradients(n *train.Network) (all []float32) {
	for _, p := range n.Params() {
		all = append(all, p.Grad...)
	}
	return all
}

// TestGradientsAreTheSame: bit for bit, whatever the number of threads, with
// activations computed again, and after other steps.
func TestGradientsAreTheSame(t *testing.T) {
	for _, ref := range model.References() {
		t.Run(ref.Name(), func(t *testing.T) {
			n := open(t, ref.Open(t), 1)
			step(t, n)
			want := gradients(n)
			n.ZeroGrad()
			step(t, n)
			if !slices.Equal(gradients(n), want) {
				t.Error("a second step gives other gradients")
			}
			n.SetCheckpointing(true)
			n.ZeroGrad()
			step(t, n)
			if !slices.Equal(gradients(n), want) {
				t.Error("checkpointing gives other gradients")
			}
			many := open(t, ref.Open(t), 7)
			step(t, many)
			if !slices.Equal(gradients(many), want) {
				t.Error("7 threads give other gradients")
			}
		})
	}
}

// TestGradientsOfGGUF: the order in which GGUF stores the rows of q and k makes
// no difference to the gradients of others.
func TestGradientsOfGGUF(t *testing.T) {
	ref := model.References()[0]
	n := open(t, ref.Open(t), 1)
	g := open(t, ref.OpenGGUF(t, n.Config()), 1)
	step(t, n)
	step(t, g)
	for i, p := range n.Params() {
		if p.ID.Role == model.Q || p.ID.Role == model.K {
			continue
		}
		for j, want := range p.Grad {
			if got := g.Params()[i].Grad[j]; math.Abs(float64(got-want)) > 1e-4*(1+math.Abs(float64(want))) {
				t.Fatalf("%s: element %d has the gradient %g, want %g", p.ID, j, got, want)
			}
		}
	}
}

// TestForwardPredicts compares with the model that evaluates.
func TestForwardPredicts(t *testing.T) {
	for _, ref := range model.References() {
		n := open(t, ref.Open(t), 2)
		var got []float32
		err := n.Forward(context.Background(), sequences, func(_, _ int, logits *kernels.Tensor) error {
			got = append(got, logits.Data...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, ids := range sequences {
			for _, want := range slices.Concat(ref.Logits(ids)...) {
				if math.Abs(float64(got[0])-want) > 1e-4 {
					t.Fatalf("%s: a logit is %g, want %g", ref.Name(), got[0], want)
				}
				got = got[1:]
			}
		}
	}
}

// TestHiddenLoss adds a gradient at the output of the last block, and expects
// what that block gives alone.
func TestHiddenLoss(t *testing.T) {
	ref := model.References()[4]
	n := open(t, ref.Open(t), 2)
	last := n.Config().Blocks - 1
	at := func(seq, i int) float32 { return float32(slope(seq, i, 0)) }
	var x, lengths = (*kernels.Tensor)(nil), []int{len(sequences[0]), len(sequences[1])}
	n.SetHiddenLoss([]int{last - 1, last}, func(block, seq int, hidden, grad *kernels.Tensor) {
		if block == last {
			for i := range grad.Data {
				grad.Data[i] += at(seq, i)
			}
			return
		}
		if x == nil {
			x = &kernels.Tensor{Rows: lengths[0] + lengths[1], Cols: hidden.Cols, Data: make([]float32, (lengths[0]+lengths[1])*hidden.Cols)}
		}
		copy(x.Data[seq*lengths[0]*x.Cols:], hidden.Data)
	})
	err := n.Step(context.Background(), sequences, func(_, _ int, logits *kernels.Tensor) error {
		clear(logits.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	alone := open(t, ref.Open(t), 2)
	dx, err := alone.BlockStep(last, x, lengths, func(out *kernels.Tensor) error {
		for i := range out.Data {
			out.Data[i] = at(0, i)
			if i >= lengths[0]*out.Cols {
				out.Data[i] = at(1, i-lengths[0]*out.Cols)
			}
		}
		return nil
	})
	if err != nil || dx.Rows != x.Rows {
		t.Fatal(dx, err)
	}
	for i, p := range n.Params() {
		if p.ID.Block == last && !slices.Equal(p.Grad, alone.Params()[i].Grad) {
			t.Errorf("%s has other gradients in the block alone", p.ID)
		}
	}
}

// TestStore changes weights, masked ones by way of Effective, and expects the
// model that evaluates to see them.
func TestStore(t *testing.T) {
	ref := model.References()[0]
	w, err := model.Open(ref.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := train.New(kernels.NewCPU(1), w)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range n.Params() {
		if p.ID.Role == model.Down {
			p.Effective = make([]float32, len(p.Value))
			p.Effective[3] = 5
		}
		if p.ID.Role == model.FinalNorm {
			p.Value[0] = 7
		}
	}
	n.Store(w)
	m, err := w.Matrix(model.ID{Role: model.Down, Block: 2})
	if err != nil {
		t.Fatal(err)
	}
	if got := kernels.Float32s(m); got[3] != 5 || got[4] != 0 {
		t.Errorf("down holds %v", got[:5])
	}
	v, err := w.Vector(model.ID{Role: model.FinalNorm, Block: -1})
	if err != nil || v[0] != 7 {
		t.Errorf("the final norm begins with %v (%v)", v[0], err)
	}
}

// TestStepRefuses what is no sequence.
func TestStepRefuses(t *testing.T) {
	n := open(t, model.References()[0].Open(t), 1)
	for _, seqs := range [][][]int32{{{}}, {{1, -1}}, {{23}}} {
		if err := n.Step(context.Background(), seqs, nil); err == nil {
			t.Errorf("%v was taken", seqs)
		}
	}
}
