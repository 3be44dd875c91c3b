package eval

import "math"

// Report is everything measured in a run. Its JSON is part of the command
// line's contract; a field that was not measured is absent, never zero.
type Report struct {
	Models []ModelReport `json:"models"` // the baseline first
	Text   TextReport    `json:"text"`
	// Compute says in which arithmetic perplexities were measured, Device on
	// what. Latency has an arithmetic of its own.
	Compute string `json:"compute"`
	Device  string `json:"device,omitempty"`
	// PeakRSSBytes is the largest resident memory of the process, whatever the
	// number of models.
	PeakRSSBytes int64 `json:"peak_rss_bytes,omitempty"`
}

// TextReport says what text was used.
type TextReport struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes,omitempty"`
	// SHA256 and Tokens, with the BOS that the tokenizer adds, are of the whole
	// text: absent when only its first windows were read.
	SHA256 string `json:"sha256,omitempty"`
	Tokens int64  `json:"tokens,omitempty"`
}

// ModelReport is what was measured of one model.
type ModelReport struct {
	Path         string `json:"path"`
	Architecture string `json:"architecture,omitempty"`
	Scheme       string `json:"scheme,omitempty"` // how its weights are stored
	// Activations is how the activations that linears multiply were rounded, as
	// an engine that runs the checkpoint does it: "int8 per token". It is "exact"
	// where they were not though the checkpoint asks for it, absent where it does
	// not.
	Activations string `json:"activations,omitempty"`
	// Unapplied lists what the checkpoint has an engine round besides and was not
	// rounded here.
	Unapplied []string `json:"unapplied,omitempty"`
	// KVBits is what keys and values were rounded to, in blocks of 32, as
	// llama.cpp does it; absent where they were not.
	KVBits        int     `json:"kv_bits,omitempty"`
	Parameters    int64   `json:"parameters,omitempty"`
	SizeBytes     int64   `json:"size_bytes,omitempty"`
	BitsPerWeight float64 `json:"bits_per_weight,omitempty"`

	Perplexity       float64  `json:"perplexity"`
	PerplexityStderr float64  `json:"perplexity_stderr"`
	NLL              float64  `json:"nll"`     // mean, in nats
	Tokens           int64    `json:"tokens"`  // that were scored
	Windows          int64    `json:"windows"` // that were run
	Context          int      `json:"context"`
	Stride           int      `json:"stride,omitempty"` // of the protocol stride
	Protocol         Protocol `json:"protocol"`
	BOS              bool     `json:"bos"` // whether the text began with one
	// TokenizerDiffersAt is the first token of the text that the model's own
	// tokenizer gives otherwise than the baseline's, which was used; absent if
	// there is none.
	TokenizerDiffersAt *int64 `json:"tokenizer_differs_at,omitempty"`

	// PeakRSSBytes is the largest resident memory of a process that ran this
	// model alone; absent when it ran together with others.
	PeakRSSBytes int64       `json:"peak_rss_bytes,omitempty"`
	Latency      *Latency    `json:"latency,omitempty"`
	VsBaseline   *Comparison `json:"vs_baseline,omitempty"` // absent in the baseline
}

// Latency is how fast a model runs, each figure the median of repeated
// measurements; the spread is the largest minus the smallest, relative to the
// median.
type Latency struct {
	Compute                string  `json:"compute"` // the arithmetic
	PrefillTokensPerSecond float64 `json:"prefill_tokens_per_second"`
	DecodeTokensPerSecond  float64 `json:"decode_tokens_per_second"`
	TimeToFirstTokenMS     float64 `json:"time_to_first_token_ms"`
	PrefillSpread          float64 `json:"prefill_spread"`
	DecodeSpread           float64 `json:"decode_spread"`
	PromptTokens           int     `json:"prompt_tokens"`
	DecodedTokens          int     `json:"decoded_tokens"`
	Repeats                int     `json:"repeats"`
}

// Comparison is a model against the baseline, token by token on the same text.
type Comparison struct {
	PerplexityRatio float64 `json:"perplexity_ratio"`
	// PerplexityRatioStderr pairs the tokens, so it is far smaller than what
	// the standard errors of the two perplexities suggest.
	PerplexityRatioStderr float64 `json:"perplexity_ratio_stderr"`
	KLMean                float64 `json:"kl_mean"` // KL(baseline||model) in nats
	KLStderr              float64 `json:"kl_stderr"`
	KLP99                 float64 `json:"kl_p99"`
	Top1Agreement         float64 `json:"top1_agreement"` // fraction of tokens whose likeliest next token is the same
	SizeRatio             float64 `json:"size_ratio,omitempty"`
	DecodeSpeedup         float64 `json:"decode_speedup,omitempty"` // of decoding, with latencies
}

// report writes the tallies up.
func (r *run) report(subjects []*Subject) *Report {
	out := &Report{Text: TextReport{Name: r.text.Name, Bytes: r.text.Size}}
	if dev := subjects[0].device; dev != nil {
		out.Compute, out.Device = dev.Compute().Describe(), dev.Name()
	}
	if s := r.sources[0]; s.done {
		out.Text.SHA256, out.Text.Tokens = s.text.digest(), s.tokens
	}
	for i, s := range subjects {
		t := &r.tallies[i]
		nll := t.nll.value()
		_, bos := subjects[0].bos()
		m := ModelReport{
			Path: s.Path, Architecture: s.Architecture, Scheme: s.Scheme, Activations: s.rounded, Unapplied: s.unapplied(), KVBits: int(s.kvBits),
			Parameters: s.Parameters, SizeBytes: s.SizeBytes, BitsPerWeight: s.BitsPerWeight(),
			Perplexity: finite(math.Exp(nll)), PerplexityStderr: finite(math.Exp(nll) * t.nll.stderr()), NLL: nll,
			Tokens: t.nll.n, Windows: r.windows,
			Context: r.layout.context, Protocol: r.layout.protocol, BOS: bos,
			TokenizerDiffersAt: r.sources[i].other,
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
		PerplexityRatio: finite(ratio), PerplexityRatioStderr: finite(ratio * t.excess.stderr()),
		KLMean: t.kl.value(), KLStderr: t.kl.stderr(), KLP99: t.divergences.at(0.99),
		Top1Agreement: float64(t.agreed) / float64(t.nll.n),
	}
	if base.SizeBytes > 0 {
		c.SizeRatio = float64(s.SizeBytes) / float64(base.SizeBytes)
	}
	return c
}

// finite makes an infinite perplexity the largest number, which JSON has.
func finite(v float64) float64 { return min(v, math.MaxFloat64) }
