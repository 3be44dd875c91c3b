package eval

import (
	"context"
	"fmt"
	"slices"

	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/hfquant"
)

// Subject is one model to measure, loaded onto a device.
type Subject struct {
	Path string // how reports and errors call it
	Summary

	encoder encoder
	runner  runner
	device  kernels.Device
	weights *model.Weights
	rounded string // how activations are rounded, "" where the checkpoint leaves them as they are
	kvBits  kernels.CacheBits
	bosID   int32 // the BOS that the tokenizer adds; -1 for none
}

// Load makes a checkpoint ready to be measured under the name path. The
// checkpoint must stay open as long as the subject is used.
func Load(dev kernels.Device, c *formats.Checkpoint, path string) (*Subject, error) {
	weights, err := model.Open(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return LoadWeights(dev, c, weights, path)
}

// LoadWeights is Load for weights of the checkpoint that were replaced in
// memory. The Summary is the checkpoint's; the caller corrects its sizes.
func LoadWeights(dev kernels.Device, c *formats.Checkpoint, weights *model.Weights, path string) (*Subject, error) {
	tok, err := model.OpenTokenizer(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	run, err := newModelRunner(dev, weights)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := &Subject{Path: path, Summary: Summarize(c, weights), encoder: tok, device: dev, weights: weights, bosID: -1, runner: run}
	if id, ok := tok.BOS(); ok && tok.AddsBOS() {
		s.bosID = id
	}
	if s.rounded, err = activations(weights); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// WithCache returns the same model, not loaded again, with keys and values that
// are rounded to bits.
func (s *Subject) WithCache(bits kernels.CacheBits) *Subject {
	other := *s
	run := *s.runner.(*modelRunner)
	run.state, run.hidden, run.out, run.host = run.model.NewStateOf(bits), nil, nil, nil
	other.runner, other.kvBits = &run, bits
	return &other
}

// activations says how a model of the weights rounds what its linears multiply:
// "exact" where it does not though the checkpoint would.
func activations(w *model.Weights) (string, error) {
	r, err := w.InputsOfMost()
	if err != nil || r.Bits > 0 {
		return r.String(), err
	}
	if w.Quantization != nil && slices.ContainsFunc(w.Quantization.Schemes, func(s hfquant.Scheme) bool { return s.Inputs.Bits > 0 }) {
		return r.String(), nil
	}
	return "", nil
}

// unapplied is what the checkpoint has engines round that the model does not.
func (s *Subject) unapplied() []string {
	if s.weights == nil || s.weights.Quantization == nil {
		return nil
	}
	return s.weights.Quantization.Unapplied
}

// bos returns the token that the tokenizer puts before every text, if it does.
func (s *Subject) bos() (int32, bool) { return s.bosID, s.bosID >= 0 }

// modelRunner is the runner of a real model.
type modelRunner struct {
	weights *model.Weights
	model   *model.Model
	state   *model.State
	hidden  []float32       // [tokens of the last forward, width]
	out     *kernels.Tensor // the logits last handed out
	host    []float32       // their copy, for devices whose memory is elsewhere
}

func newModelRunner(dev kernels.Device, weights *model.Weights) (*modelRunner, error) {
	m, err := model.New(dev, weights)
	if err != nil {
		return nil, err
	}
	return &modelRunner{weights: weights, model: m, state: m.NewState()}, nil
}

func (m *modelRunner) reset()     { m.state.Truncate(0) }
func (m *modelRunner) vocab() int { return m.model.Config().Vocab }

func (m *modelRunner) check(ctx context.Context) error { return m.weights.Check(ctx, nil) }

func (m *modelRunner) forward(ctx context.Context, ids []int32) error {
	width := m.model.Config().Hidden
	m.hidden = resize(m.hidden, len(ids)*width)
	return m.model.Forward(ctx, m.state, ids, func(first int, hidden *kernels.Tensor) error {
		m.model.Device().Read(m.hidden[first*width:(first+hidden.Rows)*width], hidden)
		return nil
	})
}

func (m *modelRunner) logits(first, n int) []float32 {
	dev, width := m.model.Device(), m.model.Config().Hidden
	if m.out != nil {
		dev.Free(m.out)
	}
	hidden := dev.NewTensor(n, width)
	dev.Write(hidden, m.hidden[first*width:(first+n)*width])
	m.out = m.model.Logits(hidden)
	dev.Free(hidden)
	if m.out.Data != nil {
		return m.out.Data
	}
	m.host = resize(m.host, n*m.vocab())
	dev.Read(m.host, m.out)
	return m.host
}

// resize returns a slice of n elements, of s's memory if that is enough.
func resize(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}
