package calibrate

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"llmc/demo"
	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
	"llmc/tokenizer"
)

func tiny(t *testing.T, spec tinymodel.Spec) (*model.Weights, *tokenizer.Tokenizer) {
	t.Helper()
	c, err := formats.FromMemory(tinymodel.Files(spec))
	if err != nil {
		t.Fatal(err)
	}
	return opened(t, c)
}

func opened(t *testing.T, c *formats.Checkpoint) (*model.Weights, *tokenizer.Tokenizer) {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	w, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := model.OpenTokenizer(c)
	if err != nil {
		t.Fatal(err)
	}
	return w, tok
}

const sentence = "The kettle sang while rain ran down the panes, and nobody spoke of the letter. "

// small is a model of odd sizes, so that no tail is a whole tile.
var small = tinymodel.Spec{Hidden: 48, FFN: 72, Heads: 4, KVHeads: 2, Layers: 2, Seed: 5}

func TestWindows(t *testing.T) {
	_, tok := tiny(t, small)
	text := strings.Repeat(sentence, 20) // one token a byte
	got, err := Windows(tok, text, Sampling{Samples: 5, Context: 33, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	bos, _ := tok.BOS()
	if len(got) != 5 {
		t.Fatalf("got %d windows, want 5", len(got))
	}
	last := -1
	for _, w := range got {
		if len(w) != 33 || w[0] != bos {
			t.Fatalf("a window has %d tokens and begins with %d, want 33 and the BOS %d", len(w), w[0], bos)
		}
		at := -1
		for i := 0; i < len(text)/32 && at < 0; i++ {
			if i > last && slices.Equal(tok.Encode(text[i*32:][:32], false, false), w[1:]) {
				at = i
			}
		}
		if at < 0 {
			t.Fatalf("a window is no piece of the text after piece %d", last)
		}
		last = at
	}
	again, _ := Windows(tok, text, Sampling{Samples: 5, Context: 33, Seed: 1})
	other, _ := Windows(tok, text, Sampling{Samples: 5, Context: 33, Seed: 2})
	same := func(a, b [][]int32) bool { return slices.EqualFunc(a, b, slices.Equal[[]int32]) }
	if !same(got, again) || same(got, other) {
		t.Error("the choice does not follow the seed")
	}
	all, err := Windows(tok, text, Sampling{Samples: 1000, Context: 33})
	if err != nil || len(all) != len(text)/32 {
		t.Errorf("got %d windows (%v), want all %d", len(all), err, len(text)/32)
	}
}

func TestWindowsOfMarkedText(t *testing.T) {
	_, tok := tiny(t, small)
	eos, _ := tok.EOS()
	text := strings.Repeat(sentence+tok.Piece(eos), 20)
	for _, special := range []bool{true, false} {
		all, err := Windows(tok, text, Sampling{Samples: 1000, Context: 33, Special: special})
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(slices.Concat(all...), eos) != special {
			t.Errorf("end tokens written in the text are tokens: %v, want %v", !special, special)
		}
	}
}

func TestWindowsRefuses(t *testing.T) {
	_, tok := tiny(t, small)
	for _, c := range []struct{ name, text, want string }{
		{"short", "too short", "has 9 tokens, one sample needs 31"},
		{"empty", "", "has 0 tokens"},
		{"repeated", strings.Repeat("a", 500), "over and over: 100% of it is"},
		{"nearly repeated", strings.Repeat("aaaaaaaaaaaaaaaaaaab", 25), "over and over: 95% of it is"},
		{"binary", sentence + "\x00" + sentence, "NUL byte at offset 79"},
		{"latin1", sentence + "\xe9" + sentence, "not UTF-8"},
	} {
		_, err := Windows(tok, c.text, Sampling{Samples: 4, Context: 32})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
	for _, s := range []Sampling{{Samples: 0, Context: 32}, {Samples: 1, Context: 1}} {
		if _, err := Windows(tok, sentence, s); err == nil {
			t.Errorf("%+v is allowed", s)
		}
	}
}

// seen is what a visitor saw of one input.
type seen struct {
	block int
	roles []model.Role
	in    Inputs
}

func walked(t *testing.T, w *model.Weights, windows [][]int32, threads int, visit Visitor) []seen {
	t.Helper()
	return walkedWith(t, w, windows, threads, Options{Hessian: true}, visit)
}

func walkedWith(t *testing.T, w *model.Weights, windows [][]int32, threads int, o Options, visit Visitor) []seen {
	t.Helper()
	dev := kernels.NewCPU(threads)
	defer dev.Close()
	var all []seen
	err := Walk(context.Background(), dev, w, windows, o, func(ctx context.Context, block int, roles []model.Role, in *Inputs) error {
		all = append(all, seen{block, roles, *in})
		if visit != nil {
			return visit(ctx, block, roles, in)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// naive runs whole models over the windows and sums in float64.
func naive(t *testing.T, w *model.Weights, windows [][]int32) map[[2]int][]float64 {
	t.Helper()
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[[2]int][]float64{}
	m.SetHook(func(block int, to model.Input, x *kernels.Tensor) {
		key := [2]int{block, int(to.Roles[0])}
		if sums[key] == nil {
			sums[key] = make([]float64, x.Cols*x.Cols)
		}
		for r := range x.Rows {
			row := x.Data[r*x.Cols:][:x.Cols]
			for i, a := range row {
				for j, b := range row {
					sums[key][i*x.Cols+j] += float64(a) * float64(b)
				}
			}
		}
	})
	for _, ids := range windows {
		if err := m.Forward(context.Background(), m.NewState(), ids, func(int, *kernels.Tensor) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	return sums
}

func compare(t *testing.T, got []seen, want map[[2]int][]float64, tokens int) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d inputs, want %d", len(got), len(want))
	}
	for _, s := range got {
		h := want[[2]int{s.block, int(s.roles[0])}]
		n := len(s.in.MeanSquare)
		if s.in.Tokens != tokens || len(h) != n*n || len(s.in.Hessian) != n*n {
			t.Fatalf("block %d %v: %d tokens, %d numbers, want %d, %d", s.block, s.roles, s.in.Tokens, len(s.in.Hessian), tokens, len(h))
		}
		for i := range h {
			r, c := i/n, i%n
			limit := 1e-5 * (math.Sqrt(h[r*n+r]*h[c*n+c]) + 1e-9)
			if d := math.Abs(float64(s.in.Hessian[i]) - h[i]); !(d <= limit) {
				t.Fatalf("block %d %v: Hessian[%d,%d] is %g, want %g", s.block, s.roles, r, c, s.in.Hessian[i], h[i])
			}
			if r == c && math.Abs(float64(s.in.MeanSquare[r])*float64(tokens)-h[i]) > limit {
				t.Fatalf("block %d %v: mean square %d is %g, want %g", s.block, s.roles, r, s.in.MeanSquare[r], h[i]/float64(tokens))
			}
		}
	}
}

func TestWalkEqualsNaive(t *testing.T) {
	w, tok := tiny(t, small)
	windows, err := Windows(tok, strings.Repeat(sentence, 10), Sampling{Samples: 7, Context: 37})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, walked(t, w, windows, 2, nil), naive(t, w, windows), 7*37)
}

// TestWalkSeesReplacedWeights replaces the first block's down projection, and
// expects of the second block what a whole model with that weight sees.
func TestWalkSeesReplacedWeights(t *testing.T) {
	w, tok := tiny(t, small)
	windows, err := Windows(tok, strings.Repeat(sentence, 10), Sampling{Samples: 3, Context: 20})
	if err != nil {
		t.Fatal(err)
	}
	before := naive(t, w, windows)
	got := walked(t, w, windows, 2, func(_ context.Context, block int, roles []model.Role, _ *Inputs) error {
		if block == 0 && roles[0] == model.Down {
			values := make([]float32, 48*72)
			for i := range values {
				values[i] = float32(i%7) / 10
			}
			w.Replace(model.ID{Role: model.Down, Block: 0}, kernels.FromFloat32s(48, 72, values))
		}
		return nil
	})
	after := naive(t, w, windows)
	compare(t, got, after, 60)
	key := [2]int{1, int(model.Q)}
	if slices.Equal(before[key], after[key]) {
		t.Error("the replaced weight changed nothing, so the test shows nothing")
	}
}

func TestWalkDoesNotDependOnThreads(t *testing.T) {
	c, err := demo.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	w, tok := opened(t, c)
	windows, err := Windows(tok, demo.CalibrationText(), Sampling{Samples: 3, Context: 100, Seed: 9})
	if err != nil {
		t.Fatal(err)
	}
	one, three := walked(t, w, windows, 1, nil), walked(t, w, windows, 3, nil)
	for i := range one {
		if !slices.Equal(one[i].in.Hessian, three[i].in.Hessian) || !slices.Equal(one[i].in.MeanSquare, three[i].in.MeanSquare) {
			t.Fatalf("block %d %v differs between 1 and 3 threads", one[i].block, one[i].roles)
		}
	}
	compare(t, one, naive(t, w, windows), 300)
}

func TestWalkNamesWhatIsNotFinite(t *testing.T) {
	w, tok := tiny(t, small)
	windows, err := Windows(tok, strings.Repeat(sentence, 3), Sampling{Samples: 2, Context: 20})
	if err != nil {
		t.Fatal(err)
	}
	values := make([]float32, 72*48)
	for i := range values {
		values[i] = 3e38
	}
	w.Replace(model.ID{Role: model.Up, Block: 1}, kernels.FromFloat32s(72, 48, values))
	dev := kernels.NewCPU(1)
	defer dev.Close()
	visit := func(context.Context, int, []model.Role, *Inputs) error { return nil }
	err = Walk(context.Background(), dev, w, windows, Options{}, visit)
	if err == nil || !strings.Contains(err.Error(), "block 1, the input of down: the activation of token") {
		t.Errorf("got %v, want an error that names block 1 and down", err)
	}
}

func TestWalkStops(t *testing.T) {
	w, _ := tiny(t, small)
	dev := kernels.NewCPU(1)
	defer dev.Close()
	ctx, cancel := context.WithCancel(context.Background())
	visits := 0
	err := Walk(ctx, dev, w, [][]int32{{1, 2, 3}}, Options{}, func(context.Context, int, []model.Role, *Inputs) error {
		visits++
		cancel()
		return ctx.Err()
	})
	if err != context.Canceled || visits != 1 {
		t.Errorf("got %v after %d visits, want %v after 1", err, visits, context.Canceled)
	}
}
