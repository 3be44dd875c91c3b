package quantize

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Describe lists a model's tensors as a plan needs them, in the order of the
// forward pass.
func Describe(w *model.Weights) []Tensor {
	ids := w.Config.IDs()
	if rope := (model.ID{Role: model.RopeFreqs, Block: -1}); len(w.Stored(rope)) > 0 {
		ids = append(ids, rope)
	}
	tensors := make([]Tensor, 0, len(ids))
	for _, id := range ids {
		from, quantized := storedAs(w.Stored(id))
		tensors = append(tensors, Tensor{
			ID: id, Name: w.Config.Family.TensorName(w.Kind, id), Shape: w.Config.Shape(id),
			From: from, Bytes: w.Bytes(id), Quantized: quantized,
		})
	}
	return tensors
}

// storedAs names the numbers of a tensor's parts, and whether they are the
// result of rounding to fewer bits.
func storedAs(parts map[string]raw.Tensor) (string, bool) {
	for _, name := range []string{"weight_packed", "qweight"} {
		if _, ok := parts[name]; ok {
			return "packed", true
		}
	}
	for _, name := range []string{"weight", "bias"} {
		if t, ok := parts[name]; ok {
			coarse := t.Type.IsBlock() || t.Type.IsInteger() || t.Type == dtype.F8E4M3 || t.Type == dtype.F8E5M2
			return t.Type.String(), coarse
		}
	}
	return "", false
}

// Result is what a run did to one tensor.
type Result struct {
	Entry    *Entry
	Stats    Stats
	Solution *Solution // nil unless the method asks for calibration
	Seconds  float64   // that rounding and measuring took
}

// Run carries out a plan tensor by tensor, in whatever order they are asked
// for, and keeps what it measured.
type Run struct {
	weights *model.Weights
	method  Method
	threads int
	entries map[model.ID]*Entry
	results map[model.ID]Result
	solved  map[model.ID]bool // by Calibrate: the weights have been replaced
	plan    *Plan

	importance Importance // for what Calibrate has not seen

	experts map[model.ID]expertLayer // of the block at hand, scaled together
	divided []float32                // what their inputs were divided by, nil if they were not
}

// NewRun returns a run of plan over the weights it was made for. What their
// checkpoint says of rounding activations does not count any more.
func NewRun(w *model.Weights, plan *Plan, method Method, threads int) *Run {
	r := &Run{weights: w, method: method, threads: threads, plan: plan,
		entries: map[model.ID]*Entry{}, results: map[model.ID]Result{}, solved: map[model.ID]bool{}}
	for i := range plan.Entries {
		r.entries[plan.Entries[i].ID] = &plan.Entries[i]
	}
	w.KeepInputs()
	return r
}

// Matrix returns the weight as the plan wants it stored: rounded, or as it is
// when the plan keeps it. Rounded ones are measured against the source.
func (r *Run) Matrix(ctx context.Context, id model.ID) (kernels.Matrix, error) {
	w, err := r.weights.Matrix(id)
	if err != nil {
		return nil, err
	}
	e, ok := r.entries[id]
	if !ok || !e.Rounds() || r.solved[id] {
		return w, nil
	}
	return r.round(ctx, r.layer(e, w, r.importance[id]), e.To)
}

// layer is a weight as a method takes it.
func (r *Run) layer(e *Entry, w kernels.Matrix, in *Inputs) Layer {
	l := Layer{Name: e.Name, ID: e.ID, Weight: w, Inputs: in}
	if r.method.Needs() != NeedsNothing || r.plan.inputs.Static {
		l.Solution = &Solution{}
		if in != nil && e.ID.Expert != model.NoExpert {
			l.Solution.Routed, l.Solution.Uncovered = &in.Routed, in.Uncovered()
		}
	}
	return l
}

// round rounds one weight and measures the result.
func (r *Run) round(ctx context.Context, l Layer, s Scheme) (kernels.Matrix, error) {
	start := time.Now()
	q, err := r.method.Quantize(ctx, l, s)
	if err != nil {
		return nil, err
	}
	stats, err := Compare(ctx, l.Weight, q, r.threads)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, err)
	}
	if err := r.roundInputs(&l, s); err != nil {
		return nil, err
	}
	r.results[l.ID] = Result{Entry: r.entries[l.ID], Stats: stats, Solution: l.Solution, Seconds: time.Since(start).Seconds()}
	return q, nil
}

// roundInputs makes models of the weights round what a linear multiplies, as
// the plan says. Static scales cover all that calibration has seen.
func (r *Run) roundInputs(l *Layer, s Scheme) error {
	in := r.plan.inputs
	if in.Bits == 0 {
		return nil
	}
	if in.Static {
		if l.Inputs == nil || l.Inputs.MaxAbs == nil {
			return fmt.Errorf("%s: calibration has not seen its activations", l.Name)
		}
		largest := slices.Max(l.Inputs.MaxAbs)
		scale, _ := in.Grid(-largest, largest)
		in.Scale = s.roundScale(float64(scale))
		if in.Scale > math.MaxFloat32 {
			return fault.Invalid("%s: activations of up to %g are too large for scales of %s", l.Name, largest, s.ScaleType)
		}
		l.Solution.InputScale = in.Scale
	}
	r.weights.RoundInputs(l.ID, in)
	return nil
}

// Results lists what was rounded so far, in the plan's order.
func (r *Run) Results() []Result {
	var list []Result
	for i := range r.plan.Entries {
		if result, ok := r.results[r.plan.Entries[i].ID]; ok {
			list = append(list, result)
		}
	}
	return list
}

// Rounds reports whether the entry is a matrix that changes.
func (e *Entry) Rounds() bool { return !e.Kept() && e.isMatrix() }

// Replace rounds every tensor of the plan in memory, so that a model made of
// the weights computes with the rounded ones. progress may be nil; it is told
// the weights done and the weights in all.
func (r *Run) Replace(ctx context.Context, progress func(done, total int64)) error {
	var done, total int64
	for i := range r.plan.Entries {
		if e := &r.plan.Entries[i]; e.Rounds() {
			total += e.elements()
		}
	}
	for i := range r.plan.Entries {
		e := &r.plan.Entries[i]
		if !e.Rounds() {
			continue
		}
		q, err := r.Matrix(ctx, e.ID)
		if err != nil {
			return err
		}
		r.weights.Replace(e.ID, q)
		if done += e.elements(); progress != nil {
			progress(done, total)
		}
	}
	return nil
}
