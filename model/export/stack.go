package export

import (
	"llmc/formats"
	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/model"
)

// stackExperts joins the experts of each block and role to one tensor, where
// files of the kind hold them so: then they must have one type.
func (e *Export) stackExperts() error {
	if e.spec.Kind != formats.GGUF || e.weights.Config.Experts.Count == 0 {
		return nil
	}
	e.stacks = map[int]int{}
	n := e.weights.Config.Experts.Count
	items := e.spec.Items
	for first := range items {
		it := &items[first]
		if it.ID.Expert != model.ExpertAt(0) {
			continue
		}
		for i := range n {
			id := it.ID
			id.Expert = model.ExpertAt(i)
			switch at := first + i; {
			case at >= len(items) || items[at].ID != id:
				return fault.Invalid("%s does not follow the expert before it", id)
			case items[at].Type != it.Type:
				return fault.Hint(fault.Usage("%s is to be %s and %s %s, but GGUF holds all experts of a block as one type", it.ID, it.Type, id, items[at].Type),
					"choose by role, or by patterns that match all experts")
			}
		}
		one := e.layout[first][0]
		e.stacks[first] = n
		e.layout[first] = []raw.Tensor{{Name: one.Name, Type: one.Type, Shape: append([]int{n}, one.Shape...)}}
		for i := 1; i < n; i++ {
			e.layout[first+i] = nil
		}
	}
	return nil
}
