package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"llmc/distill"
	"llmc/dtype"
	"llmc/eval"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/export"
	"llmc/model/train"
	"llmc/tokenizer"
)

// distillation is one run of the command.
type distillation struct {
	teacherPath, studentPath string // "" for none
	out                      string // "" writes nothing
	cacheOnly                bool
	train                    eval.Text
	heldOut                  *eval.Text // may be nil
	loss                     distill.Loss
	options                  distill.Options
	topK                     int
	memory                   int64 // bytes of --max-memory, 0 for no limit
	shard                    int64

	teacherFrom    *formats.Checkpoint // nil without a teacher
	teacherWeights *model.Weights
	from           *formats.Checkpoint // what the student is made of and written like
	weights        *model.Weights      // the student's
	tok            *tokenizer.Tokenizer
	vocab          int // of what is predicted
	context        int

	content    string // of the training text
	heldText   string
	data       distill.Data
	dev        *kernels.CPU
	net        *train.Network
	cache      *distill.Cache
	trainer    *distill.Trainer
	own        []string      // the flags that a quantized student's own format stands for
	rounding   *quantization // nil unless the student is quantized while it learns
	unfinished *unfinished
	report     distillReport
}

func (d *distillation) close() {
	if d.cache != nil {
		d.cache.Close()
	}
	if d.from != nil && d.from != d.teacherFrom {
		d.from.Close()
	}
	if d.teacherFrom != nil {
		d.teacherFrom.Close()
	}
}

// open opens the models and makes the student.
func (d *distillation) open(global *globalOptions, o *distillOptions) error {
	var err error
	if d.teacherPath != "" {
		if o.teacher == "" {
			global.ui.note("no model given: the built-in demo model is the teacher")
		}
		if d.teacherFrom, d.teacherWeights, err = openWeights(d.teacherPath); err != nil {
			return err
		}
	}
	switch {
	case d.cacheOnly:
		d.from, d.weights = d.teacherFrom, d.teacherWeights
		if d.from == nil {
			return fault.Hint(fault.Usage("there is neither a teacher nor a student"), "add --teacher MODEL")
		}
	case d.studentPath != "":
		if d.from, d.weights, err = openWeights(d.studentPath); err != nil {
			return err
		}
	default:
		d.from = d.teacherFrom
		if d.weights, err = distill.NewStudent(d.teacherWeights, o.shape); err != nil {
			return fmt.Errorf("%s: %w", d.teacherPath, err)
		}
	}
	if !d.cacheOnly {
		if err := d.ownFormat(o); err != nil {
			return err
		}
		if err := d.settleGoal(o); err != nil { // it may be rounded by now
			return err
		}
	}
	if d.tok, err = model.OpenTokenizer(d.from); err != nil {
		return fmt.Errorf("%s: %w", d.from.Path, err)
	}
	d.vocab = d.weights.Config.Vocab
	if d.teacherFrom != nil {
		d.vocab = min(d.vocab, d.teacherWeights.Config.Vocab)
		theirs, err := model.OpenTokenizer(d.teacherFrom)
		if err != nil {
			return fmt.Errorf("%s: %w", d.teacherPath, err)
		}
		if err := distill.Aligned(theirs, d.tok); err != nil {
			return err
		}
	}
	if o.random {
		distill.Randomize(d.weights, o.seed)
	}
	d.context = o.context
	if d.context == 0 {
		d.context = max(1, min(512, d.weights.Config.Context-1))
	}
	if d.out == "" && !d.cacheOnly && !isDemo(d.from.Path) {
		d.out = modelBase(d.from.Path) + "-distilled"
		if d.from.Kind == formats.GGUF || o.rounding.typeName != "" {
			d.out += ".gguf"
		}
	}
	if d.rounds(o) {
		if err := d.planRounding(global, o); err != nil {
			return fmt.Errorf("%s: %w", d.from.Path, err)
		}
	}
	if d.out == "" {
		return nil
	}
	laidOut, err := d.layOut(global)
	if err != nil {
		return err
	}
	for _, note := range laidOut.Notes {
		global.ui.warn("%s", note)
	}
	return nil
}

func openWeights(path string) (*formats.Checkpoint, *model.Weights, error) {
	c, err := openModel(path)
	if err != nil {
		return nil, nil, err
	}
	w, err := model.Open(c)
	if err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, w, nil
}

// layOut lays the output out, with the numbers that the student has now: BF16
// but for what GGUF wants otherwise.
func (d *distillation) layOut(global *globalOptions) (*export.Export, error) {
	if d.rounding != nil {
		return d.rounding.out, nil
	}
	kind := d.from.Kind
	if isGGUFName(d.out) {
		kind = formats.GGUF
	}
	items, err := export.Plain(d.weights, kind, dtype.BF16)
	if err != nil {
		return nil, err
	}
	return export.New(d.from, d.weights, export.Spec{
		Kind: kind, Items: items, FileType: export.FileType(items), MaxShard: d.shard, Threads: global.threads,
	})
}

// evalTokens is how many tokens of the held-out text the student is measured on
// while it is trained: so many that it takes a fraction of the time.
func (d *distillation) evalTokens() int {
	const least, most = 1 << 11, 1 << 14
	p := &d.options
	return min(most, max(least, p.EvalEvery*p.Batch*d.context/4))
}

// read cuts the texts into windows.
func (d *distillation) read(global *globalOptions, o *distillOptions) error {
	var err error
	if d.content, err = readText(d.train); err != nil {
		return err
	}
	text := distill.Text{Name: d.train.Name, Content: d.content, Special: o.special}
	if d.data.Train, err = distill.Windows(d.tok, text, d.context); err != nil {
		return err
	}
	if d.teacherFrom != nil && d.studentPath != "" {
		theirs, err := model.OpenTokenizer(d.teacherFrom)
		if err != nil {
			return err
		}
		other, err := distill.Windows(theirs, text, d.context)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(d.data.Train, other, slices.Equal) {
			return fault.Invalid("teacher and student do not share a tokenizer: they cut %s into other tokens", d.train.Name)
		}
	}
	if d.heldOut != nil && !d.cacheOnly {
		if d.heldText, err = readText(*d.heldOut); err != nil {
			return err
		}
		if d.data.HeldOut, err = distill.Windows(d.tok, distill.Text{Name: d.heldOut.Name, Content: d.heldText}, d.context); err != nil {
			return err
		}
		d.data.HeldOut = d.data.HeldOut[:min(len(d.data.HeldOut), max(1, d.evalTokens()/d.context))]
	}
	d.describe(o)
	if r := &d.report; r.Epochs > manyEpochs && !d.cacheOnly {
		global.ui.warn("%s is trained on %s times: a longer text, or fewer steps, would be better", d.train.Name, figure(r.Epochs))
	}
	return nil
}

// manyEpochs is how often a text can be gone through before the student is likely
// to learn it by heart.
const manyEpochs = 20

// windowsDigest tells texts apart by their token ids.
func windowsDigest(windows [][]int32) string {
	sum := sha256.New()
	for _, w := range windows {
		_ = binary.Write(sum, binary.LittleEndian, w) // a hash takes anything
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// cacheKey says what a cache has to be of.
func (d *distillation) cacheKey(ctx context.Context, global *globalOptions) (distill.CacheKey, error) {
	key := distill.CacheKey{
		TextName: d.train.Name, Text: windowsDigest(d.data.Train), Windows: len(d.data.Train), Context: d.context,
		Vocab: d.vocab, Top: min(d.topK, d.vocab), Temperature: d.loss.Temperature,
	}
	if d.teacherFrom == nil {
		return key, nil
	}
	key.TeacherName = d.teacherPath
	var err error
	key.Teacher, err = d.teacherFrom.Digest(ctx, func(done, total int64) { global.ui.progress("read", done, total) })
	return key, err
}

// live makes the teacher ready to run alongside.
func (d *distillation) live(keep []int) (*distill.Live, error) {
	m, err := model.New(d.dev, d.teacherWeights)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.teacherPath, err)
	}
	return distill.NewLive(m, distill.LiveOptions{
		Vocab: d.vocab, Top: d.topK, Temperature: d.loss.Temperature, Threads: d.options.Threads, Keep: keep,
	}), nil
}

// ensureCache opens the cache, and makes it first if it is not there.
func (d *distillation) ensureCache(ctx context.Context, global *globalOptions, path string) error {
	key, err := d.cacheKey(ctx, global)
	if err != nil {
		return err
	}
	if !distill.HasCache(path) {
		if d.teacherFrom == nil {
			return fault.Hint(fmt.Errorf("there is no cache %s", path), "add --teacher MODEL to make it")
		}
		teacher, err := d.live(nil)
		if err != nil {
			return err
		}
		err = distill.WriteCache(ctx, path, key, teacher, d.data.Train, func(done, total int64) { global.ui.progress("teacher", done, total) })
		if err != nil {
			return fault.Hint(err, "the same command goes on with the cache from there")
		}
		global.ui.note("the teacher's predictions are in %s: %s", path, bytesString(key.Bytes()))
	}
	d.cache, err = distill.OpenCache(path, &key)
	return err
}

// makeCache is a run that only makes a cache.
func (d *distillation) makeCache(ctx context.Context, global *globalOptions, o *distillOptions) error {
	d.dev = kernels.NewCPU(global.threads)
	if err := d.ensureCache(ctx, global, o.cache); err != nil {
		return err
	}
	d.report.CacheBytes = d.cache.Key.Bytes()
	return d.print(global.ui, o)
}

// execute trains, writes and measures.
func (d *distillation) execute(ctx context.Context, global *globalOptions, o *distillOptions) error {
	ui := global.ui
	for _, w := range []*model.Weights{d.teacherWeights, d.weights} {
		if w == nil || w == d.weights && d.studentPath == "" {
			continue
		}
		if err := w.Check(ctx, func(done, total int64) { ui.progress("check", done, total) }); err != nil {
			return err
		}
	}
	d.dev = kernels.NewCPU(global.threads)
	if err := d.prepare(ctx, global, o); err != nil {
		return err
	}
	if d.out != "" {
		if err := d.begin(ctx, global, o); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := d.trainer.Run(ctx); err != nil {
		return err
	}
	ui.closeProgress()
	d.report.trained(d.trainer, time.Since(start))
	if err := d.trainer.Best(ctx, func() error { return d.write(ctx, global, d.out, o.force) }); err != nil {
		return err
	}
	if d.heldOut != nil {
		if err := d.measure(ctx, global, o.context); err != nil {
			return err
		}
	}
	return d.print(ui, o)
}

// prepare puts the student on the device and says what is trained for what.
func (d *distillation) prepare(ctx context.Context, global *globalOptions, o *distillOptions) error {
	var err error
	if d.net, err = train.New(d.dev, d.weights); err != nil {
		return fmt.Errorf("%s: %w", d.from.Path, err)
	}
	if err := d.fit(o); err != nil {
		return err
	}
	goal, err := d.goal(ctx, global, o)
	if err != nil {
		return err
	}
	form, err := d.form(o)
	if err != nil {
		return err
	}
	if o.onPolicy > 0 {
		policy := &distill.OnPolicy{Fraction: o.onPolicy, Seed: o.seed, Vocab: d.vocab, Device: d.dev, Params: d.net.Params(), Weights: d.weights}
		d.options.Sample = policy.Sample
	}
	d.watch(global.ui)
	d.trainer, err = distill.NewTrainer(d.net, form, &d.data, goal, d.options)
	return err
}

// form is what of the student is trained.
func (d *distillation) form(o *distillOptions) (distill.Form, error) {
	switch {
	case o.loraRank > 0:
		return distill.NewLoRA(d.dev, d.net.Params(), o.loraRank, o.seed)
	case d.rounding != nil:
		return distill.NewQuantized(d.net.Params(), !o.random, d.rounding), nil
	}
	return distill.NewFull(d.net.Params(), !o.random), nil
}

// goal is what the student is trained for.
func (d *distillation) goal(ctx context.Context, global *globalOptions, o *distillOptions) (distill.Goal, error) {
	var teacher distill.Teacher
	if d.loss.Teaches() && o.cache != "" {
		if err := d.ensureCache(ctx, global, o.cache); err != nil {
			return nil, err
		}
		teacher = d.cache
	}
	c := &d.weights.Config
	var matches, keep []int
	if o.layerwise || o.hidden > 0 {
		matches = distill.Match(c.Blocks, d.teacherWeights.Config.Blocks)
		keep = distill.LayerwiseKeep(matches)
	}
	var live *distill.Live
	if teacher == nil && (d.loss.Teaches() || keep != nil) {
		var err error
		if live, err = d.live(keep); err != nil {
			return nil, err
		}
		teacher = live
	}
	if o.layerwise {
		return distill.NewLayerwise(d.dev, d.net, live, matches, c.Hidden)
	}
	goal, err := distill.NewPredictions(d.net, d.loss, teacher, d.options.Threads)
	if err != nil || o.hidden == 0 {
		return goal, err
	}
	return distill.NewHidden(d.dev, d.net, goal, live, matches, c.Hidden, o.hidden, o.seed)
}

// fit chooses how many windows are run together, so that training keeps within
// the memory that is allowed.
func (d *distillation) fit(o *distillOptions) error {
	d.options.Micro = min(d.options.Batch, max(1, microTokens/d.context))
	if d.memory == 0 {
		return nil
	}
	fixed := d.fixedMemory(o)
	need := func(windows int) int64 { return fixed + d.net.MemoryOf(windows*d.context, d.context) }
	for _, again := range []bool{false, true} { // activations computed again take time
		d.net.SetCheckpointing(again)
		for n := d.options.Micro; n >= 1; n-- {
			if need(n) <= d.memory {
				d.options.Micro = n
				debug.SetMemoryLimit(d.memory)
				return nil
			}
		}
	}
	return fault.Hint(fault.Usage("--max-memory is %s, training with one window at a time takes %s", bytesString(d.memory), bytesString(need(1))),
		"use a smaller --context, or more memory")
}

// microTokens is about how many tokens are run together: enough to keep the
// matrix products busy.
const microTokens = 4096

// fixedMemory is what training takes whatever is run together: weights,
// gradients, moments, the best weights, and the teacher.
func (d *distillation) fixedMemory(o *distillOptions) int64 {
	var n, teacher int64
	for _, p := range d.net.Params() {
		n += int64(len(p.Value))
	}
	copies := int64(4)
	if len(d.data.HeldOut) > 0 {
		copies++
	}
	if d.rounding != nil {
		copies++
	}
	if o.loraRank > 0 {
		copies = 2 // with adapters and without; what is trained is small
	}
	if d.teacherWeights != nil && o.cache == "" {
		for _, id := range d.teacherWeights.Config.IDs() {
			teacher += d.teacherWeights.Bytes(id)
		}
	}
	return 4*copies*n + teacher
}

// watch shows progress.
func (d *distillation) watch(ui *ui) {
	seen := 0
	d.options.Progress = func(p distill.Progress) {
		for ; seen < len(d.trainer.Evaluations); seen++ {
			e := d.trainer.Evaluations[seen]
			ui.note("step %d: perplexity %s on the held-out text", e.Step, figure(perplexity(e.NLL)))
		}
		detail := fmt.Sprintf("loss %s, %.0f tokens/s", figure(p.Loss), p.TokensPerSecond)
		ui.progressAt("train", detail, int64(p.Step), int64(p.Steps))
	}
}

// write stores the student in a checkpoint.
func (d *distillation) write(ctx context.Context, global *globalOptions, out string, force bool) error {
	// Adapters are merged; what is rounded is rounded again by what writes it.
	distill.StoreWeights(d.weights, d.net.Params(), d.rounding == nil)
	if d.rounding != nil {
		return d.writeRounded(ctx, global, out, force)
	}
	if out == "" {
		return nil
	}
	laidOut, err := d.layOut(global)
	if err != nil {
		return err
	}
	if out == d.out {
		if force, err = d.unfinished.writing(out, laidOut.Tensors(), force); err != nil {
			return err
		}
	}
	return laidOut.Write(ctx, out, force, nil, func(done, total int64) { global.ui.progress("write", done, total) })
}

// failed ends a run that did not come to its end. What has been learned until
// training went wrong is written beside the output.
func (d *distillation) failed(ctx context.Context, global *globalOptions, o *distillOptions, err error) error {
	var diverged *distill.DivergedError
	if d.out == "" || !errors.As(err, &diverged) || d.net == nil {
		return d.unfinished.failed(err)
	}
	step := d.trainer.BestStep()
	if step == 0 {
		return d.unfinished.dropped(err)
	}
	path := fmt.Sprintf("%s.step-%d", d.out, step)
	if isGGUFName(d.out) {
		path += ".gguf"
	}
	if failed := d.trainer.Best(ctx, func() error { return d.write(ctx, global, path, o.force) }); failed != nil {
		return errors.Join(d.unfinished.dropped(err), failed)
	}
	return d.unfinished.dropped(fault.Hint(err, "%s; the weights of step %d are in %s", fault.HintOf(err), step, path))
}
