package quantize

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/internal/solve"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/fold"
)

// slowRound rounds one row in the groups' ranges as slowGrid says, with all
// magnitudes limited for that, and returns the numbers.
func slowRound(s Scheme, row []float64, limit float64) []float64 {
	size := s.GroupSize
	if size <= 0 {
		size = len(row)
	}
	out := make([]float64, len(row))
	for at := 0; at < len(row); at += size {
		group := make([]float32, 0, size)
		for _, v := range row[at:min(at+size, len(row))] {
			group = append(group, float32(min(max(v, -limit), limit)))
		}
		scale, exact, zero := slowGrid(s, group)
		for i, v := range row[at:][:len(group)] {
			code := math.RoundToEven(v/exact + float64(zero))
			code = min(max(code, 0), math.Exp2(float64(s.Bits))-1)
			out[at+i] = scale * (code - float64(zero))
		}
	}
	return out
}

// slowAWQ is the search of section 3.2 of arXiv 2306.00978 and its authors'
// code in float64, on the samples themselves: their losses by α, and scales.
func slowAWQ(g *fold.Group, s Scheme, layers []f32Matrix, samples [][]float64) (losses []float64, scales [][]float64) {
	n := g.Inputs
	size := s.GroupSize
	if size <= 0 {
		size = n
	}
	x, w, count := make([]float64, g.Channels), make([]float64, g.Channels), make([]float64, g.Channels)
	rows := 0
	for i := range n {
		count[g.Channel(i)]++
		for _, sample := range samples {
			x[g.Channel(i)] += math.Abs(sample[i]) / float64(len(samples))
		}
	}
	for _, l := range layers {
		rows += l.rows
		for r := range l.rows {
			for i := range n {
				largest := 0.0
				for j := i / size * size; j < min(i/size*size+size, n); j++ {
					largest = max(largest, math.Abs(float64(l.data[r*n+j])))
				}
				w[g.Channel(i)] += math.Abs(float64(l.data[r*n+i])) / (largest + 1e-6)
			}
		}
	}
	for c := range x {
		x[c], w[c] = x[c]/count[c], w[c]/count[c]/float64(rows)
	}
	for k := range 20 {
		alpha := float64(k) / 20
		scale := make([]float64, g.Channels)
		for c := range scale {
			scale[c] = max(math.Pow(x[c], alpha)/(math.Pow(w[c], 1-alpha)+1e-4), 1e-4)
		}
		middle := math.Sqrt(slices.Max(scale) * slices.Min(scale))
		for c := range scale {
			scale[c] /= middle
		}
		loss := 0.0
		for _, l := range layers {
			for r := range l.rows {
				row := make([]float64, n)
				for i := range row {
					row[i] = float64(l.data[r*n+i]) * scale[g.Channel(i)]
				}
				rounded := slowRound(s, row, math.Inf(1))
				for _, sample := range samples {
					off := 0.0
					for i, v := range rounded {
						off += (v - row[i]) / scale[g.Channel(i)] * sample[i]
					}
					loss += off * off
				}
			}
		}
		losses, scales = append(losses, loss), append(scales, scale)
	}
	return losses, scales
}

// awqGroups are the groups of a model of odd sizes whose query heads share.
func awqGroups() []fold.Group {
	return fold.Groups(&model.Config{Family: model.Families[0], Hidden: 48, FFN: 40, Heads: 6, KVHeads: 2, HeadDim: 8, Blocks: 1}, 0)
}

// awqLayers are the linears of a group, with what their inputs are.
func awqLayers(g *fold.Group, in *Inputs) (layers []Layer, weights []f32Matrix) {
	for i, id := range g.Linears {
		w := randomMatrix(uint64(20+i), 17+8*i, g.Inputs)
		weights = append(weights, w)
		layers = append(layers, Layer{Name: id.String(), ID: id, Weight: w, Inputs: in, Solution: &Solution{}})
	}
	return layers, weights
}

func TestAWQEqualsTheSearchOnSamples(t *testing.T) {
	for _, s := range []Scheme{
		{Bits: 4, GroupSize: 16, ScaleType: dtype.F16},
		{Bits: 3, GroupSize: 8, Symmetric: true, ScaleType: dtype.BF16},
		{Bits: 2, GroupSize: PerChannel, ScaleType: dtype.F32},
	} {
		for _, g := range awqGroups() {
			t.Run(fmt.Sprintf("%s %v", s, g.Linears), func(t *testing.T) {
				samples := correlatedSamples(uint64(g.Linears[0].Role), g.Inputs, 100)
				layers, weights := awqLayers(&g, inputsOf(samples))
				losses, scales := slowAWQ(&g, s, weights, samples)
				got, err := AWQScaler{}.Scale(context.Background(), &g, layers, slices.Repeat([]Scheme{s}, len(layers)))
				if err != nil {
					t.Fatal(err)
				}
				if got == nil || layers[0].Solution.Alpha == nil {
					t.Fatalf("no scale was found: %+v", layers[0].Solution)
				}
				best := int(math.Round(*layers[0].Solution.Alpha * 20))
				if losses[best] > slices.Min(losses)*1.0001 {
					t.Errorf("α %g has the loss %g, the least is %g", *layers[0].Solution.Alpha, losses[best], slices.Min(losses))
				}
				for c, want := range scales[best] {
					if math.Abs(float64(got[c])/want-1) > 1e-4 {
						t.Fatalf("the scale of channel %d is %g, want %g", c, got[c], want)
					}
				}
			})
		}
	}
}

// TestAWQMinimisesTheLoss looks at all losses, for integer codes and for a type.
func TestAWQMinimisesTheLoss(t *testing.T) {
	g := awqGroups()[2]
	samples := correlatedSamples(3, g.Inputs, 100)
	layers, weights := awqLayers(&g, inputsOf(samples))
	s := Scheme{Bits: 3, GroupSize: 16, ScaleType: dtype.F32}
	want, scales := slowAWQ(&g, s, weights, samples)
	outputs := solve.NewOutputs(layers[0].Inputs.Hessian, g.Inputs, 1)
	defer outputs.Close()
	var tried [][]float32
	for _, scale := range scales {
		short := make([]float32, len(scale))
		for c, v := range scale {
			short[c] = float32(v)
		}
		tried = append(tried, short)
	}
	losses := make([]float64, len(tried))
	for _, l := range layers {
		if err := (AWQScaler{}).addLosses(context.Background(), &g, l, s, tried, outputs, losses); err != nil {
			t.Fatal(err)
		}
	}
	for i, loss := range losses {
		if math.Abs(loss/want[i]-1) > 1e-3 {
			t.Errorf("α %g: the loss is %g, want %g", float64(i)/20, loss, want[i])
		}
	}
}

// slowClip is the clip search of the authors' code in float64, on the samples.
// tied are the groups of which two ranges are as good as each other.
func slowClip(s Scheme, w f32Matrix, samples [][]float64) (limits [][]float64, tied [][]bool) {
	size := s.columns(w.cols)
	for r := range w.rows {
		var row []float64
		var doubtful []bool
		for at := 0; at < w.cols; at += size {
			group := w.data[r*w.cols+at : r*w.cols+min(at+size, w.cols)]
			largest := 0.0
			for _, v := range group {
				largest = max(largest, math.Abs(float64(v)))
			}
			least, second, best := math.Inf(1), math.Inf(1), 0.0
			for k := range 10 {
				limit := largest * (1 - float64(k)/20)
				rounded := slowRound(s, doubles(group), limit)
				loss := 0.0
				for _, sample := range samples {
					off := 0.0
					for i, v := range group {
						off += (rounded[i] - float64(v)) * sample[at+i]
					}
					loss += off * off
				}
				if loss < least {
					least, second, best = loss, least, limit
				} else {
					second = min(second, loss)
				}
			}
			row, doubtful = append(row, best), append(doubtful, second < least*1.001)
		}
		limits, tied = append(limits, row), append(tied, doubtful)
	}
	return limits, tied
}

func doubles(v []float32) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}

func TestClipOutput(t *testing.T) {
	const rows, cols = 9, 40
	for _, s := range []Scheme{
		// The last group is short. F32 scales would leave zero points in the middle
		// between two codes wherever both ends are limited.
		{Bits: 3, GroupSize: 16, ScaleType: dtype.F16},
		{Bits: 4, GroupSize: 8, Symmetric: true, ScaleType: dtype.F16},
		{Bits: 2, GroupSize: PerChannel, Symmetric: true, ScaleType: dtype.F32},
	} {
		w := randomMatrix(5, rows, cols)
		samples := correlatedSamples(6, cols, 90)
		limits, tied := slowClip(s, w, samples)
		l := Layer{Name: "w", Weight: w, Inputs: inputsOf(samples)}
		q, err := AWQScaler{Clip: ClipOutput}.Quantize(context.Background(), l, s)
		if err != nil {
			t.Fatal(err)
		}
		got, clipped := kernels.Float32s(q), 0
		size := s.columns(cols)
		for r := range rows {
			for at := 0; at < cols; at += size {
				if tied[r][at/size] {
					continue
				}
				limit := limits[r][at/size]
				group := doubles(w.data[r*cols+at : r*cols+min(at+size, cols)])
				if limit < 0.99*max(slices.Max(group), -slices.Min(group)) {
					clipped++
				}
				step := 0.0
				for i, want := range slowRound(s, group, limit) {
					step = max(step, math.Abs(float64(got[r*cols+at+i])-want))
				}
				if step > 1e-4*limit {
					t.Errorf("%s: row %d, columns from %d: off by %g, magnitudes are limited to %g", s, r, at, step, limit)
				}
			}
		}
		if clipped == 0 {
			t.Errorf("%s: nothing was clipped, so the test shows nothing", s)
		}
	}
}

// TestAWQLowersTheOutputError folds the scales it finds and rounds, and
// compares the outputs with round-to-nearest's on the same samples.
func TestAWQLowersTheOutputError(t *testing.T) {
	for _, s := range []Scheme{{Bits: 3, GroupSize: 16, ScaleType: dtype.F16}, TypeScheme(dtype.Q4_0)} {
		w := tinyWeights(t, tinymodel.Spec{Family: "gemma3", Seed: 4})
		policy := Policy{Scheme: s}
		if !s.IsInteger() {
			policy = Policy{Mix: Mix{Name: "Q4_0", Default: s.Type}, Ignore: []string{"embed"}}
		}
		plan, err := NewPlan(&w.Config, Describe(w), policy)
		if err != nil {
			t.Fatal(err)
		}
		run := NewRun(w, plan, AWQScaler{Clip: ClipOutput}, 2)
		dev := kernels.NewCPU(2)
		defer dev.Close()
		if err := run.Calibrate(context.Background(), dev, someWindows, run.CalibrationOptions()); err != nil {
			t.Fatal(err)
		}
		own, rtn, scaled := 0.0, 0.0, 0
		for _, r := range run.Results() {
			own += *r.Solution.OutputError
			rtn += *r.Solution.RTNOutputError
			if r.Solution.Alpha != nil {
				scaled++
			}
		}
		if !(own < 0.99*rtn) || scaled == 0 {
			t.Errorf("%s: errors of the outputs sum up to %g, by rtn %g; %d linears are scaled", s, own, rtn, scaled)
		}
	}
}

func TestAWQDoesNotDependOnThreads(t *testing.T) {
	g := awqGroups()[3]
	s := Scheme{Bits: 3, GroupSize: 8, ScaleType: dtype.F16}
	var scales [][]float32
	var codes [][]byte
	for _, threads := range []int{1, 3} {
		m := AWQScaler{Clip: ClipOutput, Threads: threads}
		layers, _ := awqLayers(&g, correlatedInputs(8, g.Inputs, 60))
		scale, err := m.Scale(context.Background(), &g, layers, []Scheme{s})
		if err != nil {
			t.Fatal(err)
		}
		q, err := m.Quantize(context.Background(), layers[0], s)
		if err != nil {
			t.Fatal(err)
		}
		scales, codes = append(scales, scale), append(codes, q.(*kernels.Groups).Codes)
	}
	if !slices.Equal(scales[0], scales[1]) || !bytes.Equal(codes[0], codes[1]) {
		t.Error("the result depends on the number of threads")
	}
}

// TestAWQSpecialInputs: channels that are always zero are left alone, all-zero
// inputs leave the whole group so, and a vast channel does not break the rest.
func TestAWQSpecialInputs(t *testing.T) {
	g := awqGroups()[0]
	s := Scheme{Bits: 4, GroupSize: 16, ScaleType: dtype.F32}
	scale := func(change func(sample []float64)) ([]float32, *Solution) {
		samples := correlatedSamples(1, g.Inputs, 50)
		for _, sample := range samples {
			change(sample)
		}
		layers, _ := awqLayers(&g, inputsOf(samples))
		got, err := AWQScaler{}.Scale(context.Background(), &g, layers, []Scheme{s, s, s})
		if err != nil {
			t.Fatal(err)
		}
		return got, layers[0].Solution
	}
	got, _ := scale(func(x []float64) { x[3], x[20] = 0, 0 })
	if got == nil || got[3] != 1 || got[20] != 1 {
		t.Errorf("dead channels: scales %v", got)
	}
	got, why := scale(func(x []float64) { clear(x) })
	if got != nil || !strings.Contains(why.Unscaled, "no scale lowers") {
		t.Errorf("no inputs: scales %v, %+v", got, why)
	}
	got, _ = scale(func(x []float64) { x[5] *= 1e15 })
	for c, v := range got {
		if !(v > 0) || math.IsInf(float64(v), 0) {
			t.Errorf("a vast channel: scale %d is %g", c, v)
		}
	}
}

func TestAWQRefuses(t *testing.T) {
	g := awqGroups()[1]
	layers, _ := awqLayers(&g, correlatedInputs(2, g.Inputs, 50))
	s := int4(16)
	broken := randomMatrix(9, 5, g.Inputs)
	broken.data[7] = float32(math.NaN())
	for name, change := range map[string]func(l *Layer){
		"there is no Hessian": func(l *Layer) { l.Inputs = &Inputs{MeanAbs: l.Inputs.MeanAbs, MeanSquare: l.Inputs.MeanSquare} },
		"o: row 0 holds NaN":  func(l *Layer) { l.Weight = broken },
	} {
		l := layers[0]
		change(&l)
		for _, err := range []error{
			second(AWQScaler{}.Scale(context.Background(), &g, []Layer{l}, []Scheme{s})),
			second(AWQScaler{Clip: ClipOutput}.Quantize(context.Background(), l, s)),
		} {
			if err == nil || fault.KindOf(err) != fault.InvalidFile || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want an error with %q", err, name)
			}
		}
	}
	l := layers[0]
	l.Inputs = nil
	if _, err := (AWQScaler{}).Quantize(context.Background(), l, s); err != nil || l.Solution.Fallback != "not calibrated" {
		t.Errorf("without inputs: %v, %+v", err, l.Solution)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (AWQScaler{}).Scale(ctx, &g, layers, []Scheme{s}); err != context.Canceled {
		t.Errorf("a cancelled search gives %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
