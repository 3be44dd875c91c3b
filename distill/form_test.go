package distill

import (
	"context"
	"math"
	"slices"
	"testing"

	"llmc/kernels"
	"llmc/model"
)

func (b *bigram) weights() []float32 {
	if b.p.Effective != nil {
		return b.p.Effective
	}
	return b.p.Value
}

// evens rounds to multiples of two.
type evens struct{}

func (evens) Rounds(id model.ID) bool { return id.Role == model.Q }
func (evens) Round(_ context.Context, _ model.ID, rows, cols int, weight, dst []float32) error {
	for i, v := range weight {
		dst[i] = float32(math.Round(float64(v)/2)) * 2
	}
	return nil
}

// TestQuantized: the network multiplies by rounded weights, which become better.
func TestQuantized(t *testing.T) {
	b := newBigram(testVocab, 1)
	tr := newTestFor(t, b, NewQuantized(b.Params(), true, evens{}), Loss{Kind: KL, Temperature: 1, Alpha: 1}, testOptions())
	if err := tr.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	rounded := make([]float32, len(b.p.Value))
	_ = evens{}.Round(t.Context(), model.ID{}, 0, 0, b.p.Value, rounded)
	if !slices.Equal(rounded, b.p.Effective) || slices.Equal(rounded, b.p.Value) {
		t.Error("what was trained is not what rounding gives")
	}
	if first, last := tr.Curve[0].Loss, tr.Curve[39].Loss; !(last < 0.8*first) {
		t.Errorf("the loss went from %v to %v", first, last)
	}
}

// TestLoRA compares the gradients of adapters with central differences, and
// trains them.
func TestLoRA(t *testing.T) {
	dev := kernels.NewCPU(2)
	defer dev.Close()
	b := newBigram(testVocab, 1)
	b.dev = dev
	frozen := slices.Clone(b.p.Value)
	l, err := NewLoRA(dev, b.Params(), 3, 5)
	if err != nil {
		t.Fatal(err)
	}
	tr := newTestFor(t, b, l, Loss{Kind: KL, Temperature: 1, Alpha: 1}, testOptions())
	if !slices.Equal(b.p.Effective, frozen) {
		t.Error("adapters do not begin with nothing")
	}
	for i := range l.vars[1].Value {
		l.vars[1].Value[i] = float32(i%5) / 10
	}
	// The loss is the sum of squares, so that the weight's gradient is itself.
	loss := func() float64 {
		_ = l.Refresh(t.Context())
		sum := 0.0
		for _, v := range b.p.Effective {
			sum += float64(v) * float64(v) / 2
		}
		return sum
	}
	loss()
	ones := &kernels.Tensor{Rows: testVocab, Cols: testVocab, Data: make([]float32, testVocab*testVocab)}
	for i := range testVocab {
		ones.Data[i*testVocab+i] = 1
	}
	b.p.Low.AddGrad(dev, &kernels.Tensor{Rows: testVocab, Cols: testVocab, Data: b.p.Effective}, ones)
	for n, v := range l.vars {
		got := slices.Clone(v.Grad)
		for i := range v.Value {
			const h = 1.0 / 64
			at := v.Value[i]
			v.Value[i] = at + h
			up := loss()
			v.Value[i] = at - h
			down := loss()
			v.Value[i] = at
			if want := (up - down) / (2 * h); math.Abs(float64(got[i])-want) > 1e-3*(1+math.Abs(want)) {
				t.Fatalf("gradient %d of variable %d is %v, want %v", i, n, got[i], want)
			}
		}
	}
	clear(l.vars[1].Value)
	if err := tr.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.p.Value, frozen) {
		t.Error("the weight itself has changed")
	}
	if first, last := tr.Curve[0].Loss, tr.Curve[39].Loss; !(last < 0.8*first) {
		t.Errorf("the loss went from %v to %v", first, last)
	}
	if _, err := NewLoRA(dev, b.Params(), testVocab+1, 5); err == nil {
		t.Error("a rank above the matrix's size is accepted")
	}
}
