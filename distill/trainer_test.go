package distill

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"llmc/kernels"
	"llmc/model"
	"llmc/model/train"
)

// bigram is a network that predicts from the last token alone: its logits are
// the rows of a matrix [vocab, vocab].
type bigram struct {
	p     train.Param
	vocab int
	poke  func(logits []float32)
	dev   *kernels.CPU // of adapters
}

func newBigram(vocab int, seed uint64) *bigram {
	rng := rand.New(rand.NewPCG(seed, 1))
	_, value := logits(rng, vocab*vocab, 1)
	return &bigram{vocab: vocab, p: train.Param{
		ID: model.ID{Role: model.Q}, Rows: vocab, Cols: vocab, Value: value, Grad: make([]float32, vocab*vocab),
	}}
}

func (b *bigram) Params() []*train.Param { return []*train.Param{&b.p} }

func (b *bigram) ZeroGrad() {
	clear(b.p.Grad)
	if low := b.p.Low; low != nil {
		clear(low.GradA)
		clear(low.GradB)
	}
}

func (b *bigram) Forward(ctx context.Context, seqs [][]int32, each func(seq, first int, logits *kernels.Tensor) error) error {
	for i, s := range seqs {
		const batch = 5
		for first := 0; first < len(s); first += batch {
			n := min(batch, len(s)-first)
			t := &kernels.Tensor{Rows: n, Cols: b.vocab, Data: make([]float32, n*b.vocab)}
			for r := range n {
				copy(t.Data[r*b.vocab:], b.row(b.weights(), s[first+r]))
			}
			if b.poke != nil {
				b.poke(t.Data)
			}
			if err := each(i, first, t); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (b *bigram) row(x []float32, id int32) []float32 { return x[int(id)*b.vocab:][:b.vocab] }

func (b *bigram) Step(ctx context.Context, seqs [][]int32, loss func(seq, first int, logits *kernels.Tensor) error) error {
	return b.Forward(ctx, seqs, func(seq, first int, t *kernels.Tensor) error {
		if err := loss(seq, first, t); err != nil {
			return err
		}
		if b.p.Low != nil {
			last := &kernels.Tensor{Rows: t.Rows, Cols: b.vocab, Data: make([]float32, t.Rows*b.vocab)}
			for r := range t.Rows {
				last.Data[r*b.vocab+int(seqs[seq][first+r])] = 1
			}
			b.p.Low.AddGrad(b.dev, t, last)
			return nil
		}
		for r := range t.Rows {
			g := b.row(b.p.Grad, seqs[seq][first+r])
			for j, v := range t.Data[r*b.vocab:][:b.vocab] {
				g[j] += v
			}
		}
		return nil
	})
}

// oracle is a teacher that is a bigram.
type oracle struct {
	*bigram
	seqs [][]int32
}

func (o *oracle) Prepare(_ context.Context, _ []int, seqs [][]int32) error {
	o.seqs = seqs
	return nil
}

func (o *oracle) Rows(_ context.Context, seq, first, n int) ([]Prediction, error) {
	var list []Prediction
	for r := range n {
		list = append(list, Prediction{Logits: slices.Clone(o.row(o.p.Value, o.seqs[seq][first+r]))})
	}
	return list, nil
}

const testVocab = 11

func testData(windows int) *Data {
	rng := rand.New(rand.NewPCG(9, 9))
	d := &Data{}
	for i := range windows + 3 {
		w := []int32{int32(rng.IntN(testVocab))}
		for range 12 {
			w = append(w, (w[len(w)-1]*3+int32(rng.IntN(2)))%testVocab)
		}
		if i < windows {
			d.Train = append(d.Train, w)
		} else {
			d.HeldOut = append(d.HeldOut, w)
		}
	}
	return d
}

func testOptions() Options {
	return Options{
		Optimizer: DefaultAdamW,
		Schedule:  Schedule{Rate: 0.05, Steps: 40, Warmup: 3, Final: 0.1},
		Clip:      1, Batch: 4, Micro: 3, EvalEvery: 7, Seed: 3, Threads: 1,
	}
}

func newTest(t *testing.T, b *bigram, o Options) *Trainer {
	t.Helper()
	return newTestFor(t, b, NewFull(b.Params(), true), Loss{Kind: KL, Temperature: 2, Alpha: 0.5}, o)
}

func newTestFor(t *testing.T, b *bigram, f Form, l Loss, o Options) *Trainer {
	t.Helper()
	goal, err := NewPredictions(b, l, &oracle{bigram: newBigram(testVocab, 77)}, o.Threads)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := NewTrainer(b, f, testData(10), goal, o)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestTraining(t *testing.T) {
	b := newBigram(testVocab, 1)
	tr := newTest(t, b, testOptions())
	if err := tr.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(tr.Curve) != 40 || !(tr.Curve[39].Loss < 0.7*tr.Curve[0].Loss) {
		t.Errorf("%d steps, the loss went from %v to %v", len(tr.Curve), tr.Curve[0].Loss, tr.Curve[len(tr.Curve)-1].Loss)
	}
	var at []int
	for _, e := range tr.Evaluations {
		at = append(at, e.Step)
	}
	if !slices.Equal(at, []int{0, 7, 14, 21, 28, 35, 40}) {
		t.Errorf("evaluated after steps %v", at)
	}
	// Threads change nothing.
	again := newBigram(testVocab, 1)
	o := testOptions()
	o.Threads = 3
	if err := newTest(t, again, o).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.p.Value, again.p.Value) {
		t.Error("the weights depend on the number of threads")
	}
	// Micro-batches only change the order of sums.
	o.Micro = 1
	again = newBigram(testVocab, 1)
	if err := newTest(t, again, o).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, v := range again.p.Value {
		if math.Abs(float64(v-b.p.Value[i])) > 1e-3 {
			t.Fatalf("weight %d is %v with micro-batches of one, want %v", i, v, b.p.Value[i])
		}
	}
}

// TestBest looks at the weights with which the held-out text was predicted best.
func TestBest(t *testing.T) {
	b := newBigram(testVocab, 1)
	o := testOptions()
	o.Schedule.Rate, o.Schedule.Steps = 1, 70 // learns the ten windows by heart
	tr := newTestFor(t, b, NewFull(b.Params(), true), Loss{Kind: CrossEntropy}, o)
	if err := tr.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	least := slices.MinFunc(tr.Evaluations, func(a, b Evaluation) int { return int(math.Copysign(1, a.NLL-b.NLL)) })
	if tr.BestStep() != least.Step || least.Step == 70 || least.Step == 0 {
		t.Fatalf("the best step is %d, the least loss %v is after %d", tr.BestStep(), least.NLL, least.Step)
	}
	last := slices.Clone(b.p.Value)
	err := tr.Best(t.Context(), func() error {
		nll, err := tr.heldOut(t.Context())
		if nll != least.NLL {
			t.Errorf("the best weights have the loss %v, want %v", nll, least.NLL)
		}
		return err
	})
	if err != nil || !slices.Equal(last, b.p.Value) {
		t.Errorf("the last weights are not back: %v", err)
	}
}

// TestResume ends a run after every step and at odd moments, and goes on from
// its state to the same bits.
func TestResume(t *testing.T) {
	whole := newBigram(testVocab, 1)
	full := newTest(t, whole, testOptions())
	if err := full.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, stop := range []int{1, 6, 7, 8, 39} {
		var state bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		o := testOptions()
		o.Save = func(tr *Trainer, last bool) error {
			if tr.Step() == stop {
				cancel()
			}
			if last {
				return tr.WriteState(&state)
			}
			return nil
		}
		if err := newTest(t, newBigram(testVocab, 1), o).Run(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("a run that was ended returned %v", err)
		}
		b := newBigram(testVocab, 1)
		tr := newTest(t, b, testOptions())
		if err := tr.ReadState(bytes.NewReader(state.Bytes()), int64(state.Len())); err != nil {
			t.Fatal(err)
		}
		if tr.Step() != stop {
			t.Fatalf("the state is of step %d, want %d", tr.Step(), stop)
		}
		if err := tr.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(b.p.Value, whole.p.Value) || !slices.Equal(tr.Curve, full.Curve) || !slices.Equal(tr.Evaluations, full.Evaluations) || tr.BestStep() != full.BestStep() {
			t.Errorf("ended after step %d and resumed, the run has another result", stop)
		}
		damaged(t, state.Bytes())
	}
}

// damaged reads a state with a byte changed, and cut, everywhere.
func damaged(t *testing.T, state []byte) {
	t.Helper()
	for at := 0; at < len(state); at += 1 + at/8 {
		bad := slices.Clone(state)
		bad[at] ^= 0x10
		for _, data := range [][]byte{bad, state[:at]} {
			err := newTest(t, newBigram(testVocab, 1), testOptions()).ReadState(bytes.NewReader(data), int64(len(data)))
			if err == nil || !strings.Contains(err.Error(), "unfinished run") {
				t.Fatalf("a state damaged at %d gives %v", at, err)
			}
		}
	}
}

// TestNotFinite: a loss that is no number ends the run with the weights of the
// step before, and says where.
func TestNotFinite(t *testing.T) {
	b := newBigram(testVocab, 1)
	tr := newTest(t, b, testOptions())
	var before []float32
	tr.o.Save = func(tr *Trainer, _ bool) error {
		if tr.Step() == 5 {
			before = slices.Clone(b.p.Value)
			b.poke = func(x []float32) { x[3] = float32(math.NaN()) }
		}
		return nil
	}
	err := tr.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "step 6: the loss is no longer finite") {
		t.Errorf("the error is %v", err)
	}
	if !slices.Equal(before, b.p.Value) || tr.Step() != 5 {
		t.Error("the weights are not those of the last good step")
	}
	o := testOptions()
	o.Schedule.Rate, o.Clip, o.Schedule.Steps = 50, 0, 200
	err = newTest(t, newBigram(testVocab, 1), o).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the loss has grown") {
		t.Errorf("a run that diverges ends with %v", err)
	}
}

func TestOrder(t *testing.T) {
	o := newOrder(7, 5)
	for epoch := range 3 {
		var seen []int
		for i := range 7 {
			seen = append(seen, o.at(epoch*7+i))
		}
		slices.Sort(seen)
		if !slices.Equal(seen, []int{0, 1, 2, 3, 4, 5, 6}) {
			t.Errorf("epoch %d has the windows %v", epoch, seen)
		}
	}
	if !slices.Equal(newOrder(7, 5).batch(4, 5), o.batch(4, 5)) || slices.Equal(newOrder(100, 5).batch(1, 9), newOrder(100, 6).batch(1, 9)) {
		t.Error("the order is not a function of the seed")
	}
}
