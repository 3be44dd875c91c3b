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
	w := &writer{Export: e, ctx: ctx, out: out, source: source, progress: progress, total: e.Bytes()}
	for i := 0; i < len(e.spec.Items); {
		n, err := 1, error(nil)
		if experts := e.stacks[i]; experts > 0 {
			n, err = experts, w.stack(i, experts)
		} else {
			err = w.item(i)
		}
		if err != nil {
			return err
		}
		for range n {
			e.weights.Release(e.spec.Items[i].ID)
			i++
		}
	}
	for _, t := range e.extra {
		if err := w.bytes(t, t.Data); err != nil {
			return err
		}
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
	ctx         context.Context
	out         *formats.Writer
	source      Source
	progress    func(done, total int64)
	done, total int64
	sums        map[string]uint32 // of each tensor's bytes
}

// item writes the tensors that hold item i.
func (w *writer) item(i int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	it, parts := &w.spec.Items[i], w.layout[i]
	if it.ID.Bias || !it.ID.Role.IsMatrix() {
		return w.vector(it, parts[0])
	}
	m, err := w.source(w.ctx, it.ID)
	if err != nil {
		return err
	}
	m = reorder(m, rowOrder(&w.weights.Config, it.ID, w.from.Kind, w.spec.Kind))
	if it.packed() {
		err = w.codes(m, it, parts)
	} else {
		err = w.matrix(m, it.Type, parts[0])
	}
	if err != nil && w.ctx.Err() == nil {
		return fmt.Errorf("%s: %w", w.stem(it.ID), err)
	}
	return err
}

// stack writes the experts of items first to first+n-1 as one tensor.
func (w *writer) stack(first, n int) error {
	t := w.layout[first][0]
	return w.stream(t, func(out io.Writer) error {
		for i := first; i < first+n; i++ {
			it := &w.spec.Items[i]
			m, err := w.source(w.ctx, it.ID)
			if err == nil {
				err = w.numbers(out, m, it.Type)
			}
			if err != nil && w.ctx.Err() == nil {
				return fmt.Errorf("%s, expert %d: %w", t.Name, it.ID.Expert.Index(), err)
			}
			if err != nil {
				return err
			}
			w.weights.Release(it.ID)
		}
		return nil
	})
}

// vector writes a vector; one that does not change, byte for byte.
func (w *writer) vector(it *Item, t raw.Tensor) error {
	stored, err := storedVector(w.weights, it.ID)
	if err == nil && w.from.Kind == w.spec.Kind && stored.Type == it.Type && !w.weights.Replaced(it.ID) {
		return w.bytes(t, stored.Data)
	}
	v, err := plainVector(w.weights, it.ID, w.spec.Kind)
	if err != nil {
		return err
	}
	data := make([]byte, len(v)*it.Type.BlockBytes())
	if err := encode(data, v, it.Type); err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	return w.bytes(t, data)
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
func (w *writer) codes(m kernels.Matrix, it *Item, layout []raw.Tensor) error {
	scheme := it.Codes
	if scheme.Inputs.Static {
		var err error
		if scheme.Inputs, err = w.weights.Inputs(it.ID); err != nil {
			return err
		}
	}
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
	if w.sums == nil {
		w.sums = map[string]uint32{}
	}
	w.sums[t.Name] = sum.Sum32()
	if w.done += t.Bytes(); w.progress != nil {
		w.progress(w.done, w.total)
	}
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
