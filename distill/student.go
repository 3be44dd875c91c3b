package distill

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Shape is how large a new student is. What is 0 is as in the model that it is
// made of.
type Shape struct {
	Layers int
	Hidden int // width of the residual stream
	Heads  int // query heads
	FFN    int // width of the feed-forward layer, or of each expert of a mixture
}

// NewStudent returns a smaller model made of parts of another: layers that lie
// evenly between the first and the last, and of heads, feed-forward neurons and
// channels those with the largest weights. It reads all weights of w that it
// chooses by.
func NewStudent(w *model.Weights, s Shape) (*model.Weights, error) {
	c := &w.Config
	width, experts := c.Neurons()
	for _, part := range []struct {
		name    string
		n, most int
	}{{"layers", s.Layers, c.Blocks}, {"channels", s.Hidden, c.Hidden}, {"heads", s.Heads, c.Heads}, {"feed-forward neurons", s.FFN, width}} {
		if part.n < 0 || part.n > part.most {
			return nil, fault.Usage("a student of %d %s cannot be made of a model of %d", part.n, part.name, part.most)
		}
	}
	cut := &model.Cut{}
	if s.Layers > 0 && s.Layers < c.Blocks {
		cut.Blocks = spread(s.Layers, c.Blocks)
	}
	var err error
	if s.Hidden > 0 && s.Hidden < c.Hidden {
		if cut.Hidden, err = largestChannels(w, s.Hidden); err != nil {
			return nil, err
		}
	}
	if s.FFN > 0 && s.FFN < width {
		for i := range c.Blocks * experts {
			e := model.NoExpert
			if c.Experts.Count > 0 {
				e = model.ExpertAt(i % experts)
			}
			list, err := largestNeurons(w, i/experts, e, s.FFN)
			if err != nil {
				return nil, err
			}
			cut.Neurons = append(cut.Neurons, list)
		}
	}
	if s.Heads > 0 && s.Heads < c.Heads {
		for b := range c.Blocks {
			list, err := largestHeads(w, b, s.Heads)
			if err != nil {
				return nil, err
			}
			cut.Heads = append(cut.Heads, list)
		}
	}
	return w.Cut(cut)
}

// spread returns n of total indices, evenly from the first to the last.
func spread(n, total int) []int {
	if n == 1 {
		return []int{0}
	}
	list := make([]int, n)
	for i := range list {
		list[i] = int(math.Round(float64(i) * float64(total-1) / float64(n-1)))
	}
	return list
}

// best returns the indices of the n largest scores, ascending.
func best(scores []float64, n int) []int {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	order = order[:n]
	slices.Sort(order)
	return order
}

// squares returns the sums of the squares of a matrix's rows and columns.
func squares(w *model.Weights, id model.ID) (rows, cols []float64, err error) {
	m, err := w.Matrix(id)
	if err != nil {
		return nil, nil, err
	}
	n, k := m.Shape()
	rows, cols = make([]float64, n), make([]float64, k)
	x := make([]float32, k)
	for r := range n {
		m.Row(x, r)
		for c, v := range x {
			s := float64(v) * float64(v)
			rows[r] += s
			cols[c] += s
		}
	}
	return rows, cols, nil
}

func largestChannels(w *model.Weights, n int) ([]int, error) {
	_, cols, err := squares(w, model.ID{Role: model.Embed, Block: -1})
	if err != nil {
		return nil, err
	}
	return best(cols, n), nil
}

// largestNeurons goes by what a neuron reads times what it writes.
func largestNeurons(w *model.Weights, block int, e model.Expert, n int) ([]int, error) {
	in, _, err := squares(w, model.ID{Role: model.Up, Block: block, Expert: e})
	if err != nil {
		return nil, err
	}
	_, out, err := squares(w, model.ID{Role: model.Down, Block: block, Expert: e})
	if err != nil {
		return nil, err
	}
	for i := range in {
		in[i] *= out[i]
	}
	return best(in, n), nil
}

// largestHeads goes by what heads write: whole groups that share a key and value
// head where those make up n, else as many heads of every group.
func largestHeads(w *model.Weights, block, n int) ([]int, error) {
	c := &w.Config
	per := c.Heads / c.KVHeads
	if n%per != 0 && n%c.KVHeads != 0 {
		return nil, fault.Usage("a student of %d heads cannot be made of a model with %d key and value heads of %d heads each, allowed are multiples of %d or %d", n, c.KVHeads, per, per, c.KVHeads)
	}
	_, cols, err := squares(w, model.ID{Role: model.O, Block: block})
	if err != nil {
		return nil, err
	}
	heads := make([]float64, c.Heads)
	for i, v := range cols {
		heads[i/c.HeadDim] += v
	}
	var list []int
	if n%per == 0 {
		groups := make([]float64, c.KVHeads)
		for h, v := range heads {
			groups[h/per] += v
		}
		for _, g := range best(groups, n/per) {
			for h := range per {
				list = append(list, g*per+h)
			}
		}
		return list, nil
	}
	for g := range c.KVHeads {
		for _, h := range best(heads[g*per:(g+1)*per], n/c.KVHeads) {
			list = append(list, g*per+h)
		}
	}
	return list, nil
}

// Randomize replaces all weights of a model by random ones, as a model that
// knows nothing begins: embeddings and head with a standard deviation of 0.02,
// linears with sqrt(2/(5 hidden)) (arXiv 1910.05895), those that write to the
// residual stream with that over the square root of twice the layers; norms are
// 1 and biases 0.
func Randomize(w *model.Weights, seed uint64) {
	c := &w.Config
	rng := rand.New(rand.NewPCG(seed, 0x72616e646f6d697a))
	small := math.Sqrt(2 / (5 * float64(c.Hidden)))
	for _, id := range c.IDs() {
		shape := c.Shape(id)
		if len(shape) == 1 {
			v := make([]float32, shape[0])
			if id.Role.IsNorm() {
				for i := range v {
					v[i] = 1
				}
			}
			w.ReplaceVector(id, v)
			continue
		}
		deviation := small
		switch id.Role {
		case model.Embed, model.Head:
			deviation = 0.02
		case model.O, model.Down:
			deviation /= math.Sqrt(2 * float64(c.Blocks))
		}
		values := make([]float32, shape[0]*shape[1])
		for i := range values {
			values[i] = float32(rng.NormFloat64() * deviation)
		}
		w.Replace(id, kernels.FromFloat32s(shape[0], shape[1], values))
	}
}
