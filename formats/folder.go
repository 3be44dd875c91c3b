package formats

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"llmc/formats/raw"
	"llmc/formats/safetensors"
	"llmc/internal/fault"
)

const (
	configName = "config.json"
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"

	maxConfig    = 64 << 20
	maxIndex     = 256 << 20
	maxCompanion = 1 << 30
)

// folder is where the files of a Hugging Face checkpoint are.
type folder interface {
	path(name string) string // for messages
	names() ([]string, error)
	read(name string, limit int64) ([]byte, error)
	open(name string) (*safetensors.File, error)
}

// diskFolder is a folder of the file system.
type diskFolder string

func (d diskFolder) path(name string) string { return filepath.Join(string(d), name) }

// names lists the regular files, those behind symbolic links included, sorted.
// Subfolders and hidden files are no part of a checkpoint.
func (d diskFolder) names() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("cannot read the folder %s: %w", string(d), raw.Cause(err))
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		info, err := os.Stat(d.path(entry.Name()))
		if err == nil && info.Mode().IsRegular() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func (d diskFolder) read(name string, limit int64) ([]byte, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", d.path(name), raw.Cause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", d.path(name), raw.Cause(err))
	}
	if info.Size() > limit {
		return nil, tooLong(d.path(name), info.Size(), limit)
	}
	var b bytes.Buffer
	b.Grow(int(info.Size()) + bytes.MinRead)
	if _, err := b.ReadFrom(io.LimitReader(f, limit)); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", d.path(name), raw.Cause(err))
	}
	return b.Bytes(), nil
}

func tooLong(path string, size, limit int64) error {
	return fault.Invalid("%s has %d bytes, up to %d are allowed", path, size, limit)
}

func (d diskFolder) open(name string) (*safetensors.File, error) {
	return safetensors.Open(d.path(name))
}

// memFolder is a folder in memory.
type memFolder map[string][]byte

func (m memFolder) path(name string) string { return name }

func (m memFolder) names() ([]string, error) {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (m memFolder) read(name string, limit int64) ([]byte, error) {
	data, ok := m[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("cannot read %s: %w", name, fs.ErrNotExist)
	case int64(len(data)) > limit:
		return nil, tooLong(name, int64(len(data)), limit)
	}
	return data, nil
}

func (m memFolder) open(name string) (*safetensors.File, error) {
	data, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("cannot open %s: %w", name, fs.ErrNotExist)
	}
	return safetensors.Parse(name, data)
}

// openFolder opens the checkpoint that a folder holds.
func (c *Checkpoint) openFolder(dir folder) error {
	names, err := dir.names()
	if err != nil {
		return err
	}
	// transformers looks in the same order.
	switch {
	case slices.Contains(names, singleName):
		err = c.openShard(dir, singleName)
	case slices.Contains(names, indexName):
		err = c.openIndex(dir)
	default:
		var name string
		if name, err = loneWeights(c.Path, names); err == nil {
			err = c.openShard(dir, name)
		}
	}
	if err != nil {
		return err
	}
	return c.openConfig(dir, names)
}

// openSingle opens one safetensors file of a folder.
func (c *Checkpoint) openSingle(dir folder, name string) error {
	if shardName.MatchString(name) {
		return fault.Hint(fault.Invalid("%s is one of several files of a checkpoint", dir.path(name)),
			"give the folder that holds all of them")
	}
	names, err := dir.names()
	if err != nil {
		return err
	}
	if err := c.openShard(dir, name); err != nil {
		return err
	}
	return c.openConfig(dir, names)
}

// loneWeights finds the only safetensors file, or says what is there instead.
func loneWeights(path string, names []string) (string, error) {
	var found []string
	other := ""
	for _, name := range names {
		switch {
		case filepath.Ext(name) == ".safetensors":
			found = append(found, name)
		case isWeights(name) && other == "":
			other = name
		}
	}
	switch {
	case len(found) == 1 && !shardName.MatchString(found[0]):
		return found[0], nil
	case len(found) > 0:
		return "", fault.Invalid("%s has %d safetensors files (%s, ...) and no %s that says what is where", path, len(found), found[0], indexName)
	case filepath.Ext(other) == ".gguf":
		return "", fault.Hint(fault.Invalid("%s has no safetensors file", path), "to open the GGUF file in it, name it: %s", filepath.Join(path, other))
	case other != "":
		return "", fault.Hint(fault.Invalid("%s has its weights in %s, which is not supported; safetensors and GGUF are", path, other),
			"save it as safetensors: model.save_pretrained(dir, safe_serialization=True)")
	}
	return "", fault.Hint(fault.Invalid("%s has no weights: no .safetensors file is in it", path),
		"a model is a Hugging Face folder, a .safetensors file with its config.json beside it, or a .gguf file")
}

// isWeights reports whether a file holds weights, in whatever format, and so
// is no companion.
func isWeights(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".tflite", ".npz":
		return true
	}
	return strings.HasSuffix(name, ".safetensors.index.json") || strings.HasSuffix(name, ".bin.index.json")
}

// openConfig reads config.json and notes the companions.
func (c *Checkpoint) openConfig(dir folder, names []string) error {
	if !slices.Contains(names, configName) {
		return fault.Hint(fault.Invalid("there is no %s", dir.path(configName)),
			"a safetensors checkpoint needs the config.json that belongs to it beside it")
	}
	var err error
	if c.Config, err = dir.read(configName, maxConfig); err != nil {
		return err
	}
	c.folder = dir
	c.index()
	for _, name := range names {
		if name != configName && !isWeights(name) {
			c.companions = append(c.companions, name)
		}
	}
	return nil
}

// Companions returns the names of the files that lie beside the weights:
// tokenizer, generation configuration, chat template, license and whatever
// else the folder has. There are none for GGUF.
func (c *Checkpoint) Companions() []string { return slices.Clone(c.companions) }

// Companion reads a file of the list of Companions. For one that is not there
// the error is fs.ErrNotExist.
func (c *Checkpoint) Companion(name string) ([]byte, error) {
	if !slices.Contains(c.companions, name) {
		return nil, fmt.Errorf("%s has no %s: %w", c.Path, name, fs.ErrNotExist)
	}
	return c.folder.read(name, maxCompanion)
}

// openShard maps a file and takes its tensors.
func (c *Checkpoint) openShard(dir folder, name string) error {
	f, err := dir.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.Invalid("%s is missing", dir.path(name))
	}
	if err != nil {
		return err
	}
	c.closers = append(c.closers, f)
	c.files = append(c.files, dir.path(name))
	c.size += f.Size
	if len(c.files) == 1 {
		c.tensors, c.Metadata = f.Tensors, f.Metadata
	} else {
		c.tensors = append(c.tensors, f.Tensors...)
	}
	return nil
}

// FromMemory opens a Hugging Face checkpoint whose files are in memory, by
// name: config.json, model.safetensors or an index and its shards, companions.
// The tensors are views into the files.
func FromMemory(files map[string][]byte) (*Checkpoint, error) {
	c := &Checkpoint{}
	if err := c.openFolder(memFolder(files)); err != nil {
		return nil, err
	}
	return c, nil
}
