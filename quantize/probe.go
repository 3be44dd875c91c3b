package quantize

import (
	"context"
	"fmt"
	"slices"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// maxProbeLogits bounds the reference's logits that a probe keeps: 128 MiB.
const maxProbeLogits = 1 << 25

// errLogits is what is wrong with a model before anything is rounded.
var errLogits = fault.Invalid("the model's logits are not finite")

// probe runs its windows through a model with one changed matrix at a time.
type probe struct {
	Probe
	candidates Candidates
	windows    [][]int32
	tokens     int
	dev        kernels.Device
	weights    *model.Weights
	model      *model.Model
	state      *model.State
	lean       bool // blocks are loaded as they are used, for want of memory
	block      int
	hidden     []*kernels.Tensor // by window, the input of block
	every      int               // of every so many positions the prediction counts
	base       []float32         // [positions, vocab] the unchanged model's logits
	sums       []kernels.Distribution

	changedID model.ID // of the linear that is another, while changed is not nil
	changed   kernels.Matrix

	// Floating-point operations: of the probe, of the walk that feeds it.
	done, total         float64
	walkDone, walkTotal int64
}

func newProbe(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, candidates Candidates, p Probe) (*probe, error) {
	if len(windows) == 0 {
		return nil, fmt.Errorf("there are no windows to probe with")
	}
	lean := p.MaxMemory > 0 && weightBytes(w) > p.MaxMemory/2
	open := model.New
	if lean {
		open = model.NewOutline
	}
	m, err := open(dev, w)
	if err != nil {
		return nil, err
	}
	pr := &probe{Probe: p, candidates: candidates, dev: dev, weights: w, model: m, state: m.NewState(), every: 1, lean: lean}
	pr.windows = excerpt(windows, pr.affordable())
	for _, ids := range pr.windows {
		if err := m.CheckIDs(ids); err != nil {
			return nil, err
		}
		pr.tokens += len(ids)
	}
	pr.every = max(1, pr.tokens*w.Config.Vocab/maxProbeLogits)
	pr.total = pr.operations()
	pr.embed(m)
	err = pr.through(ctx, 0, m, func(logits []float32) error {
		d, ok := kernels.Summarize(logits)
		if !ok {
			return errLogits
		}
		pr.base, pr.sums = append(pr.base, logits...), append(pr.sums, d)
		return nil
	})
	return pr, err
}

func (p *probe) free() {
	p.release(p.hidden)
	p.hidden = nil
}

// embed starts all windows anew.
func (p *probe) embed(m *model.Model) {
	p.free()
	for _, ids := range p.windows {
		p.hidden = append(p.hidden, m.Embed(ids))
	}
	p.block = 0
}

// advance takes the windows to the input of a block.
func (p *probe) advance(ctx context.Context, block int) error {
	for ; p.block < block; p.block++ {
		if err := p.step(ctx, p.block, p.hidden); err != nil {
			return err
		}
	}
	return nil
}

// step takes windows through a block, with the changed linear if it is there.
func (p *probe) step(ctx context.Context, block int, windows []*kernels.Tensor) error {
	if p.lean {
		if err := p.model.LoadBlock(p.weights, block); err != nil {
			return err
		}
		defer p.drop(block)
		if p.changed != nil && p.changedID.Block == block {
			p.model.SetWeight(p.changedID, p.changed)
		}
	}
	for _, x := range windows {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.state.Truncate(0)
		p.model.Block(block, x, p.state)
	}
	p.advanced(p.blockOperations())
	return nil
}

// drop lets go of a block's weights.
func (p *probe) drop(block int) {
	p.model.DropBlock(block)
	for _, id := range p.weights.Config.IDs() {
		if id.Block == block {
			p.weights.Release(id)
		}
	}
}

// through runs windows from the input of block from to the end, without
// changing hidden, and calls each with the logits of the positions that count.
// ends is the model that has the last norm and the head.
func (p *probe) through(ctx context.Context, from int, ends *model.Model, each func(logits []float32) error) error {
	var windows []*kernels.Tensor
	defer func() { p.release(windows) }()
	for _, h := range p.hidden {
		values := make([]float32, h.Rows*h.Cols)
		p.dev.Read(values, h)
		x := p.dev.NewTensor(h.Rows, h.Cols)
		p.dev.Write(x, values)
		windows = append(windows, x)
	}
	for b := from; b < p.model.Config().Blocks; b++ {
		if err := p.step(ctx, b, windows); err != nil {
			return err
		}
	}
	for _, x := range windows {
		values := make([]float32, x.Rows*x.Cols)
		p.dev.Read(values, x)
		if err := p.predict(values, x.Cols, ends, each); err != nil {
			return err
		}
	}
	p.advanced(p.headOperations())
	return nil
}

func (p *probe) release(list []*kernels.Tensor) {
	for _, x := range list {
		p.dev.Free(x)
	}
}

// predict calls each with the logits of the positions that count of values
// [rows, cols], the last block's output.
func (p *probe) predict(values []float32, cols int, ends *model.Model, each func(logits []float32) error) error {
	rows := (len(values)/cols + p.every - 1) / p.every
	for i := range rows {
		copy(values[i*cols:][:cols], values[i*p.every*cols:][:cols])
	}
	x := p.dev.NewTensor(rows, cols)
	defer p.dev.Free(x)
	p.dev.Write(x, values[:rows*cols])
	ends.Norm(x)
	out := ends.Logits(x)
	defer p.dev.Free(out)
	logits := make([]float32, out.Rows*out.Cols)
	p.dev.Read(logits, out)
	for i := range rows {
		if err := each(logits[i*out.Cols:][:out.Cols]); err != nil {
			return err
		}
	}
	return nil
}

// divergence returns the mean divergence from the unchanged model's
// predictions.
func (p *probe) divergence(ctx context.Context, ends *model.Model) (float64, error) {
	sum, n, vocab := 0.0, 0, p.model.Config().Vocab
	err := p.through(ctx, p.block, ends, func(logits []float32) error {
		d, ok := kernels.Summarize(logits)
		if !ok {
			return fmt.Errorf("the rounded model's logits are not finite")
		}
		sum += max(kernels.Divergence(p.base[n*vocab:][:vocab], logits, p.sums[n], d), 0)
		n++
		return nil
	})
	return sum / float64(max(n, 1)), err
}

// try makes a sensitivity of a matrix's candidates, or nil for one that has
// none. divergence returns what the rounded matrix costs. in is what the matrix
// multiplies, nil for an embedding.
func (p *probe) try(ctx context.Context, id model.ID, in *Inputs, divergence func(w, q kernels.Matrix) (float64, error)) (*Sensitivity, error) {
	w, err := p.weights.Matrix(id)
	if err != nil {
		return nil, err
	}
	rows, cols := w.Shape()
	s := &Sensitivity{ID: id, Schemes: p.candidates(id, rows, cols)}
	if len(s.Schemes) == 0 {
		return nil, nil
	}
	if p.Known != nil {
		if known, ok := p.Known(id); ok && slices.Equal(known.Schemes, s.Schemes) {
			p.advanced(p.tryOperations(id, rows, cols))
			return &known, nil
		}
	}
	round := func(w kernels.Matrix, s Scheme) (kernels.Matrix, error) {
		return RTN{Threads: p.Threads}.Quantize(ctx, Layer{Name: id.String(), ID: id, Weight: w, Inputs: in}, s)
	}
	var errors []float64
	sample := sampleRows(w)
	for _, scheme := range s.Schemes {
		q, err := round(sample, scheme)
		if err != nil {
			return nil, err
		}
		if in == nil {
			errors = append(errors, weightError(sample, q))
		} else {
			errors = append(errors, OutputError(sample, q, in.Hessian, p.Threads))
		}
		p.advanced(p.sampleOperations(cols))
	}
	tried := p.Pick(id, s.Schemes)
	q, err := round(w, s.Schemes[tried])
	if err != nil {
		return nil, err
	}
	p.advanced(roundOperations * float64(rows*cols))
	loss, err := divergence(w, q)
	if err != nil {
		return nil, fmt.Errorf("%s as %s: %w", id, s.Schemes[tried], err)
	}
	s.Losses = extrapolate(errors, tried, loss)
	if p.Found != nil {
		err = p.Found(*s)
	}
	return s, err
}

// linear measures a linear of the block that the windows stand before.
func (p *probe) linear(ctx context.Context, id model.ID, in *Inputs) (*Sensitivity, error) {
	return p.try(ctx, id, in, func(w, q kernels.Matrix) (float64, error) {
		p.changedID, p.changed = id, q
		defer func() { p.changed = nil }()
		if !p.lean {
			p.model.SetWeight(id, q)
			defer p.model.SetWeight(id, w)
		}
		return p.divergence(ctx, p.model)
	})
}

// ends measures the embedding or the head.
func (p *probe) ends(ctx context.Context, id model.ID, in *Inputs) (*Sensitivity, error) {
	return p.try(ctx, id, in, func(_, q kernels.Matrix) (float64, error) {
		p.weights.Replace(id, q)
		defer p.weights.Replace(id, nil)
		m, err := model.NewOutline(p.dev, p.weights)
		if err != nil {
			return 0, err
		}
		p.embed(m)
		return p.divergence(ctx, m)
	})
}

// memory estimates the most bytes that the probe takes, the program itself
// included.
func (p *probe) memory() int64 {
	const program = 128 << 20
	weights := weightBytes(p.weights)
	if p.lean {
		blocks := int64(p.weights.Config.Blocks)
		ends := p.weights.Bytes(model.ID{Role: model.Embed, Block: -1}) + p.weights.Bytes(model.ID{Role: model.Head, Block: -1})
		weights = ends + 2*(weights-ends)/max(blocks, 1)
	}
	logits := 4 * int64(len(p.base)) // and those of a window, twice
	return program + weights + logits + 2*logits/int64(len(p.windows))
}

// weightBytes is the size of all weights as they are stored.
func weightBytes(w *model.Weights) int64 {
	sum := int64(0)
	for _, id := range w.Config.IDs() {
		sum += w.Bytes(id)
	}
	return sum
}

// weightError is the norm of W-Q relative to that of W.
func weightError(w, q kernels.Matrix) float64 {
	rows, cols := w.Shape()
	a, b := make([]float32, cols), make([]float32, cols)
	squared, whole := 0.0, 0.0
	for r := range rows {
		w.Row(a, r)
		q.Row(b, r)
		for c, v := range a {
			d := float64(v) - float64(b[c])
			squared, whole = squared+d*d, whole+float64(v)*float64(v)
		}
	}
	return *relativeError(squared, whole)
}

// roundOperations stand for rounding one weight, which takes as long as some
// hundred operations of a matrix product.
const roundOperations = 500

// blockOperations are those of taking the windows through a block.
func (p *probe) blockOperations() float64 {
	weights := 0
	for _, id := range p.weights.Config.IDs() {
		if id.Block == 0 && id.Role.IsLinear() && !id.Bias {
			shape := p.weights.Config.Shape(id)
			weights += shape[0] * shape[1]
		}
	}
	return 2 * float64(p.tokens) * float64(weights)
}

// sampleOperations are those of rounding a matrix's sample and of its error.
func (p *probe) sampleOperations(cols int) float64 {
	return sampledRows * float64(cols) * (roundOperations + float64(cols))
}

// headOperations are those of the predictions.
func (p *probe) headOperations() float64 {
	c := &p.weights.Config
	return 2 * float64(p.tokens/p.every) * float64(c.Vocab*c.Hidden)
}

// runOperations are those of a run from a block to the predictions.
func (p *probe) runOperations(from int) float64 {
	return float64(p.weights.Config.Blocks-from)*p.blockOperations() + p.headOperations()
}

// affordable is the number of tokens that all runs together take as long with as
// they may.
func (p *probe) affordable() int {
	p.tokens = 1
	runs := 0.0
	for _, id := range p.weights.Config.IDs() {
		if id.Role.IsMatrix() && !id.Bias {
			runs += p.runOperations(max(id.Block, 0))
		}
	}
	p.tokens = 0
	return int(min(max(probeOperations/runs, leastTokens), mostTokens))
}

// operations are all that the probe will do.
func (p *probe) operations() float64 {
	c := &p.weights.Config
	sum := p.runOperations(0) + float64(c.Blocks-1)*p.blockOperations()
	for _, id := range c.IDs() {
		if !id.Role.IsMatrix() || id.Bias {
			continue
		}
		shape := c.Shape(id)
		sum += p.tryOperations(id, shape[0], shape[1])
	}
	return sum
}

// tryOperations are those of measuring a matrix [rows, cols].
func (p *probe) tryOperations(id model.ID, rows, cols int) float64 {
	n := len(p.candidates(id, rows, cols))
	if n == 0 {
		return 0
	}
	return float64(n)*p.sampleOperations(cols) + roundOperations*float64(rows*cols) + p.runOperations(max(id.Block, 0))
}

// advanced and walked tell of progress.
func (p *probe) advanced(operations float64) {
	p.done += operations
	p.tell()
}

func (p *probe) walked(done, total int64) {
	p.walkDone, p.walkTotal = done, total
	p.tell()
}

func (p *probe) tell() {
	if p.Progress != nil && p.walkTotal > 0 {
		p.Progress(p.walkDone+int64(p.done), p.walkTotal+int64(p.total))
	}
}
