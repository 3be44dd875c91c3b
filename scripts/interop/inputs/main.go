// Command inputs prints what llmc's forward pass feeds its linears, before any
// rounding of activations, for comparison with other engines:
//
//	go run ./scripts/interop/inputs MODEL ID...
//
// writes, for each block, the inputs of q (which k and v share), of o, of gate
// (and up) and of down, as little-endian float32 numbers [positions, channels],
// then the logits [positions, vocabulary], to standard output.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "inputs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: inputs MODEL ID [ID]")
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
	m.SetBatchRows(len(ids)) // so that every input comes in one piece
	out := bufio.NewWriter(os.Stdout)
	var failed error
	write := func(t *kernels.Tensor) {
		values := make([]float32, t.Rows*t.Cols)
		m.Device().Read(values, t)
		failed = errors.Join(failed, binary.Write(out, binary.LittleEndian, values))
	}
	m.SetHook(func(_ int, _ []model.Role, in *kernels.Tensor) { write(in) })
	err = m.Forward(context.Background(), m.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
		logits := m.Logits(hidden)
		defer m.Device().Free(logits)
		write(logits)
		return nil
	})
	return errors.Join(err, failed, out.Flush())
}
