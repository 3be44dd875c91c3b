package calibrate

import (
	"context"

	"llmc/model"
)

// Uncovered says why all tokens were run through an expert, "" for what the router
// sent enough to.
func (in *Inputs) Uncovered() string {
	switch {
	case in.Expert == model.NoExpert || in.Routed == in.Tokens:
		return ""
	case in.Routed == 0:
		return "the router sent no token"
	}
	return "the router sent fewer tokens than there are inputs"
}

// few reports whether the router sent an expert too few tokens to tell what its
// inputs are like: none, or fewer than a Hessian has rows.
func (g *gatherer) few(all int) bool {
	return g.to.Expert != model.NoExpert && g.bad == nil && g.tokens < all &&
		(g.tokens == 0 || g.hessian != nil && g.tokens < len(g.moments.Squares))
}

// cover gathers again the inputs of experts that were sent too few tokens: all
// tokens are run through them. With through it takes the hidden states through the
// block on the way.
func (w *walk) cover(ctx context.Context, i int, pass []input, gathered []*gatherer, through bool) error {
	tokens := 0
	for _, rows := range w.rows {
		tokens += rows
	}
	var again []input
	var at, routed []int
	experts := map[model.Expert]bool{}
	for j, g := range gathered {
		if g.few(tokens) {
			again, at, routed = append(again, pass[j]), append(at, j), append(routed, g.tokens)
			experts[g.to.Expert] = true
			g.drop()
			gathered[j] = nil
		}
	}
	if len(again) == 0 && !through {
		return nil
	}
	w.model.ShowAll(func(e model.Expert) bool { return experts[e] })
	defer w.model.ShowAll(nil)
	if !through { // which the schedule counts
		w.total += w.schedule.forward
	}
	for _, in := range again {
		w.total += in.gather
	}
	covered, err := w.gather(ctx, i, again, through)
	for j, g := range covered {
		g.routed = routed[j]
		gathered[at[j]] = g
	}
	return err
}

// drop lets go of what was gathered.
func (g *gatherer) drop() {
	if g.hessian != nil {
		g.dev.Free(g.hessian)
	}
	*g = gatherer{to: g.to, dev: g.dev}
}
