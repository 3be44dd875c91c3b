package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/model"
	"llmc/model/export"
)

// convertOptions are the flags of "llmc convert".
type convertOptions struct {
	out      string
	to       string
	typeName string
	maxShard string
	force    bool
	dryRun   bool
}

func newConvertCommand(global *globalOptions) *cobra.Command {
	o := &convertOptions{}
	cmd := &cobra.Command{
		Use:   "convert MODEL --to gguf|safetensors",
		Short: "Turn a Hugging Face folder into a GGUF file or the other way, without loss",
		Long: `Writes a model in the other format, with its configuration and tokenizer, so
that llama.cpp or transformers load it. Numbers stay what they are: F32, F16 and
BF16 keep their type with --type auto, quantized weights become F32, which holds
them exactly. --type F16 or BF16 rounds.

To the format it has already, a model is written anew: in other types, in files
of another size, or with quantized weights as plain ones.`,
		Example: `  llmc convert model/ --to gguf -o model.gguf
  llmc convert model.gguf --to safetensors --type BF16 -o model/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runConvert(cmd.Context(), global, o, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.out, "output", "o", "", "file or folder to write (default: a name made of MODEL, here)")
	flags.StringVar(&o.to, "to", "", "gguf or safetensors")
	flags.StringVar(&o.typeName, "type", "auto", "F32, F16, BF16, or auto to keep what is there")
	flags.StringVar(&o.maxShard, "max-shard-size", "5GB", "size at which the weights of a folder are split into files")
	flags.BoolVar(&o.force, "force", false, "replace an existing output")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be written and stop")
	return cmd
}

// convertJob is what the flags mean.
type convertJob struct {
	kind     formats.Kind
	to       dtype.Type // dtype.Invalid keeps types
	maxShard int64
	out      string
}

// settle turns flags into a job, and refuses those that do not go together.
// No file is opened.
func (o *convertOptions) settle(path string) (*convertJob, error) {
	job := &convertJob{out: o.out}
	switch o.to {
	case "gguf":
		job.kind = formats.GGUF
	case "safetensors":
		job.kind = formats.HuggingFace
	case "":
		return nil, fault.Hint(fault.Usage("--to says what to convert to, and is missing"), "--to gguf or --to safetensors")
	default:
		return nil, fault.Usage("--to is %q, allowed are gguf and safetensors", o.to)
	}
	switch t, ok := dtype.Parse(strings.ToUpper(o.typeName)); {
	case o.typeName == "auto":
	case ok && (t == dtype.F32 || t == dtype.F16 || t == dtype.BF16):
		job.to = t
	default:
		return nil, fault.Hint(fault.Usage("--type is %q, allowed are F32, F16, BF16 and auto", o.typeName), "llmc quantize writes other types")
	}
	var err error
	if job.maxShard, err = shardSize(o.maxShard); err != nil {
		return nil, err
	}
	if job.out == "" {
		job.out = job.defaultOut(path)
	}
	if job.kind == formats.HuggingFace && isGGUFName(job.out) {
		return nil, fault.Hint(fault.Usage("the output %s is called like a GGUF file, and a folder is written", job.out), "use --to gguf, or another name")
	}
	return job, nil
}

// defaultOut names the output after the model, in the current folder.
func (j *convertJob) defaultOut(path string) string {
	name := modelBase(path)
	if j.to != dtype.Invalid {
		name += "-" + j.to.String()
	}
	if j.kind == formats.GGUF {
		return name + ".gguf"
	}
	return name + "-safetensors"
}

func runConvert(ctx context.Context, global *globalOptions, o *convertOptions, path string) error {
	job, err := o.settle(path)
	if err != nil {
		return err
	}
	if !o.dryRun && !o.force {
		if err := checkFree(job.out); err != nil {
			return err
		}
	}
	c, err := openModel(path)
	if err != nil {
		return err
	}
	defer c.Close()
	w, err := model.Open(c)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	items, err := export.Plain(w, job.kind, job.to)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	out, err := export.New(c, w, export.Spec{
		Kind: job.kind, Items: items, FileType: export.FileType(items), MaxShard: job.maxShard, Threads: global.threads,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	ui := global.ui
	report := newConvertReport(path, job, c, w, out)
	for _, note := range report.Notes {
		ui.warn("%s", note)
	}
	if o.dryRun {
		report.DryRun = true
		return report.print(ui, true)
	}
	if err := w.Check(ctx, func(done, total int64) { ui.progress("check", done, total) }); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	err = out.Write(ctx, job.out, o.force, nil, func(done, total int64) { ui.progress("convert", done, total) })
	ui.closeProgress()
	if err != nil {
		return err
	}
	return report.print(ui, false)
}

// convertReport is the document of "llmc convert --json".
type convertReport struct {
	Model       string          `json:"model"`
	Output      string          `json:"output"`
	DryRun      bool            `json:"dry_run,omitempty"`
	From        string          `json:"from"`
	To          string          `json:"to"`
	BytesBefore int64           `json:"bytes_before"` // of the tensors
	BytesAfter  int64           `json:"bytes_after"`
	Notes       []string        `json:"notes,omitempty"`
	Tensors     []convertTensor `json:"tensors"`
}

type convertTensor struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Shape []int  `json:"shape"`
}

func newConvertReport(path string, job *convertJob, c *formats.Checkpoint, w *model.Weights, out *export.Export) *convertReport {
	r := &convertReport{
		Model: path, Output: job.out, From: c.Kind.String(), To: job.kind.String(),
		BytesAfter: out.Bytes(), Notes: out.Notes,
	}
	for _, t := range c.Tensors() {
		r.BytesBefore += int64(len(t.Data))
	}
	for _, t := range out.Tensors() {
		r.Tensors = append(r.Tensors, convertTensor{Name: t.Name, Type: t.Type.String(), Shape: t.Shape})
	}
	if job.to == dtype.Invalid && (w.Quantization != nil || r.BytesAfter > 3*r.BytesBefore/2) {
		r.Notes = append(r.Notes, "quantized weights become F32, which holds them exactly; --type BF16 or F16 takes half the space and rounds")
	}
	return r
}

// print prints what was done, or with tensors what would be.
func (r *convertReport) print(ui *ui, tensors bool) error {
	if err := ui.document(r); err != nil {
		return err
	}
	if tensors {
		rows := make([][]string, len(r.Tensors))
		for i, t := range r.Tensors {
			rows[i] = []string{t.Name, t.Type, fmt.Sprint(t.Shape)}
		}
		if err := ui.table([]string{"tensor", "type", "shape"}, rows, 0, 1, 2); err != nil {
			return err
		}
		ui.print("\n%d tensors, %s before, %s after: would be written to %s", len(r.Tensors), bytesString(r.BytesBefore), bytesString(r.BytesAfter), r.Output)
		return nil
	}
	ui.print("%d tensors, %s before, %s after: written to %s, read back and compared", len(r.Tensors), bytesString(r.BytesBefore), bytesString(r.BytesAfter), r.Output)
	return nil
}
