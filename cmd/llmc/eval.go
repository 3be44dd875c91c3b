package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"llmc/demo"
	"llmc/eval"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// evalOptions are the flags of "llmc eval".
type evalOptions struct {
	text     string
	protocol string
	context  int
	stride   int
	chunks   int
	latency  bool
	repeats  int
	compute  string
	baseline bool // baseline's tokens for all

	activations string
	kvBits      int
	gates       gateOptions
}

func newEvalCommand(global *globalOptions) *cobra.Command {
	o := &evalOptions{}
	cmd := &cobra.Command{
		Use:   "eval [BASELINE [VARIANT...]]",
		Short: "Measure perplexity, divergence from the baseline, size and speed",
		Long: `Measures the perplexity of models on a text. With several models, each is
compared with the first: ratio of the perplexities, Kullback-Leibler divergence
(in nats) of its predictions from the baseline's, how often both predict the
same token first, size.

Perplexities can be compared only when text, protocol and context are the same:
  llama.cpp  what llama-perplexity measures: the second half of every window of
             --context tokens is scored
  full       the text is cut into windows of --context tokens, all but the first
             token of each are scored
  stride     a window of --context tokens moves by --stride tokens, the new ones
             are scored (Hugging Face's sliding window)

Without a model, the built-in demo model is measured on its own held-out text;
the name "demo" stands for it in a list of models (./demo for a folder of that
name).

With --kv-bits the models' keys and values are rounded, but for the baseline's: as
llama.cpp does it for -ctk q8_0 -ctv q8_0 or q4_0, in blocks of 32. A model given
alone is then compared with itself.

The gates, for CI, apply to the variants, or to the only model.`,
		Example: `  llmc eval
  llmc eval model/ --text wiki.test.raw
  llmc eval model/ model-q4.gguf --text wiki.test.raw --max-perplexity-increase 2%
  llmc eval model/ --text wiki.test.raw --kv-bits 8
  llmc eval model/ a.gguf b.gguf --text test.txt --latency --json > report.json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runEval(cmd.Context(), global, o, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.text, "text", "", "UTF-8 text to measure on (default for the demo model: its held-out text)")
	flags.StringVar(&o.protocol, "protocol", string(eval.LlamaCpp), "llama.cpp, full or stride")
	flags.IntVar(&o.context, "context", 0, "tokens of a window (default: 512, or what the model was trained for if less)")
	flags.IntVar(&o.stride, "stride", 0, "tokens that a window moves by, for --protocol stride (default: half the context)")
	flags.IntVar(&o.chunks, "chunks", 0, "measure at most this many windows (default: all)")
	flags.BoolVar(&o.latency, "latency", false, "measure speed too: prefill, decoding, time to the first token")
	flags.IntVar(&o.repeats, "repeats", eval.DefaultRepeats, "how often to measure speed, after a warm-up; medians are reported")
	flags.StringVar(&o.compute, "compute", "", computeHelp+" (default: exact for perplexity, fast for speed)")
	flags.StringVar(&o.activations, "activations", "rounded",
		"rounded: as the engines that run a checkpoint round them, if it says so; exact: as they are")
	flags.IntVar(&o.kvBits, "kv-bits", 0, "round the keys and values that attention keeps, but for the baseline's: 8 or 4")
	flags.BoolVar(&o.baseline, "baseline-tokens", false, "measure all on the first model's tokens, even where tokenizers differ")
	o.gates.bind(cmd)
	return cmd
}

// computeHelp explains the flag --compute.
const computeHelp = "exact: float32 activations; fast: 8-bit activations with packed weights"

// devices returns what perplexity and what speed are measured on.
func (o *evalOptions) devices(global *globalOptions) (perplexity, latency kernels.Device, err error) {
	if o.compute == "" {
		return global.newDevice(), global.newDeviceFor(kernels.Fast), nil
	}
	c, err := kernels.ParseCompute(o.compute)
	if err != nil {
		return nil, nil, fault.Usage("--compute: %w", err)
	}
	dev := global.newDeviceFor(c)
	return dev, dev, nil
}

// check refuses flags that make no sense and returns what they mean.
func (o *evalOptions) check(global *globalOptions, models int) (eval.Options, eval.Gates, error) {
	opts := eval.Options{
		Context: o.context, Stride: o.stride, Chunks: o.chunks, Threads: global.threads,
		Latency: o.latency, Repeats: o.repeats, BaselineTokens: o.baseline, Progress: global.ui.progress,
	}
	var err error
	if opts.Protocol, err = eval.ParseProtocol(o.protocol); err != nil {
		return opts, eval.Gates{}, err
	}
	switch {
	case o.stride != 0 && opts.Protocol != eval.Stride:
		return opts, eval.Gates{}, fault.Usage("--stride belongs to --protocol stride, but the protocol is %s", opts.Protocol)
	case o.activations != "rounded" && o.activations != "exact":
		return opts, eval.Gates{}, fault.Usage("--activations is %q, allowed are rounded and exact", o.activations)
	case !kernels.CacheBits(o.kvBits).Valid():
		return opts, eval.Gates{}, fault.Usage("--kv-bits is %d, allowed are 8 and 4", o.kvBits)
	case o.repeats < 1:
		return opts, eval.Gates{}, fault.Usage("--repeats is %d, allowed is 1 or more", o.repeats)
	case o.chunks < 0:
		return opts, eval.Gates{}, fault.Usage("--chunks is %d, allowed is 1 or more (0 for all)", o.chunks)
	}
	if err := opts.Check(); err != nil {
		return opts, eval.Gates{}, err
	}
	if o.kvBits > 0 && models == 1 {
		models = 2 // it is compared with itself
	}
	gates, err := o.gates.parse(models)
	opts.Latency = opts.Latency || gates.NeedsLatency()
	if err == nil && o.kvBits > 0 && opts.Latency {
		err = fault.Hint(fault.Usage("speed cannot be measured with --kv-bits, which computes what rounding does to predictions, not how fast an engine reads the codes"),
			"measure speed in a run without --kv-bits")
	}
	return opts, gates, err
}

func runEval(ctx context.Context, global *globalOptions, o *evalOptions, paths []string) error {
	ui := global.ui
	given := len(paths) > 0
	if !given {
		paths = []string{demo.Name}
	}
	opts, gates, err := o.check(global, len(paths))
	if err != nil {
		return err
	}
	dev, latencyDev, err := o.devices(global)
	if err != nil {
		return err
	}
	if latencyDev != dev {
		opts.LatencyDevice = latencyDev
	}
	text, err := evalText(o.text, paths[0])
	if err != nil {
		return err
	}
	if !given {
		ui.note("no model given: measuring the built-in demo model")
	}
	subjects, closeAll, err := loadSubjects(dev, paths, o.activations == "exact")
	defer closeAll()
	if err != nil {
		return err
	}
	if o.kvBits > 0 {
		subjects = roundCaches(subjects, kernels.CacheBits(o.kvBits))
	}
	for _, s := range subjects[:len(paths)] {
		if s.Context > 0 && opts.Context > s.Context {
			ui.warn("--context %d is longer than %s was trained for (%d tokens)", opts.Context, s.Path, s.Context)
		}
	}
	report, err := eval.Run(ctx, subjects, text, opts)
	if err != nil {
		return err
	}
	ui.closeProgress()
	if err := ui.document(report); err != nil {
		return err
	}
	if err := printReport(ui, report); err != nil {
		return err
	}
	if failures := gates.Failures(report); len(failures) > 0 {
		return &gateError{failures}
	}
	return nil
}

// roundCaches makes all but the baseline round keys and values; a baseline alone
// is followed by itself.
func roundCaches(subjects []*eval.Subject, bits kernels.CacheBits) []*eval.Subject {
	if len(subjects) == 1 {
		return append(subjects, subjects[0].WithCache(bits))
	}
	for i := range subjects[1:] {
		subjects[1+i] = subjects[1+i].WithCache(bits)
	}
	return subjects
}

// openModel opens a checkpoint, or the built-in model for demo.Name.
func openModel(path string) (*formats.Checkpoint, error) {
	if isDemo(path) {
		return demo.Checkpoint()
	}
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Hint(fmt.Errorf("there is no model at %s", path),
			"a model is a Hugging Face folder, a .safetensors file with its config.json beside it, or a .gguf file")
	}
	return formats.Open(path)
}

// isDemo reports whether a path is the name of the built-in model.
func isDemo(path string) bool { return path == demo.Name }

// evalText is the text of --text, or the demo model's own.
func evalText(path, baseline string) (eval.Text, error) {
	switch {
	case path != "":
		return eval.FileText(path)
	case isDemo(baseline):
		return eval.StringText("the demo model's held-out text", demo.EvalText()), nil
	}
	return eval.Text{}, fault.Hint(fault.Usage("there is no text to measure %s on", baseline),
		"add --text FILE with text that the model was not trained on, such as the raw test split of WikiText-2")
}

// loadSubjects opens and loads models, with exact activations whatever they say
// of them if that is asked for; the function it returns closes what was opened,
// also after an error.
func loadSubjects(dev kernels.Device, paths []string, exact bool) ([]*eval.Subject, func(), error) {
	var subjects []*eval.Subject
	var closers []func()
	closeAll := func() {
		for _, f := range closers {
			f()
		}
	}
	for _, path := range paths {
		c, err := openModel(path)
		if err != nil {
			return nil, closeAll, err
		}
		closers = append(closers, func() { _ = c.Close() }) // only read from
		w, err := model.Open(c)
		if err != nil {
			return nil, closeAll, fmt.Errorf("%s: %w", path, err)
		}
		if exact {
			w.KeepInputs()
		}
		s, err := eval.LoadWeights(dev, c, w, path)
		if err != nil {
			return nil, closeAll, err
		}
		subjects = append(subjects, s)
	}
	return subjects, closeAll, nil
}

// printReport prints the report for people: tables of at most 100 columns.
func printReport(ui *ui, r *eval.Report) error {
	m := r.Models[0]
	ui.print("text      %s%s", r.Text.Name, parenthesized(tokensString(r.Text.Tokens)))
	protocol := fmt.Sprintf("%s, context %d", m.Protocol, m.Context)
	if m.Stride > 0 {
		protocol += fmt.Sprintf(", stride %d", m.Stride)
	}
	bos := "no BOS"
	if m.BOS {
		bos = "with BOS"
	}
	ui.print("protocol  %s, %s: %s of %d windows scored", protocol, bos, tokensString(m.Tokens), m.Windows)
	ui.print("computed  %s", r.Compute)
	ui.print("on        %s%s\n", r.Device, peakString(r.PeakRSSBytes))

	header := []string{"model", "size", "bits", "perplexity"}
	compare := len(r.Models) > 1
	if compare {
		header = append(header, "change", "KL mean", "KL p99", "same top")
	}
	names := shortNames(r.Models)
	var rows [][]string
	for i, m := range r.Models {
		row := []string{names[i], bytesString(m.SizeBytes), fmt.Sprintf("%.2f", m.BitsPerWeight),
			figure(m.Perplexity) + " ± " + uncertainty(m.PerplexityStderr)}
		if vs := m.VsBaseline; vs != nil {
			row = append(row, changeString(vs.PerplexityRatio), figure(vs.KLMean), figure(vs.KLP99),
				fmt.Sprintf("%.1f%%", 100*vs.Top1Agreement))
		} else if compare {
			row = append(row, "", "", "", "")
		}
		rows = append(rows, row)
	}
	if err := ui.table(header, rows, 0); err != nil {
		return err
	}
	if compare {
		ui.print("\nchange, KL (in nats) and same top compare with %s, token by token", names[0])
	}
	for i, m := range r.Models {
		if m.TokenizerDiffersAt != nil {
			ui.print("%s: tokenizer differs at token %d, so the first model's tokens were used", names[i], *m.TokenizerDiffersAt)
		}
		if m.Activations != "" {
			ui.print("%s: activations %s", names[i], m.Activations)
		}
		if len(m.Unapplied) > 0 {
			ui.print("%s: not rounded, though the checkpoint asks for it: %s", names[i], strings.Join(m.Unapplied, ", "))
		}
		if m.KVBits > 0 {
			ui.print("%s: keys and values rounded to %d bits in blocks of 32", names[i], m.KVBits)
		}
	}
	if m.Latency == nil {
		return nil
	}
	ui.print("")
	return printLatency(ui, r, names)
}

func printLatency(ui *ui, r *eval.Report, names []string) error {
	header := []string{"model", "prefill tok/s", "±", "decode tok/s", "±", "first token", "speedup"}
	if len(r.Models) == 1 {
		header = header[:len(header)-1]
	}
	var rows [][]string
	for i, m := range r.Models {
		l := m.Latency
		row := []string{names[i], figure(l.PrefillTokensPerSecond), fmt.Sprintf("%.0f%%", 50*l.PrefillSpread),
			figure(l.DecodeTokensPerSecond), fmt.Sprintf("%.0f%%", 50*l.DecodeSpread),
			fmt.Sprintf("%s ms", figure(l.TimeToFirstTokenMS))}
		if m.VsBaseline != nil {
			row = append(row, fmt.Sprintf("%.2fx", m.VsBaseline.DecodeSpeedup))
		} else if len(r.Models) > 1 {
			row = append(row, "")
		}
		rows = append(rows, row)
	}
	if err := ui.table(header, rows, 0); err != nil {
		return err
	}
	ui.print("\nspeed computed  %s", r.Models[0].Latency.Compute)
	return nil
}

// changeString writes a ratio as a change in percent.
func changeString(ratio float64) string {
	text := fmt.Sprintf("%+.2f%%", 100*(ratio-1))
	if text == "-0.00%" || text == "+0.00%" {
		return "0.00%"
	}
	return text
}

// figure writes a number with five significant digits, without an exponent if
// it is neither very large nor very small.
func figure(v float64) string {
	switch size := math.Abs(v); {
	case v == 0 || math.IsNaN(v) || size >= 1e7:
		return fmt.Sprintf("%.5g", v)
	case size < 1e-4:
		return fmt.Sprintf("%.1e", v)
	}
	digits := 4 - int(math.Floor(math.Log10(math.Abs(v))))
	return fmt.Sprintf("%.*f", min(max(digits, 0), 6), v)
}

// uncertainty writes a standard error with two significant digits.
func uncertainty(v float64) string {
	if v == 0 || math.IsNaN(v) || v >= 1e6 {
		return fmt.Sprintf("%.2g", v)
	}
	digits := 1 - int(math.Floor(math.Log10(v)))
	return fmt.Sprintf("%.*f", min(max(digits, 0), 6), v)
}

func tokensString(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d tokens", n)
}

func peakString(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %s of memory at most", bytesString(n))
}

func parenthesized(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// nameWidth is the room for a model's name in a table of 100 columns.
const nameWidth = 24

// shortNames are the last parts of the models' paths: as much of them as tells
// the models apart, and fits.
func shortNames(models []eval.ModelReport) []string {
	names := make([]string, len(models))
	seen := map[string]int{}
	for i, m := range models {
		names[i] = filepath.Base(strings.TrimRight(m.Path, string(filepath.Separator)))
		if m.KVBits > 0 {
			names[i] += fmt.Sprintf(" kv%d", m.KVBits)
		}
		seen[names[i]]++
	}
	for i, m := range models {
		if seen[names[i]] > 1 {
			names[i] = m.Path
		}
		if r := []rune(names[i]); len(r) > nameWidth {
			half := nameWidth / 2
			names[i] = string(r[:half]) + "…" + string(r[len(r)-nameWidth+half+1:])
		}
	}
	return names
}
