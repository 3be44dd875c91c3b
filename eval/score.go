package eval

import (
	"context"
	"fmt"
	"sync"

	"llmc/internal/fault"
	"llmc/kernels"
)

// tally is what is gathered of one model.
type tally struct {
	nll         mean
	excess      mean // nll minus the baseline's, token by token
	kl          mean
	divergences *quantiles
	agreed      int64 // tokens whose likeliest prediction is the baseline's
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
