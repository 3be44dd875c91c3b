// Package export writes a model as a GGUF file or as a Hugging Face folder,
// whichever of the two it came from, plain or quantized.
//
// [Plain] lists how every tensor is stored when nothing is quantized; [New]
// lays the output out, converts configuration and tokenizer, and reports what
// does not fit before anything is written; [Export.Write] streams it.
package export

import (
	"context"
	"fmt"
	"slices"

	"llmc/dtype"
	"llmc/formats"
	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/hfquant"
)

// Item is one tensor of the model as the output holds it.
type Item struct {
	ID    model.ID
	Type  dtype.Type     // a scalar or block type; dtype.Invalid for packed codes
	Codes hfquant.Scheme // with dtype.Invalid: how the codes are held; a static scale of activations is the weights'
}

func (it *Item) packed() bool { return it.Type == dtype.Invalid }

// Spec says what to write.
type Spec struct {
	Kind         formats.Kind
	Items        []Item
	Quantization *hfquant.Config // for packed items; nil when there are none
	FileType     uint32          // GGUF: general.file_type
	MaxShard     int64           // Hugging Face: bytes of tensors in one file; 0 means formats.DefaultMaxShard
	Threads      int             // 0 means one per core; the output does not depend on it
}

// Source returns the matrix of an item, in the row order of the checkpoint
// that is exported and in the item's type: what was quantized, pruned, or is
// kept. It is called once for each matrix, in the order of the items.
type Source func(ctx context.Context, id model.ID) (kernels.Matrix, error)

// Export is an output that is laid out and not yet written.
type Export struct {
	// Notes are what the user should know: tensors that are left out, tokens
	// that were added.
	Notes []string

	spec    Spec
	from    *formats.Checkpoint
	weights *model.Weights
	layout  [][]raw.Tensor // by item: the tensors that hold it, without data; none for one that is in a stack
	stacks  map[int]int    // GGUF: by the item of a first expert, how many items its tensor holds
	extra   []raw.Tensor   // tensors that the model does not use, copied within a kind

	meta  *gguf.Metadata    // GGUF
	files map[string][]byte // Hugging Face: config.json and companions
}

// New lays out the export of an open checkpoint. It reads headers,
// configuration and tokenizer, no weights.
func New(c *formats.Checkpoint, w *model.Weights, spec Spec) (*Export, error) {
	e := &Export{spec: spec, from: c, weights: w}
	for i := range spec.Items {
		parts, err := e.parts(&spec.Items[i])
		if err != nil {
			return nil, err
		}
		e.layout = append(e.layout, parts)
	}
	if err := e.stackExperts(); err != nil {
		return nil, err
	}
	if err := e.takeExtra(); err != nil {
		return nil, err
	}
	var err error
	if spec.Kind == formats.GGUF {
		e.meta, err = e.metadata()
	} else {
		e.files, err = e.folder()
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Tensors lists what the output will hold, without data, in its order.
func (e *Export) Tensors() []raw.Tensor {
	return append(slices.Concat(e.layout...), e.extra...) // experts of a stack have none of their own
}

// Bytes is the size of the output's tensors.
func (e *Export) Bytes() int64 {
	var n int64
	for _, t := range e.Tensors() {
		n += t.Bytes()
	}
	return n
}

// HeaderBytes is what the output's weight files hold besides tensors: names,
// types and, in GGUF, metadata and tokenizer. It may be a little less than this.
func (e *Export) HeaderBytes() (int64, error) {
	tensors := e.Tensors()
	if e.spec.Kind != formats.GGUF {
		return int64(256 * (len(tensors) + 1)), nil
	}
	var n counted
	if _, err := gguf.Create(&n, e.meta, tensors); err != nil {
		return 0, err
	}
	return int64(n) + int64(32*len(tensors)), nil // padding
}

// counted counts what is written to it.
type counted int64

func (n *counted) Write(p []byte) (int, error) {
	*n += counted(len(p))
	return len(p), nil
}

// parts names the tensors that hold an item.
func (e *Export) parts(it *Item) ([]raw.Tensor, error) {
	stem, shape := e.stem(it.ID), e.weights.Config.Shape(it.ID)
	if stem == "" {
		return nil, fault.Invalid("a %s file of the family %s does not hold %s", e.spec.Kind, e.weights.Config.Family.Name, it.ID)
	}
	if !it.packed() {
		if cols := shape[len(shape)-1]; cols%it.Type.BlockSize() != 0 {
			return nil, fault.Invalid("%s has rows of %d, which %s does not divide", stem, cols, it.Type)
		}
		name := stem + ".weight"
		if it.ID.Bias {
			name = stem + ".bias"
		}
		if it.ID.Role == model.SharedGate && e.spec.Kind == formats.GGUF {
			shape = shape[1:] // llama.cpp's has one dimension
		}
		return []raw.Tensor{{Name: name, Type: it.Type, Shape: shape}}, nil
	}
	if e.spec.Quantization == nil || e.spec.Kind != formats.HuggingFace {
		return nil, fmt.Errorf("%s: packed codes have no place in this output", stem)
	}
	parts, err := e.spec.Quantization.Layout(it.Codes, shape[0], shape[1])
	if err != nil {
		return nil, fault.Usage("%s: %w", stem, err)
	}
	for i := range parts {
		parts[i].Name = stem + "." + parts[i].Name
	}
	return parts, nil
}

// Stem is what an output calls a tensor, without the last part of its name:
// within a kind the source's own name, which may have a prefix. "" means that
// the kind does not hold the tensor.
func Stem(w *model.Weights, kind formats.Kind, id model.ID) string {
	if kind == w.Kind && (kind != formats.GGUF || id.Expert == model.NoExpert) {
		for part, t := range w.Stored(id) {
			return t.Name[:len(t.Name)-len(part)-1]
		}
	}
	return w.Config.Family.Stem(kind, id)
}

func (e *Export) stem(id model.ID) string { return Stem(e.weights, e.spec.Kind, id) }

// takeExtra decides about tensors that the model does not use.
func (e *Export) takeExtra() error {
	if len(e.weights.Extra) == 0 {
		return nil
	}
	if e.spec.Kind != e.from.Kind {
		e.Notes = append(e.Notes, fmt.Sprintf("%d tensors that the model does not use are left out (%s, ...)", len(e.weights.Extra), e.weights.Extra[0]))
		return nil
	}
	taken := map[string]bool{}
	for _, parts := range e.layout {
		for _, t := range parts {
			taken[t.Name] = true
		}
	}
	for _, name := range e.weights.Extra {
		t, ok := e.from.Tensor(name)
		if !ok || taken[name] {
			return fmt.Errorf("the tensor %s is not what the model says it is", name)
		}
		e.extra = append(e.extra, t)
	}
	return nil
}

// Plain lists every tensor of a model for an output of a kind that quantizes
// nothing. With dtype.Invalid, types are kept: F32, F16 and BF16 stay, and so
// do ggml's blocks within GGUF; anything else becomes F32, which holds it
// exactly. Vectors are F32 in GGUF, as llama.cpp wants them; from GGUF to
// Hugging Face they become the type of the matrices where that is exact. Any
// other type is what all matrices get, and in Hugging Face all vectors.
func Plain(w *model.Weights, kind formats.Kind, to dtype.Type) ([]Item, error) {
	main := to
	if main == dtype.Invalid {
		main = CommonType(w, kind)
	}
	var items []Item
	for _, id := range ids(w, kind) {
		it := Item{ID: id, Type: to}
		var err error
		switch {
		case id.Role == model.RopeFreqs:
			it.Type = dtype.F32
		case id.Role.IsRouter() && (kind == formats.GGUF || to == dtype.Invalid):
			it.Type, err = routerType(w, id, kind, main)
		case id.Bias || !id.Role.IsMatrix():
			it.Type, err = vectorType(w, id, kind, to, main)
		case to == dtype.Invalid:
			it.Type = keptType(w, id, kind)
		}
		if err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}

// ids lists the tensors that an output of a kind holds: the model's, and in
// GGUF the frequency factors of llama 3's rotation.
func ids(w *model.Weights, kind formats.Kind) []model.ID {
	list := w.Config.IDs()
	rope := model.ID{Role: model.RopeFreqs, Block: -1}
	if kind != formats.GGUF {
		return list
	}
	if len(w.Stored(rope)) > 0 || w.Kind == formats.HuggingFace && w.Config.Rope.Type == model.RopeLlama3 {
		list = append(list, rope)
	}
	return list
}

// routerType is the type of a router: what it was within a kind, F32 in GGUF, as
// llama.cpp's converter has it, and in Hugging Face main where that is exact.
func routerType(w *model.Weights, id model.ID, kind formats.Kind, main dtype.Type) (dtype.Type, error) {
	kept := keptType(w, id, kind)
	if kind == w.Kind || kind == formats.GGUF || !main.IsFloat() {
		if kind != w.Kind {
			kept = dtype.F32
		}
		return kept, nil
	}
	m, err := w.Matrix(id)
	if err != nil {
		return dtype.Invalid, err
	}
	if exact(kernels.Float32s(m), main) {
		return main, nil
	}
	return kept, nil
}

// keptType is the type of a matrix in an output that keeps types.
func keptType(w *model.Weights, id model.ID, kind formats.Kind) dtype.Type {
	t, ok := w.Stored(id)["weight"]
	switch {
	case !ok, id.Role.IsRouter() && w.Replaced(id): // scaled, and not to be rounded
	case t.Type == dtype.F32 || t.Type == dtype.F16 || t.Type == dtype.BF16:
		return t.Type
	case t.Type.IsBlock() && kind == formats.GGUF && w.Kind == formats.GGUF:
		return t.Type
	}
	return dtype.F32
}

// CommonType is the type that most weights have in an output that keeps types.
func CommonType(w *model.Weights, kind formats.Kind) dtype.Type {
	elements := map[dtype.Type]int{}
	best := dtype.F32
	for _, id := range w.Config.IDs() {
		if id.Bias || !id.Role.IsMatrix() || id.Role.IsRouter() {
			continue
		}
		shape, t := w.Config.Shape(id), keptType(w, id, kind)
		elements[t] += shape[0] * shape[1]
		if elements[t] > elements[best] {
			best = t
		}
	}
	return best
}

// vectorType is the type of a vector; main is that of the matrices. One that
// was replaced keeps its type only where that holds the new numbers.
func vectorType(w *model.Weights, id model.ID, kind formats.Kind, to, main dtype.Type) (dtype.Type, error) {
	stored, err := storedVector(w, id)
	if err != nil {
		return dtype.Invalid, err
	}
	kept := dtype.Invalid
	switch {
	case kind == formats.GGUF && w.Kind == formats.GGUF:
		kept = stored.Type
	case kind == formats.GGUF:
		return dtype.F32, nil
	case to != dtype.Invalid:
		return to, nil
	case w.Kind == formats.HuggingFace && stored.Type.IsFloat():
		kept = stored.Type
	}
	if kept != dtype.Invalid && !w.Replaced(id) {
		return kept, nil
	}
	v, err := plainVector(w, id, kind)
	if err != nil {
		return dtype.Invalid, err
	}
	if kept == dtype.Invalid {
		kept = main
	}
	if kept.IsFloat() && exact(v, kept) {
		return kept, nil
	}
	return dtype.F32, nil
}

// FileType is the number that GGUF's general.file_type has for tensors of
// these types: that of the type which most matrices have.
func FileType(items []Item) uint32 {
	counts := map[dtype.Type]int{}
	best := dtype.F32
	for _, it := range items {
		if it.ID.Bias || !it.ID.Role.IsMatrix() || it.ID.Role.IsRouter() {
			continue
		}
		counts[it.Type]++
		if counts[it.Type] > counts[best] {
			best = it.Type
		}
	}
	return fileTypes[best]
}

// fileTypes are the numbers of enum llama_ftype for files of mostly one type.
var fileTypes = map[dtype.Type]uint32{
	dtype.F32: 0, dtype.F16: 1, dtype.Q4_0: 2, dtype.Q4_1: 3, dtype.Q8_0: 7, dtype.Q5_0: 8, dtype.Q5_1: 9,
	dtype.Q2_K: 10, dtype.Q3_K: 11, dtype.Q4_K: 14, dtype.Q5_K: 16, dtype.Q6_K: 18, dtype.IQ4_NL: 25,
	dtype.IQ4_XS: 30, dtype.BF16: 32, dtype.TQ1_0: 36, dtype.TQ2_0: 37, dtype.MXFP4: 38,
}
