// Command logits prints what llmc's forward pass computes, for comparison with
// other engines:
//
//	go run ./scripts/interop/logits [-inputs] MODEL ID...
//
// writes the logits of every position as little-endian float32 numbers
// [positions, vocabulary] to standard output. With -inputs, what the linears
// are fed comes first, before any rounding of activations: for each block the
// inputs of q (which k and v share), of o, of gate (and up) and of down, each
// [positions, channels].
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"

	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
)

func main() {
	inputs := flag.Bool("inputs", false, "print the inputs of the linears, too")
	flag.Parse()
	if err := run(flag.Args(), *inputs); err != nil {
		fmt.Fprintln(os.Stderr, "logits:", err)
		os.Exit(1)
	}
}

func run(args []string, inputs bool) error {
	if len(args) < 2 {
		return errors.New("usage: logits [-inputs] MODEL ID [ID]")
	}
	var ids []int32
	for _, arg := range args[1:] {
		id, err := strconv.ParseInt(arg, 10, 32)
		if err != nil {
			return err
		}
		ids = append(ids, int32(id))
	}
	c, err := formats.Open(args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	w, err := model.Open(c)
	if err != nil {
		return err
	}
	m, err := model.New(kernels.NewCPU(0), w)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	var failed error
	write := func(t *kernels.Tensor) {
		values := make([]float32, t.Rows*t.Cols)
		m.Device().Read(values, t)
		failed = errors.Join(failed, binary.Write(out, binary.LittleEndian, values))
	}
	if inputs {
		m.SetBatchRows(len(ids)) // so that every input comes in one piece
		m.SetHook(func(_ int, _ model.Input, in *kernels.Tensor) { write(in) })
	}
	err = m.Forward(context.Background(), m.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
		logits := m.Logits(hidden)
		defer m.Device().Free(logits)
		write(logits)
		return failed
	})
	if err != nil {
		return err
	}
	return out.Flush()
}
