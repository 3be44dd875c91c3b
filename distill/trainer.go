package distill

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"llmc/internal/fault"
	"llmc/internal/parallel"
	"llmc/kernels"
	"llmc/model/train"
)

// Network is the student; *train.Network is one.
type Network interface {
	Params() []*train.Param
	ZeroGrad()
	Forward(ctx context.Context, seqs [][]int32, each func(seq, first int, logits *kernels.Tensor) error) error
	Step(ctx context.Context, seqs [][]int32, loss func(seq, first int, logits *kernels.Tensor) error) error
}

// Data is token windows: of text to train on and of text that is held out. Of a
// window all tokens but the last are predicted from.
type Data struct {
	Train   [][]int32
	HeldOut [][]int32 // none: no evaluation
}

// Options say how a student is trained.
type Options struct {
	Optimizer AdamW
	Schedule  Schedule
	Clip      float64 // the gradient's norm is at most this; 0 means no limit
	Batch     int     // windows of a step
	Micro     int     // windows that are run together; 0 means all of a step
	EvalEvery int     // steps between evaluations; 0 means none but the first and the last
	Seed      uint64  // chooses the order of the windows
	Threads   int     // 0 means one per core

	// Sample, when not nil, may replace sequences of a step by others; see
	// [OnPolicy].
	Sample func(ctx context.Context, step int, windows []int, seqs [][]int32) error
	// Progress, when not nil, is told of every step and evaluation.
	Progress func(Progress)
	// Save, when not nil, is called after every step and, with last set, when a
	// run ends, and may keep [Trainer.WriteState].
	Save func(t *Trainer, last bool) error
}

// Progress is where a run is.
type Progress struct {
	Step, Steps     int
	Loss            float64 // a running mean
	TokensPerSecond float64 // of what was trained on since the run began or was resumed
}

// Point is one step of the loss curve.
type Point struct {
	Step         int     `json:"step"`
	Loss         float64 `json:"loss"`
	Divergence   float64 `json:"divergence,omitempty"`
	CrossEntropy float64 `json:"cross_entropy,omitempty"`
	Rate         float64 `json:"learning_rate"`
	Norm         float64 `json:"gradient_norm"` // before clipping
}

// Evaluation is the mean cross-entropy in nats on held-out text after a step.
type Evaluation struct {
	Step int     `json:"step"`
	NLL  float64 `json:"nll"`
}

// Trainer trains a student. What it does is a function of the student, the
// data, the teacher and the options, but for the number of threads.
type Trainer struct {
	Curve       []Point
	Evaluations []Evaluation

	net   Network
	form  Form
	data  *Data
	goal  Goal
	o     Options
	order *order
	vars  []*Variable

	step    int // that are done
	mean    float64
	best    [][]float32 // values of the variables after step bestAt
	bestAt  int
	started time.Time
	spent   time.Duration // since then, until the last step
	tokens  int           // trained on since then
}

// Goal is what a student is trained for.
type Goal interface {
	// Variables are what is trained besides the student: none for most.
	Variables() []*Variable
	// Gradients adds the gradients of the loss on some sequences, each position's
	// times scale, and returns the sum over the positions. windows says which
	// window of the text each sequence is, -1 for none.
	Gradients(ctx context.Context, windows []int, seqs [][]int32, scale float64) (Value, error)
}

// NewTrainer prepares a run. form says what of the network is trained, goal what
// for.
func NewTrainer(net Network, form Form, data *Data, goal Goal, o Options) (*Trainer, error) {
	for _, check := range []func() error{o.Optimizer.Check, o.Schedule.Check} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	switch {
	case o.Batch < 1:
		return nil, fault.Usage("a step has %d windows, allowed is 1 and more", o.Batch)
	case o.Clip < 0 || math.IsNaN(o.Clip):
		return nil, fault.Usage("gradients are clipped to a norm of %g, allowed is 0 and more", o.Clip)
	case len(data.Train) == 0:
		return nil, fault.Invalid("there is no text to train on")
	}
	if o.Micro < 1 || o.Micro > o.Batch {
		o.Micro = o.Batch
	}
	t := &Trainer{net: net, form: form, data: data, goal: goal, o: o, order: newOrder(len(data.Train), o.Seed)}
	t.vars = slices.Concat(form.Variables(), goal.Variables())
	return t, form.Refresh(context.Background())
}

// OnStep sets Options.Save.
func (t *Trainer) OnStep(f func(t *Trainer, last bool) error) { t.o.Save = f }

// Speed is how many tokens a second were trained on since the run began or was
// resumed, evaluations included.
func (t *Trainer) Speed() float64 { return float64(t.tokens) / max(t.spent.Seconds(), 1e-9) }

// Step is how many steps are done.
func (t *Trainer) Step() int { return t.step }

// Steps is how many there are in all.
func (t *Trainer) Steps() int { return t.o.Schedule.Steps }

// Run takes the steps that are left. When it fails, or ctx ends, the weights are
// those after the last whole step. Options.Save is called after each step, and
// last when the run ends, however.
func (t *Trainer) Run(ctx context.Context) error {
	t.started, t.tokens = time.Now(), 0
	err := t.run(ctx)
	if t.o.Save != nil {
		if failed := t.o.Save(t, true); err == nil {
			err = failed
		}
	}
	return err
}

func (t *Trainer) run(ctx context.Context) error {
	for {
		if err := t.evaluate(ctx); err != nil {
			return err
		}
		if t.step == t.Steps() {
			return nil
		}
		p, err := t.next(ctx)
		if err != nil {
			return err
		}
		t.step++
		t.spent = time.Since(t.started)
		t.Curve = append(t.Curve, p)
		if err := t.diverged(p); err != nil {
			return err
		}
		if t.o.Progress != nil {
			t.o.Progress(Progress{Step: t.step, Steps: t.Steps(), Loss: t.mean, TokensPerSecond: t.Speed()})
		}
		if t.o.Save != nil {
			if err := t.o.Save(t, false); err != nil {
				return err
			}
		}
	}
}

// next takes one step. Until its end, the weights are as they were.
func (t *Trainer) next(ctx context.Context) (Point, error) {
	step := t.step + 1
	p := Point{Step: step, Rate: t.o.Schedule.At(step)}
	batch := t.order.batch(step, t.o.Batch)
	seqs := make([][]int32, len(batch))
	rows := 0
	for i, w := range batch {
		seqs[i] = t.data.Train[w]
	}
	if t.o.Sample != nil {
		if err := t.o.Sample(ctx, step, batch, seqs); err != nil {
			return p, err
		}
	}
	for _, s := range seqs {
		rows += len(s) - 1
	}
	t.net.ZeroGrad()
	for _, v := range t.goal.Variables() {
		clear(v.Grad)
	}
	var sum Value
	for from := 0; from < len(seqs); from += t.o.Micro {
		to := min(from+t.o.Micro, len(seqs))
		v, err := t.goal.Gradients(ctx, batch[from:to], seqs[from:to], 1/float64(rows))
		if err != nil {
			return p, err
		}
		sum.add(v)
	}
	n := float64(rows)
	p.Loss, p.Divergence, p.CrossEntropy = sum.Loss/n, sum.Divergence/n, sum.CrossEntropy/n
	if !finite(p.Loss) {
		return p, t.notFinite(step, "the loss")
	}
	t.form.Gather()
	p.Norm = Norm(t.o.Threads, t.vars)
	if !finite(p.Norm) {
		return p, t.notFinite(step, "the gradient of "+t.firstBad(func(v *Variable) []float32 { return v.Grad }))
	}
	scale := 1.0
	if t.o.Clip > 0 && p.Norm > t.o.Clip {
		scale = t.o.Clip / p.Norm
	}
	t.o.Optimizer.Step(t.o.Threads, t.vars, step, p.Rate, scale)
	t.tokens += rows
	return p, t.form.Refresh(ctx)
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// firstBad names the first variable with a number that is not finite.
func (t *Trainer) firstBad(of func(*Variable) []float32) string {
	for _, v := range t.vars {
		if slices.ContainsFunc(of(v), func(x float32) bool { return !finite(float64(x)) }) {
			return v.Name
		}
	}
	return "the network"
}

// DivergedError is the end of a run whose numbers went astray. The weights of
// [Trainer.Best] are good.
type DivergedError struct {
	Step int
	What string
}

// Error implements error.
func (e *DivergedError) Error() string {
	return fmt.Sprintf("training stopped at step %d: %s", e.Step, e.What)
}

func divergedAt(step int, format string, args ...any) error {
	return fault.Hint(&DivergedError{step, fmt.Sprintf(format, args...)}, "use a lower --lr, a longer --warmup or a smaller --clip")
}

func (t *Trainer) notFinite(step int, what string) error {
	return divergedAt(step, "%s is no longer finite", what)
}

// meanSteps is over how many steps the running mean of the loss is, about.
const meanSteps = 20

// diverged keeps the running mean and returns an error when it has grown far
// beyond where it began.
func (t *Trainer) diverged(p Point) error {
	if n := float64(min(len(t.Curve), meanSteps)); n == 1 {
		t.mean = p.Loss
	} else {
		t.mean += (p.Loss - t.mean) / n
	}
	if len(t.Curve) <= meanSteps {
		return nil
	}
	start := t.Curve[0].Loss // before any weight was changed
	if limit := 2*start + 1; t.mean > limit {
		return divergedAt(p.Step, "the loss has grown from %.3g to %.3g", start, t.mean)
	}
	return nil
}

// evaluate measures the student on the held-out windows, if it is time to, and
// keeps its weights when they are the best so far.
func (t *Trainer) evaluate(ctx context.Context) error {
	due := t.step == 0 || t.step == t.Steps() || t.o.EvalEvery > 0 && t.step%t.o.EvalEvery == 0
	done := len(t.Evaluations) > 0 && t.Evaluations[len(t.Evaluations)-1].Step == t.step
	if len(t.data.HeldOut) == 0 || !due || done {
		return nil
	}
	nll, err := t.heldOut(ctx)
	if err != nil {
		return err
	}
	if !finite(nll) && t.step > 0 {
		return t.notFinite(t.step, "the loss on the held-out text")
	}
	better := t.best == nil || nll < t.Evaluations[slices.IndexFunc(t.Evaluations, func(e Evaluation) bool { return e.Step == t.bestAt })].NLL
	t.Evaluations = append(t.Evaluations, Evaluation{t.step, nll})
	if better {
		t.keepBest()
	}
	return nil
}

func (t *Trainer) keepBest() {
	t.bestAt = t.step
	if t.best == nil {
		t.best = make([][]float32, len(t.vars))
	}
	for i, v := range t.vars {
		t.best[i] = append(t.best[i][:0], v.Value...)
	}
}

// heldOut is the mean of -log p of all tokens that follow in the held-out text.
func (t *Trainer) heldOut(ctx context.Context) (float64, error) {
	sum, rows := 0.0, 0
	for from := 0; from < len(t.data.HeldOut); from += t.o.Micro {
		windows := t.data.HeldOut[from:min(from+t.o.Micro, len(t.data.HeldOut))]
		err := t.net.Forward(ctx, predictors(windows), func(seq, first int, logits *kernels.Tensor) error {
			values := make([]float64, logits.Rows)
			err := parallel.Rows(ctx, t.o.Threads, logits.Rows, logits.Cols, func() func(int) error {
				return func(i int) error {
					row := logits.Data[i*logits.Cols:][:logits.Cols]
					values[i] = kernels.LogSumExp(row) - float64(row[windows[seq][first+i+1]])
					return nil
				}
			})
			for _, v := range values {
				sum += v
			}
			rows += len(values)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return sum / float64(rows), nil
}

// BestStep is the step after which the student was best on the held-out text,
// the last one when there is none.
func (t *Trainer) BestStep() int {
	if t.best == nil {
		return t.step
	}
	return t.bestAt
}

// Best runs f with the weights of [Trainer.BestStep] in the network.
func (t *Trainer) Best(ctx context.Context, f func() error) error {
	if t.best == nil || t.bestAt == t.step {
		return f()
	}
	swap := func() error {
		for i, v := range t.vars {
			for j, x := range t.best[i] {
				t.best[i][j], v.Value[j] = v.Value[j], x
			}
		}
		return t.form.Refresh(ctx)
	}
	if err := swap(); err != nil {
		return err
	}
	err := f()
	if failed := swap(); err == nil {
		err = failed
	}
	return err
}
