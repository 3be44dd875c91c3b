package main

import (
	"context"

	"llmc/distill"
	"llmc/formats"
	"llmc/kernels"
	"llmc/model"
	"llmc/model/train"
)

// taught takes steps of distillation: the teacher's logits, forward KL at a
// temperature from the student's, gradients, clipping and AdamW.
type taught struct {
	net       *train.Network
	goal      *distill.Predictions
	form      *distill.Full
	optimizer distill.AdamW
	threads   int
	steps     int
}

const (
	taughtRate   = 1e-5
	taughtClip   = 1
	taughtFactor = 0.9 // of the student's final norm, so that there is something to learn
)

func newTaught(dev *kernels.CPU, net *train.Network, c *formats.Checkpoint, temperature float64, threads int) (*taught, error) {
	w, err := model.Open(c)
	if err != nil {
		return nil, err
	}
	m, err := model.New(dev, w)
	if err != nil {
		return nil, err
	}
	for _, p := range net.Params() {
		if p.ID.Role == model.FinalNorm {
			for i := range p.Value {
				p.Value[i] *= taughtFactor
			}
		}
	}
	teacher := distill.NewLive(m, distill.LiveOptions{Vocab: w.Config.Vocab, Temperature: temperature, Threads: threads})
	loss := distill.Loss{Kind: distill.KL, Temperature: temperature, Alpha: 1}
	goal, err := distill.NewPredictions(net, loss, teacher, threads)
	if err != nil {
		return nil, err
	}
	return &taught{net: net, goal: goal, form: distill.NewFull(net.Params(), false), optimizer: distill.DefaultAdamW, threads: threads}, nil
}

// step returns the mean loss over the positions that have a next token.
func (t *taught) step(seqs [][]int32) (float64, error) {
	tokens := 0
	windows := make([]int, len(seqs))
	for i, ids := range seqs {
		tokens += len(ids) - 1
		windows[i] = -1
	}
	t.net.ZeroGrad()
	v, err := t.goal.Gradients(context.Background(), windows, seqs, 1/float64(tokens))
	if err != nil {
		return 0, err
	}
	t.steps++
	vars := t.form.Variables()
	scale := min(1, taughtClip/distill.Norm(t.threads, vars))
	t.optimizer.Step(t.threads, vars, t.steps, taughtRate, scale)
	return v.Loss / float64(tokens), nil
}
