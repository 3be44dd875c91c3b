package distill

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"math"

	"llmc/internal/fault"
)

// stateMagic begins a file with the state of a run. The header's length follows,
// the header, all tensors, and the checksum of everything.
const stateMagic = "LLMCTRN1"

// stateHeader is what a state holds besides numbers.
type stateHeader struct {
	Step        int          `json:"step"`
	Mean        float64      `json:"mean"`
	BestAt      int          `json:"best_at"`
	HasBest     bool         `json:"has_best"`
	Sizes       []int        `json:"sizes"` // of the variables
	Curve       []Point      `json:"curve"`
	Evaluations []Evaluation `json:"evaluations"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tensors are the numbers of a state, in its order.
func (t *Trainer) tensors() [][]float32 {
	var list [][]float32
	for i, v := range t.vars {
		list = append(list, v.Value, v.M, v.V)
		if t.best != nil {
			list = append(list, t.best[i])
		}
	}
	return list
}

// WriteState writes everything that [Trainer.ReadState] needs to go on to the
// same bits.
func (t *Trainer) WriteState(w io.Writer) error {
	h := stateHeader{Step: t.step, Mean: t.mean, BestAt: t.bestAt, HasBest: t.best != nil, Curve: t.Curve, Evaluations: t.Evaluations}
	for _, v := range t.vars {
		h.Sizes = append(h.Sizes, len(v.Value))
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	out := io.MultiWriter(w, sum)
	head := binary.LittleEndian.AppendUint64([]byte(stateMagic), uint64(len(text)))
	if _, err := out.Write(append(head, text...)); err != nil {
		return err
	}
	buf := make([]byte, 0, 4*chunk)
	for _, x := range t.tensors() {
		for from := 0; from < len(x); from += chunk {
			buf = buf[:0]
			for _, v := range x[from:min(from+chunk, len(x))] {
				buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
			}
			if _, err := out.Write(buf); err != nil {
				return err
			}
		}
	}
	_, err = w.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

// ReadState takes up the state that a run over the same student has written.
// size is the length of what r reads, which bounds what is allocated. After an
// error the trainer must not be used.
func (t *Trainer) ReadState(r io.Reader, size int64) error {
	sum := crc32.New(castagnoli)
	in := bufio.NewReaderSize(r, 4*chunk)
	read := func(p []byte) error {
		if _, err := io.ReadFull(in, p); err != nil {
			return fault.Invalid("the state of the unfinished run ends early: %w", err)
		}
		sum.Write(p)
		return nil
	}
	head := make([]byte, len(stateMagic)+8)
	if err := read(head); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(head[len(stateMagic):])
	if string(head[:len(stateMagic)]) != stateMagic || n > uint64(size) {
		return fault.Invalid("the state of the unfinished run does not begin as one does")
	}
	text := make([]byte, n)
	if err := read(text); err != nil {
		return err
	}
	var h stateHeader
	if err := json.Unmarshal(text, &h); err != nil {
		return fault.Invalid("the state of the unfinished run has no header: %w", err)
	}
	if err := t.fits(&h); err != nil {
		return err
	}
	if h.HasBest {
		t.keepBest()
	}
	buf := make([]byte, 4*chunk)
	for _, x := range t.tensors() {
		for from := 0; from < len(x); from += chunk {
			part := x[from:min(from+chunk, len(x))]
			if err := read(buf[:4*len(part)]); err != nil {
				return err
			}
			for i := range part {
				part[i] = math.Float32frombits(binary.LittleEndian.Uint32(buf[4*i:]))
			}
		}
	}
	want := sum.Sum32()
	if err := read(buf[:4]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(buf) != want {
		return fault.Invalid("the state of the unfinished run is damaged: its checksum is wrong")
	}
	t.step, t.mean, t.bestAt = h.Step, h.Mean, h.BestAt
	t.Curve, t.Evaluations = h.Curve, h.Evaluations
	return t.form.Refresh(context.Background())
}

// fits checks a header against the run.
func (t *Trainer) fits(h *stateHeader) error {
	wrong := fault.Invalid("the state of the unfinished run is of another student")
	if len(h.Sizes) != len(t.vars) {
		return wrong
	}
	for i, n := range h.Sizes {
		if n != len(t.vars[i].Value) {
			return wrong
		}
	}
	best := false
	for _, e := range h.Evaluations {
		best = best || e.Step == h.BestAt
	}
	if h.Step < 0 || h.Step > t.Steps() || len(h.Curve) != h.Step || h.HasBest != best {
		return fault.Invalid("the state of the unfinished run contradicts itself")
	}
	return nil
}
