package eval

import (
	"context"
	"math"
	"os"
	"testing"

	"llmc/formats"
	"llmc/internal/testdata"
	"llmc/kernels"
)

// loadShared loads a model of the shared test data.
func loadShared(t *testing.T, name string) *Subject {
	t.Helper()
	c, err := formats.Open(testdata.Shared(t, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s, err := Load(kernels.NewCPU(0), c, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPerplexityOfModels compares perplexities of the first eight windows with
// those of transformers in float64 on the same tokens, and with LLMC_WHOLE set
// those of the whole texts: of tinystories with an independent computation in
// float64, of prose with llama-perplexity.
func TestPerplexityOfModels(t *testing.T) {
	const tiny, tinyText = "models/tinystories-656k", "texts/tinystories-val-a.txt"
	const prose, proseText = "models/prose-6m", "texts/prose-heldout-a.txt"
	for _, c := range []struct {
		model, text   string
		opts          Options
		nll, stderr   float64 // stderr of the perplexity; 0 is not compared
		tokens, text2 int64
		tolerance     float64
	}{
		{tiny, tinyText, Options{Context: 512, Chunks: 8, Protocol: Full}, 3.622928424, 1.5583503, 4088, 0, 2e-6},
		{tiny, tinyText, Options{Context: 512, Chunks: 8, Protocol: LlamaCpp}, 3.673219375, 2.2554986, 2040, 0, 2e-6},
		{tiny, tinyText, Options{Context: 512, Chunks: 8, Protocol: Stride}, 3.645109161, 2.1278779, 2303, 0, 2e-6},
		{prose, proseText, Options{Context: 256, Chunks: 8, Protocol: Full}, 3.994200201, 3.0240820, 2040, 0, 2e-6},
		{prose, proseText, Options{Context: 256, Chunks: 8, Protocol: LlamaCpp}, 3.962937064, 4.2370893, 1016, 0, 2e-6},
		{prose, proseText, Options{Context: 256, Chunks: 8, Protocol: Stride}, 3.950572661, 3.8463946, 1151, 0, 2e-6},
		{tiny, tinyText, Options{Context: 512, Protocol: Full}, math.Log(34.31147), 0, 94535, 94873, 1e-6},
		{tiny, tinyText, Options{Context: 512, Protocol: LlamaCpp}, math.Log(35.06779), 0, 47175, 94873, 1e-6},
		{prose, proseText, Options{Context: 256, Protocol: LlamaCpp}, math.Log(62.384), 0, 26035, 52524, 1e-4},
	} {
		if c.opts.Chunks == 0 && os.Getenv("LLMC_WHOLE") == "" {
			continue
		}
		s := loadShared(t, c.model)
		text, err := FileText(testdata.Shared(t, c.text))
		if err != nil {
			t.Fatal(err)
		}
		report, err := Run(context.Background(), []*Subject{s}, text, c.opts)
		if err != nil {
			t.Fatal(err)
		}
		got := report.Models[0]
		if math.Abs(got.NLL-c.nll) > c.tolerance || got.Tokens != c.tokens || report.Text.Tokens != c.text2 ||
			c.stderr > 0 && math.Abs(got.PerplexityStderr/c.stderr-1) > 1e-5 {
			t.Errorf("%s, %s, %d windows: nll %.9f, perplexity ± %.7f, %d of %d tokens; want %.9f ± %.7f, %d of %d", c.model, got.Protocol,
				got.Windows, got.NLL, got.PerplexityStderr, got.Tokens, report.Text.Tokens, c.nll, c.stderr, c.tokens, c.text2)
		}
	}
}
