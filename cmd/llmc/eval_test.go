package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"llmc/eval"
	"llmc/kernels"
)

// TestReportFits: the widest figures and names fit into 100 columns.
func TestReportFits(t *testing.T) {
	latency := &eval.Latency{Compute: kernels.Fast.Describe(), PrefillTokensPerSecond: 12345.67, DecodeTokensPerSecond: 1234.5, TimeToFirstTokenMS: 12345.6,
		PrefillSpread: 0.5, DecodeSpread: 0.25, Repeats: 5}
	base := eval.ModelReport{
		Path: "/models/meta-llama/Llama-3.2-1B-Instruct-bfloat16", Scheme: "BF16", SizeBytes: 2471645608, BitsPerWeight: 16,
		Perplexity: 11234.5678, PerplexityStderr: 123.4, NLL: 9.3, Tokens: 144840, Windows: 568, Context: 512,
		Protocol: eval.LlamaCpp, BOS: true, Latency: latency,
	}
	variant := base
	variant.Path = "/models/other/Llama-3.2-1B-Instruct-bfloat16/"
	variant.TokenizerDiffersAt = new(int64)
	*variant.TokenizerDiffersAt = 123456
	variant.Scheme = "compressed-tensors 4-bit, groups of 128"
	variant.VsBaseline = &eval.Comparison{PerplexityRatio: 12.3456, KLMean: 1.234567, KLP99: 12.34567, Top1Agreement: 0.98765,
		SizeRatio: 0.28, DecodeSpeedup: 12.345}
	var out bytes.Buffer
	ui := &ui{out: &out, err: &out}
	report := &eval.Report{Models: []eval.ModelReport{base, variant}, Text: eval.TextReport{Name: "wiki.test.raw", Bytes: 1290590, Tokens: 341469},
		Compute: kernels.Exact.Describe(), Device: "cpu avx512, 2 threads", PeakRSSBytes: 5e9}
	if err := printReport(ui, report); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + out.String())
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.Contains(out.String(), "+1134.56%") {
		t.Error("the increase of perplexity is missing")
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.00012345678: "0.000123", 1.26e-7: "1.3e-07", 0.123456789: "0.12346", 9.87654321: "9.8765", 123.456789: "123.46", 123456.789: "123457", 3.95169e10: "3.9517e+10",
	} {
		if got := figure(v); got != want {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
}

func TestUncertainty(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.0199: "0.020", 0.123: "0.12", 1.26: "1.3", 12.6: "13", 123.4: "123", 6.33e10: "6.3e+10"} {
		if got := uncertainty(v); got != want {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
}

func TestShortNames(t *testing.T) {
	models := []eval.ModelReport{{Path: "a/model"}, {Path: "b/model/"}, {Path: "c/other.gguf"},
		{Path: "x/a-very-long-name-of-a-model-that-goes-on.gguf"}}
	got := shortNames(models)
	want := []string{"a/model", "b/model/", "other.gguf", "a-very-long-…oes-on.gguf"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s is called %q, want %q", models[i].Path, got[i], want[i])
		}
	}
}
