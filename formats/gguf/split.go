package gguf

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"llmc/formats/raw"
	"llmc/internal/fault"
)

// The keys with which every part of a split file says what it is part of.
const (
	splitNumberKey  = "split.no"
	splitCountKey   = "split.count"
	splitTensorsKey = "split.tensors.count"
)

// split is a file in several parts, as one of them describes it.
type split struct {
	prefix string // of the parts' paths
	number int    // of the part that was opened, from 0
	count  int
}

var splitName = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.gguf$`)

// SplitPath is the path of part number (from 0) of count parts.
func SplitPath(prefix string, number, count int) string {
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", prefix, number+1, count)
}

// splitOf says what the file at path is part of: nil when it is whole.
func splitOf(path string, meta *Metadata) (*split, error) {
	count, ok := meta.Uint(splitCountKey)
	if !ok || count <= 1 {
		if meta.Has(splitCountKey) && !ok {
			return nil, fmt.Errorf("%s is not a number", splitCountKey)
		}
		for _, key := range []string{splitNumberKey, splitCountKey, splitTensorsKey} {
			meta.Delete(key)
		}
		return nil, nil
	}
	number, ok := meta.Uint(splitNumberKey)
	if !ok || number >= count {
		return nil, fmt.Errorf("%s is %v of %d parts", splitNumberKey, meta.values[splitNumberKey], count)
	}
	name := splitName.FindStringSubmatch(filepath.Base(path))
	if name == nil {
		return nil, fmt.Errorf("it is part %d of %d of a split file, so its name has to end in -%05d-of-%05d.gguf", number+1, count, number+1, count)
	}
	named, _ := strconv.Atoi(name[2])
	total, _ := strconv.Atoi(name[3])
	if uint64(named) != number+1 || uint64(total) != count {
		return nil, fmt.Errorf("it says it is part %d of %d, its name that it is part %d of %d", number+1, count, named, total)
	}
	return &split{filepath.Join(filepath.Dir(path), name[1]), int(number), int(count)}, nil
}

// join opens the other parts and puts all together.
func (f *File) join(s *split, path string, opened *part) error {
	want, hasWant := opened.meta.Uint(splitTensorsKey)
	for i := range s.count {
		p, partPath := opened, path
		if i != s.number {
			partPath = SplitPath(s.prefix, i, s.count)
			var err error
			if p, err = f.sibling(s, i, partPath); err != nil {
				return err
			}
		}
		f.Parts = append(f.Parts, partPath)
		f.Tensors = append(f.Tensors, p.tensors...)
		if i == 0 {
			f.Path, f.Version, f.Meta = partPath, p.version, p.meta
		}
	}
	if hasWant && want != uint64(len(f.Tensors)) {
		return fault.Invalid("%s: the parts hold %d tensors, %s is %d", path, len(f.Tensors), splitTensorsKey, want)
	}
	for _, key := range []string{splitNumberKey, splitCountKey, splitTensorsKey} {
		f.Meta.Delete(key)
	}
	return f.checkUnique()
}

func (f *File) sibling(s *split, number int, path string) (*part, error) {
	p, err := f.part(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Invalid("%s, part %d of %d of a split file, is missing", path, number+1, s.count)
	}
	if err != nil {
		return nil, err
	}
	other, err := splitOf(path, p.meta)
	if err == nil && (other == nil || other.number != number || other.count != s.count) {
		err = fmt.Errorf("it does not say that it is part %d of %d", number+1, s.count)
	}
	if err != nil {
		return nil, fault.Invalid("%s: %w", path, err)
	}
	return p, nil
}

func (f *File) checkUnique() error {
	byName := slices.Clone(f.Tensors)
	slices.SortFunc(byName, func(a, b raw.Tensor) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(byName); i++ {
		if byName[i].Name == byName[i-1].Name {
			return fault.Invalid("%s: the tensor %.200q is in two parts", f.Path, byName[i].Name)
		}
	}
	return nil
}

// SplitMetadata is the metadata of part number (from 0) of count parts that
// hold so many tensors in all: everything in the first, in the others only
// which part they are.
func SplitMetadata(meta *Metadata, number, count, tensors int) (*Metadata, error) {
	if count > math.MaxUint16 {
		return nil, fmt.Errorf("a file cannot be split into %d parts, up to %d are allowed", count, math.MaxUint16)
	}
	part := &Metadata{}
	if number == 0 {
		part = meta.Clone()
	} else if alignment, ok := meta.Get(alignmentKey); ok {
		part.set(alignmentKey, alignment)
	}
	part.set(splitNumberKey, uint16(number))
	part.set(splitTensorsKey, int32(tensors))
	part.set(splitCountKey, uint16(count))
	return part, nil
}
