package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Topics of flags: help lists those of a topic together, after the command's
// own, in this order.
const (
	topicCalibration = "Calibration"
	topicJoint       = "Rounding in the same pass"
	topicStructured  = "Whole parts"
	topicTraining    = "Training"
	topicRounding    = "Quantization-aware training"
	topicMeasuring   = "Measuring"
	topicGates       = "Gates for CI (exit code 3)"
	topicOutput      = "Output"
)

var topics = []string{
	topicCalibration, topicJoint, topicStructured, topicTraining, topicRounding, topicMeasuring, topicGates, topicOutput,
}

// helpWidth is how wide help is.
const helpWidth = 100

const topicKey = "llmc_topic" // of a flag's annotations

// putUnder lists flags of a command under a topic in its help.
func putUnder(topic string, flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		if err := flags.SetAnnotation(name, topicKey, []string{topic}); err != nil {
			panic(err) // there is no such flag
		}
	}
}

// byTopic returns the flags of each topic; "" has the command's own.
func byTopic(flags *pflag.FlagSet) map[string]*pflag.FlagSet {
	sets := map[string]*pflag.FlagSet{}
	flags.VisitAll(func(f *pflag.Flag) {
		topic := strings.Join(f.Annotations[topicKey], "")
		if sets[topic] == nil {
			sets[topic] = pflag.NewFlagSet(topic, pflag.ContinueOnError)
			sets[topic].SortFlags = false
		}
		sets[topic].AddFlag(f)
	})
	return sets
}

// flagHelp is the part of a command's help that lists its flags.
func flagHelp(cmd *cobra.Command) string {
	sets := byTopic(cmd.LocalFlags())
	var b strings.Builder
	section := func(title string, flags *pflag.FlagSet) {
		if flags != nil && flags.HasAvailableFlags() {
			fmt.Fprintf(&b, "\n%s:\n%s", title, flags.FlagUsagesWrapped(helpWidth))
		}
	}
	section("Flags", sets[""])
	for _, topic := range topics {
		section(topic, sets[topic])
	}
	section("Global flags", cmd.InheritedFlags())
	return strings.TrimRight(b.String(), "\n")
}

// usageTemplate is cobra's but for the flags and the exit codes.
const usageTemplate = `Usage:{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND [flags]{{else}}
  {{.UseLine}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}
{{flagHelp .}}{{if .HasAvailableSubCommands}}

{{.CommandPath}} COMMAND --help says more about a command.{{end}}

` + exitCodeHelp + "\n"

// setHelp makes a command, and those below it, show help that way: flags in
// the order in which they were registered, so that neighbours stay together.
func setHelp(root *cobra.Command) {
	cobra.AddTemplateFunc("flagHelp", flagHelp)
	root.SetUsageTemplate(usageTemplate)
	for _, cmd := range root.Commands() {
		cmd.Flags().SortFlags = false
	}
}

// inLines writes words in indented lines no wider than help.
func inLines(words []string) string {
	const indent = "\n  "
	var b strings.Builder
	width := helpWidth
	for _, w := range words {
		if width+1+len(w) > helpWidth {
			b.WriteString(indent)
			width = len(indent) - 1
		} else {
			b.WriteByte(' ')
			width++
		}
		b.WriteString(w)
		width += len(w)
	}
	return b.String()
}
