package calibrate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"unsafe"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
	"llmc/model"
)

// The file of a finished block:
//
//	magic     8 bytes
//	length    uint64 of the header, with its padding
//	header    JSON, blockHeader, padded with spaces
//	sections  what the header's tensors consist of, each at a multiple of 64
//	sum       SHA-256 of all before it
//
// Numbers have the machine's own byte order, which the journal's facts name.
const (
	blockMagic = "llmcblk1"
	blockAlign = 64
	fixedBytes = len(blockMagic) + 8
)

type blockHeader struct {
	Run     string          `json:"run"` // of the facts that the block belongs to
	Block   int             `json:"block"`
	Tensors []tensorHeader  `json:"tensors"`
	Saved   json.RawMessage `json:"saved"` // of the visitor
}

// tensorHeader describes a tensor that the visitor replaced: codes in groups,
// 8-bit floats with scales, or a dense matrix of a type.
type tensorHeader struct {
	Role      string `json:"role"`
	Expert    int    `json:"expert,omitempty"` // from 1 on
	Bias      bool   `json:"bias,omitempty"`
	Vector    bool   `json:"vector,omitempty"`
	Rows      int    `json:"rows"`
	Cols      int    `json:"cols"`
	Type      string `json:"type,omitempty"` // of a dense one, of 8-bit floats
	Bits      int    `json:"bits,omitempty"`
	GroupSize int    `json:"group_size,omitempty"`
	High      int    `json:"high,omitempty"` // rows and columns that share a scale of 8-bit floats
	Wide      int    `json:"wide,omitempty"`
	// Sections are the sizes of the parts in bytes: the data of a dense matrix;
	// codes and scales of 8-bit floats; codes, scales, zero points and group indices, the last two perhaps empty.
	Sections []int `json:"sections"`
}

// keptTensor is a tensor of a block file; a vector is a matrix of one row.
type keptTensor struct {
	id     model.ID // its block is not looked at
	vector bool
	matrix kernels.Matrix
}

// sections returns a tensor's header and what it consists of.
func (k *keptTensor) sections() (tensorHeader, [][]byte, error) {
	h := tensorHeader{Role: k.id.Role.String(), Expert: int(k.id.Expert), Bias: k.id.Bias, Vector: k.vector}
	h.Rows, h.Cols = k.matrix.Shape()
	var parts [][]byte
	switch m := k.matrix.(type) {
	case *kernels.Dense:
		h.Type = m.Type.String()
		parts = [][]byte{m.Data}
	case *kernels.Groups:
		h.Bits, h.GroupSize = m.Bits, m.GroupSize
		parts = [][]byte{m.Codes, bytesOf(m.Scales), m.Zeros, bytesOf(m.GroupOf)}
	case *kernels.Float8:
		h.Type, h.High, h.Wide = m.Type.String(), m.High, m.Wide
		parts = [][]byte{m.Codes, bytesOf(m.Scales)}
	default:
		return h, nil, fmt.Errorf("a tensor that is a %T cannot be kept in a journal", m)
	}
	for _, p := range parts {
		h.Sections = append(h.Sections, len(p))
	}
	return h, parts, nil
}

// matrix is the reverse of sections.
func (h *tensorHeader) matrix(parts [][]byte) (kernels.Matrix, error) {
	if h.Type != "" {
		t, ok := dtype.Parse(h.Type)
		switch {
		case !ok:
			return nil, fmt.Errorf("there is no type %s", h.Type)
		case len(parts) == 1:
			return kernels.NewDense(h.Rows, h.Cols, t, parts[0])
		case len(parts) == 2 && len(parts[1])%4 == 0:
			return kernels.NewFloat8(h.Rows, h.Cols, t, parts[0], h.High, h.Wide, view[float32](parts[1]))
		}
	}
	if len(parts) != 4 || len(parts[1])%4 != 0 || len(parts[3])%4 != 0 {
		return nil, fmt.Errorf("a tensor of %d parts is not known", len(parts))
	}
	return kernels.NewGroups(h.Rows, h.Cols, h.Bits, h.GroupSize, parts[0], view[float32](parts[1]), parts[2], view[int32](parts[3]))
}

// writeBlock writes a block's file to out.
func writeBlock(out io.Writer, h blockHeader, tensors []keptTensor) error {
	var sections [][]byte
	for i := range tensors {
		header, parts, err := tensors[i].sections()
		if err != nil {
			return err
		}
		h.Tensors = append(h.Tensors, header)
		sections = append(sections, parts...)
	}
	text, err := json.Marshal(&h)
	if err != nil {
		return err
	}
	text = append(text, bytes.Repeat([]byte{' '}, padding(fixedBytes+len(text)))...)
	head := binary.LittleEndian.AppendUint64([]byte(blockMagic), uint64(len(text)))
	sum := sha256.New()
	w := io.MultiWriter(out, sum)
	for _, part := range append([][]byte{append(head, text...)}, sections...) {
		if _, err := w.Write(part); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, padding(len(part)))); err != nil {
			return err
		}
	}
	_, err = out.Write(sum.Sum(nil))
	return err
}

// padding is how many bytes are missing to a whole number of blockAlign.
func padding(n int) int { return (blockAlign - n%blockAlign) % blockAlign }

// readBlock reads what writeBlock wrote. Tensors are views of data, which must
// begin at a multiple of 8.
func readBlock(data []byte) (blockHeader, []keptTensor, error) {
	var h blockHeader
	end := len(data) - sha256.Size
	if end < fixedBytes || string(data[:len(blockMagic)]) != blockMagic {
		return h, nil, fmt.Errorf("it is not the file of a finished block")
	}
	if sum := sha256.Sum256(data[:end]); !bytes.Equal(sum[:], data[end:]) {
		return h, nil, fmt.Errorf("its checksum is wrong")
	}
	length := binary.LittleEndian.Uint64(data[len(blockMagic):])
	if length > uint64(end-fixedBytes) {
		return h, nil, fmt.Errorf("its header has %d bytes, more than the file", length)
	}
	at := fixedBytes + int(length)
	if err := json.Unmarshal(data[fixedBytes:at], &h); err != nil {
		return h, nil, err
	}
	var tensors []keptTensor
	for i := range h.Tensors {
		w := &h.Tensors[i]
		var parts [][]byte
		for _, n := range w.Sections {
			if n < 0 || n > end-at {
				return h, nil, fmt.Errorf("a tensor of it has %d bytes, %d are left", n, end-at)
			}
			part := data[at : at+n : at+n]
			if n == 0 {
				part = nil // absent, not empty: zero points and group indices
			}
			parts = append(parts, part)
			at = min(at+n+padding(n), end)
		}
		role, ok := model.ParseRole(w.Role)
		if !ok {
			return h, nil, fmt.Errorf("there is no role %q", w.Role)
		}
		m, err := w.matrix(parts)
		if err != nil {
			return h, nil, fmt.Errorf("its tensor %s: %w", w.Role, err)
		}
		tensors = append(tensors, keptTensor{model.ID{Role: role, Expert: model.Expert(w.Expert), Bias: w.Bias}, w.Vector, m})
	}
	return h, tensors, nil
}

// readBlockFile maps a block's file and reads it.
func readBlockFile(path string) (*raw.Mapping, blockHeader, []keptTensor, error) {
	m, err := raw.Map(path)
	if err != nil {
		return nil, blockHeader{}, nil, err
	}
	h, tensors, err := readBlock(m.Data)
	if err != nil {
		m.Close()
		return nil, h, nil, err
	}
	raw.Release(m.Data)
	return m, h, tensors, nil
}

// bytesOf views numbers as the bytes they are in memory.
func bytesOf[T float32 | int32](values []T) []byte {
	if len(values) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), 4*len(values))
}

// view is the reverse of bytesOf.
func view[T float32 | int32](data []byte) []T {
	if len(data) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&data[0])), len(data)/4)
}
