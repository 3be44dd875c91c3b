package quantize

import (
	"context"
	"encoding/json"
	"fmt"

	"llmc/calibrate"
	"llmc/kernels"
	"llmc/model"
)

// Calibrate takes windows of token ids through the model block by block and
// rounds the linears with what their inputs show; every block sees the inputs
// that the rounded blocks before it give. Afterwards Matrix returns what was
// found, and so do the weights the run was made of. o comes from
// CalibrationOptions.
func (r *Run) Calibrate(ctx context.Context, dev kernels.Device, windows [][]int32, o calibrate.Options) error {
	return calibrate.Walk(ctx, dev, r.weights, windows, o, r.visit)
}

// visit rounds the linears that share an input, scaled first by methods that
// do so.
func (r *Run) visit(ctx context.Context, block int, roles []model.Role, in *Inputs) error {
	layers, schemes, err := r.layers(block, roles, in)
	if err != nil {
		return err
	}
	if m, ok := r.method.(Scaler); ok && block >= 0 {
		if err := r.scaleInput(ctx, m, block, roles[0], layers, schemes, in); err != nil {
			return err
		}
	}
	for i, l := range layers {
		q, err := r.round(ctx, l, schemes[i])
		if err != nil {
			return err
		}
		r.solved[l.ID] = true
		r.weights.Replace(l.ID, q)
	}
	return nil
}

// layers are those of some linears that the plan rounds, and to what.
func (r *Run) layers(block int, roles []model.Role, in *Inputs) (layers []Layer, schemes []Scheme, err error) {
	for _, role := range roles {
		id := model.ID{Role: role, Block: block, Expert: in.Expert}
		if role == model.Head && r.weights.Config.Tied {
			id.Role = model.Embed
		}
		e, ok := r.entries[id]
		if !ok || !e.Rounds() {
			continue
		}
		w, err := r.weights.Matrix(id)
		if err != nil {
			return nil, nil, err
		}
		layers = append(layers, r.layer(e, w, in))
		schemes = append(schemes, e.To)
	}
	return layers, schemes, nil
}

// Coster is a [Method] that knows what it takes for one layer.
type Coster interface {
	Cost(rows, cols int) calibrate.Cost
}

// Walker is a [Method] that says how calibration walks through the model.
type Walker interface {
	// Walking sets what the method wants of a walk.
	Walking(o *calibrate.Options)
}

// CalibrationOptions is what a walk has to gather, to plan and to keep for the
// run's method.
func (r *Run) CalibrationOptions() calibrate.Options {
	o := calibrate.Options{
		Hessian: r.method.Needs()&NeedsHessian != 0, Final: r.roundsHead(),
		Save: r.save, Load: r.load,
	}
	if m, ok := r.method.(Walker); ok {
		m.Walking(&o)
	}
	if m, ok := r.method.(Coster); ok {
		o.Solve = m.Cost
	}
	return o
}

// roundsHead reports whether the plan rounds the head, or the embedding that
// serves as one.
func (r *Run) roundsHead() bool {
	id := model.ID{Role: model.Head, Block: -1}
	if r.weights.Config.Tied {
		id.Role = model.Embed
	}
	e, ok := r.entries[id]
	return ok && e.Rounds()
}

// keptResult is a Result of a block as a journal keeps it.
type keptResult struct {
	Role     string    `json:"role"`
	Expert   int       `json:"expert,omitempty"` // from 1 on
	Stats    Stats     `json:"stats"`
	Solution *Solution `json:"solution"`
	Seconds  float64   `json:"seconds"`
}

// save returns the results of a block.
func (r *Run) save(block int) (any, error) {
	var list []keptResult
	for _, result := range r.Results() {
		if id := result.Entry.ID; id.Block == block {
			list = append(list, keptResult{id.Role.String(), int(id.Expert), result.Stats, result.Solution, result.Seconds})
		}
	}
	return list, nil
}

// load takes in what save returned before.
func (r *Run) load(block int, saved []byte) error {
	var list []keptResult
	if err := json.Unmarshal(saved, &list); err != nil {
		return err
	}
	for _, kept := range list {
		role, _ := model.ParseRole(kept.Role)
		id := model.ID{Role: role, Block: block, Expert: model.Expert(kept.Expert)}
		e, ok := r.entries[id]
		if !ok || !e.Rounds() {
			return fmt.Errorf("the plan does not round its %s", kept.Role)
		}
		r.results[id] = Result{Entry: e, Stats: kept.Stats, Solution: kept.Solution, Seconds: kept.Seconds}
		r.solved[id] = true
		in := r.plan.inputs
		if kept.Solution != nil {
			in.Scale = kept.Solution.InputScale
		}
		r.weights.RoundInputs(id, in)
	}
	return nil
}

// Cost adds up a layer [rows, cols]: first the Hessian in the order of the
// columns, its factor, and products on the way to it; then the factor, the
// weights, and four products of their size to compare the result with
// round-to-nearest's. Block types take another two copies of the Hessian, and
// for some of the rows at a time weights, values, residuals and gradients.
func (m GPTQSolver) Cost(rows, cols int) calibrate.Cost {
	r, n := int64(rows), int64(cols)
	flops := float64(n*n)*float64(n) + 9*float64(r*n)*float64(n) + 16*gptqBlock*float64(r*n)
	return calibrate.Cost{Bytes: max(10*n*n, 4*n*n+18*r*n, 12*n*n+2*r*n+26*min(r*n, blockSlab)), Flops: flops}
}
