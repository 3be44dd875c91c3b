package prune

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"llmc/calibrate"
	"llmc/dtype"
	"llmc/formats"
	"llmc/internal/fault"
	"llmc/internal/parallel"
	"llmc/internal/solve"
	"llmc/kernels"
	"llmc/model"
)

// Result is what became of one tensor.
type Result struct {
	ID       model.ID `json:"-"`
	Name     string   `json:"name"`
	Role     string   `json:"role"`
	Expert   int      `json:"expert,omitempty"` // of a mixture, from 1 on
	Weights  int      `json:"weights"`
	Before   int      `json:"zeros_before"`
	Zeros    int      `json:"zeros"`
	Solution Solution `json:"solution"`
	// Permuted is set where the inputs were put into another order.
	Permuted *Permuted `json:"permuted,omitempty"`
}

// Run prunes the linears of a model's blocks.
type Run struct {
	weights *model.Weights
	method  Method
	pattern Pattern
	threads int
	names   map[model.ID]string // of what is pruned
	results map[model.ID]Result
	shares  map[model.ID]float64 // the sparsity of each, nil for the pattern's

	permutes bool                           // see Permute
	seen     map[model.ID]*calibrate.Inputs // see Observe

	firstToken float64 // see WeighFirstToken
}

// NewRun returns a run over the linears of w's blocks, but for those that a
// pattern of ignore matches: a role, or a glob on the source's tensor name. It
// refuses linears that are quantized, and rows that the pattern does not divide.
func NewRun(w *model.Weights, m Method, p Pattern, ignore []string, threads int) (*Run, error) {
	var ids []model.ID
	used := make([]bool, len(ignore))
	for _, id := range w.Config.IDs() {
		if id.Block < 0 || id.Bias || !id.Role.IsLinear() {
			continue
		}
		name := w.Config.Family.TensorName(w.Kind, id)
		ignored := false
		for i, pattern := range ignore {
			match, err := path.Match(pattern, name)
			if err != nil {
				return nil, fault.Usage("ignore pattern %q is not a valid glob: %w", pattern, err)
			}
			if match || pattern == id.Role.String() {
				ignored, used[i] = true, true
			}
		}
		if !ignored {
			ids = append(ids, id)
		}
	}
	for i, pattern := range ignore {
		if !used[i] {
			return nil, fault.Hint(fault.Usage("ignore pattern %q matches no linear", pattern), "patterns are roles (q, k, v, o, gate, up, down) or globs on tensor names")
		}
	}
	return NewRunOf(w, ids, m, p, threads)
}

// NewRunOf is NewRun over some linears of w's blocks.
func NewRunOf(w *model.Weights, ids []model.ID, m Method, p Pattern, threads int) (*Run, error) {
	r := &Run{weights: w, method: m, pattern: p, threads: threads, names: map[model.ID]string{}, results: map[model.ID]Result{}}
	for _, id := range ids {
		name := w.Config.Family.TensorName(w.Kind, id)
		if stored, ok := w.Stored(id)["weight"]; !ok || !slices.Contains([]dtype.Type{dtype.F32, dtype.F16, dtype.BF16}, stored.Type) {
			return nil, fault.Hint(fault.Invalid("%s is quantized, and zeros belong into the weights it was made of", name),
				"prune the original model, then quantize it")
		}
		if err := p.Fits(name, w.Config.Shape(id)[1]); err != nil {
			return nil, err
		}
		r.names[id] = name
	}
	return r, nil
}

// WeighFirstToken makes the first token of each window count as this share of the
// window's tokens more in the Hessians of q, k and v; see
// [calibrate.Options.FirstToken].
func (r *Run) WeighFirstToken(share float64) { r.firstToken = share }

// Options is what a walk has to gather and to keep for the run's method.
func (r *Run) Options() calibrate.Options {
	return calibrate.Options{
		// A permutation changes the linears before the one it is for.
		Sequential: r.method.Needs()&NeedsHessian != 0 && !r.permutes,
		Hessian:    r.method.Needs()&NeedsHessian != 0, FirstToken: r.firstToken, Save: r.save, Load: r.load,
		Solve: func(rows, cols int) calibrate.Cost {
			n, size := int64(cols), int64(rows)*int64(cols)
			if r.method.Needs()&NeedsHessian == 0 {
				return calibrate.Cost{Bytes: 12 * size}
			}
			cost := calibrate.Cost{Bytes: 16*n*n + 16*size, Flops: 4*float64(n*n)*float64(n) + 2*float64(size)*float64(n)}
			if g, ok := r.method.(Gradual); ok {
				cost.Bytes += 16 * size
				cost.Flops = float64(g.Steps) * (cost.Flops + solve.FitFlops(int(size/n), cols))
			}
			return cost
		},
	}
}

// Calibrate takes windows of token ids through the model block by block and
// prunes the linears with what their inputs show; every block sees the inputs
// that the pruned blocks before it give. o comes from Options.
func (r *Run) Calibrate(ctx context.Context, dev kernels.Device, windows [][]int32, o calibrate.Options) error {
	return calibrate.Walk(ctx, dev, r.weights, windows, o, func(ctx context.Context, block int, roles []model.Role, in *calibrate.Inputs) error {
		for _, role := range roles {
			if err := r.prune(ctx, model.ID{Role: role, Block: block, Expert: in.Expert}, in); err != nil {
				return err
			}
		}
		return nil
	})
}

// Replace prunes without calibration. progress may be nil; it is told the
// weights done and the weights in all.
func (r *Run) Replace(ctx context.Context, progress func(done, total int64)) error {
	var done, total int64
	for id := range r.names {
		total += int64(r.size(id))
	}
	for _, id := range r.linears() {
		if err := r.prune(ctx, id, nil); err != nil {
			return err
		}
		if done += int64(r.size(id)); progress != nil {
			progress(done, total)
		}
	}
	return nil
}

// prune replaces one weight, in the type that it is stored in.
func (r *Run) prune(ctx context.Context, id model.ID, in *calibrate.Inputs) error {
	name, ok := r.names[id]
	if !ok {
		return nil
	}
	var permuted *Permuted
	if r.permutes {
		var err error
		if in, permuted, err = r.permute(ctx, id, in); err != nil {
			return err
		}
	}
	w, err := r.weights.Matrix(id)
	if err != nil {
		return err
	}
	rows, cols := w.Shape()
	result := Result{ID: id, Name: name, Role: id.Role.String(), Expert: int(id.Expert), Weights: rows * cols}
	l := Layer{Name: name, ID: id, Rows: rows, Cols: cols, Weight: make([]float32, rows*cols), Inputs: in, Threads: r.threads, Solution: &result.Solution}
	if in != nil && id.Expert != model.NoExpert {
		result.Solution.Routed, result.Solution.Uncovered = &in.Routed, in.Uncovered()
	}
	err = parallel.Rows(ctx, r.threads, rows, cols, func() func(int) error {
		return func(i int) error {
			w.Row(l.Weight[i*cols:][:cols], i)
			return nil
		}
	})
	if err != nil {
		return err
	}
	result.Before, result.Permuted = l.zeros(ctx), permuted
	if err := r.method.Prune(ctx, l, r.PatternOf(id)); err != nil {
		return err
	}
	result.Zeros = l.zeros(ctx)
	r.results[id] = result
	return r.replace(id, rows, cols, l.Weight)
}

// replace puts values in the place of a linear, in the type it is stored in.
func (r *Run) replace(id model.ID, rows, cols int, values []float32) error {
	t := r.weights.Stored(id)["weight"].Type
	data := make([]byte, len(values)*t.BlockBytes())
	if err := kernels.Encode(data, values, t); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	m, err := kernels.NewDense(rows, cols, t, data)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	r.weights.Replace(id, m)
	return nil
}

// zeros counts the weights that are zero.
func (l *Layer) zeros(ctx context.Context) int {
	counts := make([]int, l.Rows)
	// Nothing fails; whoever ends it early sees that next.
	_ = parallel.Rows(ctx, l.Threads, l.Rows, l.Cols, func() func(int) error {
		return func(r int) error {
			n := l.Cols
			for _, v := range l.Weight[r*l.Cols:][:l.Cols] {
				bits := math.Float32bits(v) << 1 // without the sign
				n -= int((bits | -bits) >> 31)   // no branch: it would be guessed wrongly
			}
			counts[r] = n
			return nil
		}
	})
	n := 0
	for _, count := range counts {
		n += count
	}
	return n
}

// Results lists what was pruned, in the order of the forward pass.
func (r *Run) Results() []Result {
	var list []Result
	for _, id := range r.weights.Config.IDs() {
		if result, ok := r.results[id]; ok {
			list = append(list, result)
		}
	}
	return list
}

// save returns the results of a block, for a journal.
func (r *Run) save(block int) (any, error) {
	var list []Result
	for _, result := range r.Results() {
		if result.ID.Block == block {
			list = append(list, result)
		}
	}
	return list, nil
}

// load takes in what save returned before.
func (r *Run) load(block int, saved []byte) error {
	var list []Result
	if err := json.Unmarshal(saved, &list); err != nil {
		return err
	}
	for _, result := range list {
		role, _ := model.ParseRole(result.Role)
		result.ID = model.ID{Role: role, Block: block, Expert: model.Expert(result.Expert)}
		if _, ok := r.names[result.ID]; !ok {
			return fmt.Errorf("the run does not prune its %s", result.Role)
		}
		r.results[result.ID] = result
	}
	return nil
}

// calibrated refuses a layer that calibration has not seen.
func (l *Layer) calibrated() error {
	switch {
	case l.Inputs == nil:
		return fmt.Errorf("%s was not calibrated", l.Name)
	case len(l.Inputs.MeanSquare) != l.Cols:
		return fault.Invalid("%s has %d columns, its calibration saw %d", l.Name, l.Cols, len(l.Inputs.MeanSquare))
	}
	return nil
}

// OutputName is what a pruned model is called by default, after its base name.
func (r *Run) OutputName(base string, kind formats.Kind) string {
	pattern := strings.ReplaceAll(r.pattern.String(), ":", "of")
	if !r.pattern.structured() {
		pattern = fmt.Sprintf("%gpct", 100*r.pattern.Sparsity)
	}
	name := fmt.Sprintf("%s-%s-%s", base, r.method.Name(), pattern)
	if kind == formats.GGUF {
		return name + ".gguf"
	}
	return name
}
