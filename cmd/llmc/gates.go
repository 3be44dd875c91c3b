package main

import (
	"math"
	"strconv"

	"github.com/spf13/cobra"

	"llmc/eval"
	"llmc/internal/fault"
)

// gateOptions are the gate flags as they are written.
type gateOptions struct {
	maxPerplexity, maxIncrease, maxKL, minTop1, minSpeedup, maxSize string
}

func (g *gateOptions) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&g.maxPerplexity, "max-perplexity", "", "the largest perplexity allowed")
	flags.StringVar(&g.maxIncrease, "max-perplexity-increase", "", "the largest increase over the baseline, as 2%")
	flags.StringVar(&g.maxKL, "max-kl", "", "the largest mean KL divergence from the baseline, in nats")
	flags.StringVar(&g.minTop1, "min-top1", "", "the smallest top-1 agreement with the baseline, as 95%")
	flags.StringVar(&g.minSpeedup, "min-speedup", "", "the smallest speedup of decoding, as 1.5 (measures latency)")
	flags.StringVar(&g.maxSize, "max-size", "", "the largest size of the weights on disk, as 100MB or 4GiB")
	putUnder(topicGates, flags, "max-perplexity", "max-perplexity-increase", "max-kl", "min-top1", "min-speedup", "max-size")
}

// parse reads the gates for a run with so many models.
func (g *gateOptions) parse(models int) (eval.Gates, error) {
	var gates eval.Gates
	for _, f := range []struct {
		name, value string
		read        func(string) (float64, error)
		into        **float64
	}{
		{"--max-perplexity", g.maxPerplexity, readNumber, &gates.MaxPerplexity},
		{"--max-perplexity-increase", g.maxIncrease, eval.ParsePercent, &gates.MaxPerplexityIncrease},
		{"--max-kl", g.maxKL, readNumber, &gates.MaxKL},
		{"--min-top1", g.minTop1, eval.ParsePercent, &gates.MinTop1},
		{"--min-speedup", g.minSpeedup, readNumber, &gates.MinSpeedup},
	} {
		if f.value == "" {
			continue
		}
		v, err := f.read(f.value)
		if err != nil {
			return gates, fault.Usage("%s: %w", f.name, err)
		}
		*f.into = &v
	}
	if g.maxSize != "" {
		v, err := eval.ParseSize(g.maxSize)
		if err != nil {
			return gates, fault.Usage("--max-size: %w", err)
		}
		gates.MaxSize = &v
	}
	return gates, gates.Check(models)
}

// readNumber reads a non-negative number.
func readNumber(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= 0) || math.IsInf(v, 0) {
		return 0, fault.Usage("%q is no number of 0 or more", s)
	}
	return v, nil
}
