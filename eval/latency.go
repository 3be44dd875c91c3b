package eval

import (
	"context"
	"fmt"
	"slices"
	"time"

	"llmc/kernels"
)

// How latencies are measured: a prompt of at most promptTokens, then
// decodeTokens one by one, each the likeliest; once to warm up, then
// as often as asked for.
const (
	promptTokens = 512
	decodeTokens = 32
)

// timing is one measurement.
type timing struct{ prefill, first, decode time.Duration }

// latencies measures the speed of every model and writes it into the report.
// The models take turns, so that a machine that slows down slows all of them.
func (r *run) latencies(ctx context.Context, subjects []*Subject, report *Report) error {
	prompt := r.prompt[:min(len(r.prompt), promptTokens)]
	compute := report.Compute
	if dev := r.opts.LatencyDevice; dev != nil {
		compute = dev.Compute().Describe()
		if err := r.moveTo(dev, subjects); err != nil {
			return err
		}
	}
	timings := make([][]timing, len(r.runners))
	rounds := r.opts.Repeats + 1
	for round := range rounds {
		for m, run := range r.runners {
			t, err := measureOnce(ctx, run, prompt)
			if err != nil {
				return fmt.Errorf("cannot run %s: %w", r.sources[m].name, err)
			}
			if round > 0 {
				timings[m] = append(timings[m], t)
			}
			if r.opts.Progress != nil {
				r.opts.Progress("latency", int64(round*len(r.runners)+m+1), int64(rounds*len(r.runners)))
			}
		}
	}
	for m := range timings {
		report.Models[m].Latency = latency(timings[m], len(prompt))
		report.Models[m].Latency.Compute = compute
		if base := report.Models[0].Latency; m > 0 {
			report.Models[m].VsBaseline.DecodeSpeedup = report.Models[m].Latency.DecodeTokensPerSecond / base.DecodeTokensPerSecond
		}
	}
	return nil
}

// moveTo makes the models run on another device.
func (r *run) moveTo(dev kernels.Device, subjects []*Subject) error {
	for i, s := range subjects {
		m, err := newModelRunner(dev, s.weights)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Path, err)
		}
		r.runners[i] = m
	}
	return nil
}

// measureOnce runs the prompt and then decodes.
func measureOnce(ctx context.Context, run runner, prompt []int32) (timing, error) {
	var t timing
	run.reset()
	start := time.Now()
	if err := run.forward(ctx, prompt); err != nil {
		return t, err
	}
	t.prefill = time.Since(start)
	id := likeliest(run.logits(len(prompt)-1, 1))
	t.first = time.Since(start)
	start = time.Now()
	for range decodeTokens {
		if err := run.forward(ctx, []int32{id}); err != nil {
			return t, err
		}
		id = likeliest(run.logits(0, 1))
	}
	t.decode = time.Since(start)
	return t, nil
}

// likeliest returns the first of the largest logits.
func likeliest(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return int32(best)
}

// latency takes the medians.
func latency(timings []timing, prompt int) *Latency {
	series := func(of func(timing) float64) (median, spread float64) {
		values := make([]float64, len(timings))
		for i, t := range timings {
			values[i] = of(t)
		}
		slices.Sort(values)
		median = values[len(values)/2]
		return median, (values[len(values)-1] - values[0]) / median
	}
	l := &Latency{PromptTokens: prompt, DecodedTokens: decodeTokens, Repeats: len(timings)}
	l.PrefillTokensPerSecond, l.PrefillSpread = series(func(t timing) float64 { return float64(prompt) / t.prefill.Seconds() })
	l.DecodeTokensPerSecond, l.DecodeSpread = series(func(t timing) float64 { return decodeTokens / t.decode.Seconds() })
	l.TimeToFirstTokenMS, _ = series(func(t timing) float64 { return 1e3 * t.first.Seconds() })
	return l
}
