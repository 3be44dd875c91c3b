package train_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"llmc/formats"
	"llmc/internal/cputime"
	"llmc/internal/tinymodel"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/train"
)

// shape is a llama whose embedding is its head.
type shape struct {
	name                                             string
	vocab, hidden, ffn, blocks, heads, kvHeads, size int
}

// network returns a network of random weights.
func (s shape) network(tb testing.TB, dev *kernels.CPU) *train.Network {
	config := fmt.Sprintf(`{"architectures": ["LlamaForCausalLM"], "vocab_size": %d, "hidden_size": %d,
		"intermediate_size": %d, "num_hidden_layers": %d, "num_attention_heads": %d, "num_key_value_heads": %d,
		"head_dim": %d, "tie_word_embeddings": true, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048}`,
		s.vocab, s.hidden, s.ffn, s.blocks, s.heads, s.kvHeads, s.size)
	c, err := model.ParseHF([]byte(config))
	if err != nil {
		tb.Fatal(err)
	}
	var list []tinymodel.Tensor
	for _, id := range c.IDs() {
		n := 1
		for _, d := range c.Shape(id) {
			n *= d
		}
		list = append(list, tinymodel.Tensor{Name: c.Family.TensorName(formats.HuggingFace, id), Type: "F32", Shape: c.Shape(id), Data: make([]byte, 4*n)})
	}
	f, err := formats.FromMemory(map[string][]byte{"config.json": []byte(config), "model.safetensors": tinymodel.SafeTensors(list)})
	if err != nil {
		tb.Fatal(err)
	}
	w, err := model.Open(f)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := train.New(dev, w)
	if err != nil {
		tb.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for _, p := range n.Params() {
		for i := range p.Value {
			p.Value[i] = 0.05 * float32(r.NormFloat64())
		}
	}
	return n
}

// BenchmarkStep trains on eight sequences of 256 tokens and gives the share of
// the machine's multiply-adds, with operations counted as scripts/bench/training.py
// counts them. The shapes are those of SmolLM2-135M with fewer blocks and tokens,
// and of a model of 656K parameters.
func BenchmarkStep(b *testing.B) {
	for _, s := range []shape{
		{"135M", 8192, 576, 1536, 5, 9, 3, 64},
		{"656K", 2048, 128, 384, 2, 8, 4, 16},
	} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/threads=%d", s.name, threads), func(b *testing.B) { s.bench(b, threads) })
		}
	}
}

func (s shape) bench(b *testing.B, threads int) {
	const sequences, length = 8, 256
	dev := kernels.NewCPU(threads)
	defer dev.Close()
	n := s.network(b, dev)
	seqs, r := make([][]int32, sequences), rand.New(rand.NewPCG(2, 2))
	for i := range seqs {
		for range length {
			seqs[i] = append(seqs[i], r.Int32N(int32(s.vocab)))
		}
	}
	clock := cputime.Now
	if threads > 1 {
		clock = cputime.Wall
	}
	const tokens = sequences * length
	operations := 6 * tokens * float64(n.Config().Parameters()+int64(s.blocks*s.heads*s.size*length))
	best, ceiling := 0.0, 0.0
	for b.Loop() {
		start, peak := clock(), 0.0
		for range 30 { // one is too short for the clock
			peak += dev.Peak()
		}
		middle := clock()
		err := n.Step(context.Background(), seqs, func(_, _ int, _ *kernels.Tensor) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
		ceiling = max(ceiling, peak/(middle-start).Seconds())
		best = max(best, 1/(clock()-middle).Seconds())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(tokens*best, "tokens/s")
	b.ReportMetric(100*operations*best/ceiling, "%peak")
}
