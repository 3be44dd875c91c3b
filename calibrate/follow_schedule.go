package calibrate

import (
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// FollowSchedule is how a [Follow] keeps within its memory.
type FollowSchedule struct {
	OnDisk bool    // hidden states are kept in a file, not in memory
	Peak   int64   // bytes of memory, resident, at the most
	Flops  float64 // floating-point operations in all

	lead, forward float64 // operations of all windows through a block of each model
	mapped        int64
}

// HeapLimit is what of maxMemory is left for Go's own memory, for
// [runtime/debug.SetMemoryLimit].
func (s *FollowSchedule) HeapLimit(maxMemory int64) int64 {
	return max(maxMemory-s.mapped-codeBytes, maxMemory/2)
}

// NewFollowSchedule fits a Follow over windows of up to context tokens into
// o.MaxMemory bytes, 0 for as many as it likes. What cannot be done in that much
// memory is an error that says what is needed.
func NewFollowSchedule(lead Lead, w *model.Weights, windows, context int, o Options) (*FollowSchedule, error) {
	first := planner{weights: lead.Weights, windows: int64(windows), context: int64(context), options: o}
	second := first
	second.weights = w
	c := &w.Config
	s := &FollowSchedule{lead: first.forwardFlops(), forward: second.forwardFlops(), mapped: first.block() + second.block()}
	most := int64(0)
	for _, role := range lead.Fit {
		shape := c.Shape(model.ID{Role: role, Block: 0})
		out, in := int64(shape[0]), int64(shape[1])
		n := in + out
		adding := 4*int64(context)*2*n + kernels.GramBytes(context, int(n)) + second.forward() + first.forward()
		solving := 4 * (in*in + in*out)
		var cost Cost
		if o.Solve != nil {
			cost = o.Solve(shape[0], shape[1])
		}
		parts := int64(1)
		if windows >= checkEvery && lead.Weights != w {
			parts = 2
		}
		most = max(most, parts*4*n*n+max(adding, parts*solving+cost.Bytes))
		s.Flops += float64(c.Blocks) * (float64(windows*context)*float64(n*n) + cost.Flops + s.forward)
	}
	s.Flops += float64(lead.Weights.Config.Blocks)*s.lead + float64(c.Blocks)*s.forward
	window := 4 * int64(context) * int64(lead.Weights.Config.Hidden+c.Hidden)
	s.Peak = programBytes + 2*s.mapped + max(most, first.forward()) + window
	if all := int64(windows) * window; o.MaxMemory == 0 || s.Peak+all <= o.MaxMemory {
		s.Peak += all
		return s, nil
	}
	s.OnDisk = true
	if s.Peak > o.MaxMemory {
		return nil, fault.Hint(fault.Usage("repairing in %s of memory is not possible, it needs at least %s", sizeString(o.MaxMemory), sizeString(s.Peak)),
			"allow more memory, or leave the repair out with --no-repair")
	}
	return s, nil
}
