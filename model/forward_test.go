package model

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"llmc/formats"
	"llmc/kernels"
)

// tokens are more than every window of the references.
var tokens = []int32{3, 22, 0, 7, 7, 11, 19, 1, 2, 16, 5, 9, 14}

func load(t testing.TB, c *formats.Checkpoint, threads int) *Model {
	t.Helper()
	w, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(kernels.NewCPU(threads), w)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// run returns the logits of every position of ids, which follow what s holds.
func run(t testing.TB, m *Model, s *State, ids []int32) []float32 {
	t.Helper()
	out := make([]float32, len(ids)*m.Config().Vocab)
	err := m.Forward(context.Background(), s, ids, func(first int, hidden *kernels.Tensor) error {
		logits := m.Logits(hidden)
		defer m.Device().Free(logits)
		m.Device().Read(out[first*logits.Cols:(first+logits.Rows)*logits.Cols], logits)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// compare reports where got is further from want than tolerance times the
// largest number in want.
func compare(t *testing.T, what string, got []float32, want []float64, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	largest := 0.0
	for _, v := range want {
		largest = max(largest, math.Abs(v))
	}
	for i := range got {
		if off := math.Abs(float64(got[i]) - want[i]); !(off <= tolerance*largest) {
			t.Fatalf("%s: number %d is %g, want %g (largest %g)", what, i, got[i], want[i], largest)
		}
	}
}

func widen(v []float32) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}

// TestForward compares the logits of every family with the reference, from
// both kinds of file.
func TestForward(t *testing.T) {
	for _, ref := range references() {
		t.Run(ref.name, func(t *testing.T) {
			want := slices.Concat(ref.logits(tokens)...)
			m := load(t, ref.open(t), 0)
			compare(t, "Hugging Face", run(t, m, m.NewState(), tokens), want, 1e-5)

			if m.cfg.Window > 0 && ref.name != "gemma3" {
				return // GGUF, as llama.cpp reads it, has no window there
			}
			meta, err := m.cfg.GGUF()
			if err != nil {
				t.Fatal(err)
			}
			var factors []float32
			if m.cfg.Rope.Type == RopeLlama3 {
				for _, f := range m.cfg.Rope.Llama3Factors() {
					factors = append(factors, float32(f))
				}
			}
			g := load(t, ref.openGGUF(t, meta, factors), 0)
			compare(t, "GGUF", run(t, g, g.NewState(), tokens), want, 1e-5)
		})
	}
}

// TestPieces checks that a sequence gives the same however it is cut: in
// batches, token by token, and again after a part of it was forgotten.
func TestPieces(t *testing.T) {
	for _, ref := range references() {
		t.Run(ref.name, func(t *testing.T) {
			m := load(t, ref.open(t), 0)
			whole := widen(run(t, m, m.NewState(), tokens))
			m.SetBatchRows(5)
			s := m.NewState()
			compare(t, "batches of 5", run(t, m, s, tokens), whole, 1e-5)
			if s.Len() != len(tokens) {
				t.Errorf("the state holds %d positions, want %d", s.Len(), len(tokens))
			}
			s.Truncate(6)
			var got []float32
			for _, id := range tokens[6:] {
				got = append(got, run(t, m, s, []int32{id})...)
			}
			compare(t, "one by one from 6", got, whole[6*refVocab:], 1e-5)
		})
	}
}

// TestThreadsDoNotMatter: bit for bit.
func TestThreadsDoNotMatter(t *testing.T) {
	ref := references()[4]
	one, four := load(t, ref.open(t), 1), load(t, ref.open(t), 4)
	if a, b := run(t, one, one.NewState(), tokens), run(t, four, four.NewState(), tokens); !slices.Equal(a, b) {
		t.Error("logits depend on the number of threads")
	}
}

// TestHook checks what calibration is shown: every linear of every block with
// an input of its width, in order, and none but them.
func TestHook(t *testing.T) {
	ref := references()[0]
	w, err := Open(ref.open(t))
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewOutline(kernels.NewCPU(1), w)
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		block int
		role  Role
		width int
	}
	var got, want []seen
	m.SetHook(func(block int, to Input, in *kernels.Tensor) {
		for _, r := range to.Roles {
			if in.Rows != len(tokens) {
				t.Errorf("block %d %s sees %d rows, want %d", block, r, in.Rows, len(tokens))
			}
			got = append(got, seen{block, r, in.Cols})
		}
	})
	// Block by block, as calibration walks: only one is loaded at a time.
	x, s := m.Embed(tokens), m.NewState()
	for b := range refBlocks {
		if err := m.LoadBlock(w, b); err != nil {
			t.Fatal(err)
		}
		m.Block(b, x, s)
		m.DropBlock(b)
		for _, r := range []Role{Q, K, V, O, Gate, Up, Down} {
			want = append(want, seen{b, r, m.cfg.Shape(ID{Role: r, Block: b})[1]})
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the hook saw %v, want %v", got, want)
	}
	m.SetHook(nil)
	m.Norm(x)
	logits := make([]float32, len(tokens)*refVocab)
	m.dev.Read(logits, m.Logits(x))
	compare(t, "block by block", logits, slices.Concat(ref.logits(tokens)...), 1e-5)
}

// TestSetWeight puts a zero in the place of one linear and expects what the
// reference computes without it.
func TestSetWeight(t *testing.T) {
	ref := references()[3]
	w, err := Open(ref.open(t))
	if err != nil {
		t.Fatal(err)
	}
	zero := kernels.FromFloat32s(refHidden, refFFN, make([]float32, refHidden*refFFN))
	clear(ref.tensors["model.layers.2.mlp.down_proj.weight"].values)
	want := slices.Concat(ref.logits(tokens)...)

	m, err := New(kernels.NewCPU(1), w)
	if err != nil {
		t.Fatal(err)
	}
	m.SetWeight(ID{Role: Down, Block: 2}, zero)
	compare(t, "SetWeight", run(t, m, m.NewState(), tokens), want, 1e-5)

	w.Replace(ID{Role: Down, Block: 2}, zero)
	if m, err = New(kernels.NewCPU(1), w); err != nil {
		t.Fatal(err)
	}
	compare(t, "Replace", run(t, m, m.NewState(), tokens), want, 1e-5)
}

func TestForwardRefuses(t *testing.T) {
	m := load(t, references()[0].open(t), 1)
	for _, ids := range [][]int32{{1, -1}, {0, refVocab}} {
		err := m.Forward(context.Background(), m.NewState(), ids, nil)
		if err == nil || !strings.Contains(err.Error(), "vocabulary is 0 to 22") {
			t.Errorf("%v: got %v, want an error that gives the vocabulary", ids, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Forward(ctx, m.NewState(), tokens, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
	stop := errors.New("enough")
	m.SetBatchRows(4)
	calls := 0
	err := m.Forward(context.Background(), m.NewState(), tokens, func(int, *kernels.Tensor) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("got %v after %d calls, want the callback's error after one", err, calls)
	}
}
