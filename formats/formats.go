// Package formats opens checkpoints as people have them, a Hugging Face folder
// or a GGUF file, and writes new ones.
//
// [Open] reads headers, index and configuration and maps the weights;
// [FromMemory] does the same with a model that is in the program. CreateFolder
// and [CreateGGUF] begin an output from the list of its tensors; it appears
// under its name, whole, when it is committed.
package formats

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/internal/fault"
)

// Kind is how a checkpoint lies on disk.
type Kind uint8

// The kinds of checkpoint.
const (
	HuggingFace Kind = iota // config.json, safetensors and companions in a folder
	GGUF                    // one GGUF file, or all parts of a split one
)

// String returns the name that messages use.
func (k Kind) String() string {
	if k == GGUF {
		return "GGUF"
	}
	return "Hugging Face"
}

// Checkpoint is an open checkpoint. Its tensors are views into memory mappings
// that Close takes away.
type Checkpoint struct {
	Path     string // as it was given to Open
	Kind     Kind
	Config   []byte            // config.json; nil for GGUF
	Meta     *gguf.Metadata    // nil for Hugging Face
	Metadata map[string]string // __metadata__ of the first safetensors file; nil for GGUF

	tensors    []raw.Tensor
	byName     []int32 // indices of tensors, sorted by name
	size       int64
	files      []string // the weights' files, in order
	folder     folder   // where the companions are; nil for GGUF
	companions []string
	closers    []io.Closer
}

// Open opens a Hugging Face folder, a .safetensors file with its config.json
// beside it, or a GGUF file (any part of a split one). It reads headers, index
// and configuration and checks that they describe every byte of the weights,
// which it maps but does not read. What is damaged or not supported is an
// error of the kind fault.InvalidFile that names file, tensor and bytes.
func Open(path string) (*Checkpoint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, raw.Cause(err))
	}
	c := &Checkpoint{Path: path}
	switch {
	case info.IsDir():
		err = c.openFolder(diskFolder(path))
	case isGGUF(path):
		err = c.openGGUF(path)
	case strings.EqualFold(filepath.Ext(path), ".safetensors"):
		err = c.openSingle(diskFolder(filepath.Dir(path)), filepath.Base(path))
	default:
		err = fault.Hint(fault.Invalid("%s is not a checkpoint", path),
			"a model is a Hugging Face folder, a .safetensors file with its config.json beside it, or a .gguf file")
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// isGGUF goes by the name and then by the first bytes, since downloads lose
// their names.
func isGGUF(path string) bool {
	if strings.EqualFold(filepath.Ext(path), ".gguf") {
		return true
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var start [4]byte
	_, err = io.ReadFull(f, start[:])
	return err == nil && string(start[:]) == "GGUF"
}

func (c *Checkpoint) openGGUF(path string) error {
	f, err := gguf.Open(path)
	if err != nil {
		return err
	}
	c.takeGGUF(f)
	return nil
}

func (c *Checkpoint) takeGGUF(f *gguf.File) {
	c.Kind, c.Meta, c.tensors = GGUF, f.Meta, f.Tensors
	c.size, c.files = f.Size, f.Parts
	c.closers = append(c.closers, f)
	c.index()
}

// index sorts the names. A map would take more memory than the header did.
func (c *Checkpoint) index() {
	c.byName = make([]int32, len(c.tensors))
	for i := range c.byName {
		c.byName[i] = int32(i)
	}
	slices.SortFunc(c.byName, func(a, b int32) int {
		return cmp.Or(strings.Compare(c.tensors[a].Name, c.tensors[b].Name), cmp.Compare(a, b))
	})
}

// find returns the index of a tensor.
func (c *Checkpoint) find(name string) (int, bool) {
	at, ok := slices.BinarySearchFunc(c.byName, name, func(i int32, name string) int {
		return strings.Compare(c.tensors[i].Name, name)
	})
	if !ok {
		return 0, false
	}
	return int(c.byName[at]), true
}

// Tensors returns all tensors in the order of the files. The slice must not be
// changed.
func (c *Checkpoint) Tensors() []raw.Tensor { return c.tensors }

// Tensor finds a tensor by its name in the file.
func (c *Checkpoint) Tensor(name string) (raw.Tensor, bool) {
	i, ok := c.find(name)
	if !ok {
		return raw.Tensor{}, false
	}
	return c.tensors[i], true
}

// Size is the number of bytes of the files that hold the weights.
func (c *Checkpoint) Size() int64 { return c.size }

// Files returns the paths of the files that hold the weights.
func (c *Checkpoint) Files() []string { return c.files }

// Close releases the checkpoint's memory. Its tensors must not be used after.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, closer := range c.closers {
		errs = append(errs, closer.Close())
	}
	c.closers = nil
	return errors.Join(errs...)
}
