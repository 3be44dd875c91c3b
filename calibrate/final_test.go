package calibrate

import (
	"context"
	"slices"
	"strings"
	"testing"

	"llmc/kernels"
	"llmc/model"
)

// TestWalkOfUnchangedWeights compares the inputs of a walk that runs every
// block once with those of one that runs it again, and the head's with whole
// forward passes.
func TestWalkOfUnchangedWeights(t *testing.T) {
	w, tok := tiny(t, small)
	windows, err := Windows(tok, strings.Repeat(sentence, 10), Sampling{Samples: 5, Context: 30})
	if err != nil {
		t.Fatal(err)
	}
	dev := kernels.NewCPU(2)
	defer dev.Close()
	walk := func(o Options) []seen {
		var all []seen
		o.Hessian = true
		err := Walk(context.Background(), dev, w, windows, o, func(_ context.Context, block int, roles []model.Role, in *Inputs) error {
			all = append(all, seen{block, roles, *in})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	again, once := walk(Options{}), walk(Options{Final: true, Unchanged: true})
	if len(once) != len(again)+1 {
		t.Fatalf("%d inputs, want %d and the head's", len(once), len(again))
	}
	for i := range again {
		if once[i].block != again[i].block || !slices.Equal(once[i].in.Hessian, again[i].in.Hessian) {
			t.Fatalf("input %d differs", i)
		}
	}
	head := once[len(once)-1]
	if head.block != -1 || !slices.Equal(head.roles, []model.Role{model.Head}) {
		t.Fatalf("the last input is of block %d %v, want the head's", head.block, head.roles)
	}
	last := walk(Options{Final: true})
	if !slices.Equal(last[len(last)-1].in.Hessian, head.in.Hessian) {
		t.Error("the head's input depends on whether blocks are run again")
	}
	squares := make([]float64, w.Config.Hidden)
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	for _, ids := range windows {
		err := m.Forward(context.Background(), m.NewState(), ids, func(_ int, x *kernels.Tensor) error {
			for i, v := range x.Data[:x.Rows*x.Cols] {
				squares[i%x.Cols] += float64(v) * float64(v)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for c, want := range squares {
		got := float64(head.in.MeanSquare[c]) * float64(head.in.Tokens)
		if d := got - want; !(d < 1e-5*want && -d < 1e-5*want) {
			t.Fatalf("channel %d: %g, want %g", c, got, want)
		}
	}
}
