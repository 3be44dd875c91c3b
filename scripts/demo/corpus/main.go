// Command corpus writes text of the demo model's generator to standard output:
//
//	go run ./scripts/demo/corpus -part training -size 1000000
package main

import (
	"flag"
	"fmt"
	"os"

	"llmc/demo"
	"llmc/demo/corpus"
)

func main() {
	part := flag.String("part", "training", "training, calibration or heldout; the latter two as the demo has them")
	size := flag.Int("size", corpus.TrainingSize, "least size in bytes of the training text")
	flag.Parse()
	var text string
	switch *part {
	case "training":
		text = corpus.Text(corpus.TrainingSeed, *size)
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
