package main

import (
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"llmc/internal/fault"
	"llmc/kernels"
)

// globalOptions are the flags that every command has.
type globalOptions struct {
	ui      *ui
	threads int
	device  string
}

// newRootCommand puts the commands together. A new command is a new file and
// a line here.
func newRootCommand(ui *ui) *cobra.Command {
	global := &globalOptions{ui: ui}
	root := &cobra.Command{
		Use:   "llmc",
		Short: "Make a language model smaller and measure what that cost",
		Long: `llmc quantizes, prunes and distills language models and measures what that cost,
with its own kernels. It reads Hugging Face folders (safetensors) and GGUF files, and
writes what llama.cpp, transformers and vLLM load.

MODEL is a Hugging Face folder, a .safetensors file with its config.json beside
it, or a .gguf file. Without one, commands work on a small built-in demo model.`,
		Example: `  llmc quantize --bits 4                      try it on the built-in model
  llmc inspect model/
  llmc quantize model/ --type Q4_K_M -o model-q4.gguf --text test.txt
  llmc eval model/ model-q4.gguf --text test.txt --max-perplexity-increase 2%`,
		Args:          usageArgs(cobra.NoArgs),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.BoolVar(&ui.json, "json", false, "print one JSON document on stdout and nothing else there")
	flags.BoolVar(&ui.quiet, "quiet", false, "no progress and no messages, only results and errors")
	flags.IntVar(&global.threads, "threads", 0, "threads to compute with (default: one per core)")
	flags.StringVar(&global.device, "device", "auto", "where to compute: auto or cpu")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return global.check() }
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fault.Hint(fault.Usage("%w", err), "%s --help lists the flags", cmd.CommandPath())
	})
	root.SetOut(ui.out)
	root.SetErr(ui.err)
	root.CompletionOptions.HiddenDefaultCmd = true

	root.AddCommand(
		newInspectCommand(global),
		newEvalCommand(global),
		newQuantizeCommand(global),
		newPruneCommand(global),
		newDistillCommand(global),
		newConvertCommand(global),
		newGenerateCommand(global),
		newTokenizeCommand(global),
	)
	setHelp(root)
	for _, cmd := range root.Commands() {
		cmd.Args = usageArgs(cmd.Args)
	}
	return root
}

// usageArgs marks what cobra says about wrong arguments as a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	if check == nil {
		return nil
	}
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return fault.Hint(fault.Usage("%w", err), "%s --help shows the arguments", cmd.CommandPath())
		}
		return nil
	}
}

// check refuses wrong global flags before any file is opened.
func (g *globalOptions) check() error {
	if g.threads < 0 || g.threads > 1024 {
		return fault.Usage("--threads is %d, allowed are 1 to 1024 (0 for one per core)", g.threads)
	}
	if err := kernels.CheckLevel(); err != nil {
		return err
	}
	switch g.device {
	case "auto", "cpu":
		return nil
	}
	return fault.Usage("--device is %q, allowed are auto and cpu", g.device)
}

// newDevice returns the device that the flags ask for.
func (g *globalOptions) newDevice() kernels.Device { return g.newDeviceFor(kernels.Exact) }

// garbagePercent is how far memory may grow beyond what is in use before it is
// collected, in commands that compute. Nearly all of it is weights, which hold
// no pointers: looking for garbage is cheap, keeping as much garbage as weights
// is not.
const garbagePercent = 20

// newDeviceFor is newDevice for either way to compute.
func (g *globalOptions) newDeviceFor(c kernels.Compute) kernels.Device {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	return kernels.NewCPUFor(c, g.threads)
}
