package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/kernels"
)

// Cut says which parts of a model stay. Its lists are indices in ascending
// order; one that is nil keeps everything of its kind. Every block keeps as many
// heads and neurons as the others, so that the configuration can say it.
type Cut struct {
	Blocks []int   // the blocks that stay
	Heads  [][]int // by block of the whole model: its query heads that stay
	// Neurons are, by block of the whole model, its feed-forward neurons that
	// stay; of a mixture by block and expert, those of an expert that the router
	// chooses. An expert that all tokens go through stays whole.
	Neurons [][]int
	Hidden  []int // the channels of the residual stream that stay, in all blocks
}

// Cut returns the configuration of what a cut leaves. Key and value heads stay
// as long as one of their query heads does; all that stay must keep as many.
func (c *Config) Cut(cut *Cut) (Config, error) {
	out := *c
	if m := c.Family.Mixture; m != nil && m.WideQKNorm && cut.Heads != nil {
		return out, fault.Invalid("the family %s normalizes queries and keys over all heads together, so that none can be taken out", c.Family.Name)
	}
	out.Hidden = countOr(cut.Hidden, c.Hidden)
	out.Blocks = countOr(cut.Blocks, c.Blocks)
	if err := checkIndices("hidden channels", cut.Hidden, c.Hidden); err != nil {
		return out, err
	}
	if err := checkIndices("blocks", cut.Blocks, c.Blocks); err != nil {
		return out, err
	}
	if err := c.checkLists("heads", cut.Heads, c.Heads, 1); err != nil {
		return out, err
	}
	if cut.Heads != nil {
		out.Heads = len(cut.Heads[0])
	}
	width, experts := c.Neurons()
	if err := c.checkLists("feed-forward neurons", cut.Neurons, width, experts); err != nil {
		return out, err
	}
	if cut.Neurons != nil {
		out.setNeurons(len(cut.Neurons[0]))
	}
	for b, heads := range cut.Heads {
		groups, err := c.groupsOf(heads)
		if err != nil {
			return out, fmt.Errorf("block %d: %w", b, err)
		}
		if b > 0 && len(groups) != out.KVHeads {
			return out, fmt.Errorf("a cut keeps %d key and value heads of block 0 and %d of block %d", out.KVHeads, len(groups), b)
		}
		out.KVHeads = len(groups)
	}
	if c.Windowed != nil {
		out.Windowed = pick(c.Windowed, cut.Blocks)
	}
	out.finish()
	return out, nil
}

// Neurons returns how many neurons each list of [Cut.Neurons] chooses from, and
// how many lists a block has.
func (c *Config) Neurons() (width, lists int) {
	if c.Experts.Count > 0 {
		return c.Experts.Width, c.Experts.Count
	}
	return c.FFN, 1
}

// setNeurons sets the width of what neurons are taken from.
func (c *Config) setNeurons(n int) {
	m := c.Family.Mixture
	if m == nil || m.WidthKey == "intermediate_size" {
		c.FFN = n
	}
	if m != nil {
		c.Experts.Width = n
	}
}

// checkLists refuses lists of what stays of n in each block, per a block, that
// are not as many as there are blocks, or not of one length. nil keeps all.
func (c *Config) checkLists(what string, lists [][]int, n, per int) error {
	if lists == nil {
		return nil
	}
	if len(lists) != c.Blocks*per {
		return fmt.Errorf("a cut lists the %s of %d blocks, the model has %d", what, len(lists)/per, c.Blocks)
	}
	for i, list := range lists {
		place := fmt.Sprintf("block %d", i/per)
		if per > 1 {
			place += fmt.Sprintf(" expert %d", i%per)
		}
		if list == nil {
			return fmt.Errorf("a cut does not list the %s of %s", what, place)
		}
		if err := checkIndices(what+" of "+place, list, n); err != nil {
			return err
		}
		if len(list) != len(lists[0]) {
			return fmt.Errorf("a cut keeps %d %s of block 0 and %d of %s", len(lists[0]), what, len(list), place)
		}
	}
	return nil
}

func countOr(list []int, all int) int {
	if list == nil {
		return all
	}
	return len(list)
}

func checkIndices(what string, list []int, n int) error {
	if list != nil && len(list) == 0 {
		return fmt.Errorf("a cut keeps none of the %d %s", n, what)
	}
	for i, v := range list {
		if v < 0 || v >= n || i > 0 && v <= list[i-1] {
			return fmt.Errorf("a cut lists %d after %v of the %d %s", v, list[max(i-1, 0):i], n, what)
		}
	}
	return nil
}

// groupsOf returns the key and value heads of query heads.
func (c *Config) groupsOf(heads []int) ([]int, error) {
	per := c.Heads / c.KVHeads
	count := map[int]int{}
	var groups []int
	for _, h := range heads {
		if count[h/per] == 0 {
			groups = append(groups, h/per)
		}
		count[h/per]++
	}
	for _, g := range groups {
		if count[g] != count[groups[0]] {
			return nil, fmt.Errorf("a cut keeps %d query heads of key and value head %d and %d of %d", count[groups[0]], groups[0], count[g], g)
		}
	}
	return groups, nil
}

// Cut returns the weights that a cut leaves: a model of its own, with the
// numbers that w has now in the types that it stores, read from w when they are
// asked for. Families that multiply embeddings by the root of the width get
// norms after attention and feed-forward that are as much smaller as the
// embeddings become, which leaves everything else as it was.
//
// Codes and ggml blocks do not come apart: a quantized model is an error. The
// tensors of [Weights.Stored] have the names that they are to have and no data
// where it is not read yet.
func (w *Weights) Cut(cut *Cut) (*Weights, error) {
	cfg, err := w.Config.Cut(cut)
	if err != nil {
		return nil, err
	}
	out := &Weights{
		Config: cfg, Kind: w.Kind,
		stored:   map[ID]map[string]raw.Tensor{},
		replaced: map[ID]kernels.Matrix{},
		vectors:  map[ID][]float32{},
		cut:      &cutting{from: w, Cut: cut},
	}
	if err := out.cut.checkExtra(out); err != nil {
		return nil, err
	}
	for _, id := range out.need() {
		if err := out.cut.store(out, id); err != nil {
			return nil, err
		}
	}
	if cut.Hidden != nil && cfg.EmbedScale != w.Config.EmbedScale && !cfg.Family.PostNorms {
		return nil, fault.Invalid("the family %s has no norms that could make up for smaller embeddings", cfg.Family.Name)
	}
	return out, out.cut.rescale(out)
}

// cutting is what cut weights come from.
type cutting struct {
	from *Weights
	*Cut
}

// source is the ID that a tensor of the cut model has in the whole one.
func (c *cutting) source(id ID) ID {
	if id.Block >= 0 && c.Blocks != nil {
		id.Block = c.Blocks[id.Block]
	}
	return id
}

// rows lists the rows of a tensor of the whole model that stay, nil for all.
func (c *cutting) rows(source ID) []int {
	switch source.Role {
	case Q:
		return c.elements(c.heads(source.Block))
	case K, V:
		heads := c.heads(source.Block)
		if heads == nil {
			return nil
		}
		groups, _ := c.from.Config.groupsOf(heads) // Config.Cut has checked them
		return c.elements(groups)
	case Gate, Up:
		return c.neurons(source)
	case O, Down, FinalNorm, AttnNorm, PostAttnNorm, FFNNorm, PostFFNNorm:
		return c.Hidden
	}
	return nil
}

// columns lists the columns of a matrix of the whole model that stay, nil for
// all.
func (c *cutting) columns(source ID) []int {
	switch source.Role {
	case O:
		return c.elements(c.heads(source.Block))
	case Down:
		return c.neurons(source)
	}
	return c.Hidden
}

func (c *cutting) heads(block int) []int {
	if c.Heads == nil {
		return nil
	}
	return c.Heads[block]
}

func (c *cutting) neurons(source ID) []int {
	count := c.from.Config.Experts.Count
	switch {
	case c.Neurons == nil, count > 0 && source.Expert == NoExpert:
		return nil
	case count > 0:
		return c.Neurons[source.Block*count+source.Expert.Index()]
	}
	return c.Neurons[source.Block]
}

// elements lists the elements of heads.
func (c *cutting) elements(heads []int) []int {
	if heads == nil {
		return nil
	}
	dim := c.from.Config.HeadDim
	list := make([]int, 0, len(heads)*dim)
	for _, h := range heads {
		for i := range dim {
			list = append(list, h*dim+i)
		}
	}
	return list
}

// store describes a tensor of out: a vector with its numbers, a matrix without.
func (c *cutting) store(out *Weights, id ID) error {
	source := c.source(id)
	t, ok := c.from.stored[source][lastPart(id)]
	switch {
	case !ok && id.Role == RopeFreqs:
		return nil
	case !ok || len(c.from.stored[source]) != 1 || !t.Type.IsFloat():
		return fault.Hint(fault.Invalid("%s is quantized (%s), and parts of a quantized model cannot be taken out", source, c.from.storedTypes(source)),
			"cut the model that it was made from, then quantize it; llmc convert --to safetensors makes plain weights of it")
	}
	t.Name = renumbered(t.Name, source.Block, id.Block)
	t.Shape = out.Config.Shape(id)
	if id.Role.IsMatrix() && !id.Bias {
		t.Data = nil
	} else if rows := c.rows(source); rows != nil {
		t.Data = gather(t.Data, 0, t.Type.BlockBytes(), rows)
	}
	out.stored[id] = map[string]raw.Tensor{lastPart(id): t}
	if v, ok := c.from.vectors[source]; ok {
		out.vectors[id] = pick(v, c.rows(source))
	}
	return nil
}

// storedTypes names the types of a tensor's parts.
func (w *Weights) storedTypes(id ID) string {
	var names []string
	for _, t := range w.stored[id] {
		names = append(names, t.Type.String())
	}
	slices.Sort(names)
	return strings.Join(names, "+")
}

// renumbered is a tensor's name with another block.
func renumbered(name string, from, to int) string {
	if from == to {
		return name
	}
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if p == strconv.Itoa(from) {
			parts[i] = strconv.Itoa(to)
			break
		}
	}
	return strings.Join(parts, ".")
}

// checkExtra decides about tensors that the model does not use: those of its
// own blocks go when blocks do, and others, an image encoder's, may depend on
// the width.
func (c *cutting) checkExtra(out *Weights) error {
	for _, name := range c.from.Extra {
		if c.Blocks != nil && c.from.ownBlock(name) {
			continue
		}
		out.Extra = append(out.Extra, name)
	}
	if c.Hidden != nil && len(out.Extra) > 0 {
		return fault.Invalid("the model has tensors besides the text model's, such as %s, which may depend on the hidden channels", out.Extra[0])
	}
	return nil
}

// ownBlock reports whether an unused tensor has a name like those of the
// blocks' tensors: model.layers.3.self_attn.rotary_emb.inv_freq.
func (w *Weights) ownBlock(name string) bool {
	pattern := w.Config.Family.table(w.Kind, false)[Q]
	prefix, _, _ := strings.Cut(pattern, "%d")
	if w.Kind == formats.GGUF {
		return strings.HasPrefix(name, prefix)
	}
	for _, p := range hfPrefixes {
		if rest, ok := strings.CutPrefix(name, p.written); ok && strings.HasPrefix(p.means+rest, prefix) {
			return true
		}
	}
	return false
}

// rescale makes the norms that feed the residual stream fit embeddings that are
// multiplied by less.
func (c *cutting) rescale(out *Weights) error {
	if out.Config.EmbedScale == c.from.Config.EmbedScale {
		return nil
	}
	ratio := float32(out.Config.EmbedScale / c.from.Config.EmbedScale)
	for b := range out.Config.Blocks {
		for _, role := range []Role{PostAttnNorm, PostFFNNorm} {
			id := ID{Role: role, Block: b}
			v, err := out.Vector(id)
			if err != nil {
				return err
			}
			for i := range v {
				v[i] *= ratio
			}
			out.ReplaceVector(id, v)
		}
	}
	return nil
}

// matrix reads a matrix of the cut model.
func (c *cutting) matrix(id ID) (kernels.Matrix, error) {
	source := c.source(id)
	m, err := c.from.Matrix(source)
	if err != nil {
		return nil, err
	}
	rows, columns := c.rows(source), c.columns(source)
	if rows == nil && columns == nil {
		return m, nil
	}
	return selected(m, rows, columns)
}

// selected returns rows and columns of a matrix, nil for all. Scalar types are
// kept; others become F32.
func selected(m kernels.Matrix, rows, columns []int) (kernels.Matrix, error) {
	allRows, allColumns := m.Shape()
	n, k := countOr(rows, allRows), countOr(columns, allColumns)
	d, ok := m.(*kernels.Dense)
	if !ok || !d.Type.IsFloat() {
		d = kernels.FromFloat32s(allRows, allColumns, kernels.Float32s(m))
	}
	size := d.Type.BlockBytes()
	data := make([]byte, 0, n*k*size)
	for i := range n {
		r := i
		if rows != nil {
			r = rows[i]
		}
		if columns == nil {
			data = append(data, d.Data[r*allColumns*size:][:allColumns*size]...)
			continue
		}
		data = append(data, gather(d.Data, r*allColumns*size, size, columns)...)
	}
	return kernels.NewDense(n, k, d.Type, data)
}

// gather copies elements of some size that lie after another in data, from an
// offset on.
func gather(data []byte, offset, size int, elements []int) []byte {
	out := make([]byte, 0, len(elements)*size)
	for _, i := range elements {
		out = append(out, data[offset+i*size:][:size]...)
	}
	return out
}

// pick returns the elements of a list at some indices, all of them for nil.
func pick[T any](list []T, indices []int) []T {
	if indices == nil {
		return slices.Clone(list)
	}
	out := make([]T, len(indices))
	for i, at := range indices {
		out[i] = list[at]
	}
	return out
}
