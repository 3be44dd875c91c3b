package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"llmc/calibrate"
	"llmc/demo"
	"llmc/eval"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/model"
)

// sampleOptions are the flags of commands that take text through a model block
// by block.
type sampleOptions struct {
	file      string
	samples   int
	context   int
	seed      uint64
	maxMemory string

	sequential bool
	resume     bool

	memory int64 // bytes of maxMemory, 0 for no limit
}

// sampleFlags are their names.
var sampleFlags = []string{"calibration", "samples", "calibration-context", "seed", "true-sequential", "max-memory", "resume"}

// register adds the flags to a command; use says what the text is for.
func (o *sampleOptions) register(cmd *cobra.Command, use string) {
	flags := cmd.Flags()
	flags.StringVar(&o.file, "calibration", "", use)
	flags.IntVar(&o.samples, "samples", 128, "windows of calibration text")
	flags.IntVar(&o.context, "calibration-context", 0, "tokens of such a window (default 2048, or the model's context if that is less)")
	flags.Uint64Var(&o.seed, "seed", 0, "chooses the windows")
	flags.BoolVar(&o.sequential, "true-sequential", true, "gptq and sparsegpt: q, k and v first, then o, then gate and up, then down, each with the inputs that those before it give by then; =false looks at the inputs of all at once")
	flags.StringVar(&o.maxMemory, "max-memory", "", "keep calibration within this much memory: 4GB (default: no limit)")
	flags.BoolVar(&o.resume, "resume", false, "go on with a run that was ended; begins one if there is none")
	putUnder(topicCalibration, flags, sampleFlags...)
}

// settle checks the flags; path is the model's.
func (o *sampleOptions) settle(path string, given func(string) bool) error {
	switch {
	case o.file == "" && !isDemo(path):
		return fault.Hint(fault.Usage("there is no text to calibrate on"), "add --calibration FILE with text like what the model will see, not the text it is measured on")
	case o.samples < 1:
		return fault.Usage("--samples is %d, allowed is 1 and more", o.samples)
	case given("calibration-context") && o.context < 2:
		return fault.Usage("--calibration-context is %d, allowed is 2 and more", o.context)
	case o.maxMemory == "":
		return nil
	}
	var err error
	if o.memory, err = eval.ParseSize(o.maxMemory); err != nil {
		return fault.Usage("--max-memory: %w", err)
	}
	if o.memory < 1 {
		return fault.Usage("--max-memory is %s, allowed is more than 0", o.maxMemory)
	}
	return nil
}

// text is where the calibration text is; a missing file is found here.
func (o *sampleOptions) text() (eval.Text, error) {
	if o.file == "" {
		return eval.StringText("the demo model's calibration text", demo.CalibrationText()), nil
	}
	return eval.FileText(o.file)
}

// window is how many tokens a window has.
func (o *sampleOptions) window(c *model.Config) int {
	if o.context > 0 {
		return o.context
	}
	return min(2048, max(c.Context, 2))
}

// schedule fits a walk over so many samples into the memory that is allowed, and
// sets options accordingly.
func (o *sampleOptions) schedule(w *model.Weights, samples int, options *calibrate.Options) (*calibrate.Schedule, error) {
	options.MaxMemory, options.Sequential = o.memory, options.Sequential && o.sequential
	return calibrate.NewSchedule(w, samples, o.window(&w.Config), *options)
}

// solverGarbagePercent is garbagePercent of commands that solve for layer after
// layer: they make and drop matrices as large as what they keep.
const solverGarbagePercent = 100

// limit makes Go keep to the memory that is allowed.
func (o *sampleOptions) limit(s *calibrate.Schedule) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(solverGarbagePercent)
	}
	if o.memory > 0 {
		debug.SetMemoryLimit(s.HeapLimit(o.memory))
	}
}

// sampleReport says what text a model was shown.
type sampleReport struct {
	Text    string `json:"text"`
	Samples int    `json:"samples"`
	Context int    `json:"context"`
	Tokens  int    `json:"tokens"`
	Seed    uint64 `json:"seed"`
	// Sequential says whether the linears of a block were looked at one after the other.
	Sequential bool `json:"true_sequential"`
}

// sample is calibration text, whole and in windows of token ids.
type sample struct {
	content string
	windows [][]int32
	report  sampleReport
}

// read reads the text and cuts it into windows for a model.
func (o *sampleOptions) read(ui *ui, text eval.Text, c *formats.Checkpoint, w *model.Weights) (*sample, error) {
	content, err := readText(text)
	if err != nil {
		return nil, err
	}
	tokenizer, err := model.OpenTokenizer(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	sampling := calibrate.Sampling{Samples: o.samples, Context: o.window(&w.Config), Seed: o.seed}
	windows, err := calibrate.Windows(tokenizer, content, sampling)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text.Name, err)
	}
	n := len(windows)
	if n < o.samples {
		ui.warn("%s gives %d samples of %d tokens, not %d", text.Name, n, sampling.Context, o.samples)
	}
	report := sampleReport{Text: text.Name, Samples: n, Context: sampling.Context, Tokens: n * sampling.Context, Seed: o.seed}
	return &sample{content, windows, report}, nil
}

// readText returns all of a text.
func readText(text eval.Text) (string, error) {
	r, err := text.Reader()
	if err != nil {
		return "", err
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	return string(all), err
}

// showProgress makes a walk over so many blocks report where it is.
func showProgress(ui *ui, o *calibrate.Options, blocks int) {
	where := ""
	o.Begin = func(block int) { where = fmt.Sprintf("block %d of %d", block+1, blocks) }
	o.Progress = func(done, total int64) { ui.progressAt("calibrate", where, done, total) }
}
