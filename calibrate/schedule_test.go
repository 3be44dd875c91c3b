package calibrate

import (
	"context"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"llmc/formats"
	"llmc/internal/fault"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// wide is a model whose Hessians are larger than what one window takes.
var wide = tinymodel.Spec{Hidden: 256, FFN: 512, Heads: 4, KVHeads: 4, Layers: 2, Seed: 5}

// costOf is the cost of a solver that needs as much as the Hessian.
func costOf(_, cols int) Cost { return Cost{Bytes: 4 * int64(cols) * int64(cols), Flops: 1} }

// TestMemoryChangesNothing walks with less and less memory and expects the
// same bits: first the hidden states go to a file, then inputs are gathered in
// several passes.
func TestMemoryChangesNothing(t *testing.T) {
	w, tok := tiny(t, wide)
	windows, err := Windows(tok, strings.Repeat(sentence, 40), Sampling{Samples: 60, Context: 50})
	if err != nil {
		t.Fatal(err)
	}
	walk := func(o Options) []seen {
		dev := kernels.NewCPU(2)
		defer dev.Close()
		var all []seen
		err := Walk(context.Background(), dev, w, windows, o, func(_ context.Context, block int, roles []model.Role, in *Inputs) error {
			all = append(all, seen{block, roles, *in})
			if roles[0] == model.Q { // later passes must not see what the visitor does
				w.Replace(model.ID{Role: model.Q, Block: block}, kernels.FromFloat32s(256, 256, make([]float32, 256*256)))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	options := Options{Hessian: true, Solve: costOf, Dir: t.TempDir()}
	plenty, err := NewSchedule(w, len(windows), 50, options)
	if err != nil || plenty.OnDisk || plenty.Passes != 1 {
		t.Fatalf("without a limit: %+v, %v", plenty, err)
	}
	want := walk(options)
	var seenPasses []int
	for limit := plenty.Peak - 1; ; limit -= 1 << 17 {
		options.MaxMemory = limit
		s, err := NewSchedule(w, len(windows), 50, options)
		if err != nil {
			break
		}
		if s.Peak > limit || !s.OnDisk {
			t.Fatalf("in %d bytes: %+v", limit, s)
		}
		if slices.Contains(seenPasses, s.Passes) {
			continue
		}
		seenPasses = append(seenPasses, s.Passes)
		w.Replace(model.ID{Role: model.Q, Block: 0}, original(t, model.Q, 0))
		w.Replace(model.ID{Role: model.Q, Block: 1}, original(t, model.Q, 1))
		if got := walk(options); !reflect.DeepEqual(got, want) {
			t.Fatalf("%d passes on disk give other inputs", s.Passes)
		}
	}
	if len(seenPasses) < 2 || seenPasses[0] != 1 {
		t.Errorf("the numbers of passes were %v, want 1 and more", seenPasses)
	}
	if left, _ := os.ReadDir(options.Dir); len(left) > 0 {
		t.Errorf("%v is left behind", left)
	}
}

// original returns a weight of the wide model.
func original(t *testing.T, r model.Role, block int) kernels.Matrix {
	t.Helper()
	c, err := formats.FromMemory(tinymodel.Files(wide))
	if err != nil {
		t.Fatal(err)
	}
	w, _ := opened(t, c)
	m, err := w.Matrix(model.ID{Role: r, Block: block})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestScheduleRefuses(t *testing.T) {
	w, _ := tiny(t, wide)
	_, err := NewSchedule(w, 4, 50, Options{Hessian: true, Solve: costOf, MaxMemory: 130 << 20})
	if fault.KindOf(err) != fault.UsageError || !strings.Contains(err.Error(), "in 136 MB of memory is not possible, it needs at least") {
		t.Errorf("got %v, want an error that says how much is needed", err)
	}
	err = Walk(context.Background(), kernels.NewCPU(1), w, [][]int32{{1, 2}}, Options{MaxMemory: 1}, nil)
	if fault.KindOf(err) != fault.UsageError {
		t.Errorf("got %v, want a usage error", err)
	}
}

func TestProgressReachesItsTotal(t *testing.T) {
	w, _ := tiny(t, small)
	dev := kernels.NewCPU(1)
	defer dev.Close()
	var done, total int64
	o := Options{Hessian: true, Solve: costOf, Progress: func(d, all int64) {
		if d < done || total != 0 && all != total {
			t.Fatalf("%d of %d after %d of %d", d, all, done, total)
		}
		done, total = d, all
	}}
	visit := func(context.Context, int, []model.Role, *Inputs) error { return nil }
	if err := Walk(context.Background(), dev, w, [][]int32{{1, 2, 3}, {4, 5}}, o, visit); err != nil {
		t.Fatal(err)
	}
	if total < 1 || total-done > total/1000 {
		t.Errorf("it ends at %d of %d", done, total)
	}
}

func TestHiddenStatesThatCannotBeKept(t *testing.T) {
	w, _ := tiny(t, wide)
	o := Options{Hessian: true, Dir: "nowhere/to/be/found"}
	s, err := NewSchedule(w, 2, 3, o)
	if err != nil {
		t.Fatal(err)
	}
	o.MaxMemory = s.Peak - 1
	err = Walk(context.Background(), kernels.NewCPU(1), w, [][]int32{{1, 2, 3}, {4, 5, 6}}, o, nil)
	if err == nil || !strings.Contains(err.Error(), "activations in the folder nowhere/to/be/found") || fault.HintOf(err) == "" {
		t.Errorf("got %v, want an error that names the folder, with a hint", err)
	}
}

// TestScheduleOfCopies: integer products take memory for copies of the weights,
// of 9 bits each, and less time.
func TestScheduleOfCopies(t *testing.T) {
	w, _ := tiny(t, wide)
	for _, sequential := range []bool{false, true} {
		o := Options{Hessian: true, Solve: costOf, Sequential: sequential}
		exact, err := NewSchedule(w, 4, 50, o)
		if err != nil {
			t.Fatal(err)
		}
		o.Compute = kernels.Fast
		fast, err := NewSchedule(w, 4, 50, o)
		if err != nil {
			t.Fatal(err)
		}
		const weights = 4*256*256 + 3*256*512
		if more := fast.Peak - exact.Peak; more != weights*9/8 {
			t.Errorf("copies of %d weights take %d bytes", weights, more)
		}
		if faster := fast.Flops < exact.Flops; faster != sequential {
			t.Errorf("%g operations, %g with exact activations", fast.Flops, exact.Flops)
		}
	}
}
