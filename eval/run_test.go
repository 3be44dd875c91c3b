package eval

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/internal/fault"
)

// TestComparison compares the divergence figures with their definitions.
func TestComparison(t *testing.T) {
	enc := runes{alphabet: letters, addBOS: true}
	text := randomText(500)
	base, variant := &markov{size: 30}, &markov{size: 30, seed: 1, noise: 1}
	report, err := Run(context.Background(),
		[]*Subject{subject("base", enc, base), subject("variant", enc, variant)},
		StringText("text", text), Options{Protocol: Full, Context: 20})
	if err != nil {
		t.Fatal(err)
	}
	var kls []float64
	var excess, agreed float64
	all := define(layout{protocol: Full, context: 20}, encodeAll(t, enc, text))
	for _, s := range all {
		p, q := softmax(base.row(s.context)), softmax(variant.row(s.context))
		kl := 0.0
		for i := range p {
			kl += p[i] * math.Log(p[i]/q[i])
		}
		kls = append(kls, kl)
		excess += math.Log(p[s.target] / q[s.target])
		if argmax(p) == argmax(q) {
			agreed++
		}
	}
	n := float64(len(all))
	sum := 0.0
	for _, kl := range kls {
		sum += kl
	}
	slices.Sort(kls)
	rank := 0.99 * (n - 1)
	p99 := kls[int(rank)] + (rank-math.Floor(rank))*(kls[int(rank)+1]-kls[int(rank)])
	got := report.Models[1].VsBaseline
	for _, c := range []struct {
		what           string
		got, want, tol float64
	}{
		{"mean KL", got.KLMean, sum / n, 1e-8},
		{"99th percentile of KL", got.KLP99, p99, 1e-7}, // kept as float32
		{"perplexity ratio", got.PerplexityRatio, math.Exp(excess / n), 1e-8},
		{"ratio of the perplexities", report.Models[1].Perplexity / report.Models[0].Perplexity, math.Exp(excess / n), 1e-8},
		{"top-1 agreement", got.Top1Agreement, agreed / n, 0},
	} {
		if math.Abs(c.got-c.want) > c.tol {
			t.Errorf("%s is %.12f, want %.12f", c.what, c.got, c.want)
		}
	}
	if report.Models[0].VsBaseline != nil {
		t.Error("the baseline is compared with itself")
	}
}

func softmax(row []float32) []float64 {
	sum := 0.0
	out := make([]float64, len(row))
	for i, v := range row {
		out[i] = math.Exp(float64(v))
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

func argmax(p []float64) int {
	best := 0
	for i, v := range p {
		if v > p[best] {
			best = i
		}
	}
	return best
}

// TestPaddedVocabulary: entries that only one model has do not count.
func TestPaddedVocabulary(t *testing.T) {
	enc := runes{alphabet: letters}
	text := StringText("text", randomText(200))
	run := func(subjects ...*Subject) *Report {
		t.Helper()
		report, err := Run(context.Background(), subjects, text, Options{Context: 16})
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	for _, sizes := range [][2]int{{30, 40}, {40, 30}} {
		got := run(subject("a", enc, &markov{size: sizes[0]}), subject("b", enc, &markov{size: sizes[1]})).Models[1].VsBaseline
		// Row by row, markov's first 30 logits do not depend on its size.
		if got.KLMean > 1e-15 || got.Top1Agreement != 1 {
			t.Errorf("vocabularies of %v: %+v, want no divergence", sizes, got)
		}
	}
}

func TestThreadsDoNotMatter(t *testing.T) {
	enc := runes{alphabet: letters}
	var reports []*Report
	for _, threads := range []int{1, 2, 7} {
		report, err := Run(context.Background(),
			[]*Subject{subject("a", enc, &markov{size: 30}), subject("b", enc, &markov{size: 30, noise: 1})},
			StringText("text", randomText(300)), Options{Protocol: Stride, Context: 64, Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		report.PeakRSSBytes = 0
		reports = append(reports, report)
	}
	for _, r := range reports[1:] {
		if !reflect.DeepEqual(r, reports[0]) {
			t.Errorf("%+v with several threads, %+v with one", r, reports[0])
		}
	}
}

func TestBadInput(t *testing.T) {
	enc := runes{alphabet: letters}
	good := func() *Subject { return subject("good", enc, &markov{size: 30}) }
	for _, c := range []struct {
		name     string
		subjects []*Subject
		text     string
		opts     Options
		kind     fault.Kind
		want     string
	}{
		{"NUL", []*Subject{good()}, strings.Repeat("a", 100) + "\x00", Options{}, fault.InvalidFile, "NUL byte at offset 100"},
		{"not UTF-8", []*Subject{good()}, "abc\xff", Options{}, fault.InvalidFile, "not UTF-8 text: byte 0xff at offset 3"},
		{"cut character", []*Subject{good()}, "abc\xc3", Options{}, fault.InvalidFile, "byte 0xc3 at offset 3"},
		{"too short", []*Subject{good()}, "abc", Options{}, fault.InvalidFile, "3 tokens, protocol llama.cpp, context 512 needs at least 512"},
		{"one token", []*Subject{good()}, "a", Options{Protocol: Stride}, fault.InvalidFile, "needs at least 2"},
		{"context", []*Subject{good()}, "abc", Options{Context: 2}, fault.UsageError, "--context is 2"},
		{"stride", []*Subject{good()}, "abc", Options{Protocol: Stride, Context: 8, Stride: 9}, fault.UsageError, "--stride is 9"},
		{"other tokenizer", []*Subject{good(), subject("other", runes{alphabet: " abcedfghijklmnopqrstuvwxyz\n"}, &markov{size: 30})},
			"abcde", Options{Context: 4}, fault.InvalidFile, `different vocabularies: token 5 is "d" for good and "e" for other`},
		{"other BOS", []*Subject{good(), subject("other", runes{alphabet: letters, addBOS: true}, &markov{size: 30})},
			"abcde", Options{Context: 4}, fault.InvalidFile, `token 0 of the text is 2 "a" for good and 0 "<s>" for other`},
		{"small model", []*Subject{subject("small", enc, &markov{size: 20})}, "abcz",
			Options{Context: 4}, fault.InvalidFile, `the tokenizer of small does not fit its model: it gives token 27 "z", the model has 20`},
		{"NaN", []*Subject{good(), subject("bad", enc, &markov{size: 30, bad: 12})}, randomText(64),
			Options{Context: 16}, fault.InvalidFile, "bad gives NaN or infinite logits at token 11 of the text"},
	} {
		_, err := Run(context.Background(), c.subjects, StringText("text.txt", c.text), c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) != c.kind {
			t.Errorf("%s: error %v of kind %d, want %q of kind %d", c.name, err, fault.KindOf(err), c.want, c.kind)
		}
	}
}

// TestBaselineTokens: where tokenizers of one vocabulary differ, the baseline's
// tokens are used when that is asked for, and the report says so.
func TestBaselineTokens(t *testing.T) {
	enc := runes{alphabet: letters, addBOS: true}
	text := randomText(100) + "q" + randomText(100)
	at := int64(strings.IndexByte(text, 'q')) + 1
	opts := Options{Protocol: Full, Context: 20}
	run := func(other runes) (*Report, error) {
		return Run(context.Background(), []*Subject{subject("base", enc, &markov{size: 30}), subject("same", enc, &markov{size: 30}),
			subject("other", other, &markov{size: 30})}, StringText("text", text), opts)
	}
	dropping := runes{alphabet: letters, addBOS: true, drop: "q"}
	if _, err := run(dropping); err == nil || !strings.Contains(err.Error(), "tokenizers differ") || !strings.Contains(fault.HintOf(err), "--baseline-tokens") {
		t.Errorf("error %v, want that the tokenizers differ and what to do", err)
	}
	opts.BaselineTokens = true
	report, err := run(dropping)
	if err != nil {
		t.Fatal(err)
	}
	same, other := report.Models[1], report.Models[2]
	if other.TokenizerDiffersAt == nil || *other.TokenizerDiffersAt != at || same.TokenizerDiffersAt != nil {
		t.Errorf("tokenizers differ at %v and %v, want at none and %d", same.TokenizerDiffersAt, other.TokenizerDiffersAt, at)
	}
	if other.VsBaseline.KLMean != 0 || other.NLL != report.Models[0].NLL || other.Tokens != report.Models[0].Tokens {
		t.Errorf("the same model on the same tokens: %+v", other)
	}
	if _, err := run(runes{alphabet: " abcedfghijklmnopqrstuvwxyz\n", addBOS: true}); err == nil || !strings.Contains(err.Error(), "different vocabularies") {
		t.Errorf("error %v, want that the vocabularies differ", err)
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	opts := Options{Context: 16, Progress: func(string, int64, int64) { cancel() }}
	_, err := Run(ctx, []*Subject{subject("m", runes{alphabet: letters}, &markov{size: 30})}, StringText("text", randomText(300)), opts)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the run was canceled", err)
	}
}

// TestProgress: windows only go up, and the end is reached.
func TestProgress(t *testing.T) {
	var last, lastTotal int64
	opts := Options{Context: 16, Progress: func(_ string, done, total int64) {
		if done != last+1 || done > total {
			t.Errorf("progress from %d to %d of %d", last, done, total)
		}
		last, lastTotal = done, total
	}}
	enc := runes{alphabet: letters, piece: 100}
	if _, err := Run(context.Background(), []*Subject{subject("m", enc, &markov{size: 30})}, StringText("text", randomText(300000)), opts); err != nil {
		t.Fatal(err)
	}
	if last != 300000/16 || lastTotal != last {
		t.Errorf("ended at %d of %d, want %d", last, lastTotal, 300000/16)
	}
}

func TestLatency(t *testing.T) {
	enc := runes{alphabet: letters}
	report, err := Run(context.Background(),
		[]*Subject{subject("a", enc, &markov{size: 30}), subject("b", enc, &markov{size: 30})},
		StringText("text", randomText(64)), Options{Context: 16, Latency: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range report.Models {
		l := m.Latency
		if l == nil || l.PrefillTokensPerSecond <= 0 || l.DecodeTokensPerSecond <= 0 || l.TimeToFirstTokenMS <= 0 ||
			l.Repeats != DefaultRepeats || l.PromptTokens != 15 {
			t.Errorf("%s: latency %+v", m.Path, l)
		}
	}
	vs, want := report.Models[1].VsBaseline, report.Models[1].Latency.DecodeTokensPerSecond/report.Models[0].Latency.DecodeTokensPerSecond
	if vs.DecodeSpeedup != want {
		t.Errorf("speedup %v, want %v", vs.DecodeSpeedup, want)
	}
}

// TestHopelessModel: a perplexity beyond all numbers can still be written.
func TestHopelessModel(t *testing.T) {
	enc := runes{alphabet: letters}
	hopeless := &markov{size: 30, noise: 1e5}
	report, err := Run(context.Background(), []*Subject{subject("good", enc, &markov{size: 30}), subject("hopeless", enc, hopeless)},
		StringText("text", randomText(64)), Options{Context: 16})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := json.Marshal(report); err != nil {
		t.Error(err)
	}
	if got := (Gates{MaxPerplexity: ptr(1e9)}).Failures(report); len(got) != 1 {
		t.Errorf("a perplexity of %g passes", report.Models[1].Perplexity)
	}
}
