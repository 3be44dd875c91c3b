package model

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model/hfquant"
)

// Weights are the tensors of one checkpoint, found by what they do. Nothing is
// read before it is asked for; matrices view the checkpoint's memory mapping,
// so the checkpoint must stay open while they are used.
type Weights struct {
	Config Config
	Kind   formats.Kind
	// Quantization is how a quantized Hugging Face checkpoint stores its
	// linears; nil otherwise.
	Quantization *hfquant.Config
	// Extra are the names of tensors that the model does not use, sorted.
	Extra []string

	stored   map[ID]map[string]raw.Tensor // by the last part of the name: "weight", "qweight", ...
	replaced map[ID]kernels.Matrix
	vectors  map[ID][]float32 // replaced ones
	cut      *cutting         // what they were cut from; nil for those of a checkpoint

	inputs      map[ID]kernels.Rounding // of linears that were rounded
	exactInputs bool                    // what the checkpoint says of them does not count
}

// Open reads the configuration and finds every tensor it needs. A missing or
// mis-shaped tensor, or one in a number format that cannot be a weight, is an
// error that names it; tensors that are not needed are listed in Extra.
func Open(c *formats.Checkpoint) (*Weights, error) {
	cfg, err := ReadConfig(c)
	if err != nil {
		return nil, err
	}
	w := &Weights{
		Config: cfg, Kind: c.Kind,
		stored:   map[ID]map[string]raw.Tensor{},
		replaced: map[ID]kernels.Matrix{},
		vectors:  map[ID][]float32{},
	}
	if c.Kind == formats.HuggingFace {
		if w.Quantization, err = hfquant.FromConfig(c.Config); err != nil {
			return nil, err
		}
	}
	w.index(c.Tensors())
	var wrong []string
	for _, id := range w.need() {
		if err := w.check(id); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	switch len(wrong) {
	case 0:
		return w, nil
	case 1:
		return nil, fault.Invalid("%s", wrong[0])
	}
	return nil, fault.Invalid("%s (and %d more like it)", wrong[0], len(wrong)-1)
}

// index files the checkpoint's tensors under their IDs.
func (w *Weights) index(tensors []raw.Tensor) {
	needed := map[ID]bool{}
	for _, id := range w.need() {
		needed[id] = true
	}
	embed := ID{Role: Embed, Block: -1}
	storesEmbed := slices.ContainsFunc(tensors, func(t raw.Tensor) bool {
		id, _, ok := w.parse(t.Name)
		return ok && id == embed
	})
	for _, t := range tensors {
		if pieces := w.pieces(t); pieces != nil {
			for id, piece := range pieces {
				w.stored[id] = map[string]raw.Tensor{"weight": piece}
			}
			continue
		}
		id, part, ok := w.parse(t.Name)
		if ok && id.Role == Head && w.Config.Tied && !storesEmbed {
			id = embed // of two tensors that share memory, some writers keep the head's name
		}
		if id.Role == SharedGate && len(t.Shape) == 1 {
			t.Shape = []int{1, t.Shape[0]} // as GGUF has it
		}
		if !ok || !needed[id] {
			w.Extra = append(w.Extra, t.Name)
			continue
		}
		if w.stored[id] == nil {
			w.stored[id] = map[string]raw.Tensor{}
		}
		w.stored[id][part] = t
	}
	sort.Strings(w.Extra)
}

// parse splits a tensor's name into what it belongs to and which part of it it
// holds. Only quantized linears have parts besides "weight" and "bias".
func (w *Weights) parse(name string) (ID, string, bool) {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return ID{}, "", false
	}
	stem, part := name[:dot], name[dot+1:]
	id, ok := w.Config.Family.ParseStem(w.Kind, stem)
	switch {
	case !ok:
		return ID{}, "", false
	case part == "bias":
		id.Bias = true
	case part != "weight" && (w.Quantization == nil || !id.Role.IsMatrix()):
		return ID{}, "", false
	}
	return id, part, true
}

// need lists the tensors to look for: the model's, and the frequency factors
// that only GGUF stores, and only for some.
func (w *Weights) need() []ID {
	ids := w.Config.IDs()
	if w.Kind == formats.GGUF {
		ids = append(ids, ID{Role: RopeFreqs, Block: -1})
	}
	return ids
}

// check says what is wrong with a needed tensor.
func (w *Weights) check(id ID) error {
	want := w.Config.Shape(id)
	parts := w.stored[id]
	name := w.Config.Family.TensorName(w.Kind, id)
	if len(parts) == 0 {
		if id.Role == RopeFreqs {
			return nil
		}
		return fmt.Errorf("the tensor %s is missing (%s)", name, id)
	}
	if w.packed(id) {
		if err := w.Quantization.Check(w.module(id), parts, want[0], want[1]); err != nil {
			return fmt.Errorf("%s: %w", w.module(id), err)
		}
		return nil
	}
	t, ok := parts[lastPart(id)]
	switch {
	case !ok:
		return fmt.Errorf("the tensor %s is missing (%s)", name, id)
	case !slices.Equal(t.Shape, want):
		return fmt.Errorf("the tensor %s has shape %v, the configuration asks for %v", t.Name, t.Shape, want)
	case !t.Type.IsFloat() && !t.Type.IsBlock():
		return fmt.Errorf("the tensor %s holds %s, allowed are floating-point numbers and ggml blocks", t.Name, t.Type)
	}
	size, whole := t.Type.RowBytes(want[len(want)-1])
	if whole && len(want) == 2 {
		size *= want[0]
	}
	if !whole || size != len(t.Data) {
		return fmt.Errorf("the tensor %s has %d bytes, which do not make %v of %s", t.Name, len(t.Data), want, t.Type)
	}
	return nil
}

// module is the name of a stored linear without its last part, as the file has
// it: what the configuration of a quantized checkpoint matches.
func (w *Weights) module(id ID) string {
	for part, t := range w.stored[id] {
		return strings.TrimSuffix(t.Name, "."+part)
	}
	return w.Config.Family.Stem(w.Kind, id)
}

func lastPart(id ID) string {
	if id.Bias {
		return "bias"
	}
	return "weight"
}

// packed reports whether the tensor is stored as codes and scales.
func (w *Weights) packed(id ID) bool {
	return w.Quantization != nil && !id.Bias && hfquant.IsPacked(w.stored[id])
}

// Stored returns the tensors of the file behind an ID, by the last part of
// their names: "weight" alone for most, codes and scales for the linears of a
// quantized checkpoint, nothing for one that the file does not have. Matrices of
// weights that were cut have no data here.
func (w *Weights) Stored(id ID) map[string]raw.Tensor { return w.stored[id] }

// Matrix returns a two-dimensional weight. Dense ones view the file; codes of
// quantized checkpoints are unpacked, anew by every call.
func (w *Weights) Matrix(id ID) (kernels.Matrix, error) {
	if m, ok := w.replaced[id]; ok {
		return m, nil
	}
	if id.Role == Head && w.Config.Tied {
		return w.Matrix(ID{Role: Embed, Block: -1})
	}
	if w.cut != nil {
		return w.cut.matrix(id)
	}
	shape := w.Config.Shape(id)
	if w.packed(id) {
		m, err := w.Quantization.Decode(w.module(id), w.stored[id], shape[0], shape[1])
		if err != nil {
			return nil, fault.Invalid("%s: %w", w.module(id), err)
		}
		return m, nil
	}
	t, ok := w.stored[id][lastPart(id)]
	if !ok || len(shape) != 2 {
		return nil, fmt.Errorf("the model has no matrix %s", id)
	}
	return kernels.NewDense(shape[0], shape[1], t.Type, t.Data)
}

// matrices is Matrix for several, in parallel: unpacking takes time.
func (w *Weights) matrices(ids []ID) ([]kernels.Matrix, error) {
	all, errs := make([]kernels.Matrix, len(ids)), make([]error, len(ids))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(ids)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(ids); i = int(next.Add(1)) - 1 {
				all[i], errs[i] = w.Matrix(ids[i])
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Replace makes Matrix return m for a weight: one that was quantized or pruned.
// nil brings the file's back.
func (w *Weights) Replace(id ID, m kernels.Matrix) {
	if m == nil {
		delete(w.replaced, id)
		return
	}
	w.replaced[id] = m
}

// Vector returns a one-dimensional weight as it multiplies or adds: the norms
// of families that store w and mean 1+w come with the one added.
func (w *Weights) Vector(id ID) ([]float32, error) {
	if v, ok := w.vectors[id]; ok {
		return slices.Clone(v), nil
	}
	t, ok := w.stored[id][lastPart(id)]
	shape := w.Config.Shape(id)
	if !ok || len(shape) != 1 {
		return nil, fmt.Errorf("the model has no vector %s", id)
	}
	m, err := kernels.NewDense(1, shape[0], t.Type, t.Data)
	if err != nil {
		return nil, err
	}
	v := make([]float32, shape[0])
	m.Row(v, 0)
	if w.Kind == formats.HuggingFace && w.Config.Family.NormPlusOne && id.Role.IsNorm() {
		for i := range v {
			v[i]++
		}
	}
	return v, nil
}

// ReplaceVector makes Vector return v for a norm's weights or a bias, in the
// same terms: as it multiplies or adds. It panics when v has another length
// than the vector it replaces.
func (w *Weights) ReplaceVector(id ID, v []float32) {
	if shape := w.Config.Shape(id); len(shape) != 1 || shape[0] != len(v) {
		panic(fmt.Sprintf("model: %d numbers cannot replace %s, which has shape %v", len(v), id, shape))
	}
	w.vectors[id] = v
}

// Replaced reports whether a tensor is no longer what the checkpoint holds.
func (w *Weights) Replaced(id ID) bool {
	_, vector := w.vectors[id]
	_, matrix := w.replaced[id]
	return vector || matrix || w.cut != nil && w.cut.from.Replaced(w.cut.source(id))
}

// Bytes is the size of a stored tensor, all its parts.
func (w *Weights) Bytes(id ID) int64 {
	var n int64
	for _, t := range w.stored[id] {
		n += t.Bytes()
	}
	return n
}

// AllBytes is the size of all weights as they are stored.
func (w *Weights) AllBytes() int64 {
	var n int64
	for _, id := range w.Config.IDs() {
		n += w.Bytes(id)
	}
	return n
}

// Release lets go of the memory that a tensor of a mapped file takes, and what it
// was replaced with. Both can be read again at any time.
func (w *Weights) Release(id ID) {
	if w.cut != nil {
		w.cut.from.Release(w.cut.source(id))
		return
	}
	for _, t := range w.stored[id] {
		raw.Release(t.Data)
	}
	switch m := w.replaced[id].(type) {
	case *kernels.Dense:
		raw.Release(m.Data)
	case *kernels.Groups:
		raw.Release(m.Codes) // the rest is small
	case *kernels.Float8:
		raw.Release(m.Codes)
	}
}

// Check reads every weight and returns an error that names the first tensor
// with a value that is not a number or infinite. progress, when not nil, is
// told the bytes done and the bytes in all.
func (w *Weights) Check(ctx context.Context, progress func(done, total int64)) error {
	var done, total int64
	ids := w.need()
	for _, id := range ids {
		total += w.Bytes(id)
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.checkValues(ctx, id); err != nil {
			return err
		}
		w.Release(id) // lest the whole model be in memory, where one block has to be
		if done += w.Bytes(id); progress != nil {
			progress(done, total)
		}
	}
	return nil
}

func (w *Weights) checkValues(ctx context.Context, id ID) error {
	if len(w.stored[id]) == 0 {
		return nil
	}
	name := w.Config.Family.TensorName(w.Kind, id)
	if id.Bias || !id.Role.IsMatrix() {
		v, err := w.Vector(id)
		if err != nil {
			return err
		}
		return finite(name, v, 0)
	}
	m, err := w.Matrix(id)
	if err != nil {
		return err
	}
	return eachRow(ctx, m, func(r int, row []float32) error { return finite(name, row, r) })
}

func finite(name string, row []float32, r int) error {
	if kernels.Finite(row) {
		return nil
	}
	for i, v := range row {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return fault.Invalid("the tensor %s holds %v at row %d, column %d, where a finite number is needed", name, v, r, i)
		}
	}
	return nil
}

// eachRow calls visit with every row of m, in parallel by runs of rows, and
// returns the error of the lowest row that gave one.
func eachRow(ctx context.Context, m kernels.Matrix, visit func(r int, row []float32) error) error {
	rows, cols := m.Shape()
	const run = 64
	runs := (rows + run - 1) / run
	errs := make([]error, runs)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), runs) {
		wg.Go(func() {
			row := make([]float32, cols)
			for i := int(next.Add(1)) - 1; i < runs && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				for r := i * run; r < min((i+1)*run, rows) && errs[i] == nil; r++ {
					m.Row(row, r)
					errs[i] = visit(r, row)
				}
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
