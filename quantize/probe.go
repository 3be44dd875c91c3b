package quantize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"llmc/calibrate"
	"llmc/kernels"
	"llmc/model"
)

// probe tries the schemes of one matrix after the other.
type probe struct {
	Probe
	run        *calibrate.Probe
	candidates Candidates
	walk       [][]int32 // the windows that Hessians are gathered on
	windows    [][]int32 // those that divergences are measured on
	tokens     int
	weights    *model.Weights
	seen       map[model.ID]*Inputs // mean squares of what a matrix multiplies
	wholes     int                  // how often the whole model will be rounded

	// Floating-point operations: of the probe, of the walk that feeds it.
	done, total         float64
	walkDone, walkTotal int64
}

func newProbe(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, candidates Candidates, p Probe, wholes int) (*probe, error) {
	pr := &probe{Probe: p, candidates: candidates, weights: w, seen: map[model.ID]*Inputs{}, wholes: wholes}
	pr.walk = excerpt(windows, walkTokens)
	pr.windows = excerpt(pr.walk, pr.affordable())
	for _, ids := range pr.windows {
		pr.tokens += len(ids)
	}
	var err error
	pr.run, err = calibrate.NewProbe(ctx, dev, w, pr.windows, calibrate.ProbeOptions{
		MaxMemory: p.MaxMemory,
		Block:     func(tokens int) { pr.advanced(pr.blockOperations(tokens)) },
		Head:      func(positions int) { pr.advanced(pr.headOperations(positions)) },
	})
	if errors.Is(err, calibrate.ErrLogits) {
		return nil, cmp.Or(whereNotFinite(ctx, dev, w, pr.walk), err)
	}
	if err != nil {
		return nil, err
	}
	pr.total = pr.operations()
	return pr, nil
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
	if in != nil {
		p.seen[id] = &Inputs{Tokens: in.Tokens, MeanSquare: slices.Clone(in.MeanSquare)}
	}
	if p.Known != nil {
		if known, ok := p.Known(id); ok && slices.Equal(known.Schemes, s.Schemes) {
			p.advanced(p.tryOperations(id, rows, cols))
			return &known, nil
		}
	}
	nearest := RTN{Threads: p.Threads}
	round := func(m Method, w kernels.Matrix, s Scheme) (kernels.Matrix, error) {
		return m.Quantize(ctx, Layer{Name: id.String(), ID: id, Weight: w, Inputs: in}, s)
	}
	var errors []float64
	sample := sampleRows(w)
	for _, scheme := range s.Schemes {
		q, err := round(nearest, sample, scheme)
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
	q, err := round(p.method(in), w, s.Schemes[tried])
	if err != nil {
		return nil, err
	}
	p.advanced(p.roundOperations(rows, cols))
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

// method is what rounds a matrix that is tried.
func (p *probe) method(in *Inputs) Method {
	if p.Method == nil || in == nil {
		return RTN{Threads: p.Threads}
	}
	return p.Method
}

// linear measures a linear of the block that the windows stand before.
func (p *probe) linear(ctx context.Context, id model.ID, in *Inputs) (*Sensitivity, error) {
	return p.try(ctx, id, in, func(w, q kernels.Matrix) (float64, error) { return p.run.Linear(ctx, id, q, w) })
}

// ends measures the embedding or the head.
func (p *probe) ends(ctx context.Context, id model.ID, in *Inputs) (*Sensitivity, error) {
	return p.try(ctx, id, in, func(_, q kernels.Matrix) (float64, error) { return p.run.Ends(ctx, id, q) })
}

// whole returns what all matrices together cost, rounded to nearest as schemes
// says, with errors weighed as in try. It comes last.
func (p *probe) whole(ctx context.Context, schemes map[model.ID]Scheme) (float64, error) {
	nearest := RTN{Threads: p.Threads}
	return p.run.Whole(ctx, func(id model.ID) (changed, original kernels.Matrix, err error) {
		s, ok := schemes[id]
		if !ok {
			return nil, nil, nil
		}
		if original, err = p.weights.Matrix(id); err != nil {
			return nil, nil, err
		}
		rows, cols := original.Shape()
		p.advanced(nearestOperations * float64(rows*cols))
		changed, err = nearest.Quantize(ctx, Layer{Name: id.String(), ID: id, Weight: original, Inputs: p.seen[id]}, s)
		return changed, original, err
	})
}

// memory estimates the most bytes that the probe takes, the program itself
// included.
func (p *probe) memory() int64 {
	const program = 128 << 20
	weights := p.weights.AllBytes()
	if p.run.Lean() {
		blocks := int64(p.weights.Config.Blocks)
		ends := p.weights.Bytes(model.ID{Role: model.Embed, Block: -1}) + p.weights.Bytes(model.ID{Role: model.Head, Block: -1})
		weights = ends + 2*(weights-ends)/max(blocks, 1)
	}
	logits := p.run.Bytes() // and those of a window, twice
	return program + weights + logits + 2*logits/int64(len(p.windows))
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

// nearestOperations stand for rounding one weight to nearest, which takes as long
// as some hundred operations of a matrix product.
const nearestOperations = 500

// roundOperations are those of rounding a matrix that is tried.
func (p *probe) roundOperations(rows, cols int) float64 {
	sum := nearestOperations * float64(rows*cols)
	if m, ok := p.Method.(Coster); ok {
		sum += m.Cost(rows, cols).Flops
	}
	return sum
}

// blockOperations are those of taking so many tokens through a block.
func (p *probe) blockOperations(tokens int) float64 {
	weights := 0
	for _, id := range p.weights.Config.IDs() {
		if id.Block == 0 && id.Role.IsLinear() && !id.Bias {
			shape := p.weights.Config.Shape(id)
			weights += shape[0] * shape[1]
		}
	}
	return 2 * float64(tokens) * float64(weights)
}

// sampleOperations are those of rounding a matrix's sample and of its error.
func (p *probe) sampleOperations(cols int) float64 {
	return sampledRows * float64(cols) * (nearestOperations + float64(cols))
}

// headOperations are those of so many predictions.
func (p *probe) headOperations(positions int) float64 {
	c := &p.weights.Config
	return 2 * float64(positions) * float64(c.Vocab*c.Hidden)
}

// runOperations are those of a run of so many tokens from a block to the
// predictions of so many positions.
func (p *probe) runOperations(from, tokens, positions int) float64 {
	return float64(p.weights.Config.Blocks-from)*p.blockOperations(tokens) + p.headOperations(positions)
}

// affordable is the number of tokens that all runs together take as long with as
// they may.
func (p *probe) affordable() int {
	runs := 0.0
	for _, id := range p.weights.Config.IDs() {
		if id.Role.IsMatrix() && !id.Bias {
			runs += p.runOperations(max(id.Block, 0), 1, 1)
		}
	}
	return int(min(max(probeOperations/runs, leastTokens), mostTokens))
}

// operations are all that the probe will do.
func (p *probe) operations() float64 {
	c := &p.weights.Config
	whole := p.runOperations(0, p.tokens, p.run.Positions())
	sum := float64(1+p.wholes)*whole + float64(c.Blocks-1)*p.blockOperations(p.tokens)
	for _, id := range c.IDs() {
		if !id.Role.IsMatrix() || id.Bias {
			continue
		}
		shape := c.Shape(id)
		sum += p.tryOperations(id, shape[0], shape[1]) + float64(p.wholes*shape[0]*shape[1])*nearestOperations
	}
	return sum
}

// tryOperations are those of measuring a matrix [rows, cols].
func (p *probe) tryOperations(id model.ID, rows, cols int) float64 {
	n := len(p.candidates(id, rows, cols))
	if n == 0 {
		return 0
	}
	return float64(n)*p.sampleOperations(cols) + p.roundOperations(rows, cols) + p.runOperations(max(id.Block, 0), p.tokens, p.run.Positions())
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
