package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"llmc/demo"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/tokenizer"
)

// generateOptions are the flags of "llmc generate".
type generateOptions struct {
	prompt    string
	tokens    int
	sampling  model.Sampling
	ignoreEOS bool
	noEcho    bool
	compute   string
}

func newGenerateCommand(global *globalOptions) *cobra.Command {
	o := &generateOptions{}
	cmd := &cobra.Command{
		Use:   "generate [MODEL] -p PROMPT",
		Short: "Continue a text",
		Long: `Continues a text, printing the prompt and what follows as it comes. The prompt
is taken as it is: special tokens written in it count, no chat template is put
around it. The same flags give the same text, whatever the number of threads.`,
		Example: `  llmc generate -p "Once upon a time"
  llmc generate model.gguf -p "The capital of France is" -n 16
  llmc generate model/ -p "Dear" --temperature 0.8 --top-p 0.95 --seed 7`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("prompt") {
				return fault.Hint(fault.Usage("there is no prompt"), `add -p "Once upon a time"`)
			}
			if err := o.check(); err != nil {
				return err
			}
			path := demo.Name
			if len(args) > 0 {
				path = args[0]
			} else {
				global.ui.note("no model given: the built-in demo model continues")
			}
			return runGenerate(cmd.Context(), global, o, path)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.prompt, "prompt", "p", "", "the text to continue")
	flags.IntVarP(&o.tokens, "tokens", "n", 128, "generate at most this many tokens")
	flags.Float64Var(&o.sampling.Temperature, "temperature", 0, "0 takes the likeliest token, more draws at random")
	flags.IntVar(&o.sampling.TopK, "top-k", 0, "draw from the likeliest k tokens only (0: all)")
	flags.Float64Var(&o.sampling.TopP, "top-p", 1, "draw from the likeliest tokens that make up this probability")
	flags.Uint64Var(&o.sampling.Seed, "seed", 0, "seed of the random draws")
	flags.BoolVar(&o.ignoreEOS, "ignore-eos", false, "go on after the model ends the text")
	flags.StringVar(&o.compute, "compute", kernels.Exact.String(), computeHelp)
	flags.BoolVar(&o.noEcho, "no-echo", false, "leave the prompt out of the output")
	return cmd
}

func (o *generateOptions) check() error {
	if o.tokens < 1 {
		return fault.Usage("--tokens is %d, allowed is 1 or more", o.tokens)
	}
	if s := o.sampling; s.Temperature == 0 && (s.TopK > 0 || s.TopP < 1) {
		return fault.Hint(fault.Usage("--top-k and --top-p have no effect at temperature 0"), "add --temperature 0.8, or leave them out")
	}
	return o.sampling.Check()
}

// generation is a text as it grows, and the document of "llmc generate --json".
type generation struct {
	Model                  string  `json:"model"`
	Compute                string  `json:"compute"`
	Prompt                 string  `json:"prompt"`
	PromptTokens           []int32 `json:"prompt_tokens"`
	Tokens                 []int32 `json:"tokens"`
	Text                   string  `json:"text"`    // without the prompt
	Stopped                string  `json:"stopped"` // "eos" or "length"
	PrefillTokensPerSecond float64 `json:"prefill_tokens_per_second"`
	DecodeTokensPerSecond  float64 `json:"decode_tokens_per_second,omitempty"`

	tok     *tokenizer.Tokenizer
	out     io.Writer // where the text goes as it comes; nil for nowhere
	pending string    // bytes of a character that is not complete yet
}

func runGenerate(ctx context.Context, global *globalOptions, o *generateOptions, path string) error {
	compute, err := kernels.ParseCompute(o.compute)
	if err != nil {
		return fault.Usage("--compute: %w", err)
	}
	c, err := openModel(path)
	if err != nil {
		return err
	}
	defer c.Close()
	weights, err := model.Open(c)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if q := weights.Quantization; q != nil && len(q.Unapplied) > 0 {
		global.ui.warn("not rounded, though the checkpoint asks for it: %s", strings.Join(q.Unapplied, ", "))
	}
	tok, err := model.OpenTokenizer(c)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	m, err := model.New(global.newDeviceFor(compute), weights)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	prompt := tok.Encode(o.prompt, true, true)
	if id, ok := tok.BOS(); ok && len(prompt) == 0 {
		prompt = []int32{id}
	}
	ui := global.ui
	g := &generation{Model: path, Compute: compute.Describe(), Prompt: o.prompt, PromptTokens: prompt, tok: tok}
	if !ui.json {
		g.out = ui.out
		if !o.noEcho {
			fmt.Fprint(ui.out, o.prompt)
		}
	}
	err = g.run(ctx, m, o)
	if !ui.json {
		fmt.Fprintln(ui.out)
	}
	if err != nil {
		// Numbers that are not finite come from weights that are not: say which.
		if bad := weights.Check(ctx, nil); bad != nil {
			err = bad
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	ui.note("%d tokens of prompt at %s tokens/s, %d tokens at %s tokens/s", len(prompt), figure(g.PrefillTokensPerSecond),
		len(g.Tokens), figure(g.DecodeTokensPerSecond))
	return ui.document(g)
}

// stopTokens are the tokens that end a text.
func stopTokens(m *model.Model, tok *tokenizer.Tokenizer) []int {
	stop := slices.Clone(m.Config().EOS)
	if id, ok := tok.EOS(); ok {
		stop = append(stop, int(id))
	}
	return stop
}

// run generates.
func (g *generation) run(ctx context.Context, m *model.Model, o *generateOptions) error {
	var stop []int
	if !o.ignoreEOS {
		stop = stopTokens(m, g.tok)
	}
	var text strings.Builder
	var failed error
	start := time.Now()
	var first time.Time // when the first token came
	err := model.Generate(ctx, m, g.PromptTokens, o.tokens, o.sampling, stop, func(id int32) bool {
		if len(g.Tokens) == 0 {
			first = time.Now()
		}
		g.Tokens = append(g.Tokens, id)
		failed = g.emit(&text, g.complete(g.tok.Piece(id)))
		return failed == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	g.measure(start, first)
	g.Stopped = "length"
	if len(g.Tokens) < o.tokens {
		g.Stopped = "eos"
	}
	err = g.emit(&text, g.pending)
	g.Text = text.String()
	return err
}

// measure works out the speeds at the end of a run.
func (g *generation) measure(start, first time.Time) {
	if len(g.Tokens) == 0 {
		first = time.Now()
	}
	g.PrefillTokensPerSecond = float64(len(g.PromptTokens)) / first.Sub(start).Seconds()
	if runs := len(g.Tokens) - 1; runs > 0 {
		g.DecodeTokensPerSecond = float64(runs) / time.Since(first).Seconds()
	}
}

// complete returns what can be shown of the text so far: bytes that are only
// the beginning of a character wait for the next token.
func (g *generation) complete(piece string) string {
	text := g.pending + piece
	cut := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if utf8.RuneStart(text[len(text)-i]) {
			if !utf8.FullRuneInString(text[len(text)-i:]) {
				cut = len(text) - i
			}
			break
		}
	}
	g.pending = text[cut:]
	return text[:cut]
}

// emit adds text to what is kept and to the output; bytes that are no
// characters become U+FFFD.
func (g *generation) emit(kept *strings.Builder, text string) error {
	text = strings.ToValidUTF8(text, "\uFFFD")
	kept.WriteString(text)
	if g.out == nil || text == "" {
		return nil
	}
	if _, err := io.WriteString(g.out, text); err != nil {
		return fmt.Errorf("cannot write the text: %w", err)
	}
	return nil
}
