package safetensors

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"llmc/dtype"
	"llmc/formats/internal/jsonscan"
	"llmc/formats/raw"
)

// header is the state of reading a header. What it keeps is bounded by the
// text: a tensor costs about as much memory as its shortest description.
type header struct {
	file  *File
	text  []byte
	spans []span // where each of file.Tensors lies
}

type span struct{ begin, end uint64 }

// minEntry is the length of the shortest description of a tensor, with which
// the number of tensors is bounded before memory is set aside for them.
const minEntry = len(`"":{"dtype":"U8","shape":[],"data_offsets":[0,0]}`)

func (h *header) parse() error {
	if len(h.text) == 0 || h.text[0] != '{' {
		return errors.New("it does not begin with '{'")
	}
	s, err := jsonscan.New(h.text)
	if err != nil {
		return err
	}
	count := min(bytes.Count(h.text, []byte("data_offsets")), len(h.text)/minEntry)
	h.file.Tensors = make([]raw.Tensor, 0, count)
	h.spans = make([]span, 0, count)
	hasMetadata := false
	err = s.Object(func(key []byte) error {
		if string(key) != metadataKey {
			return h.tensor(s, string(key))
		}
		if hasMetadata {
			return fmt.Errorf("the key %q appears twice", key)
		}
		hasMetadata = true
		return h.metadata(s)
	})
	if err != nil {
		return err
	}
	if err := s.End(); err != nil {
		return err
	}
	return h.checkNames()
}

func (h *header) metadata(s *jsonscan.Scanner) error {
	m := map[string]string{}
	err := s.Object(func(key []byte) error {
		if _, dup := m[string(key)]; dup {
			return fmt.Errorf("the key %.100q appears twice", key)
		}
		if len(m) == maxMetadata {
			return fmt.Errorf("there are more than %d keys", maxMetadata)
		}
		name := string(key)
		value, err := s.Text()
		m[name] = string(value)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", metadataKey, err)
	}
	h.file.Metadata = m
	return nil
}

// tensor reads {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}.
// Other keys are passed over, as the reference implementation does.
func (h *header) tensor(s *jsonscan.Scanner, name string) error {
	t := raw.Tensor{Name: name}
	var at span
	const hasType, hasShape, hasOffsets = 1, 2, 4
	seen := 0
	once := func(flag int, key string) error {
		if seen&flag != 0 {
			return fmt.Errorf("the key %q appears twice", key)
		}
		seen |= flag
		return nil
	}
	err := s.Object(func(key []byte) (err error) {
		switch string(key) {
		case "dtype":
			if err = once(hasType, "dtype"); err == nil {
				t.Type, err = readType(s)
			}
		case "shape":
			if err = once(hasShape, "shape"); err == nil {
				t.Shape, err = readShape(s)
			}
		case "data_offsets":
			if err = once(hasOffsets, "data_offsets"); err == nil {
				at, err = readSpan(s)
			}
		default:
			err = s.Skip()
		}
		return err
	})
	if err == nil && seen != hasType|hasShape|hasOffsets {
		err = errors.New("dtype, shape and data_offsets are needed, not all are there")
	}
	if err != nil {
		return fmt.Errorf("tensor %.200q: %w", name, err)
	}
	h.file.Tensors = append(h.file.Tensors, t)
	h.spans = append(h.spans, at)
	return nil
}

func readType(s *jsonscan.Scanner) (dtype.Type, error) {
	name, err := s.Text()
	if err != nil {
		return dtype.Invalid, err
	}
	t, ok := types[string(name)]
	if !ok {
		return dtype.Invalid, fmt.Errorf("the dtype %.40q is not supported, allowed are %s", name, allowedTypes())
	}
	return t, nil
}

func allowedTypes() string {
	var names []string
	for t := dtype.F64; t <= dtype.Bool; t++ {
		names = append(names, t.String())
	}
	return strings.Join(names, ", ")
}

func readShape(s *jsonscan.Scanner) ([]int, error) {
	var dims [maxDims]int
	n := 0
	err := s.Array(func() error {
		d, err := s.Uint()
		switch {
		case err != nil:
			return err
		case n == maxDims:
			return fmt.Errorf("the shape has more than %d dimensions", maxDims)
		case d > math.MaxInt:
			return fmt.Errorf("the shape has a dimension of %d, which no file can hold", d)
		}
		dims[n] = int(d)
		n++
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := make([]int, n) // not a part of dims, which has room for maxDims
	copy(shape, dims[:])
	return shape, nil
}

func readSpan(s *jsonscan.Scanner) (span, error) {
	var ends [2]uint64
	n := 0
	err := s.Array(func() (err error) {
		if n < 2 {
			ends[n], err = s.Uint()
		} else {
			err = s.Skip()
		}
		n++
		return err
	})
	if err == nil && n != 2 {
		err = fmt.Errorf("data_offsets has %d numbers, it needs 2", n)
	}
	return span{ends[0], ends[1]}, err
}

// checkNames reports a name that appears twice.
func (h *header) checkNames() error {
	order := h.sorted(func(a, b int32) int {
		return strings.Compare(h.file.Tensors[a].Name, h.file.Tensors[b].Name)
	})
	for i := 1; i < len(order); i++ {
		if name := h.file.Tensors[order[i]].Name; name == h.file.Tensors[order[i-1]].Name {
			return fmt.Errorf("the key %.200q appears twice", name)
		}
	}
	return nil
}

// sorted returns the tensors' indices in the order of compare: four bytes a
// tensor, where a map of names would take a hundred.
func (h *header) sorted(compare func(a, b int32) int) []int32 {
	order := make([]int32, len(h.file.Tensors))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, compare)
	return order
}

// place finds each tensor in the data and checks that they cover all of it,
// each byte once.
func (h *header) place(data []byte) error {
	tensors := h.file.Tensors
	order := h.sorted(func(a, b int32) int {
		return cmp.Or(cmp.Compare(h.spans[a].begin, h.spans[b].begin),
			cmp.Compare(h.spans[a].end, h.spans[b].end), cmp.Compare(a, b))
	})
	var covered uint64
	for n, i := range order {
		t, at := &tensors[i], h.spans[i]
		before := func() string {
			if n == 0 {
				return "the beginning of the data"
			}
			return fmt.Sprintf("tensor %.200q", tensors[order[n-1]].Name)
		}
		if err := checkSpan(t, at, len(data)); err != nil {
			return fmt.Errorf("tensor %.200q %w", t.Name, err)
		}
		switch {
		case at.begin < covered:
			return fmt.Errorf("tensor %.200q begins at byte %d of the data, inside %s, which ends at byte %d", t.Name, at.begin, before(), covered)
		case at.begin > covered:
			return fmt.Errorf("tensor %.200q begins at byte %d of the data, %d bytes after the end of %s", t.Name, at.begin, at.begin-covered, before())
		}
		t.Data = data[at.begin:at.end:at.end]
		covered = at.end
	}
	if rest := uint64(len(data)) - covered; rest > 0 {
		return fmt.Errorf("%d bytes follow the last tensor, which ends at byte %d of the data", rest, covered)
	}
	h.reorder(order)
	return nil
}

func checkSpan(t *raw.Tensor, at span, data int) error {
	size, ok := sizeOf(t.Type, t.Shape)
	switch {
	case !ok:
		return fmt.Errorf("has the shape %v, which no file can hold", t.Shape)
	case at.begin > at.end:
		return fmt.Errorf("ends at byte %d of the data, before it begins at byte %d", at.end, at.begin)
	case at.end-at.begin != uint64(size):
		return fmt.Errorf("takes %d bytes (%d to %d), %s of shape %v needs %d", at.end-at.begin, at.begin, at.end, t.Type, t.Shape, size)
	case at.end > uint64(data):
		return fmt.Errorf("ends at byte %d of the data, which has %d bytes", at.end, data)
	}
	return nil
}

// reorder sorts the tensors as order says, in place, cycle by cycle.
func (h *header) reorder(order []int32) {
	for i := range order {
		if order[i] < 0 {
			continue
		}
		first := h.file.Tensors[i]
		at := int32(i)
		for {
			from := order[at]
			order[at] = -1
			if from == int32(i) {
				h.file.Tensors[at] = first
				break
			}
			h.file.Tensors[at] = h.file.Tensors[from]
			at = from
		}
	}
}
