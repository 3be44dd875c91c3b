package eval

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"

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
	// Progress is told how many windows of about how many are done; may be nil.
	Progress func(stage string, done, total int64)
}

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
		if err := r.latencies(ctx, report); err != nil {
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

// tally is what is gathered of one model.
type tally struct {
	nll         mean
	excess      mean // nll minus the baseline's, token by token
	kl          mean
	divergences *quantiles
	agreed      int64 // tokens whose likeliest prediction is the baseline's
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
		other, otherMore := s.next()
		switch {
		case s.err != nil:
			return w, false, s.err
		case more != otherMore:
			return w, false, fault.Invalid("the models have different tokenizers: the text is %d tokens for %s and %d for %s",
				base.tokens, base.name, s.tokens, s.name)
		case more:
			if err := same(base, s, w, other); err != nil {
				return w, false, err
			}
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

// logitsBudget bounds the bytes of logits held at once, over all models.
const logitsBudget = 128 << 20

// score runs every model over a window and adds to the tallies.
func (r *run) score(ctx context.Context, w window) error {
	rowBytes := 0
	for i, run := range r.runners {
		run.reset()
		if err := run.forward(ctx, w.ids); err != nil {
			return fmt.Errorf("cannot run %s: %w", r.sources[i].name, err)
		}
		rowBytes += 4 * run.vocab()
	}
	batch := max(1, logitsBudget/rowBytes)
	for lo := 0; lo < len(w.target); lo += batch {
		hi := min(lo+batch, len(w.target))
		if err := r.scoreRows(ctx, w, lo, hi); err != nil {
			return err
		}
	}
	return nil
}

// row is what one model makes of one scored token.
type row struct {
	dist   kernels.Distribution
	finite bool
	nll    float64
	kl     float64
	agrees bool
}

// scoreRows scores targets lo to hi of a window. Rows are computed by several
// threads and added up in order.
func (r *run) scoreRows(ctx context.Context, w window, lo, hi int) error {
	r.logits = r.logits[:0]
	for _, run := range r.runners {
		r.logits = append(r.logits, run.logits(w.first+lo, hi-lo))
	}
	rows := make([][]row, len(r.runners))
	for m := range rows {
		rows[m] = make([]row, hi-lo)
	}
	parallel(r.opts.Threads, hi-lo, func(i int) {
		for m := range rows {
			rows[m][i] = r.scoreRow(m, i, w.target[lo+i])
			if m > 0 && rows[m][i].finite && rows[0][i].finite {
				r.compareRow(&rows[m][i], rows[0][i], m, i)
			}
		}
	})
	for i := range hi - lo {
		for m := range rows {
			if !rows[m][i].finite {
				return r.notFinite(ctx, m, w.start+int64(w.first+lo+i))
			}
			r.tallies[m].add(rows[m][i], rows[0][i], m > 0)
		}
	}
	return nil
}

// modelRow returns row i of the logits of model m.
func (r *run) modelRow(m, i int) []float32 {
	vocab := r.runners[m].vocab()
	return r.logits[m][i*vocab : (i+1)*vocab]
}

func (r *run) scoreRow(m, i int, target int32) row {
	logits := r.modelRow(m, i)
	d, finite := kernels.Summarize(logits)
	return row{dist: d, finite: finite, nll: d.LogSum - float64(logits[target])}
}

// compareRow fills in what one token says of the divergence of model m from
// the baseline. Where a vocabulary is padded beyond the other, both are cut to
// the shorter one and normalized over it.
func (r *run) compareRow(out *row, base row, m, i int) {
	a, b := r.modelRow(0, i), r.modelRow(m, i)
	da, db := base.dist, out.dist
	if len(a) != len(b) {
		common := min(len(a), len(b))
		a, b = a[:common], b[:common]
		da, _ = kernels.Summarize(a)
		db, _ = kernels.Summarize(b)
	}
	out.kl = max(0, kernels.Divergence(a, b, da, db)) // rounding alone makes it negative
	out.agrees = da.Top == db.Top
}

func (t *tally) add(own, base row, compare bool) {
	t.nll.add(own.nll)
	if !compare {
		return
	}
	t.excess.add(own.nll - base.nll)
	t.kl.add(own.kl)
	t.divergences.add(own.kl)
	if own.agrees {
		t.agreed++
	}
}

// notFinite makes the error for logits that are NaN or infinite.
func (r *run) notFinite(ctx context.Context, m int, position int64) error {
	name := r.sources[m].name
	if err := r.runners[m].check(ctx); err != nil {
		return fmt.Errorf("%s gives NaN or infinite logits at token %d of the text: %w", name, position, err)
	}
	return fault.Invalid("%s gives NaN or infinite logits at token %d of the text, though its weights are finite", name, position)
}

// parallel calls f(0) to f(n-1) from several goroutines.
func parallel(threads, n int, f func(i int)) {
	threads = min(threads, n)
	if threads <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var wg sync.WaitGroup
	for t := range threads {
		wg.Go(func() {
			for i := t; i < n; i += threads {
				f(i)
			}
		})
	}
	wg.Wait()
}

// report writes the tallies up.
func (r *run) report(subjects []*Subject) *Report {
	out := &Report{Compute: Compute, Device: subjects[0].device, Text: TextReport{Name: r.text.Name, Bytes: r.text.Size}}
	if s := r.sources[0]; s.done {
		out.Text.SHA256, out.Text.Tokens = s.text.digest(), s.tokens
	}
	for i, s := range subjects {
		t := &r.tallies[i]
		nll := t.nll.value()
		_, bos := s.bos()
		m := ModelReport{
			Path: s.Path, Architecture: s.Architecture, Scheme: s.Scheme,
			Parameters: s.Parameters, SizeBytes: s.SizeBytes, BitsPerWeight: s.BitsPerWeight(),
			Perplexity: math.Exp(nll), PerplexityStderr: math.Exp(nll) * t.nll.stderr(), NLL: nll,
			Tokens: t.nll.n, Windows: r.windows,
			Context: r.layout.context, Protocol: r.layout.protocol, BOS: bos,
		}
		if r.layout.protocol == Stride {
			m.Stride = r.layout.stride
		}
		if i > 0 {
			m.VsBaseline = t.compare(s, subjects[0])
		}
		out.Models = append(out.Models, m)
	}
	return out
}

// compare writes up a model against the baseline.
func (t *tally) compare(s, base *Subject) *Comparison {
	ratio := math.Exp(t.excess.value())
	c := &Comparison{
		PerplexityRatio: ratio, PerplexityRatioStderr: ratio * t.excess.stderr(),
		KLMean: t.kl.value(), KLStderr: t.kl.stderr(), KLP99: t.divergences.at(0.99),
		Top1Agreement: float64(t.agreed) / float64(t.nll.n),
	}
	if base.SizeBytes > 0 {
		c.SizeRatio = float64(s.SizeBytes) / float64(base.SizeBytes)
	}
	return c
}
