package calibrate

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
)

// seenGap is what a follower saw.
type seenGap struct {
	id  model.ID
	gap Gap
}

func followed(t *testing.T, lead Lead, w *model.Weights, windows [][]int32, threads int, o Options, visit Follower) []seenGap {
	t.Helper()
	dev := kernels.NewCPU(threads)
	defer dev.Close()
	var all []seenGap
	err := Follow(context.Background(), dev, lead, w, windows, o, func(ctx context.Context, id model.ID, gap *Gap) error {
		all = append(all, seenGap{id, *gap})
		if visit == nil {
			return nil
		}
		return visit(ctx, id, gap)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// trace is what a model has at each linear that adds to the residual stream: its
// inputs, its outputs, and the stream after it, [rows, n] each.
type trace struct{ in, out, stream []float32 }

// traces runs a whole model over a window.
func traces(t *testing.T, w *model.Weights, ids []int32) map[model.ID]trace {
	t.Helper()
	dev := kernels.NewCPU(1)
	defer dev.Close()
	m, err := model.New(dev, w)
	if err != nil {
		t.Fatal(err)
	}
	all := map[model.ID]trace{}
	var in, out []float32
	m.SetHook(func(block int, to model.Input, x *kernels.Tensor) {
		if r := to.Roles[0]; r == model.O || r == model.Down {
			in = slices.Clone(x.Data)
			out = slices.Clone(m.Linear(model.ID{Role: r, Block: block}, x).Data)
		}
	})
	x, s := m.Embed(ids), m.NewState()
	for b := range w.Config.Blocks {
		m.Attention(b, x, s)
		all[model.ID{Role: model.O, Block: b}] = trace{in, out, slices.Clone(x.Data)}
		m.FeedForward(b, x)
		all[model.ID{Role: model.Down, Block: b}] = trace{in, out, slices.Clone(x.Data)}
	}
	return all
}

// slowGap is the definition, in float64.
func slowGap(t *testing.T, lead Lead, w *model.Weights, windows [][]int32, id model.ID) (h, cross []float64, energy float64) {
	c, whole := &w.Config, &lead.Weights.Config
	shape := c.Shape(id)
	out, in := shape[0], shape[1]
	h, cross = make([]float64, in*in), make([]float64, out*in)
	at := id
	scale := c.EmbedScale / whole.EmbedScale
	switch {
	case lead.Blocks == nil:
	case id.Role == model.O || c.Family.PostNorms:
		at.Block = lead.Blocks[id.Block]
	case id.Block+1 < len(lead.Blocks):
		at.Block = lead.Blocks[id.Block+1] - 1
	default:
		at.Block = whole.Blocks - 1
	}
	for _, ids := range windows {
		leads, own := traces(t, lead.Weights, ids)[at], traces(t, w, ids)[id]
		target, have := leads.stream, own.stream
		if c.Family.PostNorms {
			target, have, scale = leads.out, own.out, 1
		}
		for r := range ids {
			d, size := make([]float64, out), 0.0
			for i := range out {
				from := i
				if lead.Channels != nil {
					from = lead.Channels[i]
				}
				v := scale * float64(target[r*whole.Hidden+from])
				size += v * v
				d[i] = v - float64(have[r*out+i])
				energy += d[i] * d[i]
			}
			for _, v := range d {
				energy += v * v * (1/size - 1)
			}
			z := own.in[r*in:][:in]
			for i, v := range z {
				for j, u := range z {
					h[i*in+j] += float64(v) * float64(u) / size
				}
				for j, u := range d {
					cross[j*in+i] += u * float64(v) / size
				}
			}
		}
	}
	return h, cross, energy
}

func closeTo(t *testing.T, what string, got []float32, want []float64) {
	t.Helper()
	size, off := 0.0, 0.0
	for i, v := range want {
		size = max(size, math.Abs(v))
		off = max(off, math.Abs(float64(got[i])-v))
	}
	if !(off <= 2e-5*size) {
		t.Errorf("%s is off by %g of %g", what, off, size)
	}
}

func sum(list []float64) float64 {
	all := 0.0
	for _, v := range list {
		all += v
	}
	return all
}

func evens(n int) []int {
	var list []int
	for i := 0; i < n; i += 2 {
		list = append(list, i)
	}
	return list
}

func TestFollow(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	var windows [][]int32
	for _, n := range []int{20, 11} {
		var ids []int32
		for range n {
			ids = append(ids, int32(rng.IntN(256)))
		}
		windows = append(windows, ids)
	}
	both := []model.Role{model.O, model.Down}
	for _, family := range []string{"llama", "gemma3"} {
		spec := tinymodel.Spec{Family: family, Hidden: 48, FFN: 72, Heads: 4, KVHeads: 2, Layers: 5, Seed: 5}
		w, _ := tiny(t, spec)
		neurons := make([][]int, 5)
		for b := range neurons {
			neurons[b] = evens(72)
		}
		for name, c := range map[string]struct {
			cut model.Cut
			fit []model.Role
		}{
			"neurons":  {model.Cut{Neurons: neurons}, []model.Role{model.Down}},
			"layers":   {model.Cut{Blocks: []int{1, 3}}, both},
			"channels": {model.Cut{Hidden: evens(48)}, both},
		} {
			out, err := w.Cut(&c.cut)
			if err != nil {
				t.Fatal(err)
			}
			lead := Lead{Weights: w, Blocks: c.cut.Blocks, Channels: c.cut.Hidden, Fit: c.fit}
			first := model.ID{Role: c.fit[0], Block: 0}
			shape := out.Config.Shape(first)
			check := func(g seenGap) {
				h, cross, energy := slowGap(t, lead, out, windows, g.id)
				what := family + " " + name + " " + g.id.String()
				closeTo(t, what+": the Hessian", g.gap.Hessian, h)
				closeTo(t, what+": the products", g.gap.Cross, cross)
				closeTo(t, what+": the energy", []float32{float32(sum(g.gap.Energy))}, []float64{energy})
				if g.gap.Tokens != 31 {
					t.Errorf("%s: %d tokens", what, g.gap.Tokens)
				}
			}
			// What the first linear becomes is seen by all others.
			all := followed(t, lead, out, windows, 2, Options{}, func(_ context.Context, id model.ID, gap *Gap) error {
				if id == first {
					check(seenGap{id, *gap})
					m, err := out.Matrix(id)
					if err != nil {
						return err
					}
					values := kernels.Float32s(m)
					for i := range values {
						values[i] *= 0.5
					}
					out.Replace(id, kernels.FromFloat32s(shape[0], shape[1], values))
				}
				return nil
			})
			if len(all) != out.Config.Blocks*len(c.fit) {
				t.Fatalf("%s %s: %d gaps", family, name, len(all))
			}
			for _, g := range all[1:] {
				check(g)
			}
			again := followed(t, lead, out, windows, 1, Options{MaxMemory: 1 << 28, Dir: t.TempDir()}, nil)
			for i, g := range again[1:] {
				if !slices.Equal(g.gap.Hessian, all[i+1].gap.Hessian) || !slices.Equal(g.gap.Cross, all[i+1].gap.Cross) {
					t.Errorf("%s %s: %s depends on threads", family, name, g.id)
				}
			}
		}
		// One that follows itself has no gap.
		for _, g := range followed(t, Lead{Weights: w, Fit: both}, w, windows, 2, Options{}, nil) {
			h, _, _ := slowGap(t, Lead{Weights: w}, w, windows, g.id)
			closeTo(t, family+" itself", g.gap.Hessian, h)
			if e := sum(g.gap.Energy); e != 0 {
				t.Errorf("%s: a gap of %g to itself", family, e)
			}
		}
	}
}

// TestFollowMemory lets hidden states go to a file, which changes nothing, and
// says what less than that needs.
func TestFollowMemory(t *testing.T) {
	w, tok := tiny(t, small)
	out, err := w.Cut(&model.Cut{Blocks: []int{0}})
	if err != nil {
		t.Fatal(err)
	}
	windows, err := Windows(tok, strings.Repeat(sentence, 60), Sampling{Samples: 60, Context: 64})
	if err != nil {
		t.Fatal(err)
	}
	lead := Lead{Weights: w, Blocks: []int{0}, Fit: []model.Role{model.Down}}
	plenty, err := NewFollowSchedule(lead, out, 60, 64, Options{})
	if err != nil || plenty.OnDisk {
		t.Fatalf("without a limit: %+v, %v", plenty, err)
	}
	o := Options{MaxMemory: plenty.Peak - 1, Dir: t.TempDir()}
	less, err := NewFollowSchedule(lead, out, 60, 64, o)
	if err != nil || !less.OnDisk || less.Peak >= plenty.Peak {
		t.Fatalf("with a limit: %+v, %v", less, err)
	}
	want, got := followed(t, lead, out, windows, 2, Options{}, nil), followed(t, lead, out, windows, 2, o, nil)
	if !slices.Equal(want[0].gap.Cross, got[0].gap.Cross) {
		t.Error("the gap depends on the memory")
	}
	_, err = NewFollowSchedule(lead, out, 60, 64, Options{MaxMemory: less.Peak - 1})
	if err == nil || !strings.Contains(err.Error(), "it needs at least") {
		t.Errorf("got %v", err)
	}
}
