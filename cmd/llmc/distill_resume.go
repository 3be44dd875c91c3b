package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"llmc/calibrate"
	"llmc/distill"
	"llmc/formats/raw"
	"llmc/internal/fault"
)

// checkTraining refuses an output that is there, or begun, before any work is
// done, as checkOutput does for runs over blocks.
func checkTraining(out string, resume, force bool) error {
	if out == "" {
		return nil
	}
	dir := calibrate.JournalDir(out)
	if err := calibrate.Sweep(dir); err != nil || force {
		return err
	}
	if resume && calibrate.IsWriting(dir) {
		return nil
	}
	if calibrate.HasState(dir) && !resume {
		return fault.Hint(fault.Usage("%s was begun and is not finished", out), "pass --resume to go on, or --force to begin again")
	}
	return checkFree(out)
}

// saveInterval is how often the state of a run is kept unless steps say so, and
// worthKeeping how much work is kept until the output is written.
const (
	saveInterval = 2 * time.Minute
	worthKeeping = 20 * time.Second
)

// begin begins a run, or takes up an unfinished one, and keeps its state from
// now on.
func (d *distillation) begin(ctx context.Context, global *globalOptions, o *distillOptions) error {
	in := runInputs{model: d.from, calibration: d.content, flags: o.flags, arithmetic: d.dev.Name()}
	facts, err := in.facts(ctx, global)
	if err != nil {
		return err
	}
	held := sha256.Sum256([]byte(d.heldText))
	facts = append(facts,
		calibrate.Fact{Name: "the held-out text", Value: hex.EncodeToString(held[:]), Digest: true},
		calibrate.Fact{Name: "the tokens of a window", Value: strconv.Itoa(d.context)},
		calibrate.Fact{Name: "the windows that are run together", Value: strconv.Itoa(d.options.Micro)})
	if d.teacherFrom != nil && d.teacherFrom != d.from {
		digest, err := d.teacherFrom.Digest(ctx, func(done, total int64) { global.ui.progress("read", done, total) })
		if err != nil {
			return err
		}
		facts = append(facts, calibrate.Fact{Name: "the teacher", Value: digest, Digest: true})
	}
	journal, err := calibrate.OpenJournal(calibrate.JournalDir(d.out), facts, o.resume)
	if err != nil {
		return err
	}
	kept := 0
	d.unfinished = &unfinished{journal: journal, output: d.out, unit: "steps", total: d.trainer.Steps(), done: func() int { return kept }}
	if err := raw.Recover(d.out); err != nil {
		return err
	}
	if kept, err = d.takeUp(journal); err != nil {
		return err
	}
	if kept > 0 {
		global.ui.note("resuming: %d of %d steps are done", kept, d.trainer.Steps())
	}
	last, at := time.Now(), kept
	d.trainer.OnStep(func(t *distill.Trainer, end bool) error {
		due := time.Since(last) > saveInterval
		if o.saveEvery > 0 {
			due = t.Step()%o.saveEvery == 0
		}
		if end {
			due = t.Step() < t.Steps() || time.Since(last) > worthKeeping
		}
		if t.Step() == at || !due {
			return nil
		}
		if err := journal.PutState(t.WriteState); err != nil {
			return fmt.Errorf("cannot keep the state of training: %w", err)
		}
		kept, last, at = t.Step(), time.Now(), t.Step()
		return nil
	})
	return nil
}

// takeUp reads the state of an unfinished run, if there is one, and returns how
// many steps are done.
func (d *distillation) takeUp(journal *calibrate.Journal) (int, error) {
	f, err := journal.State()
	if f == nil || err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := d.trainer.ReadState(f, info.Size()); err != nil {
		return 0, fault.Hint(err, "begin again with --force")
	}
	return d.trainer.Step(), nil
}
