package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"llmc/calibrate"
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
)

// unfinished is a run whose finished blocks, or training steps, are kept beside
// its output until all of it is there, so that --resume can go on.
type unfinished struct {
	journal *calibrate.Journal
	output  string
	unit    string     // "blocks" or "steps"
	total   int        // of these
	done    func() int // how many are kept
}

// noEffect are the flags that the written model does not depend on, or only by
// what is compared itself.
var noEffect = []string{
	"output", "force", "resume", "dry-run", "report", "tensors", "calibration", "text", "context",
	"max-memory", "threads", "json", "quiet", "device", "help", "train", "curve", "save-every",
}

// runInputs is what the result of a calibrated run depends on.
type runInputs struct {
	model       *formats.Checkpoint
	calibration string // the text
	flags       *pflag.FlagSet
	arithmetic  string // the device's name
}

// facts describes them. All weights are read.
func (in *runInputs) facts(ctx context.Context, global *globalOptions) ([]calibrate.Fact, error) {
	program, err := programDigest()
	if err != nil {
		return nil, err
	}
	model, err := in.model.Digest(ctx, func(done, total int64) { global.ui.progress("read", done, total) })
	if err != nil {
		return nil, err
	}
	text := sha256.Sum256([]byte(in.calibration))
	arithmetic, _, _ := strings.Cut(in.arithmetic, ",") // the number of threads changes nothing
	facts := []calibrate.Fact{
		{Name: "the program", Value: program, Digest: true},
		{Name: "the model", Value: model, Digest: true},
		{Name: "the calibration text", Value: hex.EncodeToString(text[:]), Digest: true},
		{Name: "the arithmetic", Value: arithmetic},
	}
	in.flags.VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(noEffect, f.Name) {
			facts = append(facts, calibrate.Fact{Name: "--" + f.Name, Value: f.Value.String()})
		}
	})
	return facts, nil
}

// programDigest tells builds of the program apart.
func programDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot find the program itself: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the program itself: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("cannot read the program itself: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// checkOutput refuses an output that is there, or begun, before any work is
// done. What --force and --resume allow is not refused. What is begun matters
// only to runs that keep blocks; others leave it alone.
func checkOutput(out string, keeps, resume, force bool) error {
	if out == "" {
		return nil
	}
	if !keeps {
		if force {
			return nil
		}
		return checkFree(out)
	}
	dir := calibrate.JournalDir(out)
	if err := calibrate.Sweep(dir); err != nil || force {
		return err
	}
	if resume && calibrate.IsWriting(dir) {
		return nil // the output may be the unfinished run's own: looked at again by begin
	}
	if n, any := calibrate.Unfinished(dir); any && !resume {
		return fault.Hint(fault.Usage("%s was begun and is not finished, %s done", out, doneString(n)),
			"pass --resume to go on, or --force to begin again")
	}
	return checkFree(out)
}

// doneString is what an unfinished run has done.
func doneString(blocks int) string {
	switch blocks {
	case 0:
		return "what is measured first, or a part of it, is"
	case 1:
		return "1 block is"
	}
	return fmt.Sprintf("%d blocks are", blocks)
}

// mentionUnfinished says, after a run that keeps no blocks has written an
// output, that there are those of another run.
func mentionUnfinished(ui *ui, out string) {
	if dir := calibrate.JournalDir(out); out != "" {
		if n, any := calibrate.Unfinished(dir); any {
			ui.note("an earlier run for %s is not finished, %s done: remove %s if it is not to be resumed", out, doneString(n), dir)
		}
	}
}

// beginRun begins a run, or takes up an unfinished one.
func beginRun(ctx context.Context, global *globalOptions, in runInputs, out string, blocks int, resume bool) (*unfinished, error) {
	facts, err := in.facts(ctx, global)
	if err != nil {
		return nil, err
	}
	dir := calibrate.JournalDir(out)
	old, begun := calibrate.Unfinished(dir)
	journal, err := calibrate.OpenJournal(dir, facts, resume)
	if err != nil {
		return nil, err
	}
	if begun && !resume {
		global.ui.note("beginning again: what an unfinished run has done is dropped (%s done)", doneString(old))
	}
	u := &unfinished{journal: journal, output: out, unit: "blocks", total: blocks, done: journal.Blocks}
	if err := raw.Recover(out); err != nil {
		return nil, u.failed(err)
	}
	for _, i := range journal.Damaged {
		global.ui.warn("block %d of the unfinished run is damaged and is done again", i)
	}
	if n := journal.Blocks(); n > 0 {
		global.ui.note("resuming: %d of %d blocks are done", n, blocks)
	}
	return u, nil
}

// writing notes that the output is about to be written, and reports whether it
// may replace what is there: what force allows, and an output of this run's own
// that was there already when it was killed.
func (u *unfinished) writing(out string, tensors []raw.Tensor, force bool) (bool, error) {
	if u == nil {
		return force, calibrate.ForgetWriting(calibrate.JournalDir(out))
	}
	again := calibrate.IsWriting(calibrate.JournalDir(u.output)) && holds(u.output, tensors)
	if !force && !again {
		if err := checkFree(u.output); err != nil {
			return false, err
		}
	}
	return force || again, u.journal.MarkWriting()
}

// holds reports whether a checkpoint has these tensors and no others.
func holds(path string, tensors []raw.Tensor) bool {
	c, err := formats.Open(path)
	if err != nil {
		return false
	}
	defer c.Close()
	for _, t := range tensors {
		found, ok := c.Tensor(t.Name)
		if !ok || found.Type != t.Type || !slices.Equal(found.Shape, t.Shape) {
			return false
		}
	}
	return len(c.Tensors()) == len(tensors)
}

// failed ends a run that did not come to its end. Blocks that are worth it are
// kept, and the error says how to go on.
func (u *unfinished) failed(err error) error {
	if u == nil || u.journal == nil {
		return err
	}
	defer u.close()
	n := u.done()
	if n == 0 && u.journal.Empty() || fault.KindOf(err) == fault.InvalidFile { // that input fails again
		if left := u.journal.Remove(); left != nil {
			return errors.Join(err, left)
		}
		return err
	}
	kept := fmt.Sprintf("%d of %d %s are", n, u.total, u.unit)
	if n == 0 {
		kept = "what was measured first is"
	}
	hint := kept + " kept: the same command with --resume goes on from there"
	if other := fault.HintOf(err); other != "" {
		hint = other + "; " + hint
	}
	return fault.Hint(err, "%s", hint)
}

// finished ends a run that is complete.
func (u *unfinished) finished(ui *ui) {
	if u == nil {
		return
	}
	if err := u.journal.Remove(); err != nil {
		ui.warn("%s is complete, but %v", u.output, err)
	}
	u.close()
}

func (u *unfinished) close() {
	u.journal.Close()
	u.journal = nil
}

// dropped ends a run that cannot go on from where it was.
func (u *unfinished) dropped(err error) error {
	if u == nil || u.journal == nil {
		return err
	}
	defer u.close()
	return errors.Join(err, u.journal.Remove())
}
