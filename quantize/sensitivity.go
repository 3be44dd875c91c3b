package quantize

import (
	"context"
	"fmt"
	"slices"

	"llmc/calibrate"
	"llmc/kernels"
	"llmc/model"
)

// Sensitivity is what each way of storing one matrix is expected to cost the
// model: the mean KL divergence, in nats a token, between its predictions and
// those with this matrix alone rounded.
type Sensitivity struct {
	ID      model.ID
	Schemes []Scheme
	Losses  []float64 // by scheme
}

// Candidates returns the schemes that a matrix [rows, cols] may get, the
// smallest first; none when it is to be left alone.
type Candidates func(id model.ID, rows, cols int) []Scheme

// Probe says on what Measure measures.
type Probe struct {
	// Windows of token ids, from the calibration text. Every linear costs a run
	// of all of them from its block to the end, so they should be few.
	Windows [][]int32
	// Pick returns the index of the scheme that is tried in the model; the
	// others' losses follow from it.
	Pick func(id model.ID, schemes []Scheme) int
	// Progress, when not nil, is told the floating-point operations of the walk
	// over the calibration text that are done, and those in all.
	Progress  func(done, total int64)
	MaxMemory int64 // of the walk, in bytes; 0 is no limit
	Threads   int   // 0 means one per core
}

// Measure returns the sensitivities of a model's matrices, in the order of the
// forward pass. Of each linear, one scheme is tried in the model and gives a
// divergence; the divergences of the others are in proportion to the square of
// their output errors on windows, ‖(W-Q)X‖², which the second-order expansion
// of the divergence suggests and the linearity theorem of HIGGS (arXiv
// 2411.17525) shows for small errors. Embedding and head are tried in the model
// with every scheme. Rounding is to nearest, weighed by importance: what error
// feedback gains it gains about alike for all.
func Measure(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, candidates Candidates, p Probe) ([]Sensitivity, error) {
	pr, err := newProbe(ctx, dev, w, p)
	if err != nil {
		return nil, err
	}
	defer pr.free()
	var found []Sensitivity
	add := func(s *Sensitivity, err error) error {
		if s != nil {
			found = append(found, *s)
		}
		return err
	}
	var final *Inputs // of the head
	visit := func(ctx context.Context, block int, roles []model.Role, in *Inputs) error {
		if block < 0 {
			final = &Inputs{Tokens: in.Tokens, MeanSquare: slices.Clone(in.MeanSquare)}
			return nil
		}
		if err := pr.advance(ctx, block); err != nil {
			return err
		}
		for _, role := range roles {
			if err := add(pr.linear(ctx, model.ID{Role: role, Block: block}, in, candidates)); err != nil {
				return err
			}
		}
		return nil
	}
	o := calibrate.Options{Hessian: true, Final: true, Unchanged: true, Progress: p.Progress, MaxMemory: p.MaxMemory}
	if err := calibrate.Walk(ctx, dev, w, windows, o, visit); err != nil {
		return nil, err
	}
	embed, head := model.ID{Role: model.Embed, Block: -1}, model.ID{Role: model.Head, Block: -1}
	if w.Config.Tied {
		return found, add(pr.ends(ctx, embed, final, candidates))
	}
	if err := add(pr.ends(ctx, embed, nil, candidates)); err != nil {
		return nil, err
	}
	return found, add(pr.ends(ctx, head, final, candidates))
}

// maxProbeLogits bounds the reference's logits that a probe keeps: 128 MiB.
const maxProbeLogits = 1 << 25

// probe runs its windows through a model with one changed matrix at a time.
type probe struct {
	Probe
	dev     kernels.Device
	weights *model.Weights
	model   *model.Model
	state   *model.State
	block   int
	hidden  []*kernels.Tensor // by window, the input of block
	every   int               // of every so many positions the prediction counts
	base    []float32         // [positions, vocab] the unchanged model's logits
	sums    []kernels.Distribution
}

func newProbe(ctx context.Context, dev kernels.Device, w *model.Weights, p Probe) (*probe, error) {
	if len(p.Windows) == 0 {
		return nil, fmt.Errorf("there are no windows to probe with")
	}
	m, err := model.New(dev, w)
	if err != nil {
		return nil, err
	}
	pr := &probe{Probe: p, dev: dev, weights: w, model: m, state: m.NewState()}
	tokens := 0
	for _, ids := range p.Windows {
		if err := m.CheckIDs(ids); err != nil {
			return nil, err
		}
		tokens += len(ids)
	}
	pr.every = max(1, tokens*w.Config.Vocab/maxProbeLogits)
	pr.embed(m)
	err = pr.through(ctx, pr.hidden, 0, m, func(logits []float32) error {
		d, ok := kernels.Summarize(logits)
		if !ok {
			return fmt.Errorf("the model's logits are not finite")
		}
		pr.base, pr.sums = append(pr.base, logits...), append(pr.sums, d)
		return nil
	})
	return pr, err
}

func (p *probe) free() {
	for _, x := range p.hidden {
		p.dev.Free(x)
	}
	p.hidden = nil
}

// embed starts all windows anew.
func (p *probe) embed(m *model.Model) {
	p.free()
	for _, ids := range p.Windows {
		p.hidden = append(p.hidden, m.Embed(ids))
	}
	p.block = 0
}

// advance takes the windows to the input of a block.
func (p *probe) advance(ctx context.Context, block int) error {
	for ; p.block < block; p.block++ {
		for _, x := range p.hidden {
			if err := ctx.Err(); err != nil {
				return err
			}
			p.state.Truncate(0)
			p.model.Block(p.block, x, p.state)
		}
	}
	return nil
}

// through runs windows from the input of block from to the end, without
// changing hidden, and calls each with the logits of the positions that count.
// ends is the model that has the last norm and the head.
func (p *probe) through(ctx context.Context, hidden []*kernels.Tensor, from int, ends *model.Model, each func(logits []float32) error) error {
	values := make([]float32, 0)
	for _, from0 := range hidden {
		values = slices.Grow(values[:0], from0.Rows*from0.Cols)[:from0.Rows*from0.Cols]
		p.dev.Read(values, from0)
		x := p.dev.NewTensor(from0.Rows, from0.Cols)
		p.dev.Write(x, values)
		p.state.Truncate(0)
		for b := from; b < p.model.Config().Blocks; b++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			p.model.Block(b, x, p.state)
		}
		p.dev.Read(values, x)
		err := p.predict(values, x.Cols, ends, each)
		p.dev.Free(x)
		if err != nil {
			return err
		}
	}
	return nil
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
	err := p.through(ctx, p.hidden, p.block, ends, func(logits []float32) error {
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

// linear measures a linear of the block that the windows stand before. It
// returns nil for one without candidates.
func (p *probe) linear(ctx context.Context, id model.ID, in *Inputs, candidates Candidates) (*Sensitivity, error) {
	w, err := p.weights.Matrix(id)
	if err != nil {
		return nil, err
	}
	rows, cols := w.Shape()
	s := &Sensitivity{ID: id, Schemes: candidates(id, rows, cols)}
	if len(s.Schemes) == 0 {
		return nil, nil
	}
	tried := p.Pick(id, s.Schemes)
	errors := make([]float64, len(s.Schemes))
	var divergence float64
	for i, scheme := range s.Schemes {
		q, err := RTN{Threads: p.Threads}.Quantize(ctx, Layer{Name: id.String(), ID: id, Weight: w, Inputs: in}, scheme)
		if err != nil {
			return nil, err
		}
		errors[i] = OutputError(w, q, in.Hessian, p.Threads)
		if i != tried {
			continue
		}
		p.model.SetWeight(id, q)
		divergence, err = p.divergence(ctx, p.model)
		p.model.SetWeight(id, w)
		if err != nil {
			return nil, fmt.Errorf("%s as %s: %w", id, scheme, err)
		}
	}
	s.Losses = extrapolate(errors, tried, divergence)
	return s, nil
}

// extrapolate returns the losses in proportion to the squares of the output
// errors, from the divergence of the scheme that was tried.
func extrapolate(errors []float64, tried int, divergence float64) []float64 {
	losses := make([]float64, len(errors))
	for i, e := range errors {
		if errors[tried] > 0 {
			ratio := e / errors[tried]
			losses[i] = divergence * ratio * ratio
		}
	}
	return losses
}

// ends measures the embedding or the head, with every scheme in the model. in
// is what the head multiplies, nil for an embedding that serves as none.
func (p *probe) ends(ctx context.Context, id model.ID, in *Inputs, candidates Candidates) (*Sensitivity, error) {
	w, err := p.weights.Matrix(id)
	if err != nil {
		return nil, err
	}
	rows, cols := w.Shape()
	s := &Sensitivity{ID: id, Schemes: candidates(id, rows, cols)}
	if len(s.Schemes) == 0 {
		return nil, nil
	}
	for _, scheme := range s.Schemes {
		q, err := RTN{Threads: p.Threads}.Quantize(ctx, Layer{Name: id.String(), ID: id, Weight: w, Inputs: in}, scheme)
		if err != nil {
			return nil, err
		}
		loss, err := p.withEnds(ctx, id, q)
		if err != nil {
			return nil, fmt.Errorf("%s as %s: %w", id, scheme, err)
		}
		s.Losses = append(s.Losses, loss)
	}
	return s, nil
}

// withEnds returns the divergence with q in the place of the embedding or
// the head.
func (p *probe) withEnds(ctx context.Context, id model.ID, q kernels.Matrix) (float64, error) {
	p.weights.Replace(id, q)
	defer p.weights.Replace(id, nil)
	m, err := model.NewOutline(p.dev, p.weights)
	if err != nil {
		return 0, err
	}
	p.embed(m)
	return p.divergence(ctx, m)
}
