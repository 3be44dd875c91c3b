package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"llmc/demo"
	"llmc/distill"
	"llmc/eval"
	"llmc/internal/fault"
)

// distillOptions are the flags of "llmc distill".
type distillOptions struct {
	teacher, student string
	out              string
	shape            distill.Shape
	random           bool

	train, text string
	special     bool
	loss        string
	temperature float64
	alpha, beta float64
	topK        int
	cache       string

	steps, warmup int
	batch         int
	context       int
	lr, finalLR   float64
	decay, clip   float64
	loraRank      int
	hidden        float64
	layerwise     bool
	onPolicy      float64
	evalEvery     int
	saveEvery     int
	seed          uint64
	maxMemory     string

	maxShard   string
	reportFile string
	curve      []string
	resume     bool
	force      bool
	dryRun     bool

	rounding quantizeOptions // of a student that is quantized while it learns

	flags *pflag.FlagSet
}

func newDistillCommand(global *globalOptions) *cobra.Command {
	o := &distillOptions{}
	cmd := &cobra.Command{
		Use:   "distill [--teacher TEACHER] [--student STUDENT]",
		Short: "Train a small model on text, by what a larger one predicts there",
		Long: `Trains the student so that its predictions become those of the teacher on the text
of --train, or learns the text alone when there is no teacher. The student is
  --student STUDENT    a checkpoint: a pruned one is healed, and zeros stay zero
  --student-layers N   and the like: a new one of this size, made of the teacher's
                       layers, or of nothing with --random

  --loss kl            forward KL divergence from the teacher (arXiv 1503.02531)
  --loss reverse-kl    the student gives up what it cannot do (arXiv 2306.08543)
  --loss js            between the two, by --beta (arXiv 2306.13649)
  --loss tv            total variation
  --loss ce            the text alone
--alpha says how much of the loss is the teacher's; the rest is the text's, which
makes perplexity on such text better and the student less like the teacher. The
teacher runs alongside; with --cache-teacher FILE what it predicts is kept in a
file first, and training needs no teacher in memory.

AdamW with decoupled weight decay; the rate rises over --warmup steps and falls
along a cosine. Every --eval-every steps the student is measured on the held-out
text of --text, and the best weights are what is written, in BF16. A run that was
ended goes on with --resume, to the same bytes.

With --bits or --type the student computes with rounded weights while it learns
(quantization-aware training), and is written as llmc quantize writes it. With
--lora-rank only adapters of that rank are trained, and merged at the end. Besides
predictions, --hidden-weight compares hidden states; --layerwise compares these
alone, layer by layer, which is faster and needs no head. With --on-policy a part
of the text is what the student itself writes.

Without TEACHER and STUDENT the built-in demo model is the teacher.`,
		Example: `  llmc distill --student-layers 1 --steps 50
  llmc distill --teacher model/ --student pruned/ --train sample.txt --text test.txt -o healed/
  llmc distill --teacher model/ --student-layers 6 --student-ffn 512 --train text.txt -o small/
  llmc distill --student model/ --train text.txt --steps 500 --lr 1e-5 -o tuned/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.flags = cmd.Flags()
			return runDistill(cmd.Context(), global, o)
		},
	}
	o.register(cmd)
	return cmd
}

// register adds the flags to the command.
func (o *distillOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.teacher, "teacher", "", "model to learn from")
	flags.StringVar(&o.student, "student", "", "model to train (default: a new one made of the teacher)")
	flags.StringVarP(&o.out, "output", "o", "", "file or folder to write (default: a name made of the model's, here)")
	flags.IntVar(&o.shape.Layers, "student-layers", 0, "layers of a new student (default: as the teacher)")
	flags.IntVar(&o.shape.Hidden, "student-hidden", 0, "width of its residual stream")
	flags.IntVar(&o.shape.Heads, "student-heads", 0, "its attention heads")
	flags.IntVar(&o.shape.FFN, "student-ffn", 0, "width of its feed-forward layers")
	flags.BoolVar(&o.random, "random", false, "begin with random weights")
	flags.StringVar(&o.train, "train", "", "text to train on (demo model: its calibration text)")
	flags.StringVar(&o.train, "calibration", "", "the same as --train")
	flags.BoolVar(&o.special, "special-tokens", false, "special tokens written in the training text, such as </s>, are these tokens")
	flags.StringVar(&o.loss, "loss", "", "kl, reverse-kl, js, tv or ce (default kl, ce without a teacher)")
	flags.Float64Var(&o.temperature, "temperature", 1, "of both models' predictions in the loss")
	flags.Float64Var(&o.alpha, "alpha", 0, "share of the teacher in the loss; the rest is the text's (default 1, for a new student 0.5)")
	flags.Float64Var(&o.beta, "beta", 0.5, "js: weight of the teacher in the mixture")
	flags.IntVar(&o.topK, "top-k", 0, "look at this many of the teacher's likeliest tokens, and all others as one (default: all; 64 with --cache-teacher)")
	flags.StringVar(&o.cache, "cache-teacher", "", "keep the teacher's predictions in this file, or use those it has")
	flags.Float64Var(&o.hidden, "hidden-weight", 0, "also compare hidden states, with this weight")
	flags.BoolVar(&o.layerwise, "layerwise", false, "compare what each layer makes of the teacher's hidden states, instead of predictions")
	flags.Float64Var(&o.onPolicy, "on-policy", 0, "share of the windows that the student goes on with itself after a quarter")
	flags.IntVar(&o.loraRank, "lora-rank", 0, "train adapters of this rank only")
	o.rounding.registerRounding(flags)
	flags.IntVar(&o.steps, "steps", 500, "steps to train")
	flags.IntVar(&o.batch, "batch", 8, "windows of text in a step")
	flags.Float64Var(&o.lr, "lr", 0, "largest learning rate (default 1e-4, 1e-3 for random weights)")
	flags.Float64Var(&o.finalLR, "final-lr", 0.1, "share of it that is left at the last step")
	flags.IntVar(&o.warmup, "warmup", 0, "steps over which the rate rises (default: one in twenty)")
	flags.Float64Var(&o.decay, "weight-decay", 0.01, "of matrices, times the rate, a step")
	flags.Float64Var(&o.clip, "clip", 1, "largest norm of the gradient, 0 for any")
	flags.IntVar(&o.evalEvery, "eval-every", 0, "steps between evaluations on --text (default: ten in all)")
	flags.Uint64Var(&o.seed, "seed", 0, "chooses the order of the text and random weights")
	flags.StringVar(&o.maxMemory, "max-memory", "", "keep training within this much memory: 4GB (default: no limit)")
	flags.BoolVar(&o.resume, "resume", false, "go on with a run that was ended; begins one if there is none")
	flags.IntVar(&o.saveEvery, "save-every", 0, "steps between saves for --resume (default: every two minutes)")
	flags.StringVar(&o.text, "text", "", "measure on this held-out text (demo model: its own)")
	flags.IntVar(&o.context, "context", 0, "tokens of a window (default 512, or the model's context if that is less)")
	flags.StringSliceVar(&o.curve, "curve", nil, "also write the loss curve to this .csv or .png file; repeatable")
	flags.StringVar(&o.maxShard, "max-shard-size", "5GB", "size at which the weights of a folder are split into files")
	flags.StringVar(&o.reportFile, "report", "", "also write the JSON document of --json to this file")
	flags.BoolVar(&o.force, "force", false, "replace an existing output")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be done and stop")
	putUnder(topicTraining, flags, "steps", "batch", "context", "lr", "final-lr", "warmup", "weight-decay", "clip", "seed", "max-memory", "resume", "save-every")
	putUnder(topicRounding, flags, roundingFlags...)
	putUnder(topicMeasuring, flags, "text", "eval-every")
	putUnder(topicOutput, flags, "curve", "max-shard-size", "report", "force", "dry-run")
}

// shaped reports whether a new student was asked for.
func (o *distillOptions) shaped() bool { return o.shape != (distill.Shape{}) }

// settle turns flags into a run, and refuses those that do not go together. No
// file is opened but texts.
func (o *distillOptions) settle() (*distillation, error) {
	d := &distillation{teacherPath: o.teacher, studentPath: o.student, out: o.out}
	if d.teacherPath == "" && d.studentPath == "" && o.cache == "" {
		d.teacherPath = demo.Name
	}
	switch {
	case o.shaped() && o.student != "":
		return nil, fault.Hint(fault.Usage("--student is a model that there is, and the --student-... flags make a new one"), "leave one of them out")
	case o.student == "" && o.shaped() && d.teacherPath == "":
		return nil, fault.Hint(fault.Usage("there is no model to make a student of"), "add --teacher MODEL")
	case o.student == "" && !o.shaped():
		if o.cache == "" || o.out != "" {
			return nil, fault.Hint(fault.Usage("there is no student"), "add --student MODEL, or --student-layers and the like for a new one")
		}
		d.cacheOnly = true
	}
	if err := d.settleLoss(o); err != nil {
		return nil, err
	}
	if err := d.settleSteps(o); err != nil {
		return nil, err
	}
	if err := d.settleGoal(o); err != nil {
		return nil, err
	}
	model := cmp.Or(d.teacherPath, d.studentPath)
	switch {
	case o.train != "":
		var err error
		if d.train, err = eval.FileText(o.train); err != nil {
			return nil, err
		}
	case isDemo(model):
		d.train = eval.StringText("the demo model's calibration text", demo.CalibrationText())
	default:
		return nil, fault.Hint(fault.Usage("there is no text to train on"), "add --train FILE with text like what the model will see, not the text it is measured on")
	}
	if o.text != "" || isDemo(model) {
		t, err := evalText(o.text, model)
		if err != nil {
			return nil, err
		}
		d.heldOut = &t
	}
	for _, path := range o.curve {
		if curveWriter(path) == nil {
			return nil, fault.Usage("--curve is %s, allowed are names that end in .csv and .png", path)
		}
	}
	var err error
	d.shard, err = shardSize(o.maxShard)
	return d, err
}

// settleLoss settles what the student is compared with.
func (d *distillation) settleLoss(o *distillOptions) error {
	taught := d.teacherPath != "" || o.cache != ""
	name := o.loss
	if name == "" {
		name = "ce"
		if taught {
			name = "kl"
		}
	}
	kind, err := distill.ParseKind(name)
	if err != nil {
		return fault.Usage("--loss: %w", err)
	}
	if !o.flags.Changed("alpha") {
		o.alpha = 1
		if o.student == "" {
			o.alpha = 0.5
		}
	}
	d.loss = distill.Loss{Kind: kind, Temperature: o.temperature, Alpha: o.alpha, Beta: o.beta}
	if err := d.loss.Check(); err != nil {
		return err
	}
	teaches := d.loss.Teaches()
	switch {
	case teaches && !taught:
		return fault.Hint(fault.Usage("the loss %s looks at a teacher, and there is none", kind), "add --teacher MODEL, or --loss ce to learn the text alone")
	case !teaches && o.cache != "":
		return fault.Usage("--cache-teacher does not go with a loss that looks at no teacher")
	case o.topK < 0:
		return fault.Usage("--top-k is %d, allowed is 0 and more", o.topK)
	case o.topK > maxTopK:
		return fault.Usage("--top-k is %d, allowed are up to %d, and 0 for all tokens", o.topK, maxTopK)
	}
	if !teaches {
		for _, flag := range []string{"temperature", "alpha", "beta", "top-k"} {
			if o.flags.Changed(flag) && !(flag == "alpha" && kind != distill.CrossEntropy) {
				return fault.Usage("--%s says something of the teacher, and the loss looks at none", flag)
			}
		}
	}
	if o.flags.Changed("beta") && kind != distill.JS {
		return fault.Usage("--beta goes with --loss js")
	}
	d.topK = o.topK
	if o.cache != "" && d.topK == 0 {
		d.topK = cachedTokens
	}
	return nil
}

const (
	cachedTokens = 64 // of a prediction in a cache
	maxTopK      = 1 << 12
)

// settleGoal settles what is trained besides predictions, and how.
func (d *distillation) settleGoal(o *distillOptions) error {
	live := o.layerwise || o.hidden != 0 || o.onPolicy != 0
	switch {
	case o.hidden < 0 || o.flags.Changed("lora-rank") && o.loraRank < 1:
		return fault.Usage("--hidden-weight is %g and --lora-rank %d, allowed are more than 0 and 1 and more", o.hidden, o.loraRank)
	case (o.layerwise || o.hidden > 0) && d.teacherPath == "":
		return fault.Hint(fault.Usage("there is no teacher whose hidden states could be compared"), "add --teacher MODEL")
	case live && o.cache != "":
		return fault.Usage("a cache holds predictions on the text only, so --cache-teacher goes with neither --layerwise, --hidden-weight nor --on-policy")
	case o.layerwise && (o.hidden > 0 || o.onPolicy > 0 || o.loss != ""):
		return fault.Usage("--layerwise compares hidden states alone, and goes with neither --loss, --hidden-weight nor --on-policy")
	case o.loraRank > 0 && d.rounds(o):
		return fault.Usage("adapters are merged at the end, which rounding would undo: --lora-rank does not go with --bits or --type")
	case o.loraRank > 0 && o.random:
		return fault.Usage("--lora-rank leaves the weights alone, and they are random")
	}
	policy := distill.OnPolicy{Fraction: o.onPolicy}
	return policy.Check()
}

// settleSteps settles the optimizer and the steps.
func (d *distillation) settleSteps(o *distillOptions) error {
	if o.batch < 1 {
		return fault.Usage("--batch is %d, allowed is 1 and more", o.batch)
	}
	if o.flags.Changed("context") && o.context < 1 {
		return fault.Usage("--context is %d, allowed is 1 and more", o.context)
	}
	if o.evalEvery < 0 || o.saveEvery < 0 {
		return fault.Usage("steps between evaluations and saves are %d and %d, allowed is 0 and more", o.evalEvery, o.saveEvery)
	}
	rate, warmup, every := o.lr, o.warmup, o.evalEvery
	if !o.flags.Changed("lr") {
		rate = 1e-4
		if o.random {
			rate = 1e-3
		}
	}
	if !o.flags.Changed("warmup") {
		warmup = o.steps / 20
	}
	if every == 0 {
		every = max(1, o.steps/10)
	}
	p := &d.options
	p.Schedule = distill.Schedule{Rate: rate, Steps: o.steps, Warmup: warmup, Final: o.finalLR}
	p.Optimizer = distill.DefaultAdamW
	p.Optimizer.Decay = o.decay
	p.Clip, p.Batch, p.EvalEvery, p.Seed = o.clip, o.batch, every, o.seed
	if o.clip < 0 {
		return fault.Usage("--clip is %g, allowed is 0 and more", o.clip)
	}
	if err := p.Optimizer.Check(); err != nil {
		return err
	}
	if err := p.Schedule.Check(); err != nil {
		return err
	}
	if o.maxMemory != "" {
		n, err := eval.ParseSize(o.maxMemory)
		if err != nil {
			return fault.Usage("--max-memory: %w", err)
		}
		if n < 1 {
			return fault.Usage("--max-memory is %s, allowed is more than 0", o.maxMemory)
		}
		d.memory = n
	}
	return nil
}

func runDistill(ctx context.Context, global *globalOptions, o *distillOptions) error {
	d, err := o.settle()
	if err != nil {
		return err
	}
	d.options.Threads = global.threads
	free := func() error {
		if o.dryRun {
			return nil
		}
		if !o.force {
			for _, path := range append(slices.Clone(o.curve), o.reportFile) {
				if err := checkFree(path); err != nil {
					return err
				}
			}
		}
		return checkTraining(d.out, o.resume, o.force)
	}
	if err := free(); err != nil {
		return err
	}
	defer d.close()
	if err := d.open(global, o); err != nil {
		return err
	}
	if err := free(); err != nil { // it has a name by now
		return err
	}
	if err := d.read(global, o); err != nil {
		return err
	}
	if o.dryRun {
		d.report.DryRun = true
		return d.print(global.ui, o)
	}
	defer global.ui.closeProgress()
	if d.cacheOnly {
		return d.makeCache(ctx, global, o)
	}
	if err := d.execute(ctx, global, o); err != nil {
		return d.failed(ctx, global, o, err)
	}
	d.unfinished.finished(global.ui)
	return nil
}
