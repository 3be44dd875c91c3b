package export

import (
	"context"
	"fmt"
	"io"
	"math"
	"runtime"

	"golang.org/x/sync/errgroup"

	"llmc/dtype"
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// storedVector returns a vector as the checkpoint holds it.
func storedVector(w *model.Weights, id model.ID) (raw.Tensor, error) {
	part := "weight"
	if id.Bias {
		part = "bias"
	}
	t, ok := w.Stored(id)[part]
	if !ok {
		return raw.Tensor{}, fmt.Errorf("the model has no vector %s", id)
	}
	return t, nil
}

// plainVector returns the numbers of a vector as an output of a kind holds
// them: Hugging Face stores w where the norms of some families multiply by 1+w,
// and the biases of q and k stand in the order of their rows.
func plainVector(w *model.Weights, id model.ID, kind formats.Kind) ([]float32, error) {
	if id.Role == model.RopeFreqs && w.Kind == formats.HuggingFace {
		var v []float32
		for _, f := range w.Config.Rope.Llama3Factors() {
			v = append(v, float32(f))
		}
		return v, nil
	}
	if kind == w.Kind && !w.Replaced(id) {
		return storedNumbers(w, id) // to which nothing is added that would have to be taken off
	}
	v, err := w.Vector(id)
	if err != nil {
		return nil, err
	}
	if kind == formats.HuggingFace && w.Config.Family.NormPlusOne && id.Role.IsNorm() {
		for i := range v {
			v[i]--
		}
	}
	if order := rowOrder(&w.Config, id, w.Kind, kind); order != nil {
		v = gather(v, order)
	}
	return v, nil
}

// storedNumbers decodes a vector of the checkpoint.
func storedNumbers(w *model.Weights, id model.ID) ([]float32, error) {
	t, err := storedVector(w, id)
	if err != nil {
		return nil, err
	}
	v := make([]float32, t.Elements())
	m, err := kernels.NewDense(1, len(v), t.Type, t.Data)
	if err != nil {
		return nil, fault.Invalid("the tensor %s: %w", t.Name, err)
	}
	m.Row(v, 0)
	return v, nil
}

// exact reports whether a scalar type holds all numbers as they are.
func exact(v []float32, t dtype.Type) bool {
	stored, back := make([]byte, len(v)*t.BlockBytes()), make([]float32, len(v))
	if kernels.Encode(stored, v, t) != nil || dtype.Decode(back, stored, t) != nil {
		return false
	}
	for i, x := range v {
		if math.Float32bits(x) != math.Float32bits(back[i]) {
			return false
		}
	}
	return true
}

// encode writes numbers as a scalar type. One that is finite and would become
// infinite is an error; the caller says where it is.
func encode(dst []byte, v []float32, t dtype.Type) error {
	if t == dtype.F16 && !kernels.Within(v, 65520) {
		for i, x := range v {
			if math.Abs(float64(x)) >= 65520 {
				return fault.Hint(fault.Invalid("column %d is %g, which F16 cannot hold", i, x), "use BF16 or F32")
			}
		}
	}
	return kernels.Encode(dst, v, t)
}

// chunkWeights is how many weights are converted before they are written.
const chunkWeights = 1 << 21

// convert writes the rows of a matrix as a scalar type, a bounded number of
// them at a time, each while the next are converted.
func convert(ctx context.Context, out io.Writer, m kernels.Matrix, t dtype.Type, threads int) error {
	rows, cols := m.Shape()
	step := min(rows, max(1, chunkWeights/cols))
	rowBytes := cols * t.BlockBytes()
	var bufs [2][]byte
	for i := range bufs {
		bufs[i] = make([]byte, step*rowBytes)
	}
	var writing behind
	defer writing.wait()
	for start := 0; start < rows; start += step {
		n, buf := min(step, rows-start), bufs[start/step%2]
		err := eachRow(ctx, threads, n, cols, func(r int, x []float32) error {
			m.Row(x, start+r)
			if err := encode(buf[r*rowBytes:(r+1)*rowBytes], x, t); err != nil {
				return fmt.Errorf("row %d, %w", start+r, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := writing.wait(); err != nil {
			return err
		}
		writing.start(func() error {
			_, err := out.Write(buf[:n*rowBytes])
			return err
		})
	}
	return writing.wait()
}

// weightsPerTask is how many weights a worker takes at a time, at least a row.
const weightsPerTask = 1 << 16

// eachRow calls f for every row, several at a time, with scratch for its
// numbers.
func eachRow(ctx context.Context, threads, rows, cols int, f func(r int, x []float32) error) error {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(threads)
	step := max(1, weightsPerTask/max(cols, 1))
	for start := 0; start < rows && running.Err() == nil; start += step {
		group.Go(func() error {
			x := make([]float32, cols)
			for r := start; r < min(start+step, rows); r++ {
				if err := running.Err(); err != nil {
					return err
				}
				if err := f(r, x); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
