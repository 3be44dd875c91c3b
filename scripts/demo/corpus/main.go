// Command corpus writes text of the demo model's generator to standard output:
//
//	go run ./scripts/demo/corpus -seed 1 -size 1000000
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"

	"llmc/demo/corpus"
)

func main() {
	seed := flag.Uint64("seed", corpus.TrainingSeed, "seed; the default is the training text's")
	size := flag.Int("size", 100_000, "least size in bytes")
	flag.Parse()
	out := bufio.NewWriter(os.Stdout)
	out.WriteString(corpus.Text(*seed, *size))
	if err := out.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "corpus:", err)
		os.Exit(1)
	}
}
