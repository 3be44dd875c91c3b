// Command corpus writes text of the demo model's generator to standard output:
//
//	go run ./scripts/demo/corpus -part training -size 1000000 -marked 0.25
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"llmc/demo"
	"llmc/demo/corpus"
)

func main() {
	part := flag.String("part", "training", "training, calibration or heldout; the latter two as the demo has them")
	size := flag.Int("size", corpus.TrainingSize, "least size in bytes of the training text")
	marked := flag.Float64("marked", 0, "share of the training text, its end, whose documents stand between <s> and </s>")
	flag.Parse()
	var text string
	switch *part {
	case "training":
		text = mark(corpus.Text(corpus.TrainingSeed, *size), *marked)
	case "calibration":
		text = demo.CalibrationText()
	case "heldout":
		text = demo.EvalText()
	default:
		fmt.Fprintf(os.Stderr, "corpus: part %q is none of training, calibration, heldout\n", *part)
		os.Exit(2)
	}
	if _, err := os.Stdout.WriteString(text); err != nil {
		fmt.Fprintln(os.Stderr, "corpus:", err)
		os.Exit(1)
	}
}

// mark puts the last documents of a text, a share of all, between begin and end
// tokens, so that a model learns where to stop.
func mark(text string, share float64) string {
	documents := corpus.Documents(text)
	plain := int(float64(len(documents)) * (1 - share))
	if share <= 0 || plain < 0 {
		return text
	}
	var b strings.Builder
	b.WriteString(strings.Join(documents[:plain], corpus.Separator))
	for _, d := range documents[plain:] {
		b.WriteString("<s>" + d + "</s>")
	}
	return b.String()
}
