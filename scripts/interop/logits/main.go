// Command logits prints what llmc's forward pass computes, for comparison with
// other engines:
//
//	go run ./scripts/interop/logits MODEL ID...
//
// writes the logits of every position as little-endian float32 numbers
// [positions, vocabulary] to standard output.
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
		fmt.Fprintln(os.Stderr, "logits:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: logits MODEL ID [ID]")
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
	err = m.Forward(context.Background(), m.NewState(), ids, func(_ int, hidden *kernels.Tensor) error {
		logits := m.Logits(hidden)
		defer m.Device().Free(logits)
		values := make([]float32, logits.Rows*logits.Cols)
		m.Device().Read(values, logits)
		return binary.Write(out, binary.LittleEndian, values)
	})
	if err != nil {
		return err
	}
	return out.Flush()
}
