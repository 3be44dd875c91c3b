package eval

import (
	"context"
	"fmt"
	"runtime"

	"llmc/internal/fault"
	"llmc/kernels"
)

// Options say how to measure; zero values mean the defaults.
type Options struct {
	Protocol Protocol // LlamaCpp
	Context  int      // DefaultContext, or the models' smallest context if that is less
	Stride   int      // Context/2; used by the protocol Stride
	Chunks   int      // run at most this many windows; 0 means all
	Threads  int      // GOMAXPROCS; results do not depend on it
	Latency  bool     // measure speed too
	Repeats  int      // how often speed is measured; 0 means DefaultRepeats
	// LatencyDevice is what speed is measured on; nil for the models' own.
	LatencyDevice kernels.Device
	// BaselineTokens measures every model on the baseline's tokens where its own
	// tokenizer gives others, if their vocabularies are the same. Without it
	// that is an error.
	BaselineTokens bool
	// Progress is told how many windows of about how many are done; may be nil.
	Progress func(stage string, done, total int64)
}

// DefaultRepeats is how often speed is measured.
const DefaultRepeats = 5

// DefaultContext is llama-perplexity's.
const DefaultContext = 512

// Check refuses options that make no sense whatever the models.
func (o Options) Check() error {
	if o.Context == 0 {
		o.Context = max(DefaultContext, o.Stride)
	}
	_, err := o.layout(nil)
	return err
}

// layout fills in defaults and checks the numbers.
func (o Options) layout(subjects []*Subject) (layout, error) {
	l := layout{protocol: o.Protocol, context: o.Context, stride: o.Stride, bos: -1}
	if l.protocol == "" {
		l.protocol = LlamaCpp
	}
	if l.context == 0 {
		l.context = DefaultContext
		for _, s := range subjects {
			if n := s.Context; n > 0 {
				l.context = min(l.context, n)
			}
		}
	}
	if l.stride == 0 {
		l.stride = l.context / 2
	}
	return l, l.check()
}

// Run measures the perplexity of models on a text, window by window, all
// models together; the first is the baseline of the others. Memory beyond the
// models' own is a few windows' activations and some rows of logits, whatever
// the size of the text. Models are for one Run at a time.
func Run(ctx context.Context, subjects []*Subject, text Text, opts Options) (*Report, error) {
	if len(subjects) == 0 {
		return nil, fault.Usage("there is no model to measure")
	}
	l, err := opts.layout(subjects)
	if err != nil {
		return nil, err
	}
	r := &run{layout: l, text: text, opts: opts, tallies: make([]tally, len(subjects))}
	if r.opts.Threads <= 0 {
		r.opts.Threads = runtime.GOMAXPROCS(0)
	}
	if r.opts.Repeats <= 0 {
		r.opts.Repeats = DefaultRepeats
	}
	defer r.close()
	for i, s := range subjects {
		sl := l
		if id, ok := s.bos(); ok {
			sl.bos = id
		}
		src, err := newSource(s.Path, s.encoder, text, sl)
		if err != nil {
			return nil, err
		}
		r.sources = append(r.sources, src)
		r.runners = append(r.runners, s.runner)
		r.tallies[i].divergences = newQuantiles()
	}
	if err := r.measure(ctx); err != nil {
		return nil, err
	}
	report := r.report(subjects)
	if opts.Latency {
		if err := r.latencies(ctx, subjects, report); err != nil {
			return nil, err
		}
	}
	report.PeakRSSBytes = peakRSS()
	if len(subjects) == 1 {
		report.Models[0].PeakRSSBytes = report.PeakRSSBytes
	}
	return report, nil
}

// run is the state of one Run.
type run struct {
	layout  layout
	text    Text
	opts    Options
	sources []*source // one per model
	runners []runner
	tallies []tally
	windows int64
	prompt  []int32 // the first window's tokens, for latencies

	logits [][]float32 // per model, the batch of rows in work
}

// runner runs one model.
type runner interface {
	// reset forgets all tokens seen.
	reset()
	// forward appends ids to the tokens seen; logits is about their outputs.
	forward(ctx context.Context, ids []int32) error
	// logits returns rows first to first+n of the last forward's logits,
	// [n, vocab] row-major, valid until the next call.
	logits(first, n int) []float32
	// vocab is the length of a row of logits.
	vocab() int
	// check returns an error that names the first weight that is NaN or
	// infinite, nil if there is none.
	check(ctx context.Context) error
}

func (r *run) close() {
	for _, s := range r.sources {
		s.stop()
	}
}

// measure runs all windows.
func (r *run) measure(ctx context.Context) error {
	for r.opts.Chunks <= 0 || r.windows < int64(r.opts.Chunks) {
		if err := ctx.Err(); err != nil {
			return err
		}
		w, more, err := r.nextWindow()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := r.score(ctx, w); err != nil {
			return err
		}
		r.windows++
		r.progress()
	}
	if r.windows > 0 {
		return nil
	}
	base := r.sources[0]
	err := fault.Invalid("the text %s is too short: %d tokens, protocol %s needs at least %d",
		r.text.Name, base.tokens, r.layout, r.layout.needs())
	if base.tokens > minContext && r.layout.protocol != Stride {
		return fault.Hint(err, "take a longer text or a smaller --context, at most %d", base.tokens)
	}
	return fault.Hint(err, "take a longer text")
}

// nextWindow takes the next window from every source and compares them.
func (r *run) nextWindow() (window, bool, error) {
	base := r.sources[0]
	w, more := base.next()
	if base.err != nil {
		return w, false, base.err
	}
	for _, s := range r.sources[1:] {
		if err := r.follow(s, w, more); err != nil {
			return w, false, err
		}
	}
	if !more {
		return w, false, nil
	}
	if r.prompt == nil {
		r.prompt = append(r.prompt, w.ids...)
	}
	return w, true, r.fits(w)
}

// follow compares a model's next window with the baseline's, w.
func (r *run) follow(s *source, w window, more bool) error {
	if s.other != nil {
		return nil
	}
	own, ownMore := s.next()
	switch base := r.sources[0]; {
	case s.err != nil:
		return s.err
	case more != ownMore:
		at := min(base.tokens, s.tokens)
		return s.differ(base, at, fmt.Sprintf("the text is %d tokens for %s and %d for %s", base.tokens, base.name, s.tokens, s.name),
			r.opts.BaselineTokens)
	case more:
		if at, text, ok := difference(base, s, w, own); ok {
			return s.differ(base, at, text, r.opts.BaselineTokens)
		}
	}
	return nil
}

// fits refuses tokens that a model has no embedding or logit for.
func (r *run) fits(w window) error {
	for i, run := range r.runners {
		vocab := run.vocab()
		for _, ids := range [][]int32{w.ids, w.target} {
			for _, id := range ids {
				if id < 0 || int(id) >= vocab {
					s := r.sources[i]
					return fault.Invalid("the tokenizer of %s does not fit its model: it gives token %d %q, the model has %d",
						s.name, id, s.enc.Piece(id), vocab)
				}
			}
		}
	}
	return nil
}

func (r *run) progress() {
	if r.opts.Progress == nil {
		return
	}
	step := r.layout.context
	if r.layout.protocol == Stride {
		step = r.layout.stride
	}
	total := r.sources[0].estimate(r.text.Size) / int64(step)
	if r.opts.Chunks > 0 {
		total = min(total, int64(r.opts.Chunks))
	}
	r.opts.Progress("perplexity", r.windows, max(total, r.windows))
}
