// Package eval measures language models: perplexity by three protocols,
// divergence from a baseline, size and speed.
//
// [Load] makes a checkpoint ready, [FileText] opens a text, and [Run] measures
// one or several models on it and returns a [Report], whose JSON is the
// document of "llmc eval --json". [Gates] turn a report into pass or fail.
// [Summarize] says what a checkpoint's headers tell without running anything.
//
// A text is streamed (source.go) as windows that a [Protocol] lays out
// (protocol.go); every model runs over a window before the next one is read
// (run.go), and its logits are scored some rows at a time (score.go), so that
// memory does not grow with the text. Sums run in the order of the tokens: a
// report does not depend on the number of threads.
package eval
