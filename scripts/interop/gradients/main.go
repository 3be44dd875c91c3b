// Command gradients runs a model forward and backward, for comparison with other
// programs:
//
//	go run ./scripts/interop/gradients [-checkpointing] [-threads N] [-timed [-taught]] MODEL
//
// reads sequences of token ids from standard input, one a line, up to an empty
// line or the end. The loss is the mean cross-entropy of each token but the first
// of its sequence. It writes a line of JSON with the loss, and for each tensor a
// line with its Hugging Face name and size and then its gradient, little-endian
// float32 numbers.
//
// With -timed it does so not, but runs a step for each line that follows and
// writes the seconds that it took by the clock and of the processor, and the
// operations that the machine's multiply-adds could do in a second just then.
// With -taught as well, the model is teacher and student, and a step one of
// distillation, from the teacher's logits to the optimizer's change.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"llmc/distill"
	"llmc/formats"
	"llmc/internal/cputime"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/train"
)

func main() {
	threads := flag.Int("threads", 0, "threads to compute on; 0 means all")
	checkpointing := flag.Bool("checkpointing", false, "compute activations again in the backward pass")
	timed := flag.Bool("timed", false, "time steps")
	teach := flag.Bool("taught", false, "the steps are of distillation")
	temperature := flag.Float64("temperature", 2, "of distillation")
	flag.Parse()
	if !*teach {
		*temperature = 0
	}
	if err := run(flag.Arg(0), *threads, *checkpointing, *timed, *temperature); err != nil {
		fmt.Fprintln(os.Stderr, "gradients:", err)
		os.Exit(1)
	}
}

// run runs a model; with a temperature, timed steps are of distillation.
func run(path string, threads int, checkpointing, timed bool, temperature float64) error {
	in := bufio.NewReader(os.Stdin)
	seqs, err := read(in)
	if err != nil {
		return err
	}
	c, err := formats.Open(path)
	if err != nil {
		return err
	}
	defer c.Close()
	w, err := model.Open(c)
	if err != nil {
		return err
	}
	dev := kernels.NewCPU(threads)
	n, err := train.New(dev, w)
	if err != nil {
		return err
	}
	n.SetCheckpointing(checkpointing)
	if timed {
		next := func() (float64, error) {
			n.ZeroGrad()
			return step(n, dev, seqs)
		}
		if temperature > 0 {
			t, err := newTaught(dev, n, c, temperature, threads)
			if err != nil {
				return err
			}
			next = func() (float64, error) { return t.step(seqs) }
		}
		return time(dev, next, in)
	}
	loss, err := step(n, dev, seqs)
	if err != nil {
		return err
	}
	return write(n, loss)
}

// read returns sequences up to an empty line.
func read(in *bufio.Reader) ([][]int32, error) {
	var seqs [][]int32
	for {
		line, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return nil, err
		}
		var ids []int32
		for _, word := range strings.Fields(line) {
			id, err := strconv.ParseInt(word, 10, 32)
			if err != nil {
				return nil, err
			}
			ids = append(ids, int32(id))
		}
		if len(ids) == 0 {
			return seqs, nil
		}
		seqs = append(seqs, ids)
	}
}

// step adds the gradients of the mean cross-entropy, which it returns.
func step(n *train.Network, dev *kernels.CPU, seqs [][]int32) (float64, error) {
	tokens := 0
	for _, ids := range seqs {
		tokens += len(ids) - 1
	}
	entropy := distill.Loss{Kind: distill.CrossEntropy}
	total := 0.0
	err := n.Step(context.Background(), seqs, func(seq, first int, logits *kernels.Tensor) error {
		ids := seqs[seq]
		losses := make([]float64, logits.Rows)
		var wg sync.WaitGroup
		for part := range dev.Threads() {
			wg.Go(func() {
				var s distill.Scratch
				for i := part; i < logits.Rows; i += dev.Threads() {
					row := logits.Data[i*logits.Cols:][:logits.Cols]
					if next := first + i + 1; next < len(ids) {
						losses[i] = entropy.Row(row, nil, ids[next], 1/float64(tokens), &s).Loss
					} else {
						clear(row)
					}
				}
			})
		}
		wg.Wait()
		for _, l := range losses {
			total += l
		}
		return nil
	})
	return total / float64(tokens), err
}

// write prints the loss and all gradients.
func write(n *train.Network, loss float64) error {
	out := bufio.NewWriter(os.Stdout)
	header := json.NewEncoder(out)
	if err := header.Encode(map[string]any{"loss": loss}); err != nil {
		return err
	}
	for _, p := range n.Params() {
		name := n.Config().Family.TensorName(formats.HuggingFace, p.ID)
		if err := header.Encode(map[string]any{"name": name, "numbers": len(p.Grad)}); err != nil {
			return err
		}
		if err := binary.Write(out, binary.LittleEndian, p.Grad); err != nil {
			return err
		}
	}
	return out.Flush()
}

// time runs a step for each line that comes.
func time(dev *kernels.CPU, step func() (float64, error), in *bufio.Reader) error {
	for {
		if _, err := in.ReadString('\n'); err != nil {
			return nil
		}
		wall, processor := cputime.Wall(), cputime.Now()
		operations := 0.0
		for range 30 { // one is too short for the clock
			operations += dev.Peak()
		}
		peakWall, peakProcessor := cputime.Wall(), cputime.Now()
		loss, err := step()
		if err != nil {
			return err
		}
		err = json.NewEncoder(os.Stdout).Encode(map[string]float64{
			"wall": (cputime.Wall() - peakWall).Seconds(), "cpu": (cputime.Now() - peakProcessor).Seconds(), "loss": loss,
			"peak_wall": operations / (peakWall - wall).Seconds(), "peak_cpu": operations / (peakProcessor - processor).Seconds(),
		})
		if err != nil {
			return err
		}
	}
}
