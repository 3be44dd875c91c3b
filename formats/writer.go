package formats

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"llmc/formats/gguf"
	"llmc/formats/raw"
	"llmc/formats/safetensors"
)

// DefaultMaxShard is how much tensor data a safetensors file gets when nothing
// else is asked for, the customary 5 GB.
const DefaultMaxShard = 5_000_000_000

// Writer writes a checkpoint whose tensors were planned, one after the other,
// in the order of the plan. Nothing is there under the output's name before
// Commit. The usual way is
//
//	w, err := formats.CreateFolder(...)
//	if err != nil {
//		return err
//	}
//	defer w.Abort() // does nothing after Commit
//	for ... { w.WriteTensor(data) }
//	return w.Commit()
type Writer struct {
	shards [][]raw.Tensor
	shard  int // that is being written
	left   int // tensors of it that are not yet written
	begin  func(shard int) (tensorWriter, error)
	commit func() error
	abort  func()
	now    tensorWriter
	err    error // the first one
	done   bool  // committed or aborted
}

// tensorWriter writes the tensors of one file.
type tensorWriter interface {
	WriteTensor(data []byte) error
	StreamTensor(produce func(io.Writer) error) error
	Close() error
}

var (
	_ tensorWriter = (*gguf.Writer)(nil)
	_ tensorWriter = (*safetensors.Writer)(nil)
)

// start opens the first file, so that a plan that cannot be written fails
// before any weight is read.
func (w *Writer) start() (*Writer, error) {
	if err := w.open(0); err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

func (w *Writer) open(shard int) error {
	var err error
	w.shard, w.left = shard, len(w.shards[shard])
	w.now, err = w.begin(shard)
	return err
}

// WriteTensor writes the next tensor's data, all of it.
func (w *Writer) WriteTensor(data []byte) error {
	return w.write(func(t tensorWriter) error { return t.WriteTensor(data) })
}

// StreamTensor writes the next tensor's data as produce makes it, in pieces of
// any size. An error of produce is returned and makes Commit fail.
func (w *Writer) StreamTensor(produce func(io.Writer) error) error {
	return w.write(func(t tensorWriter) error { return t.StreamTensor(produce) })
}

func (w *Writer) write(one func(tensorWriter) error) error {
	switch {
	case w.err != nil:
		return w.err
	case w.done:
		return errors.New("the output is closed")
	}
	for w.left == 0 && w.shard+1 < len(w.shards) {
		if w.err = w.open(w.shard + 1); w.err != nil {
			return w.err
		}
	}
	w.left--
	w.err = one(w.now)
	if w.err == nil && w.left == 0 {
		w.err = w.now.Close()
	}
	return w.err
}

// Commit checks that every planned tensor was written, syncs the output to the
// disk and gives it its name. When that fails, nothing of it is left and what
// was there before stays.
func (w *Writer) Commit() error {
	if w.done {
		return errors.New("the output is closed")
	}
	err := w.err
	if err == nil && (w.left > 0 || w.shard+1 < len(w.shards)) {
		err = fmt.Errorf("the output is not complete: %d tensors of file %d of %d are missing", w.left, w.shard+1, len(w.shards))
	}
	if err == nil {
		err = w.commit()
	}
	if err != nil {
		w.Abort()
		return err
	}
	w.done = true
	return nil
}

// Abort removes what was written. After Commit it does nothing.
func (w *Writer) Abort() {
	if !w.done {
		w.done = true
		w.abort()
	}
}

// Folder is what a Hugging Face folder holds besides its tensors.
type Folder struct {
	Config []byte // config.json
	// Source is a checkpoint whose companions are copied; nil for none.
	Source *Checkpoint
	// Files are further files by name. They take the place of Source's; one
	// whose content is nil is left out.
	Files map[string][]byte
	// Metadata is what the safetensors headers say besides the tensors. Without
	// it they say {"format": "pt"}, which transformers insists on.
	Metadata map[string]string
	// MaxShard is how many bytes of tensor data one file gets at most, unless
	// a single tensor has more; 0 means DefaultMaxShard.
	MaxShard int64
}

// CreateFolder begins a Hugging Face folder at path for tensors of which name,
// type and shape are given. An existing one is an error of the kind
// fault.UsageError unless force is set; see [raw.CreateDir] for what is never
// replaced.
func CreateFolder(path string, force bool, folder Folder, tensors []raw.Tensor) (*Writer, error) {
	sizes, err := measure(tensors, safetensors.Size)
	if err != nil {
		return nil, err
	}
	if folder.MaxShard <= 0 {
		folder.MaxShard = DefaultMaxShard
	}
	if folder.Metadata == nil {
		folder.Metadata = map[string]string{"format": "pt"}
	}
	dir, err := raw.CreateDir(path, force)
	if err != nil {
		return nil, err
	}
	w := &Writer{shards: shard(tensors, sizes, folder.MaxShard), commit: dir.Commit, abort: dir.Abort}
	w.begin = func(i int) (tensorWriter, error) {
		file, err := dir.Create(shardFile(i, len(w.shards)))
		if err != nil {
			return nil, err
		}
		out, err := safetensors.Create(file, w.shards[i], folder.Metadata)
		if err != nil {
			return nil, err
		}
		return closing{out, file}, nil
	}
	err = folder.write(dir)
	if err == nil && len(w.shards) > 1 {
		err = writeIndex(dir, w.shards, sizes)
	}
	if err != nil {
		w.Abort()
		return nil, err
	}
	return w.start()
}

// closing closes the file when its last tensor is written.
type closing struct {
	tensorWriter
	file io.Closer
}

func (c closing) Close() error {
	if err := c.tensorWriter.Close(); err != nil {
		return err
	}
	return c.file.Close()
}

// measure returns every tensor's number of bytes, and reports two of one name,
// which different files could hold but no reader could tell apart.
func measure(tensors []raw.Tensor, size func(raw.Tensor) (int64, error)) ([]int64, error) {
	sizes := make([]int64, len(tensors))
	seen := make(map[string]bool, len(tensors))
	for i, t := range tensors {
		if seen[t.Name] {
			return nil, fmt.Errorf("two tensors are called %q", t.Name)
		}
		seen[t.Name] = true
		var err error
		if sizes[i], err = size(t); err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

// shard cuts the plan into files of up to limit bytes, at least one.
func shard(tensors []raw.Tensor, sizes []int64, limit int64) [][]raw.Tensor {
	var shards [][]raw.Tensor
	begin := 0
	var size int64
	for i := range tensors {
		if i > begin && size+sizes[i] > limit {
			shards = append(shards, tensors[begin:i])
			begin, size = i, 0
		}
		size += sizes[i]
	}
	return append(shards, tensors[begin:])
}

func shardFile(i, count int) string {
	if count == 1 {
		return singleName
	}
	return fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, count)
}

// write writes all files but the weights.
func (f *Folder) write(dir *raw.Dir) error {
	if err := dir.WriteFile(configName, f.Config); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f.Files)) {
		if f.Files[name] == nil {
			continue
		}
		if err := dir.WriteFile(name, f.Files[name]); err != nil {
			return err
		}
	}
	if f.Source == nil {
		return nil
	}
	for _, name := range f.Source.Companions() {
		if _, given := f.Files[name]; given {
			continue
		}
		data, err := f.Source.Companion(name)
		if err != nil {
			return err
		}
		if err := dir.WriteFile(name, data); err != nil {
			return err
		}
	}
	return nil
}

// writeIndex writes which file holds which tensor, sorted by tensor.
func writeIndex(dir *raw.Dir, shards [][]raw.Tensor, sizes []int64) error {
	index := struct {
		Metadata struct {
			TotalSize int64 `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}{WeightMap: map[string]string{}}
	for _, size := range sizes {
		index.Metadata.TotalSize += size
	}
	for i, tensors := range shards {
		for _, t := range tensors {
			index.WeightMap[t.Name] = shardFile(i, len(shards))
		}
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(index); err != nil {
		return err
	}
	return dir.WriteFile(indexName, text.Bytes())
}

// CreateGGUF begins a GGUF file at path, version 3, for tensors of which name,
// type and shape are given. With maxSplit above 0 and more tensor data than
// that, it is split into parts of up to so many bytes, as llama.cpp does it:
// the first has the metadata, and path/to/name.gguf becomes
// path/to/name-00001-of-00003.gguf and so on. An existing file is an error of
// the kind fault.UsageError unless force is set.
func CreateGGUF(path string, force bool, meta *gguf.Metadata, tensors []raw.Tensor, maxSplit int64) (*Writer, error) {
	sizes, err := measure(tensors, gguf.Size)
	if err != nil {
		return nil, err
	}
	shards := [][]raw.Tensor{tensors}
	if maxSplit > 0 {
		shards = shard(tensors, sizes, maxSplit)
	}
	paths := []string{path}
	if len(shards) > 1 {
		paths = nil
		for i := range shards {
			paths = append(paths, gguf.SplitPath(strings.TrimSuffix(path, ".gguf"), i, len(shards)))
		}
	}
	out, err := createAll(paths, force)
	if err != nil {
		return nil, err
	}
	w := &Writer{shards: shards, commit: out.commit, abort: out.abort}
	w.begin = func(i int) (tensorWriter, error) {
		partMeta := meta
		if len(shards) > 1 {
			var err error
			if partMeta, err = gguf.SplitMetadata(meta, i, len(shards), len(tensors)); err != nil {
				return nil, err
			}
		}
		t, err := gguf.Create(out.files[i], partMeta, shards[i])
		if err != nil {
			return nil, err // not t, which would be a nil pointer in an interface
		}
		return t, nil
	}
	return w.start()
}

// outputs are files that appear together, as far as renaming one after the
// other allows.
type outputs struct {
	paths []string
	files []*raw.File
}

func createAll(paths []string, force bool) (*outputs, error) {
	o := &outputs{paths: paths}
	for _, path := range paths {
		f, err := raw.CreateFile(path, force)
		if err != nil {
			o.abort()
			return nil, err
		}
		o.files = append(o.files, f)
	}
	return o, nil
}

func (o *outputs) commit() error {
	for i, f := range o.files {
		if err := f.Commit(); err != nil {
			for _, path := range o.paths[:i] {
				err = errors.Join(err, os.Remove(path))
			}
			o.abort()
			return err
		}
	}
	return nil
}

func (o *outputs) abort() {
	for _, f := range o.files {
		f.Abort()
	}
}
