package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/pflag"

	"llmc/formats"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/quantize"
)

// roundingFlags are those of "llmc quantize" that say how a student is rounded
// while it learns.
var roundingFlags = []string{"bits", "group-size", "symmetric", "asymmetric", "type", "to", "range", "ignore", "bits-for"}

// registerRounding adds these flags.
func (o *quantizeOptions) registerRounding(flags *pflag.FlagSet) {
	flags.IntVar(&o.bits, "bits", 0, "bits of a weight, 2 to 8")
	flags.StringVar(&o.groupSize, "group-size", "128", "columns that share a scale, or channel, or tensor")
	flags.BoolVar(&o.symmetric, "symmetric", false, "codes are centred on zero (default but for awq)")
	flags.BoolVar(&o.asymmetric, "asymmetric", false, "every group has a zero point of its own")
	flags.StringVar(&o.typeName, "type", "", "GGUF mix of types, such as Q4_0 (instead of --bits)")
	flags.StringVar(&o.to, "to", "", "gptq, awq, compressed-tensors or gguf")
	flags.StringVar(&o.clip, "range", "", "how the range of a group is chosen: none, or mse for least squared error, slower and better at 2 and 3 bits (default none)")
	flags.StringSliceVar(&o.ignore, "ignore", nil, "leave tensors alone: roles (down, head) or globs on names; repeatable")
	flags.StringSliceVar(&o.bitsFor, "bits-for", nil, "other bits for a role: down=6, or a GGUF type: embed=Q8_0; repeatable")
}

// rounds reports whether the student is quantized while it learns: because it
// was asked for, or because it is already.
func (d *distillation) rounds(o *distillOptions) bool {
	return d.own != nil || slices.ContainsFunc(roundingFlags, o.flags.Changed)
}

// ownFormat makes a student that is quantized stay so, unless flags say how it
// is to be rounded: its numbers are as if they had been on the command line.
func (d *distillation) ownFormat(o *distillOptions) error {
	if !d.quantized() || d.rounds(o) {
		return nil
	}
	q := &o.rounding
	if d.from.Kind == formats.GGUF {
		number, _ := d.from.Meta.Int("general.file_type")
		for _, name := range quantize.MixNames() {
			if mix, ok := quantize.ParseMix(name); ok && int64(mix.FileType) == number {
				q.typeName, d.own = name, []string{"type"}
				return nil
			}
		}
		return d.noFormat("its general.file_type is %d", number)
	}
	c := d.weights.Quantization
	if len(c.Schemes) != 1 || c.Schemes[0].Float || c.Schemes[0].PerTensor || c.Schemes[0].Inputs.Bits != 0 {
		return d.noFormat("it is %s", c)
	}
	s := c.Schemes[0]
	q.bits, q.asymmetric, q.to, q.groupSize = s.Bits, !s.Symmetric, string(c.Method), "channel"
	if s.GroupSize > 0 {
		q.groupSize = strconv.Itoa(s.GroupSize)
	}
	d.own = []string{"bits", "group-size", "to"}
	if q.asymmetric {
		d.own = append(d.own, "asymmetric")
	}
	return nil
}

func (d *distillation) noFormat(why string, args ...any) error {
	return fault.Hint(fault.Invalid("%s is quantized in a way that training cannot keep up: %s", d.from.Path, fmt.Sprintf(why, args...)),
		"say with --bits or --type how it is to be rounded, or train the model that it was made of")
}

// quantized reports whether the student is stored as codes or ggml blocks.
func (d *distillation) quantized() bool {
	for _, id := range d.weights.Config.IDs() {
		for part, t := range d.weights.Stored(id) {
			if t.Type.IsBlock() || part != "weight" && part != "bias" {
				return true
			}
		}
	}
	return false
}

// planRounding plans how the student is quantized, to nearest, as "llmc quantize"
// would do it.
func (d *distillation) planRounding(global *globalOptions, o *distillOptions) error {
	q := &o.rounding
	q.flags = o.flags
	q.given = func(flag string) bool {
		if flag == "clip" { // which is about gradients here
			flag = "range"
		}
		// --resume, --max-memory and others are those of training.
		return slices.Contains(roundingFlags, flag) && o.flags.Changed(flag) || slices.Contains(d.own, flag)
	}
	q.out, q.method, q.activations, q.maxShard = d.out, "rtn", "none", o.maxShard
	job, err := q.settle(global, []string{d.from.Path})
	if err != nil {
		return err
	}
	if d.rounding, err = newQuantization(d.from, d.weights, job, global.threads); err != nil {
		return err
	}
	if !isDemo(d.from.Path) || o.out != "" {
		d.out = job.out
	}
	return nil
}

// entry is what the plan does with a tensor, nil when it is left alone.
func (q *quantization) entry(id model.ID) *quantize.Entry {
	at := slices.IndexFunc(q.plan.Entries, func(e quantize.Entry) bool { return e.ID == id })
	if at < 0 || !q.plan.Entries[at].Rounds() {
		return nil
	}
	return &q.plan.Entries[at]
}

// Rounds implements distill.Rounder.
func (q *quantization) Rounds(id model.ID) bool { return q.entry(id) != nil }

// Round implements distill.Rounder: as the output is rounded.
func (q *quantization) Round(ctx context.Context, id model.ID, rows, cols int, weight, dst []float32) error {
	e := q.entry(id)
	m, err := q.job.method.Quantize(ctx, quantize.Layer{Name: e.Name, ID: id, Weight: kernels.FromFloat32s(rows, cols, weight)}, e.To)
	if err != nil {
		return err
	}
	for r := range rows {
		m.Row(dst[r*cols:(r+1)*cols], r)
	}
	return nil
}

// writeRounded writes the student, rounded, or leaves it so in memory.
func (d *distillation) writeRounded(ctx context.Context, global *globalOptions, out string, force bool) error {
	q := d.rounding
	if out == "" {
		return q.run.Replace(ctx, func(done, total int64) { global.ui.progress("quantize", done, total) })
	}
	if out == d.out {
		var err error
		if force, err = d.unfinished.writing(out, q.out.Tensors(), force); err != nil {
			return err
		}
	}
	return q.out.Write(ctx, out, force, q.run.Matrix, func(done, total int64) { global.ui.progress("quantize", done, total) })
}
