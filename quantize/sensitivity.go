package quantize

import (
	"context"
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

// Probe says how Measure measures.
type Probe struct {
	// Pick returns the index of the scheme that is tried in the model; the
	// others' losses follow from it.
	Pick func(id model.ID, schemes []Scheme) int
	// Method, when not nil, rounds the matrices that are tried; else [RTN] does.
	Method Method
	// Progress, when not nil, is told the floating-point operations that are
	// done, and those in all.
	Progress func(done, total int64)
	// Known, when not nil, returns what a search that was ended has found of a
	// matrix, and Found is given what this one finds, to be kept.
	Known     func(id model.ID) (Sensitivity, bool)
	Found     func(s Sensitivity) error
	MaxMemory int64 // of the walk, in bytes; 0 is no limit
	Threads   int   // 0 means one per core
}

// On what is measured. A divergence needs few tokens: which of them are hard to
// predict is the same for all matrices, so that of what one matrix costs compared
// with others, 9% is chance with 1024 tokens and 6% with 8192 (of a model of 42
// linears, against 32768), and the least loss within a budget changes with the
// square of such an error. Output errors are compared with others of the same rows.
const (
	windowTokens = 512  // of a window at most
	walkTokens   = 8192 // on which Hessians are gathered
	leastTokens  = 512  // on which divergences are measured
	mostTokens   = 4096 // on which they are
	sampledRows  = 128  // of a matrix that are rounded with every scheme

	// probeOperations bounds the number of tokens between those two: some minutes.
	probeOperations = 1e13
)

// Measured is what Measure has found.
type Measured struct {
	Sensitivities []Sensitivity // in the order of the forward pass, the embedding and the head last
	Tokens        int           // that divergences were measured on
	Operations    float64       // floating-point operations that it took
	Memory        int64         // bytes that it took at the most, estimated
}

// Measure returns the sensitivities of a model's matrices. Of each matrix, one
// scheme is tried in the model and gives a divergence; the divergences of the
// others are in proportion to the square of their output errors on some of the
// rows, ‖(W-Q)X‖², which the second-order expansion of the divergence suggests and
// the linearity theorem of HIGGS (arXiv 2411.17525) shows for small errors. Output
// errors are those of rounding to nearest, weighed by importance: what a method
// gains differs from matrix to matrix, and little from scheme to scheme.
func Measure(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32, candidates Candidates, p Probe) (*Measured, error) {
	pr, err := newProbe(ctx, dev, w, windows, candidates, p, 0)
	if err != nil {
		return nil, err
	}
	defer pr.run.Free()
	return pr.measure(ctx, dev)
}

// measure is Measure, with a probe that its caller frees.
func (p *probe) measure(ctx context.Context, dev kernels.Device) (*Measured, error) {
	found := &Measured{Tokens: p.tokens, Memory: p.memory()}
	add := func(s *Sensitivity, err error) error {
		if s != nil {
			found.Sensitivities = append(found.Sensitivities, *s)
		}
		return err
	}
	embed, head := model.ID{Role: model.Embed, Block: -1}, model.ID{Role: model.Head, Block: -1}
	visit := func(ctx context.Context, block int, roles []model.Role, in *Inputs) error {
		if block >= 0 {
			if err := p.run.Advance(ctx, block); err != nil {
				return err
			}
			for _, role := range roles {
				if err := add(p.linear(ctx, model.ID{Role: role, Block: block, Expert: in.Expert}, in)); err != nil {
					return err
				}
			}
			return nil
		}
		if p.weights.Config.Tied {
			return add(p.ends(ctx, embed, in))
		}
		if err := add(p.ends(ctx, embed, nil)); err != nil {
			return err
		}
		return add(p.ends(ctx, head, in))
	}
	o := calibrate.Options{Hessian: true, Final: true, Unchanged: true, Progress: p.walked, MaxMemory: p.MaxMemory}
	if err := calibrate.Walk(ctx, dev, p.weights, p.walk, o, visit); err != nil {
		return nil, err
	}
	found.Operations = p.done + float64(p.walkDone)
	return found, nil
}

// whereNotFinite returns an error that names the first linear whose input is not
// finite, nil if it is found in none.
func whereNotFinite(ctx context.Context, dev kernels.Device, w *model.Weights, windows [][]int32) error {
	o := calibrate.Options{Final: true, Unchanged: true}
	return calibrate.Walk(ctx, dev, w, windows, o, func(context.Context, int, []model.Role, *Inputs) error { return nil })
}

// excerpt takes about so many tokens from windows all over a text: the beginnings
// of some of them.
func excerpt(windows [][]int32, tokens int) [][]int32 {
	var list [][]int32
	if len(windows) == 0 {
		return nil
	}
	length := min(windowTokens, len(windows[0]))
	count := min(max(tokens/length, 1), len(windows))
	for i := range count {
		ids := windows[i*len(windows)/count]
		list = append(list, ids[:min(length, len(ids))])
	}
	return slices.Clip(list)
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

// someRows is every so many rows of a matrix.
type someRows struct {
	kernels.Matrix
	every int
}

// sampleRows takes some rows from all over a matrix.
func sampleRows(w kernels.Matrix) someRows {
	rows, _ := w.Shape()
	return someRows{w, max(1, rows/sampledRows)}
}

// Shape implements kernels.Matrix.
func (m someRows) Shape() (rows, cols int) {
	rows, cols = m.Matrix.Shape()
	return (rows + m.every - 1) / m.every, cols
}

// Row implements kernels.Matrix.
func (m someRows) Row(dst []float32, r int) { m.Matrix.Row(dst, r*m.every) }
