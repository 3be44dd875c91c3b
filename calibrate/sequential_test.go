package calibrate

import (
	"context"
	"math"
	"reflect"
	"strings"
	"testing"

	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// coarse is a visitor that rounds all linears so coarsely that what follows
// them changes.
func coarse(t *testing.T, w *model.Weights) Visitor {
	return func(_ context.Context, block int, roles []model.Role, _ *Inputs) error {
		for _, role := range roles {
			id := model.ID{Role: role, Block: block}
			m, err := w.Matrix(id)
			if err != nil {
				t.Fatal(err)
			}
			rows, cols := m.Shape()
			values := make([]float32, rows*cols)
			for r := range rows {
				m.Row(values[r*cols:][:cols], r)
			}
			for i, v := range values {
				values[i] = float32(math.Round(float64(v)*4) / 4)
			}
			w.Replace(id, kernels.FromFloat32s(rows, cols, values))
		}
		return nil
	}
}

// TestSequentialSeesWhatItReplaced rounds every linear as it comes and expects
// each input to be that of the model in which all are rounded.
func TestSequentialSeesWhatItReplaced(t *testing.T) {
	for _, family := range []string{"llama", "mistral", "qwen2", "qwen3", "gemma3"} {
		spec := small
		spec.Family = family
		w, tok := tiny(t, spec)
		windows, err := Windows(tok, strings.Repeat(sentence, 10), Sampling{Samples: 3, Context: 20})
		if err != nil {
			t.Fatal(err)
		}
		got := walkedWith(t, w, windows, 2, Options{Hessian: true, Sequential: true}, coarse(t, w))
		compare(t, got, naive(t, w, windows), 60)
		for i, roles := range [][]model.Role{{model.Q, model.K, model.V}, {model.O}, {model.Gate, model.Up}, {model.Down}} {
			if got[i].block != 0 || !reflect.DeepEqual(got[i].roles, roles) {
				t.Errorf("%s: visit %d is of %v in block %d, want %v", family, i, got[i].roles, got[i].block, roles)
			}
		}
	}
}

// TestSequentialMemoryChangesNothing keeps what is between linears, computes it
// again, and keeps hidden states in a file: each in less memory than the one
// before.
func TestSequentialMemoryChangesNothing(t *testing.T) {
	o := Options{Hessian: true, Sequential: true, Final: true, Solve: costOf, Dir: t.TempDir()}
	var want []seen
	for _, step := range []struct{ keep, disk bool }{{true, false}, {false, false}, {false, true}} {
		w, tok := tiny(t, wide)
		windows, err := Windows(tok, strings.Repeat(sentence, 40), Sampling{Samples: 60, Context: 50})
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSchedule(w, len(windows), 50, o)
		if err != nil || s.KeepInner != step.keep || s.OnDisk != step.disk || s.Passes != 1 {
			t.Fatalf("in %d bytes: %+v, %v; want %+v", o.MaxMemory, s, err, step)
		}
		var done, total int64
		o.Progress = func(d, all int64) { done, total = d, all }
		visit := coarse(t, w)
		got := walkedWith(t, w, windows, 2, o, func(ctx context.Context, block int, roles []model.Role, in *Inputs) error {
			if block < 0 {
				return nil
			}
			return visit(ctx, block, roles, in)
		})
		if want == nil {
			want = got
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v gives other inputs", step)
		}
		if total < 1 || total-done > total/1000 || done > total {
			t.Errorf("%+v: progress ends at %d of %d", step, done, total)
		}
		o.MaxMemory = s.Peak - 1
	}
	w, _ := tiny(t, wide)
	if _, err := NewSchedule(w, 60, 50, o); err == nil {
		t.Error("less than the least memory is allowed")
	}
}

// TestSequentialMixture expects of a mixture the walk that it has anyway.
func TestSequentialMixture(t *testing.T) {
	spec := tinymodel.Spec{Family: "mixtral", Hidden: 64, FFN: 64, Heads: 4, KVHeads: 2, Layers: 2, Seed: 5}
	w, tok := tiny(t, spec)
	windows, err := Windows(tok, strings.Repeat(sentence, 10), Sampling{Samples: 3, Context: 20})
	if err != nil {
		t.Fatal(err)
	}
	want := walkedWith(t, w, windows, 2, Options{Hessian: true}, nil)
	if got := walkedWith(t, w, windows, 2, Options{Hessian: true, Sequential: true}, nil); !reflect.DeepEqual(got, want) {
		t.Error("a mixture gives other inputs")
	}
}
