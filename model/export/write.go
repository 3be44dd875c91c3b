package export

import (
	"bytes"
	"context"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"llmc/dtype"
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/hfquant"
)

// castagnoli is the checksum that processors compute.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Write writes the output to path, tensor by tensor, and reads it back: what
// is on the disk is compared with what was to be written. Until all of it is
// there, nothing is. source gives the matrices, nil for those of the
// checkpoint itself; progress may be nil and is told bytes.
func (e *Export) Write(ctx context.Context, path string, force bool, source Source, progress func(done, total int64)) error {
	if source == nil {
		source = func(_ context.Context, id model.ID) (kernels.Matrix, error) { return e.weights.Matrix(id) }
	}
	out, err := e.create(path, force)
	if err != nil {
		return err
	}
	defer out.Abort()
	w := &writer{Export: e, ctx: ctx, out: out, source: source, sums: map[string]uint32{}}
	if err := w.all(progress); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := out.Commit(); err != nil {
		return err
	}
	if err := e.readBack(path, w.sums); err != nil {
		return fmt.Errorf("%s does not read back as it was written, do not use it: %w", path, err)
	}
	return nil
}

func (e *Export) create(path string, force bool) (*formats.Writer, error) {
	if e.spec.Kind == formats.GGUF {
		return formats.CreateGGUF(path, force, e.meta, e.Tensors(), 0)
	}
	folder := formats.Folder{Config: e.files[configFile], Files: map[string][]byte{}, MaxShard: e.spec.MaxShard}
	if e.from.Kind == formats.HuggingFace {
		folder.Source, folder.Metadata = e.from, e.from.Metadata
	}
	for name, data := range e.files {
		if name != configFile {
			folder.Files[name] = data
		}
	}
	return formats.CreateFolder(path, force, folder, e.Tensors())
}

// writer is the state of one Write.
type writer struct {
	*Export
	ctx    context.Context
	out    *formats.Writer
	source Source
	done   int64             // bytes written
	sums   map[string]uint32 // of each tensor's bytes
}

// all writes every tensor. Each matrix is written while the next one is
// computed, and nothing but its own numbers is touched by that.
func (w *writer) all(progress func(done, total int64)) error {
	var writing behind
	defer writing.wait()
	total, released := w.Bytes(), 0
	finish := func(items int) error {
		if err := writing.wait(); err != nil {
			return err
		}
		for ; released < items; released++ {
			w.weights.Release(w.spec.Items[released].ID)
		}
		if progress != nil {
			progress(w.done, total)
		}
		return nil
	}
	for i := 0; i < len(w.spec.Items); {
		if n := w.stacks[i]; n > 0 {
			if err := finish(i); err != nil {
				return err
			}
			if err := w.stack(i, n); err != nil {
				return err
			}
			i += n
			continue
		}
		write, err := w.item(i)
		if err != nil {
			return err
		}
		if err := finish(i); err != nil {
			return err
		}
		writing.start(write)
		i++
	}
	if err := finish(len(w.spec.Items)); err != nil {
		return err
	}
	for _, t := range w.extra {
		if err := w.bytes(t, t.Data); err != nil {
			return err
		}
	}
	if progress != nil {
		progress(w.done, total)
	}
	return nil
}

// stack writes the experts of items first to first+n-1 as one tensor.
func (w *writer) stack(first, n int) error {
	t := w.layout[first][0]
	failed := func(it *Item, err error) error {
		if err == nil || w.ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%s, expert %d: %w", t.Name, it.ID.Expert.Index(), err)
	}
	return w.stream(t, func(out io.Writer) error {
		var writing behind
		defer writing.wait()
		for i := first; i < first+n; i++ {
			it := &w.spec.Items[i]
			m, err := w.source(w.ctx, it.ID)
			if err != nil {
				return failed(it, err)
			}
			if err := writing.wait(); err != nil {
				return err
			}
			if i > first {
				w.weights.Release(w.spec.Items[i-1].ID)
			}
			writing.start(func() error { return failed(it, w.numbers(out, m, it.Type)) })
		}
		return writing.wait()
	})
}

// behind runs one function at a time beside the caller.
type behind struct{ result chan error }

// start runs f. The one before must have been waited for.
func (b *behind) start(f func() error) {
	result := make(chan error, 1)
	b.result = result
	go func() { result <- f() }()
}

// wait returns what the function that runs, if any, returns.
func (b *behind) wait() error {
	if b.result == nil {
		return nil
	}
	err := <-b.result
	b.result = nil
	return err
}

// item computes item i and returns what writes its tensors.
func (w *writer) item(i int) (func() error, error) {
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	it, parts, name := &w.spec.Items[i], w.layout[i], w.stem(w.spec.Items[i].ID)
	if it.ID.Bias || !it.ID.Role.IsMatrix() {
		data, err := w.vector(it, parts[0])
		return func() error { return w.bytes(parts[0], data) }, err
	}
	m, err := w.source(w.ctx, it.ID)
	if err != nil {
		return nil, err
	}
	m = reorder(m, rowOrder(&w.weights.Config, it.ID, w.from.Kind, w.spec.Kind))
	write := func() error { return w.matrix(m, it.Type, parts[0]) }
	if it.packed() {
		scheme := it.Codes
		if scheme.Inputs.Static {
			if scheme.Inputs, err = w.weights.Inputs(it.ID); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		write = func() error { return w.codes(m, scheme, parts) }
	}
	return func() error {
		err := write()
		if err != nil && w.ctx.Err() == nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return err
	}, nil
}

// vector returns the bytes of a vector; of one that does not change, those that
// are stored.
func (w *writer) vector(it *Item, t raw.Tensor) ([]byte, error) {
	stored, err := storedVector(w.weights, it.ID)
	if err == nil && w.from.Kind == w.spec.Kind && stored.Type == it.Type && !w.weights.Replaced(it.ID) {
		return stored.Data, nil
	}
	v, err := plainVector(w.weights, it.ID, w.spec.Kind)
	if err != nil {
		return nil, err
	}
	data := make([]byte, len(v)*it.Type.BlockBytes())
	if err := encode(data, v, it.Type); err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	return data, nil
}

// matrix writes a matrix as a scalar or block type.
func (w *writer) matrix(m kernels.Matrix, to dtype.Type, t raw.Tensor) error {
	return w.stream(t, func(out io.Writer) error { return w.numbers(out, m, to) })
}

// numbers writes the numbers of a matrix as a scalar type, or the blocks that it
// has.
func (w *writer) numbers(out io.Writer, m kernels.Matrix, to dtype.Type) error {
	if d, ok := m.(*kernels.Dense); ok && d.Type == to {
		_, err := out.Write(d.Data)
		return err
	}
	switch to {
	case dtype.F32, dtype.F16, dtype.BF16:
		return convert(w.ctx, out, m, to, w.spec.Threads)
	}
	return fmt.Errorf("the matrix to be written as %s is stored otherwise", to)
}

// codes packs a matrix, unpacks it again to compare, and writes it.
func (w *writer) codes(m kernels.Matrix, scheme hfquant.Scheme, layout []raw.Tensor) error {
	parts, err := w.spec.Quantization.Encode(scheme, m)
	if err != nil {
		return err
	}
	if len(parts) != len(layout) {
		return fmt.Errorf("packing gave %d tensors, %d were planned", len(parts), len(layout))
	}
	byName := hfquant.Parts{}
	for _, p := range parts {
		byName[p.Name] = p
	}
	rows, cols := m.Shape()
	module := layout[0].Name[:len(layout[0].Name)-len(parts[0].Name)-1]
	back, err := w.spec.Quantization.Decode(module, byName, rows, cols)
	if err != nil {
		return fmt.Errorf("packed codes cannot be unpacked: %w", err)
	}
	if err := sameRows(w.ctx, m, back, w.spec.Threads); err != nil {
		return fmt.Errorf("packed codes unpack to other weights: %w", err)
	}
	for i, p := range parts {
		if err := w.bytes(layout[i], p.Data); err != nil {
			return err
		}
	}
	return nil
}

// sameRows compares two matrices bit by bit, but for the sign of zeros.
func sameRows(ctx context.Context, a, b kernels.Matrix, threads int) error {
	rows, cols := a.Shape()
	if r, c := b.Shape(); r != rows || c != cols {
		return fmt.Errorf("the shape [%d, %d] became [%d, %d]", rows, cols, r, c)
	}
	return eachRow(ctx, threads, rows, 2*cols, func(r int, x []float32) error {
		a.Row(x[:cols], r)
		b.Row(x[cols:], r)
		for c, v := range x[:cols] {
			if v != x[cols+c] {
				return fmt.Errorf("row %d, column %d: %g became %g", r, c, v, x[cols+c])
			}
		}
		return nil
	})
}

func (w *writer) bytes(t raw.Tensor, data []byte) error {
	return w.stream(t, func(out io.Writer) error {
		_, err := out.Write(data)
		return err
	})
}

// stream writes one tensor and keeps the checksum of its bytes.
func (w *writer) stream(t raw.Tensor, produce func(io.Writer) error) error {
	sum := crc32.New(castagnoli)
	err := w.out.StreamTensor(func(out io.Writer) error {
		return produce(&summed{out, sum})
	})
	if err != nil {
		return err
	}
	w.sums[t.Name] = sum.Sum32()
	w.done += t.Bytes()
	return nil
}

// summed adds what goes through it to a checksum.
type summed struct {
	io.Writer
	sum hash.Hash32
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	s.sum.Write(p[:n])
	return n, err
}

// readBack opens what was written as anyone would and compares every tensor's
// bytes with what was sent out.
func (e *Export) readBack(path string, sums map[string]uint32) error {
	c, err := formats.Open(path)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := model.Open(c); err != nil {
		return err
	}
	if n := len(c.Tensors()); n != len(sums) {
		return fault.Invalid("it has %d tensors, not %d", n, len(sums))
	}
	for _, t := range c.Tensors() {
		want, ok := sums[t.Name]
		if !ok || crc32.Checksum(t.Data, castagnoli) != want {
			return fault.Invalid("the tensor %s is not what was written", t.Name)
		}
		raw.Release(t.Data)
	}
	if e.spec.Kind == formats.HuggingFace && !bytes.Equal(c.Config, e.files[configFile]) {
		return fault.Invalid("%s is not what was written", configFile)
	}
	return nil
}
