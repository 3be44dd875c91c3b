package eval

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"llmc/internal/fault"
)

// Gates are limits that a run must keep; nil ones are not checked. They apply
// to the variants, or to the only model when there is one.
type Gates struct {
	MaxPerplexity         *float64
	MaxPerplexityIncrease *float64 // relative to the baseline: 0.02 is 2%
	MaxKL                 *float64 // mean, in nats
	MinTop1               *float64 // a fraction
	MinSpeedup            *float64 // of decoding
	MaxSize               *int64   // bytes
}

// Check refuses gates that a run with that many models cannot decide.
func (g Gates) Check(models int) error {
	for _, gate := range []struct {
		name string
		set  bool
	}{
		{"--max-perplexity-increase", g.MaxPerplexityIncrease != nil},
		{"--max-kl", g.MaxKL != nil},
		{"--min-top1", g.MinTop1 != nil},
		{"--min-speedup", g.MinSpeedup != nil},
	} {
		if gate.set && models < 2 {
			return fault.Hint(fault.Usage("%s compares with a baseline, but there is only one model", gate.name),
				"give both: llmc eval BASELINE VARIANT")
		}
	}
	return nil
}

// NeedsLatency reports whether a gate can only be decided by measuring speed.
func (g Gates) NeedsLatency() bool { return g.MinSpeedup != nil }

// Failures says which gates the report fails and by how much, one sentence
// each; none means that all passed. What was not measured fails.
func (g Gates) Failures(r *Report) []string {
	models := r.Models
	if len(models) > 1 {
		models = models[1:]
	}
	var failures []string
	for i := range models {
		failures = append(failures, g.failures(&models[i])...)
	}
	return failures
}

func (g Gates) failures(m *ModelReport) []string {
	var out []string
	check := func(flag, what string, limit *float64, value float64, atMost bool, format func(float64) string) {
		if limit == nil || atMost && value <= *limit || !atMost && value >= *limit {
			return // a NaN is neither
		}
		word, allowed := "above", "at most"
		if !atMost {
			word, allowed = "below", "at least"
		}
		out = append(out, fmt.Sprintf("%s: %s of %s is %s, allowed is %s %s (%s %s)",
			flag, what, m.Path, format(value), allowed, format(*limit), format(math.Abs(value-*limit)), word))
	}
	vs := m.VsBaseline
	if vs == nil {
		nan := math.NaN()
		vs = &Comparison{PerplexityRatio: nan, KLMean: nan, Top1Agreement: nan, DecodeSpeedup: nan}
	}
	speedup := vs.DecodeSpeedup
	if m.Latency == nil {
		speedup = math.NaN()
	}
	check("--max-perplexity", "perplexity", g.MaxPerplexity, m.Perplexity, true, number)
	check("--max-perplexity-increase", "perplexity increase", g.MaxPerplexityIncrease, vs.PerplexityRatio-1, true, Percent)
	check("--max-kl", "mean KL divergence", g.MaxKL, vs.KLMean, true, number)
	check("--min-top1", "top-1 agreement", g.MinTop1, vs.Top1Agreement, false, Percent)
	check("--min-speedup", "decode speedup", g.MinSpeedup, speedup, false, number)
	if g.MaxSize != nil {
		limit := float64(*g.MaxSize)
		check("--max-size", "size", &limit, float64(m.SizeBytes), true, func(v float64) string {
			return strconv.FormatFloat(v, 'f', 0, 64) + " bytes"
		})
	}
	return out
}

// number writes a figure with as many digits as a decision needs.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 5, 64) }

// Percent writes a fraction as a percentage of three digits: 0.0213 is 2.13%.
func Percent(v float64) string { return strconv.FormatFloat(100*v, 'g', 3, 64) + "%" }

// ParsePercent reads "2%" or the fraction "0.02". Numbers above 1 without a
// percent sign are refused: they mean too different things to different people.
func ParsePercent(s string) (float64, error) {
	digits, percent := strings.CutSuffix(strings.TrimSpace(s), "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0, fault.Usage("%q is no percentage, allowed are forms like 2%% and 0.02", s)
	}
	if percent {
		return v / 100, nil
	}
	if v > 1 {
		return 0, fault.Usage("%s is ambiguous, write %s%% or a fraction up to 1", digits, digits)
	}
	return v, nil
}

var sizeUnits = []struct {
	suffix string
	bytes  float64
}{ // the longer suffixes first
	{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12},
	{"B", 1}, {"", 1},
}

// ParseSize reads a number of bytes: "1500000", "1.5MB" (powers of 1000),
// "4GiB" (powers of 1024).
func ParseSize(s string) (int64, error) {
	upper := strings.ToUpper(strings.TrimSpace(s))
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(upper, unit.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || !(v >= 0) || v*unit.bytes >= math.MaxInt64 {
			break
		}
		return int64(v * unit.bytes), nil
	}
	return 0, fault.Usage("%q is no size, allowed are forms like 1500000, 100MB and 4GiB", s)
}
