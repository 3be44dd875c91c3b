package eval

import (
	"strings"
	"testing"
)

func ptr[T any](v T) *T { return &v }

func TestGates(t *testing.T) {
	report := &Report{Models: []ModelReport{
		{Path: "base", Perplexity: 50, SizeBytes: 4000},
		{Path: "small", Perplexity: 10.3, SizeBytes: 1000, Latency: &Latency{},
			VsBaseline: &Comparison{PerplexityRatio: 1.03, KLMean: 0.02, Top1Agreement: 0.9, DecodeSpeedup: 1.5}},
	}}
	for _, c := range []struct {
		gates Gates
		want  string // "" passes
	}{
		{Gates{}, ""},
		{Gates{MaxPerplexity: ptr(10.3)}, ""},
		{Gates{MaxPerplexity: ptr(10.0)}, "--max-perplexity: perplexity of small is 10.3, allowed is at most 10 (0.3 above)"},
		{Gates{MaxPerplexityIncrease: ptr(0.031)}, ""},
		{Gates{MaxPerplexityIncrease: ptr(0.02)}, "--max-perplexity-increase: perplexity increase of small is 3%, allowed is at most 2% (1% above)"},
		{Gates{MaxKL: ptr(0.02)}, ""},
		{Gates{MaxKL: ptr(0.01)}, "--max-kl: mean KL divergence of small is 0.02, allowed is at most 0.01 (0.01 above)"},
		{Gates{MinTop1: ptr(0.9)}, ""},
		{Gates{MinTop1: ptr(0.95)}, "--min-top1: top-1 agreement of small is 90%, allowed is at least 95% (5% below)"},
		{Gates{MinSpeedup: ptr(1.5)}, ""},
		{Gates{MinSpeedup: ptr(2.0)}, "--min-speedup: decode speedup of small is 1.5, allowed is at least 2 (0.5 below)"},
		{Gates{MaxSize: ptr(int64(1000))}, ""},
		{Gates{MaxSize: ptr(int64(999))}, "--max-size: size of small is 1000 bytes, allowed is at most 999 bytes (1 bytes above)"},
	} {
		if got := strings.Join(c.gates.Failures(report), "; "); got != c.want {
			t.Errorf("%+v: %q, want %q", c.gates, got, c.want)
		}
	}
	alone := &Report{Models: report.Models[:1]}
	if got := (Gates{MaxPerplexity: ptr(49.0)}).Failures(alone); len(got) != 1 {
		t.Errorf("the only model is not checked: %q", got)
	}
	if got := (Gates{MaxKL: ptr(1.0), MinSpeedup: ptr(0.0)}).Failures(alone); len(got) != 2 {
		t.Errorf("what was not measured passes: %q", got)
	}
	if err := (Gates{MaxKL: ptr(1.0)}).Check(1); err == nil {
		t.Error("a gate that needs a baseline is accepted with one model")
	}
}

func TestParsePercent(t *testing.T) {
	for s, want := range map[string]float64{"2%": 0.02, " 0.5 %": 0.005, "0.02": 0.02, "150%": 1.5, "1": 1, "0": 0} {
		if got, err := ParsePercent(s); err != nil || got != want {
			t.Errorf("%q is %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "2", "%", "-1%", "nan", "inf%", "2%%", "x"} {
		if got, err := ParsePercent(s); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"100": 100, "1.5kb": 1500, "4GiB": 4 << 30, "100 MB": 1e8, "2M": 2e6, "7B": 7} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%q is %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "MB", "-1", "1e40", "nan", "5 apples"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}
