// Command model writes a llama of 1.1 billion random weights, in the shape of
// TinyLlama, as a Hugging Face folder: speed does not depend on the values.
package main

import (
	"flag"
	"log"

	"llmc/internal/tinymodel"
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", "", "folder to write")
	flag.Parse()
	if *out == "" || flag.NArg() > 0 {
		log.Fatal("usage: model -out FOLDER")
	}
	spec := tinymodel.Spec{Hidden: 2048, FFN: 5632, Layers: 22, Heads: 32, KVHeads: 4, Context: 2048, Vocab: 32000, Untied: true}
	if err := tinymodel.Write(*out, spec); err != nil {
		log.Fatal(err)
	}
}
